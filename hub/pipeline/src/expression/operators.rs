//! Operators. They do what CEL's do, with one addition: arithmetic takes an int and a double together, because JSON has one
//! kind of number, and the same member may be `2` in one event and `2.5` in the next.

use std::cmp::Ordering;

use alkhub_protocol::json::tree::Number;

use super::meter::{Halt, Meter};
use super::node::Infix;
use super::value::{CelList, CelMap, CelText, CelValue};

/// A number to calculate with.
#[derive(Clone, Copy)]
enum Operand {
    Int(i64),
    Double(f64),
}

/// What `left infix right` is.
pub(super) fn two<'a>(
    infix: Infix,
    left: &CelValue<'a>,
    right: &CelValue<'a>,
    meter: &mut Meter,
) -> Result<CelValue<'a>, Halt> {
    let value = match infix {
        Infix::Equal => equal(left, right, meter)?,
        Infix::NotEqual => !equal(left, right, meter)?,
        Infix::Less => order(infix, left, right, meter)?.is_some_and(Ordering::is_lt),
        Infix::LessEqual => order(infix, left, right, meter)?.is_some_and(Ordering::is_le),
        Infix::Greater => order(infix, left, right, meter)?.is_some_and(Ordering::is_gt),
        Infix::GreaterEqual => order(infix, left, right, meter)?.is_some_and(Ordering::is_ge),
        Infix::In => within(left, right, meter)?,
        Infix::Add | Infix::Subtract | Infix::Multiply | Infix::Divide | Infix::Modulo => {
            return calculate(infix, left, right, meter);
        }
    };
    Ok(CelValue::Bool(value))
}

pub(super) fn negative<'a>(of: &CelValue<'a>, meter: &mut Meter) -> Result<CelValue<'a>, Halt> {
    match operand(of, meter)? {
        Some(Operand::Int(value)) => value.checked_neg().map(CelValue::Int).ok_or_else(overflow),
        Some(Operand::Double(value)) => Ok(CelValue::Double(-value)),
        None => Err(Halt::failed(format!("`-` does not take {}", of.kind()))),
    }
}

fn operand(value: &CelValue<'_>, meter: &mut Meter) -> Result<Option<Operand>, Halt> {
    Ok(match value {
        CelValue::Int(value) => Some(Operand::Int(*value)),
        CelValue::Double(value) => Some(Operand::Double(*value)),
        CelValue::Exact(number) => Some(Operand::Double(nearest(number, meter)?)),
        _ => None,
    })
}

/// The double that is nearest to a number, whose text may be as long as an event.
pub(super) fn nearest(number: &Number<'_>, meter: &mut Meter) -> Result<f64, Halt> {
    meter.look(number.as_str().len())?;
    Ok(number.to_f64())
}

fn overflow() -> Halt {
    Halt::failed("the result is no whole number of 64 bits")
}

fn mismatch(infix: Infix, left: &CelValue<'_>, right: &CelValue<'_>) -> Halt {
    let sign = infix.sign();
    Halt::failed(format!("`{sign}` does not take {} and {}", left.kind(), right.kind()))
}

