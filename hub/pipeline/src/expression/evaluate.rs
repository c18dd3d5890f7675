//! The evaluation of a node.

use std::rc::Rc;

use super::functions;
use super::meter::{Halt, Meter};
use super::node::{Fold, Node};
use super::operators;
use super::value::{CelList, CelMap, CelText, CelValue};

type Evaluated<'a> = Result<CelValue<'a>, Halt>;

/// The value of a node, where the stack has the values of its variables.
pub(super) fn evaluate<'a>(node: &'a Node, stack: &mut Vec<CelValue<'a>>, meter: &mut Meter) -> Evaluated<'a> {
    meter.pay(1)?;
    match node {
        Node::Null => Ok(CelValue::Null),
        Node::Bool(value) => Ok(CelValue::Bool(*value)),
        Node::Int(value) => Ok(CelValue::Int(*value)),
        Node::Double(value) => Ok(CelValue::Double(*value)),
        Node::Text(text) => Ok(CelValue::text(text)),
        Node::Variable(place) => Ok(stack.get(*place).cloned().unwrap_or(CelValue::Null)),
        Node::Field(of, name) => {
            let of = evaluate(of, stack, meter)?;
            field(&of, name, meter)?.ok_or_else(|| no_member(name))
        }
        Node::Has(of, name) => {
            let of = evaluate(of, stack, meter)?;
            Ok(CelValue::Bool(field(&of, name, meter)?.is_some()))
        }
        Node::Index(both) => {
            let of = evaluate(&both.0, stack, meter)?;
            let at = evaluate(&both.1, stack, meter)?;
            index(&of, &at, meter)
        }
        Node::Not(of) => Ok(CelValue::Bool(!truth("!", &evaluate(of, stack, meter)?)?)),
        Node::Negative(of) => {
            let of = evaluate(of, stack, meter)?;
            operators::negative(&of, meter)
        }
        Node::And(both) => either(false, both, stack, meter),
        Node::Or(both) => either(true, both, stack, meter),
        Node::If(three) => {
            let condition = evaluate(&three.0, stack, meter)?;
            let chosen = if truth("?:", &condition)? { &three.1 } else { &three.2 };
            evaluate(chosen, stack, meter)
        }
        Node::Two(infix, both) => {
            let left = evaluate(&both.0, stack, meter)?;
            let right = evaluate(&both.1, stack, meter)?;
            operators::two(*infix, &left, &right, meter)
        }
        Node::List(items) => {
            meter.build(items.len() * size_of::<CelValue<'_>>())?;
            let items: Result<_, Halt> = items.iter().map(|item| evaluate(item, stack, meter)).collect();
            Ok(CelValue::list(items?))
        }
        Node::Map(entries) => map(entries, stack, meter),
        Node::Call(function, arguments) => {
            let arguments: Result<Vec<_>, Halt> = arguments.iter().map(|of| evaluate(of, stack, meter)).collect();
            functions::call(*function, &arguments?, meter)
        }
        Node::Matches(of, pattern) => match evaluate(of, stack, meter)? {
            CelValue::Text(text) => {
                meter.pay(pattern.units(text.as_str()))?;
                Ok(CelValue::Bool(pattern.is_match(text.as_str())))
            }
            other => Err(Halt::failed(format!("`matches` takes a string, not {}", other.kind()))),
        },
        Node::Fold(fold, both) => match fold {
            Fold::All => decide(false, both, stack, meter),
            Fold::Exists => decide(true, both, stack, meter),
            Fold::ExistsOne => count(both, stack, meter),
            Fold::Map => collect(&both.0, None, Some(&both.1), stack, meter),
            Fold::Filter => collect(&both.0, Some(&both.1), None, stack, meter),
        },
        Node::MapSome(three) => collect(&three.0, Some(&three.1), Some(&three.2), stack, meter),
    }
}

fn no_member(name: &str) -> Halt {
    Halt::failed(format!("there is no member `{name}`"))
}

fn truth(of: &str, value: &CelValue<'_>) -> Result<bool, Halt> {
    match value {
        CelValue::Bool(value) => Ok(*value),
        other => Err(Halt::failed(format!("`{of}` takes a bool, not {}", other.kind()))),
    }
}

fn field<'a>(of: &CelValue<'a>, name: &str, meter: &mut Meter) -> Result<Option<CelValue<'a>>, Halt> {
    match of {
        CelValue::Map(map) => {
            meter.look(name.len())?;
            Ok(map.get(name))
        }
        other => Err(Halt::failed(format!(
            "`.{name}` is of {}, which has no members",
            other.kind()
        ))),
    }
}

fn index<'a>(of: &CelValue<'a>, at: &CelValue<'a>, meter: &mut Meter) -> Evaluated<'a> {
    let double = match at {
        CelValue::Double(value) => Some(*value),
        CelValue::Exact(number) => Some(operators::nearest(number, meter)?),
        _ => None,
    };
    let place = match (at, double) {
        (CelValue::Int(value), _) => Some(*value),
        (_, Some(double)) if double.fract() == 0.0 && double.abs() < 1e15 => Some(double as i64),
        _ => None,
    };
    match (of, at, place) {
        (CelValue::Map(map), CelValue::Text(key), _) => {
            meter.look(key.as_str().len())?;
            map.get(key.as_str())
                .ok_or_else(|| Halt::failed("there is no such member"))
        }
        (CelValue::List(list), _, Some(place)) => {
            let item = usize::try_from(place).ok().and_then(|place| list.get(place));
            item.ok_or_else(|| Halt::failed("the list is shorter than its index"))
        }
        _ => Err(Halt::failed(format!(
            "`[]` of {} does not take {}",
            of.kind(),
            at.kind()
        ))),
    }
}

