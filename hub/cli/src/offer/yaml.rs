//! YAML as JSON, with each number as it is written.
//!
//! A parser of YAML hands numbers out as 64 bits: `1.10` would come back as `1.1`, and thirty digits as seventeen. So the
//! text is read twice: once for what each value is, and once for how its numbers are written.

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value;

use alkhub_sdk::RawJson;

/// A YAML document as JSON text, its members in the order in which they are written.
///
/// # Errors
/// It is no YAML, or has what JSON has not.
pub(super) fn json(text: &str) -> Result<String, serde_yaml::Error> {
    let parsed: Value = serde_yaml::from_str(text)?;
    let mut json = String::with_capacity(text.len());
    let written = Written {
        parsed: &parsed,
        json: &mut json,
    };
    written.deserialize(serde_yaml::Deserializer::from_str(text))?;
    Ok(json)
}

/// A value that is written again, as `parsed` says what it is.
struct Written<'a> {
    parsed: &'a Value,
    json: &'a mut String,
}

// === impl Written ===

impl<'de> DeserializeSeed<'de> for Written<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.parsed {
            Value::Mapping(_) => deserializer.deserialize_map(self),
            Value::Sequence(_) => deserializer.deserialize_seq(self),
            // Asked for a text, it gives the number's.
            Value::Number(_) => deserializer.deserialize_str(self),
            other => {
                IgnoredAny::deserialize(deserializer)?;
                self.json
                    .push_str(&serde_json::to_string(other).map_err(D::Error::custom)?);
                Ok(())
            }
        }
    }
}

impl<'de> Visitor<'de> for Written<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("what stands there")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        if RawJson::parse(text.to_owned()).is_ok() {
            self.json.push_str(text);
            return Ok(());
        }
        // A form that JSON has not, such as `0x1F`.
        match self.parsed.as_f64() {
            Some(number) if number.is_finite() => {
                let number = serde_json::to_string(self.parsed).map_err(E::custom)?;
                self.json.push_str(&number);
                Ok(())
            }
            _ => Err(E::custom(format_args!("`{text}` is no number of JSON"))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.json.push('[');
        for (at, parsed) in self.parsed.as_sequence().into_iter().flatten().enumerate() {
            if at > 0 {
                self.json.push(',');
            }
            let json = &mut *self.json;
            items.next_element_seed(Written { parsed, json })?;
        }
        self.json.push(']');
        // The end of the list.
        items.next_element::<IgnoredAny>().map(drop)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        self.json.push('{');
        for (at, (name, parsed)) in self.parsed.as_mapping().into_iter().flatten().enumerate() {
            if at > 0 {
                self.json.push(',');
            }
            members.next_key::<IgnoredAny>()?;
            let name = member(name).ok_or_else(|| A::Error::custom("a member's name must be a text"))?;
            self.json
                .push_str(&serde_json::to_string(&name).map_err(A::Error::custom)?);
            self.json.push(':');
            let json = &mut *self.json;
            members.next_value_seed(Written { parsed, json })?;
        }
        self.json.push('}');
        // The end of the map.
        members.next_key::<IgnoredAny>().map(drop)
    }
}

fn member(name: &Value) -> Option<String> {
    match name {
        Value::String(name) => Some(name.clone()),
        Value::Number(name) => Some(name.to_string()),
        Value::Bool(name) => Some(name.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_stand_there() {
        for (yaml, expected) in [
            (
                "enum: [0.1000000000000000055511151231257827, 1.10, -3, 1E400, 123456789012345678901234567890]",
                r#"{"enum":[0.1000000000000000055511151231257827,1.10,-3,1E400,123456789012345678901234567890]}"#,
            ),
            ("a: &x {n: 1.50}\nb: *x", r#"{"a":{"n":1.50},"b":{"n":1.50}}"#),
            (
                "{text: '1.10', also: \"2.0\", yes: true, none: null, 7: []}",
                r#"{"text":"1.10","also":"2.0","yes":true,"none":null,"7":[]}"#,
            ),
            ("[0x1F, +1, .5]", "[31,1,0.5]"),
        ] {
            assert_eq!(json(yaml).expect(yaml), expected);
        }
    }

    #[test]
    fn what_json_has_not_is_named() {
        for (yaml, named) in [("a: .inf", ".inf"), ("{[1]: 2}", "name")] {
            let error = json(yaml).expect_err(yaml).to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