fn calculate<'a>(
    infix: Infix,
    left: &CelValue<'a>,
    right: &CelValue<'a>,
    meter: &mut Meter,
) -> Result<CelValue<'a>, Halt> {
    match (left, right) {
        (CelValue::Text(a), CelValue::Text(b)) if infix == Infix::Add => {
            meter.build(a.as_str().len() + b.as_str().len())?;
            let text = [a.as_str(), b.as_str()].concat();
            return Ok(CelValue::Text(CelText::made(text)));
        }
        (CelValue::List(a), CelValue::List(b)) if infix == Infix::Add => {
            let count = a.len() + b.len();
            meter.build(count.saturating_mul(size_of::<CelValue<'_>>()))?;
            let all = (0..a.len()).map(|at| a.get(at)).chain((0..b.len()).map(|at| b.get(at)));
            return Ok(CelValue::list(all.flatten().collect()));
        }
        _ => {}
    }
    match (operand(left, meter)?, operand(right, meter)?) {
        (Some(Operand::Int(a)), Some(Operand::Int(b))) => whole(infix, a, b).map(CelValue::Int),
        (Some(a), Some(b)) if infix != Infix::Modulo => Ok(CelValue::Double(double(infix, a.double(), b.double()))),
        _ => Err(mismatch(infix, left, right)),
    }
}

fn whole(infix: Infix, a: i64, b: i64) -> Result<i64, Halt> {
    if b == 0 && matches!(infix, Infix::Divide | Infix::Modulo) {
        return Err(Halt::failed("a division by zero"));
    }
    let result = match infix {
        Infix::Add => a.checked_add(b),
        Infix::Subtract => a.checked_sub(b),
        Infix::Multiply => a.checked_mul(b),
        Infix::Divide => a.checked_div(b),
        _ => a.checked_rem(b),
    };
    result.ok_or_else(overflow)
}

fn double(infix: Infix, a: f64, b: f64) -> f64 {
    match infix {
        Infix::Add => a + b,
        Infix::Subtract => a - b,
        Infix::Multiply => a * b,
        _ => a / b,
    }
}

/// The order of two values of one kind; `None` if a number is none (NaN).
fn order(infix: Infix, left: &CelValue<'_>, right: &CelValue<'_>, meter: &mut Meter) -> Result<Option<Ordering>, Halt> {
    match (left, right) {
        (CelValue::Text(a), CelValue::Text(b)) => {
            meter.look(a.as_str().len().min(b.as_str().len()))?;
            Ok(Some(a.as_str().cmp(b.as_str())))
        }
        (CelValue::Bool(a), CelValue::Bool(b)) => Ok(Some(a.cmp(b))),
        _ => match (operand(left, meter)?, operand(right, meter)?) {
            (Some(a), Some(b)) => Ok(compare(a, b)),
            _ => Err(mismatch(infix, left, right)),
        },
    }
}

/// The exact order of two numbers.
fn compare(a: Operand, b: Operand) -> Option<Ordering> {
    match (a, b) {
        (Operand::Int(a), Operand::Int(b)) => Some(a.cmp(&b)),
        (Operand::Double(a), Operand::Double(b)) => a.partial_cmp(&b),
        (Operand::Int(a), Operand::Double(b)) => compare_mixed(a, b),
        (Operand::Double(a), Operand::Int(b)) => compare_mixed(b, a).map(Ordering::reverse),
    }
}

fn compare_mixed(a: i64, b: f64) -> Option<Ordering> {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if b.is_nan() {
        return None;
    }
    if b >= BEYOND {
        return Some(Ordering::Less);
    }
    if b < -BEYOND {
        return Some(Ordering::Greater);
    }
    // The whole part is in the range of 64 bits, so it is exact.
    let part = b.trunc();
    let first = a.cmp(&(part as i64));
    Some(first.then_with(|| 0.0_f64.total_cmp(&(b - part + 0.0))))
}

/// Whether two values are equal. Values of different kinds are not.
pub(super) fn equal(left: &CelValue<'_>, right: &CelValue<'_>, meter: &mut Meter) -> Result<bool, Halt> {
    meter.pay(1)?;
    match (left, right) {
        (CelValue::Null, CelValue::Null) => Ok(true),
        (CelValue::Bool(a), CelValue::Bool(b)) => Ok(a == b),
        (CelValue::Text(a), CelValue::Text(b)) => {
            meter.look(a.as_str().len().min(b.as_str().len()))?;
            Ok(a.as_str() == b.as_str())
        }
        (CelValue::List(a), CelValue::List(b)) => equal_lists(a, b, meter),
        (CelValue::Map(a), CelValue::Map(b)) => equal_maps(a, b, meter),
        _ => match (operand(left, meter)?, operand(right, meter)?) {
            (Some(a), Some(b)) => Ok(compare(a, b) == Some(Ordering::Equal)),
            _ => Ok(false),
        },
    }
}

fn equal_lists(a: &CelList<'_>, b: &CelList<'_>, meter: &mut Meter) -> Result<bool, Halt> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for (a, b) in (0..a.len()).filter_map(|at| a.get(at).zip(b.get(at))) {
        if !equal(&a, &b, meter)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn equal_maps(a: &CelMap<'_>, b: &CelMap<'_>, meter: &mut Meter) -> Result<bool, Halt> {
    if a.len() != b.len() {
        return Ok(false);
    }
    // Both are sorted by key.
    for ((key, value), (other_key, other)) in a.entries().zip(b.entries()) {
        meter.look(key.as_str().len())?;
        if key.as_str() != other_key.as_str() || !equal(&value, &other, meter)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn within(item: &CelValue<'_>, of: &CelValue<'_>, meter: &mut Meter) -> Result<bool, Halt> {
    match (item, of) {
        (_, CelValue::List(list)) => {
            for at in 0..list.len() {
                if equal(item, &list.get(at).unwrap_or(CelValue::Null), meter)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        (CelValue::Text(key), CelValue::Map(map)) => {
            meter.look(key.as_str().len())?;
            Ok(map.get(key.as_str()).is_some())
        }
        (_, CelValue::Map(_)) => Ok(false),
        _ => Err(mismatch(Infix::In, item, of)),
    }
}

// === impl Operand ===

impl Operand {
    fn double(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Double(value) => value,
        }
    }
}
