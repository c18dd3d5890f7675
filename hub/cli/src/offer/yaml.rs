//! YAML as JSON, with each number as it is written.
//!
//! A YAML parser returns numbers as 64 bits: `1.10` would come back as `1.1`, and thirty digits as seventeen. So the
//! text is read twice: once for the kind of each value, and once for how its numbers are written. What 64 bits cannot
//! hold at all, such as `1E400`, is a string to the parser, and stays one.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use alkhub_sdk::RawJson;

/// A YAML document as JSON text, with its members in the order in which they are written.
///
/// # Errors
/// It is not YAML, or contains something that JSON does not have.
pub(super) fn json(text: &str) -> Result<String, serde_yaml::Error> {
    let parsed: Parsed = serde_yaml::from_str(text)?;
    let mut json = String::with_capacity(text.len());
    let written = Written {
        parsed: &parsed,
        json: &mut json,
    };
    written.deserialize(serde_yaml::Deserializer::from_str(text))?;
    Ok(json)
}

/// The kind of a value.
#[derive(Debug)]
enum Parsed {
    /// Null, true or false: its JSON.
    Word(&'static str),
    Text(String),
    /// As JSON, if JSON has such a number; with no more digits than 64 or 128 bits hold.
    Number(Option<String>),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

/// A value that is read a second time, of the kind that `parsed` has.
struct Written<'a> {
    parsed: &'a Parsed,
    json: &'a mut String,
}

struct Reader;

// === impl Parsed ===

impl Parsed {
    /// As the name of a member.
    fn name(self) -> Option<String> {
        match self {
            Self::Text(name) | Self::Number(Some(name)) => Some(name),
            Self::Word(name) if name != NULL => Some(name.to_owned()),
            _ => None,
        }
    }
}

const NULL: &str = "null";

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

impl<'de> Visitor<'de> for Reader {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what JSON has")
    }

    fn visit_unit<E: Error>(self) -> Result<Parsed, E> {
        Ok(Parsed::Word(NULL))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Parsed, E> {
        Ok(Parsed::Word(if value { "true" } else { "false" }))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Parsed, E> {
        Ok(Parsed::Text(text.to_owned()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Parsed, E> {
        Ok(Parsed::Number(Some(number.to_string())))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Parsed, E> {
        Ok(Parsed::Number(Some(number.to_string())))
    }

    fn visit_i128<E: Error>(self, number: i128) -> Result<Parsed, E> {
        Ok(Parsed::Number(Some(number.to_string())))
    }

    fn visit_u128<E: Error>(self, number: u128) -> Result<Parsed, E> {
        Ok(Parsed::Number(Some(number.to_string())))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Parsed, E> {
        let json = number.is_finite().then(|| serde_json::to_string(&number));
        json.transpose().map(Parsed::Number).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Parsed, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Parsed::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Parsed, A::Error> {
        let (mut map, mut names) = (Vec::new(), HashSet::new());
        while let Some(name) = members.next_key::<Parsed>()? {
            let name = name.name();
            let name = name.ok_or_else(|| A::Error::custom("a member's name must be a text"))?;
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format_args!("two members have the name `{name}`")));
            }
            map.push((name, members.next_value()?));
        }
        Ok(Parsed::Map(map))
    }
}

// === impl Written ===

impl<'de> DeserializeSeed<'de> for Written<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.parsed {
            Parsed::Map(_) => deserializer.deserialize_map(self),
            Parsed::List(_) => deserializer.deserialize_seq(self),
            // When asked for a string, it returns the number's text.
            Parsed::Number(_) => deserializer.deserialize_str(self),
            Parsed::Word(word) => {
                self.json.push_str(word);
                IgnoredAny::deserialize(deserializer).map(drop)
            }
            Parsed::Text(text) => {
                let text = serde_json::to_string(text).map_err(D::Error::custom)?;
                self.json.push_str(&text);
                IgnoredAny::deserialize(deserializer).map(drop)
            }
        }
    }
}

impl<'de> Visitor<'de> for Written<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what stands there")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if RawJson::parse(text.to_owned()).is_ok() {
            self.json.push_str(text);
            return Ok(());
        }
        // A form that JSON does not have, such as `0x1F`.
        match self.parsed {
            Parsed::Number(Some(number)) => {
                self.json.push_str(number);
                Ok(())
            }
            _ => Err(E::custom(format_args!("`{text}` is no number of JSON"))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Parsed::List(list) = self.parsed else {
            return Err(A::Error::custom("it is no list"));
        };
        self.json.push('[');
        for (at, parsed) in list.iter().enumerate() {
            if at > 0 {
                self.json.push(',');
            }
            let json = &mut *self.json;
            items.next_element_seed(Written { parsed, json })?;
        }
        self.json.push(']');
        // Reads the end of the list.
        items.next_element::<IgnoredAny>().map(drop)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Parsed::Map(map) = self.parsed else {
            return Err(A::Error::custom("it is no map"));
        };
        self.json.push('{');
        for (at, (name, parsed)) in map.iter().enumerate() {
            if at > 0 {
                self.json.push(',');
            }
            members.next_key::<IgnoredAny>()?;
            let name = serde_json::to_string(name).map_err(A::Error::custom)?;
            self.json.push_str(&name);
            self.json.push(':');
            let json = &mut *self.json;
            members.next_value_seed(Written { parsed, json })?;
        }
        self.json.push('}');
        // Reads the end of the map.
        members.next_key::<IgnoredAny>().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_stand_there() {
        for (yaml, expected) in [
            (
                "enum: [0.1000000000000000055511151231257827, 1.10, -3, 1E40, 123456789012345678901234567890]",
                r#"{"enum":[0.1000000000000000055511151231257827,1.10,-3,1E40,123456789012345678901234567890]}"#,
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
        for (yaml, named) in [
            ("a: .inf", ".inf"),
            ("{[1]: 2}", "name"),
            ("{a: 1, a: 2}", "`a`"),
            ("a: !b 1", ""),
        ] {
            let error = json(yaml).expect_err(yaml).to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
