//! Functions: CEL's standard ones that JSON has a use for, and some of its extension for strings.

use super::meter::{Halt, Meter};
use super::node::Function;
use super::operators::nearest;
use super::value::{CelList, CelText, CelValue};

/// What a function makes of its arguments, whose number was checked when the expression was compiled.
pub(super) fn call<'a>(
    function: Function,
    arguments: &[CelValue<'a>],
    meter: &mut Meter,
) -> Result<CelValue<'a>, Halt> {
    match (function, arguments) {
        (Function::Size, [of]) => size(of, meter),
        (Function::Int, [of]) => int(of, meter),
        (Function::Double, [of]) => double(of, meter),
        (Function::String, [of]) => string(of, meter),
        (Function::Bool, [of]) => bool(of),
        (Function::Contains, [CelValue::Text(of), CelValue::Text(part)]) => {
            meter.look(of.as_str().len() + part.as_str().len())?;
            Ok(CelValue::Bool(of.as_str().contains(part.as_str())))
        }
        (Function::StartsWith, [CelValue::Text(of), CelValue::Text(part)]) => {
            meter.look(part.as_str().len())?;
            Ok(CelValue::Bool(of.as_str().starts_with(part.as_str())))
        }
        (Function::EndsWith, [CelValue::Text(of), CelValue::Text(part)]) => {
            meter.look(part.as_str().len())?;
            Ok(CelValue::Bool(of.as_str().ends_with(part.as_str())))
        }
        (Function::LowerAscii, [CelValue::Text(of)]) => change(of, meter, str::to_ascii_lowercase),
        (Function::UpperAscii, [CelValue::Text(of)]) => change(of, meter, str::to_ascii_uppercase),
        (Function::Trim, [CelValue::Text(of)]) => change(of, meter, |text| text.trim().to_owned()),
        (Function::Split, [CelValue::Text(of), CelValue::Text(between)]) => split(of.as_str(), between.as_str(), meter),
        (Function::Join, [CelValue::List(of), CelValue::Text(between)]) => join(of, between.as_str(), meter),
        (function, [of, ..]) => Err(refused(function, of)),
        (_, []) => Err(Halt::failed("an argument is missing")),
    }
}

fn refused(function: Function, of: &CelValue<'_>) -> Halt {
    let name = function.name();
    Halt::failed(format!(
        "`{name}` does not take these arguments, the first of which is {}",
        of.kind()
    ))
}

fn change<'a>(of: &CelText<'a>, meter: &mut Meter, change: impl Fn(&str) -> String) -> Result<CelValue<'a>, Halt> {
    meter.build(of.as_str().len())?;
    Ok(CelValue::Text(CelText::made(change(of.as_str()))))
}

fn count(count: usize) -> CelValue<'static> {
    CelValue::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

fn size<'a>(of: &CelValue<'a>, meter: &mut Meter) -> Result<CelValue<'a>, Halt> {
    match of {
        CelValue::Text(text) => {
            meter.look(text.as_str().len())?;
            Ok(count(text.as_str().chars().count()))
        }
        CelValue::List(list) => Ok(count(list.len())),
        CelValue::Map(map) => Ok(count(map.len())),
        _ => Err(refused(Function::Size, of)),
    }
}

fn int<'a>(of: &CelValue<'a>, meter: &mut Meter) -> Result<CelValue<'a>, Halt> {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    let range = || Halt::failed("`int` is of no whole number of 64 bits");
    let double = match of {
        CelValue::Int(value) => return Ok(CelValue::Int(*value)),
        CelValue::Text(text) if text.as_str().len() <= 20 => {
            return text.as_str().parse().map(CelValue::Int).map_err(|_| range());
        }
        CelValue::Text(_) => return Err(range()),
        CelValue::Double(value) => *value,
        CelValue::Exact(number) => nearest(number, meter)?,
        _ => return Err(refused(Function::Int, of)),
    };
    if double > -BEYOND && double < BEYOND {
        Ok(CelValue::Int(double as i64))
    } else {
        Err(range())
    }
}

fn double<'a>(of: &CelValue<'a>, meter: &mut Meter) -> Result<CelValue<'a>, Halt> {
    match of {
        CelValue::Int(value) => Ok(CelValue::Double(*value as f64)),
        CelValue::Double(value) => Ok(CelValue::Double(*value)),
        CelValue::Exact(number) => nearest(number, meter).map(CelValue::Double),
        CelValue::Text(text) if text.as_str().len() <= 64 => {
            let value = text.as_str().parse().map(CelValue::Double);
            value.map_err(|_| Halt::failed("`double` is of no number"))
        }
        CelValue::Text(_) => Err(Halt::failed("`double` is of no number")),
        _ => Err(refused(Function::Double, of)),
    }
}

fn string<'a>(of: &CelValue<'a>, meter: &mut Meter) -> Result<CelValue<'a>, Halt> {
    let text = match of {
        CelValue::Text(_) => return Ok(of.clone()),
        CelValue::Bool(value) => value.to_string(),
        CelValue::Int(value) => value.to_string(),
        CelValue::Double(value) => value.to_string(),
        CelValue::Exact(number) => {
            meter.look(number.as_str().len())?;
            number.as_str().to_owned()
        }
        _ => return Err(refused(Function::String, of)),
    };
    meter.build(text.len())?;
    Ok(CelValue::Text(CelText::made(text)))
}

fn bool<'a>(of: &CelValue<'a>) -> Result<CelValue<'a>, Halt> {
    match of {
        CelValue::Bool(value) => Ok(CelValue::Bool(*value)),
        CelValue::Text(text) => match text.as_str() {
            "1" | "t" | "true" | "TRUE" | "True" => Ok(CelValue::Bool(true)),
            "0" | "f" | "false" | "FALSE" | "False" => Ok(CelValue::Bool(false)),
            _ => Err(Halt::failed("`bool` is of neither `true` nor `false`")),
        },
        _ => Err(refused(Function::Bool, of)),
    }
}

fn split<'a>(of: &str, between: &str, meter: &mut Meter) -> Result<CelValue<'a>, Halt> {
    meter.build(of.len())?;
    let mut parts = Vec::new();
    let mut add = |part: &str, meter: &mut Meter| {
        meter.build(size_of::<CelValue<'_>>())?;
        parts.push(CelValue::Text(CelText::made(part.to_owned())));
        Ok(())
    };
    if between.is_empty() {
        for (at, c) in of.char_indices() {
            add(&of[at..at + c.len_utf8()], meter)?;
        }
    } else {
        for part in of.split(between) {
            add(part, meter)?;
        }
    }
    Ok(CelValue::list(parts))
}

fn join<'a>(of: &CelList<'_>, between: &str, meter: &mut Meter) -> Result<CelValue<'a>, Halt> {
    let mut joined = String::new();
    for at in 0..of.len() {
        match of.get(at) {
            Some(CelValue::Text(text)) => {
                let before = if at > 0 { between } else { "" };
                meter.build(before.len() + text.as_str().len())?;
                joined.push_str(before);
                joined.push_str(text.as_str());
            }
            other => {
                let kind = other.as_ref().map_or("null", CelValue::kind);
                return Err(Halt::failed(format!("`join` is of strings, and the list has {kind}")));
            }
        }
    }
    Ok(CelValue::Text(CelText::made(joined)))
}
