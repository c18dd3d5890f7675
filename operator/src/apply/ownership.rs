//! Who owns the fields of an object; pure.
//!
//! Creating an object makes its fields ours by `Update`, but a field that is no longer applied is removed only if it is
//! ours by `Apply`. So the one is turned into the other, as `kubectl` does when an object is first applied.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use serde_json::Value;

use crate::kubernetes::MANAGER;

/// The entries with ours by `Apply` alone; `None` if they are that way already.
pub(super) fn applied(entries: &[ManagedFieldsEntry]) -> Option<Vec<ManagedFieldsEntry>> {
    let ours = |entry: &ManagedFieldsEntry, operation: &str| {
        entry.manager.as_deref() == Some(MANAGER)
            && entry.operation.as_deref() == Some(operation)
            && entry.subresource.is_none()
    };
    let created = entries.iter().find(|entry| ours(entry, "Update"))?;
    let mut rest: Vec<_> = entries.iter().filter(|entry| !ours(entry, "Update")).cloned().collect();
    match rest.iter_mut().find(|entry| ours(entry, "Apply")) {
        Some(entry) => entry.fields_v1 = union(entry.fields_v1.take(), created.fields_v1.clone()),
        None => rest.push(ManagedFieldsEntry {
            operation: Some("Apply".to_owned()),
            ..created.clone()
        }),
    }
    Some(rest)
}

fn union(one: Option<FieldsV1>, other: Option<FieldsV1>) -> Option<FieldsV1> {
    match (one, other) {
        (Some(one), Some(other)) => Some(FieldsV1(merged(one.0, other.0))),
        (one, other) => one.or(other),
    }
}

fn merged(one: Value, other: Value) -> Value {
    let (Value::Object(mut one), Value::Object(other)) = (one, other) else {
        return Value::Object(serde_json::Map::new());
    };
    for (key, theirs) in other {
        let ours = one
            .remove(&key)
            .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        one.insert(key, merged(ours, theirs));
    }
    Value::Object(one)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(manager: &str, operation: &str, subresource: Option<&str>, fields: &Value) -> ManagedFieldsEntry {
        serde_json::from_value(json!({
            "manager": manager, "operation": operation, "subresource": subresource, "fieldsV1": fields,
        }))
        .expect("an entry")
    }

    #[test]
    fn what_was_created_becomes_applied_and_what_is_others_stays() {
        let theirs = entry("kubectl", "Update", None, &json!({"f:x": {}}));
        let status = entry(MANAGER, "Update", Some("status"), &json!({"f:status": {}}));
        let created = entry(MANAGER, "Update", None, &json!({"f:spec": {"f:a": {}}}));
        let expected = entry(MANAGER, "Apply", None, &json!({"f:spec": {"f:a": {}}}));

        let turned = applied(&[theirs.clone(), created, status.clone()]).expect("a change");

        assert_eq!(turned, [theirs, status, expected]);
        assert_eq!(applied(&turned), None);
    }

    #[test]
    fn what_was_created_and_then_applied_in_another_form_is_all_applied() {
        let created = entry(
            MANAGER,
            "Update",
            None,
            &json!({"f:spec": {"f:a": {}, "f:b": {".": {}}}}),
        );
        let once = entry(MANAGER, "Apply", None, &json!({"f:spec": {"f:b": {"f:c": {}}}}));

        let turned = applied(&[created, once]).expect("a change");

        let all = entry(
            MANAGER,
            "Apply",
            None,
            &json!({"f:spec": {"f:a": {}, "f:b": {".": {}, "f:c": {}}}}),
        );
        assert_eq!(turned, [all]);
    }
}
