//! Brings the answer of a spoke into the form `{data, meta}`, and checks it.

use alkhub_protocol::json::strict;
use alkhub_protocol::{OperationName, RawJson};
use alkhub_schema::{Check, Violation};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The origin's ResponseEnvelope: both fields, and a `meta` that says where the value came from. Without its `source`,
/// it is a value of the domain that happens to have fields of these names.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[expect(
        dead_code,
        reason = "only its shape tells an envelope from a value with fields of these names"
    )]
    meta: Meta,
}

#[derive(Deserialize)]
struct Meta {
    #[expect(dead_code, reason = "as above")]
    source: Source,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    Local,
    Http,
    Mcp,
}

/// An envelope whose `data` is `undefined`, which JSON leaves out: the answer of an operation without an output. It has
/// nothing beside `meta`; otherwise it is a value of the domain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Void<'a> {
    #[serde(borrow)]
    meta: &'a RawValue,
}

/// An output as it is passed on.
#[derive(Clone, Debug)]
pub(crate) enum Checked {
    /// `{data, meta}`.
    Whole(RawJson),
    /// `{meta}`: an envelope without data.
    Void(RawJson),
}

/// Checks an output and puts a bare value into an envelope. An envelope without data is checked as `null`.
pub(crate) fn checked(operation: &OperationName, check: &Check, output: RawJson) -> Result<Checked, Violation> {
    if let Some(envelope) = read(&output) {
        check.check(&output.part(envelope.data))?;
        return Ok(Checked::Whole(output));
    }
    if void(&output).is_some() {
        check.check(&RawJson::null())?;
        return Ok(Checked::Void(output));
    }
    check.check(&output)?;
    Ok(Checked::Whole(local(operation, &output)))
}

/// A value as an answer of the hub's own: `{data, meta: {source: "local", operationId, timestamp}}`.
pub(crate) fn local(operation: &OperationName, data: &RawJson) -> RawJson {
    #[derive(Serialize)]
    struct Local<'a> {
        data: &'a RawJson,
        meta: LocalMeta<'a>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct LocalMeta<'a> {
        source: &'static str,
        operation_id: &'a str,
        timestamp: i64,
    }
    let meta = LocalMeta {
        source: "local",
        operation_id: operation.as_str(),
        timestamp: Timestamp::now().as_millisecond(),
    };
    RawJson::from_value(&Local { data, meta }).expect("JSON in an envelope is JSON")
}

fn read(output: &RawJson) -> Option<Envelope<'_>> {
    strict::from_slice(output.as_bytes()).ok()
}

/// The `meta` of an envelope without data.
fn void(output: &RawJson) -> Option<&RawValue> {
    let Void { meta } = strict::from_slice(output.as_bytes()).ok()?;
    let _source: Meta = strict::from_str(meta.get()).ok()?;
    Some(meta)
}

// === impl Checked ===

impl Checked {
    /// For a reader that does not know envelopes without data: these get `null` as their data.
    pub(crate) fn into_whole(self) -> RawJson {
        #[derive(Serialize)]
        struct Null<'a> {
            data: (),
            meta: &'a RawValue,
        }
        let output = match self {
            Self::Whole(output) => return output,
            Self::Void(output) => output,
        };
        let whole = void(&output).map(|meta| RawJson::from_value(&Null { data: (), meta }));
        whole.and_then(Result::ok).unwrap_or(output)
    }

    /// As the spoke sent it, or as the hub wrapped it.
    pub(crate) fn into_sent(self) -> RawJson {
        match self {
            Self::Whole(output) | Self::Void(output) => output,
        }
    }
}

#[cfg(test)]
mod tests {
    use alkhub_protocol::Frame;
    use bytes::Bytes;

    use super::*;

    fn checked_text(schema: &'static str, output: &'static str) -> Result<String, Violation> {
        let check = Check::compile(&RawJson::parse(schema).expect("JSON")).expect("a schema");
        let name = "text.upper".parse().expect("valid");
        checked(&name, &check, RawJson::parse(output).expect("JSON"))
            .map(|output| output.into_sent().as_str().to_owned())
    }

