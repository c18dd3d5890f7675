//! The admin API across a minor version, in both directions: what a released version wrote is read, and what is written
//! now can be read by it. `versions/0.1` is what 0.1 wrote, with every field set; a file of a released version is never
//! changed.

use alkhub_protocol::admin::{DrainPut, HubReport, KeyCreate, KeyCreated, SpokeInfo, SpokePut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

fn golden(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// Reads what 0.1 wrote, and writes it again.
fn written_again<T: DeserializeOwned + Serialize>(old: &Value) -> Value {
    let read: T = serde_json::from_str(&old.to_string()).expect("what 0.1 wrote is read");
    serde_json::to_value(read).expect("plain data")
}

/// What an old reader would miss, if anything: everything it looks for must be there, of the same kind. It ignores the
/// rest.
fn lacks(old: &Value, new: &Value, path: &str) -> Option<String> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => old.iter().find_map(|(key, old)| {
            let path = format!("{path}.{key}");
            match new.get(key) {
                Some(new) => lacks(old, new, &path),
                None => Some(path),
            }
        }),
        (Value::Array(old), Value::Array(new)) => old.iter().zip(new).find_map(|(old, new)| lacks(old, new, path)),
        _ => (std::mem::discriminant(old) != std::mem::discriminant(new)).then(|| path.to_owned()),
    }
}

/// With a field of the next version in each object.
fn extended(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            // Labels are the user's names and texts, not fields.
            let within = |key: &str, value: &Value| {
                if key == "labels" {
                    value.clone()
                } else {
                    extended(value)
                }
            };
            let written = fields.iter().map(|(key, value)| (key.clone(), within(key, value)));
            let mut fields: Map<_, _> = written.collect();
            fields.insert("fieldOfTheNextVersion".to_owned(), json!({"a": [1]}));
            Value::Object(fields)
        }
        Value::Array(items) => items.iter().map(extended).collect(),
        other => other.clone(),
    }
}

fn both_ways<T: DeserializeOwned + Serialize>(what: &str, text: &str) {
    let old = golden(text);

    let new = written_again::<T>(&old);

    assert_eq!(lacks(&old, &new, what), None, "0.1 would miss it in {new}");
}

#[test]
fn what_a_hub_and_an_operator_of_0_1_wrote_is_read_and_read_by_them() {
    both_ways::<SpokePut>("SpokePut", include_str!("versions/0.1/spoke-put.json"));
    both_ways::<SpokeInfo>("SpokeInfo", include_str!("versions/0.1/spoke-info.json"));
    both_ways::<HubReport>("HubReport", include_str!("versions/0.1/hub-report.json"));
    both_ways::<KeyCreate>("KeyCreate", include_str!("versions/0.1/key-create.json"));
    both_ways::<KeyCreated>("KeyCreated", include_str!("versions/0.1/key-created.json"));
}

/// A hub of 0.1 refuses a declaration with a field that it does not know: such a field may be sent only to hubs that
/// are known to accept it.
#[test]
fn an_operator_sends_no_field_that_a_hub_of_0_1_refuses() {
    let old = golden(include_str!("versions/0.1/spoke-put.json"));

    let new = written_again::<SpokePut>(&old);

    let known = |key: &&String| old.get(key.as_str()).is_some();
    let unknown: Vec<_> = new
        .as_object()
        .expect("an object")
        .keys()
        .filter(|key| !known(key))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn fields_of_the_next_version_are_passed_over() {
    let put = extended(&golden(include_str!("versions/0.1/spoke-put.json")));
    let info = extended(&golden(include_str!("versions/0.1/spoke-info.json")));
    let report = extended(&golden(include_str!("versions/0.1/hub-report.json")));

    written_again::<SpokePut>(&put);
    written_again::<SpokeInfo>(&info);
    written_again::<HubReport>(&report);
    written_again::<DrainPut>(&extended(&json!({"seconds": 20, "revision": "4"})));
}

#[test]
fn a_field_that_an_older_writer_does_not_have_has_its_default() {
    let put: SpokePut = serde_json::from_value(json!({"uid": "u"})).expect("a declaration");
    let info: SpokeInfo = serde_json::from_value(json!({"name": "b", "uid": "u"})).expect("a spoke");
    let report: HubReport = serde_json::from_value(json!({
        "hubId": "h", "version": "0.0", "channelPrefix": "a:", "pods": [{"hubId": "h"}]
    }))
    .expect("a report");

    assert_eq!((put.key, put.suspended), (None, false));
    assert_eq!((info.declaration_digest, info.key_hint), (None, None));
    assert_eq!((report.pods[0].connections, report.dead_keys), (0, None));
}

#[test]
fn a_status_that_only_a_newer_hub_knows_costs_no_spoke() {
    let info = json!({"name": "b", "uid": "u", "status": "migrating"});

    assert!(serde_json::from_value::<SpokeInfo>(info).is_ok());
}

/// People write these, so a misspelt field must not be ignored.
#[test]
fn a_misspelt_field_of_a_new_key_is_refused() {
    let misspelt = json!({"name": "ci", "scopes": [], "expiresInSecond": 60});

    assert!(serde_json::from_value::<KeyCreate>(misspelt).is_err());
}
