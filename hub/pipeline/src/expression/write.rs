//! Values as JSON text: as it is sent, and as it is compared.

use alkhub_protocol::json::tree::{Number, Tree};

use super::meter::{Halt, Meter};
use super::value::{CelList, CelMap, CelValue};

/// What the text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// To be read: numbers of an event stay as they were written.
    Plain,
    /// To be compared: equal values have equal texts, so `1`, `1.0` and `10e-1` are one text, and members are sorted.
    Canonical,
}

impl CelValue<'_> {
    /// Writes JSON.
    pub(crate) fn write(&self, form: Form, meter: &mut Meter, to: &mut String) -> Result<(), Halt> {
        match self {
            Self::Null => word("null", meter, to),
            Self::Bool(value) => word(if *value { "true" } else { "false" }, meter, to),
            Self::Int(value) => number(&value.to_string(), form, meter, to),
            Self::Double(value) if value.is_finite() => {
                // Without an exponent or a fraction it would be read as a whole number.
                let text = serde_json::to_string(value).unwrap_or_default();
                number(&text, form, meter, to)
            }
            Self::Double(_) => Err(Halt::failed(
                "the result is no number that JSON has (infinite, or not a number)",
            )),
            Self::Exact(exact) => number(exact.as_str(), form, meter, to),
            Self::Text(text) => string(text.as_str(), meter, to),
            Self::List(list) => write_list(list, form, meter, to),
            Self::Map(map) => write_map(map, form, meter, to),
        }
    }
}

fn write_list(list: &CelList<'_>, form: Form, meter: &mut Meter, to: &mut String) -> Result<(), Halt> {
    word("[", meter, to)?;
    for at in 0..list.len() {
        if at > 0 {
            word(",", meter, to)?;
        }
        list.get(at).unwrap_or(CelValue::Null).write(form, meter, to)?;
    }
    word("]", meter, to)
}

fn write_map(map: &CelMap<'_>, form: Form, meter: &mut Meter, to: &mut String) -> Result<(), Halt> {
    word("{", meter, to)?;
    for (at, (name, value)) in map.entries().enumerate() {
        if at > 0 {
            word(",", meter, to)?;
        }
        string(name.as_str(), meter, to)?;
        word(":", meter, to)?;
        value.write(form, meter, to)?;
    }
    word("}", meter, to)
}

fn word(text: &str, meter: &mut Meter, to: &mut String) -> Result<(), Halt> {
    meter.build(text.len())?;
    to.push_str(text);
    Ok(())
}

fn string(text: &str, meter: &mut Meter, to: &mut String) -> Result<(), Halt> {
    // An escape may make six bytes of one.
    meter.build(text.len() + 2)?;
    let start = to.len();
    to.push_str(&serde_json::to_string(text).unwrap_or_default());
    meter.build((to.len() - start).saturating_sub(text.len() + 2))
}

fn number(text: &str, form: Form, meter: &mut Meter, to: &mut String) -> Result<(), Halt> {
    if form == Form::Plain {
        return word(text, meter, to);
    }
    meter.look(text.len())?;
    let decimal = match Tree::parse(text.as_bytes()) {
        Ok(Tree::Number(number)) => Number::decimal(&number),
        _ => None,
    };
    let Some(decimal) = decimal else {
        return word(text, meter, to);
    };
    let sign = if decimal.negative { "-" } else { "" };
    let text = match (decimal.digits.as_str(), decimal.exponent) {
        ("", _) => "0".to_owned(),
        (digits, 0) => format!("{sign}{digits}"),
        (digits, exponent) => format!("{sign}{digits}e{exponent}"),
    };
    word(&text, meter, to)
}