    #[test]
    fn an_envelope_goes_on_as_it_came_and_its_data_is_checked() {
        let envelope = r#"{"data": 1.50, "meta": {"source": "http", "statusCode": 200}}"#;

        assert_eq!(checked_text(r#"{"type":"number"}"#, envelope).as_deref(), Ok(envelope));
        let violation = checked_text(r#"{"type":"string"}"#, envelope).expect_err("a number");
        assert_eq!((violation.path.as_str(), violation.rule.as_str()), ("", "/type"));
    }

    #[test]
    fn a_bare_value_is_wrapped_as_local() {
        let wrapped = checked_text(r#"{"type":"string"}"#, r#""HELLO""#).expect("valid");

        let wanted = r#"{"data":"HELLO","meta":{"source":"local","operationId":"text.upper","timestamp":"#;
        assert!(wrapped.starts_with(wanted), "{wrapped}");
        serde_json::from_str::<serde_json::Value>(&wrapped).expect("JSON");
    }

    #[test]
    fn a_value_with_fields_of_these_names_is_no_envelope() {
        for value in [
            r#"{"data":1,"meta":2}"#,
            r#"{"data":1,"meta":{}}"#,
            r#"{"data":1,"meta":{"source":"elsewhere"}}"#,
            r#"{"data":1}"#,
            // serde reads an array as a struct.
            r#"{"data":1,"meta":["http"]}"#,
            r#"[1,{"source":"local"}]"#,
        ] {
            let wrapped = checked_text("true", value).expect("anything goes");
            assert!(wrapped.starts_with(&format!("{{\"data\":{value},")), "{wrapped}");
        }
    }

    #[test]
    fn an_envelope_without_data_goes_on_as_it_came_or_with_null_and_is_checked_as_null() {
        let void = r#"{"meta": {"source": "local", "timestamp": 1.50}}"#;
        let (name, output) = (
            "text.clear".parse().expect("valid"),
            RawJson::parse(void).expect("JSON"),
        );
        let check = |schema| Check::compile(&RawJson::parse(schema).expect("JSON")).expect("a schema");

        let nothing = checked(&name, &check(r#"{"type":"null"}"#), output.clone()).expect("null is what it takes");
        assert_eq!(nothing.clone().into_sent(), output);
        assert_eq!(
            nothing.into_whole().as_str(),
            r#"{"data":null,"meta":{"source": "local", "timestamp": 1.50}}"#
        );
        let violation = checked(&name, &check(r#"{"type":"string"}"#), output).expect_err("no text");
        assert_eq!((violation.path.as_str(), violation.rule.as_str()), ("", "/type"));
    }

    #[test]
    fn meta_beside_something_else_is_a_domains_value() {
        for value in [
            r#"{"meta":{"source":"local"},"n":1}"#,
            r#"{"meta":{"source":"elsewhere"}}"#,
            r#"{"meta":"local"}"#,
            r#"{"meta":["local"]}"#,
            r#"[{"source":"local"}]"#,
        ] {
            let wrapped = checked_text("true", value).expect("anything goes");
            assert!(wrapped.starts_with(&format!("{{\"data\":{value},")), "{wrapped}");
        }
    }

    /// A caller that copies an answer from the page sends an envelope.
    #[test]
    fn every_output_on_the_page_is_an_envelope() {
        let page = include_str!("../../../../docs/PROTOCOL.md");
        let frames = page
            .lines()
            .filter(|line| line.starts_with("{\"type\":\"call.responded\""));
        let mut outputs = 0;
        for text in frames {
            let frame = Frame::decode(&Bytes::from_static(text.as_bytes())).expect("a frame").0;
            let Frame::Responded { output, .. } = frame else {
                panic!("{text}");
            };
            assert!(read(&output).is_some(), "{text}");
            outputs += 1;
        }
        assert!(outputs >= 2, "{outputs} found");
    }

    #[test]
    fn an_envelope_of_null_is_an_envelope() {
        let envelope = r#"{"data":null,"meta":{"source":"local"}}"#;

        assert_eq!(checked_text(r#"{"type":"null"}"#, envelope).as_deref(), Ok(envelope));
    }
}
