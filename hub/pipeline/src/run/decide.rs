//! What a step makes of an item, without handing it on.

use super::groups::Groups;
use super::held::{Held, fits_within};
use super::output::FaultReason;
use super::turn::{Item, Turn};
use crate::expression::{CelValue, Expression, Form, Halt};
use crate::step::Step;

/// Lists that an item made full, and whether it is in one.
pub(super) struct Lists {
    pub(super) full: Vec<String>,
    pub(super) item: Result<(), FaultReason>,
}

/// Whether a condition holds.
pub(super) fn passes(condition: &Expression, item: &Item<'_>, turn: &mut Turn<'_>) -> Result<bool, FaultReason> {
    turn.value(condition, item, None, |value, _| match value {
        CelValue::Bool(value) => Ok(*value),
        other => Err(Halt::failed(format!("the condition is {}, not a bool", other.kind()))),
    })
}

/// The elements of a list.
pub(super) fn elements(of: &Expression, item: &Item<'_>, turn: &mut Turn<'_>) -> Result<Vec<String>, FaultReason> {
    turn.value(of, item, None, |value, meter| {
        let CelValue::List(list) = value else {
            return Err(Halt::failed(format!("`flat` is of a list, not of {}", value.kind())));
        };
        let mut texts = Vec::new();
        for at in 0..list.len() {
            meter.build(size_of::<String>())?;
            let mut text = String::new();
            list.get(at)
                .unwrap_or(CelValue::Null)
                .write(Form::Plain, meter, &mut text)?;
            texts.push(text);
        }
        Ok(texts)
    })
}

/// The key of an item: canonical, and as it was written.
pub(super) fn texts_of_key(
    key: &Expression,
    item: &Item<'_>,
    turn: &mut Turn<'_>,
) -> Result<(String, String), FaultReason> {
    let (canonical, plain) = turn.value(key, item, None, |value, meter| {
        let (mut canonical, mut plain) = (String::new(), String::new());
        value.write(Form::Canonical, meter, &mut canonical)?;
        value.write(Form::Plain, meter, &mut plain)?;
        Ok((canonical, plain))
    })?;
    let most = turn.limits.key_bytes;
    if canonical.len().max(plain.len()) > most {
        return Err(FaultReason::TooLarge(format!("the key has more than {most} bytes")));
    }
    Ok((canonical, plain))
}

/// Whether a list may get one more payload, which fits into lists as such.
pub(super) fn has_room(held: &Held, most: usize, item: &Item<'_>, turn: &mut Turn<'_>) -> Result<bool, FaultReason> {
    look(item, 1, turn)?;
    Ok(held.count < most && held.bytes_with(item.text()) <= list_bytes(turn))
}

/// Adds a payload to a list, which is full with so many.
pub(super) fn gather(size: usize, held: &mut Held, item: &Item<'_>, turn: &mut Turn<'_>) -> Lists {
    let mut full = Vec::new();
    let item = look(item, 1, turn).and_then(|()| {
        let most = list_bytes(turn);
        if held.count > 0 && held.bytes_with(item.text()) > most {
            full.push(held.take());
        }
        if held.bytes_with(item.text()) > most {
            return Err(FaultReason::TooLarge(format!(
                "the payload does not fit into a list of {most} bytes"
            )));
        }
        held.add(item.text());
        if held.count >= size {
            full.push(held.take());
        }
        Ok(())
    });
    Lists { full, item }
}

/// Adds a payload to the group of its key. Room is made by the groups that have been idle for longest: they are emitted
/// early, and begin anew.
pub(super) fn group(step: &Step, groups: &mut Groups, item: &Item<'_>, turn: &mut Turn<'_>) -> Lists {
    let mut full = Vec::new();
    let item = add_to_group(step, groups, item, turn, &mut full);
    Lists { full, item }
}

fn add_to_group(
    step: &Step,
    groups: &mut Groups,
    item: &Item<'_>,
    turn: &mut Turn<'_>,
    full: &mut Vec<String>,
) -> Result<(), FaultReason> {
    let Step::GroupBy {
        key,
        size,
        groups: most,
        ..
    } = step
    else {
        return Ok(());
    };
    let (key, name) = texts_of_key(key, item, turn)?;
    look(item, 2, turn)?;
    if !fits_within(&name, 1) {
        return Err(FaultReason::TooLarge("the key nests too deep".to_owned()));
    }
    let (text, bytes) = (item.text(), turn.share.bytes);
    if groups.emitted(&key, &name, text) > turn.limits.item_bytes {
        full.extend(groups.end(&key));
    }
    if groups.emitted(&key, &name, text) > turn.limits.item_bytes {
        return Err(FaultReason::TooLarge(
            "the payload does not fit into a group".to_owned(),
        ));
    }
    loop {
        let (count, items, kept) = groups.size();
        let fits = kept + groups.cost(&key, &name, text) <= bytes && items < turn.share.items;
        if fits && (groups.contains(&key) || count < *most) {
            break;
        }
        match groups.end_oldest(Some(&key)).or_else(|| groups.end(&key)) {
            Some(ended) => full.push(ended),
            None => {
                return Err(FaultReason::TooLarge(format!(
                    "the payload does not fit into {bytes} bytes"
                )));
            }
        }
    }
    if groups.add(&key, &name, text, turn.now) >= *size {
        full.extend(groups.end(&key));
    }
    Ok(())
}

/// The bytes that a list may have.
fn list_bytes(turn: &Turn<'_>) -> usize {
    turn.share.bytes.min(turn.limits.item_bytes)
}

/// Pays for a look at a payload, and refuses one that nests too deep to get so many levels around it.
fn look(item: &Item<'_>, levels: usize, turn: &mut Turn<'_>) -> Result<(), FaultReason> {
    turn.meter().look(item.text().len()).map_err(|halt| turn.reason(halt))?;
    if fits_within(item.text(), levels) {
        return Ok(());
    }
    Err(FaultReason::TooLarge(
        "the payload nests too deep to be put into a list".to_owned(),
    ))
}