/// `&&` and `||`: the side that is `decisive` decides, even if the other has no value.
fn either<'a>(
    decisive: bool,
    both: &'a (Node, Node),
    stack: &mut Vec<CelValue<'a>>,
    meter: &mut Meter,
) -> Evaluated<'a> {
    let sign = if decisive { "||" } else { "&&" };
    let mut failed = None;
    for side in [&both.0, &both.1] {
        match evaluate(side, stack, meter).and_then(|value| truth(sign, &value)) {
            Ok(value) if value == decisive => return Ok(CelValue::Bool(decisive)),
            Ok(_) => {}
            Err(halt) if halt.is_of_the_value() => failed = failed.or(Some(halt)),
            Err(halt) => return Err(halt),
        }
    }
    failed.map_or(Ok(CelValue::Bool(!decisive)), Err)
}

fn map<'a>(entries: &'a [(Node, Node)], stack: &mut Vec<CelValue<'a>>, meter: &mut Meter) -> Evaluated<'a> {
    let mut members: Vec<(CelText<'a>, CelValue<'a>)> = Vec::new();
    for (key, value) in entries {
        meter.build(size_of::<(CelText<'_>, CelValue<'_>)>())?;
        let key = match evaluate(key, stack, meter)? {
            CelValue::Text(key) => key,
            other => {
                return Err(Halt::failed(format!(
                    "a key of a map is a string, not {}",
                    other.kind()
                )));
            }
        };
        meter.look(key.as_str().len())?;
        members.push((key, evaluate(value, stack, meter)?));
    }
    members.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    if members.windows(2).any(|pair| pair[0].0.as_str() == pair[1].0.as_str()) {
        return Err(Halt::failed("a map has one key twice"));
    }
    Ok(CelValue::Map(CelMap::Made(Rc::new(members))))
}

/// What a macro goes through: the items of a list, or the keys of a map.
fn range<'a>(node: &'a Node, stack: &mut Vec<CelValue<'a>>, meter: &mut Meter) -> Result<CelList<'a>, Halt> {
    match evaluate(node, stack, meter)? {
        CelValue::List(list) => Ok(list),
        CelValue::Map(map) => {
            meter.build(map.len() * size_of::<CelValue<'_>>())?;
            let keys = map.entries().map(|(key, _)| CelValue::Text(key));
            Ok(CelList::Made(Rc::new(keys.collect())))
        }
        other => Err(Halt::failed(format!(
            "a macro goes through a list or a map, not {}",
            other.kind()
        ))),
    }
}

/// The value of a body for one item.
fn with<'a>(item: CelValue<'a>, body: &'a Node, stack: &mut Vec<CelValue<'a>>, meter: &mut Meter) -> Evaluated<'a> {
    stack.push(item);
    let value = evaluate(body, stack, meter);
    stack.pop();
    value
}

/// `all` and `exists`: one item that is `decisive` decides, even if others have no value.
fn decide<'a>(
    decisive: bool,
    both: &'a (Node, Node),
    stack: &mut Vec<CelValue<'a>>,
    meter: &mut Meter,
) -> Evaluated<'a> {
    let name = if decisive { "exists" } else { "all" };
    let list = range(&both.0, stack, meter)?;
    let mut failed = None;
    for item in (0..list.len()).filter_map(|at| list.get(at)) {
        match with(item, &both.1, stack, meter).and_then(|value| truth(name, &value)) {
            Ok(value) if value == decisive => return Ok(CelValue::Bool(decisive)),
            Ok(_) => {}
            Err(halt) if halt.is_of_the_value() => failed = failed.or(Some(halt)),
            Err(halt) => return Err(halt),
        }
    }
    failed.map_or(Ok(CelValue::Bool(!decisive)), Err)
}

fn count<'a>(both: &'a (Node, Node), stack: &mut Vec<CelValue<'a>>, meter: &mut Meter) -> Evaluated<'a> {
    let list = range(&both.0, stack, meter)?;
    let mut count = 0_usize;
    for item in (0..list.len()).filter_map(|at| list.get(at)) {
        let value = with(item, &both.1, stack, meter)?;
        count += usize::from(truth("exists_one", &value)?);
    }
    Ok(CelValue::Bool(count == 1))
}

/// `filter` and `map`.
fn collect<'a>(
    over: &'a Node,
    condition: Option<&'a Node>,
    value: Option<&'a Node>,
    stack: &mut Vec<CelValue<'a>>,
    meter: &mut Meter,
) -> Evaluated<'a> {
    let list = range(over, stack, meter)?;
    let mut made = Vec::new();
    for item in (0..list.len()).filter_map(|at| list.get(at)) {
        if let Some(condition) = condition
            && !truth("filter", &with(item.clone(), condition, stack, meter)?)?
        {
            continue;
        }
        meter.build(size_of::<CelValue<'_>>())?;
        made.push(match value {
            Some(value) => with(item, value, stack, meter)?,
            None => item,
        });
    }
    Ok(CelValue::list(made))
}
