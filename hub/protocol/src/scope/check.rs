//! Which texts are scopes: the one place that decides this, for the admin API, the commands and the operator.
//!
//! A scope of alkhub's own has one of a few forms. A text that is close to one without being one could never match, and
//! the key that holds it would be refused later without a hint. So it is refused here, with the nearest valid scope.
//! Any other text is a scope of the user's own.

use schemars::{Schema, SchemaGenerator, json_schema};

use super::{
    ADMIN, CALL, CALLS_READ, FAMILIES, OPERATIONS_READ, PUBLISH, SCOPE_LIMIT_BYTES, SPOKE, SPOKES_READ, SUBSCRIBE,
};
use crate::OperationName;
use crate::topic::{ANY_ID, TopicFilter};

const CALL_FORMS: &str = "calling needs `call:NAMESPACE.OPERATION`, `call:NAMESPACE.*` or `call:*`";
const PUBLISH_FORMS: &str =
    "publishing needs `events:publish:TYPE`, `events:publish:TYPE:ID` (one id) or `events:publish:*`";
const SUBSCRIBE_FORMS: &str = "subscribing needs `events:subscribe:TYPE` (ids that are named), \
     `events:subscribe:TYPE:ID` (one id), `events:subscribe:TYPE:*` (all ids) or `events:subscribe:*`";
const EVENT_FORMS: &str = "events need `events:publish:TYPE` or `events:subscribe:TYPE`";

/// The suffix of all but two of alkhub's scopes that are words.
const READ: &str = "s:read";

/// From this length on, a word is recognized with two typing errors.
const LONG: usize = 12;

/// A text that can never match any check of a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scope `{scope}` can never match: {cure}")]
pub struct InvalidScope {
    /// The text, shortened to 80 characters, without control characters.
    pub scope: String,
    /// What to write instead.
    pub cure: String,
}

/// Checks that a scope can match something.
///
/// # Errors
/// [`InvalidScope`] with the nearest valid scope.
pub fn check(scope: &str) -> Result<(), InvalidScope> {
    verdict(scope).map_err(|cure| InvalidScope {
        scope: scope.escape_debug().to_string().chars().take(80).collect(),
        cure,
    })
}

/// The schema of scopes: every form of alkhub's own, and a user's own if it is close to none of them. A user's own
/// scope that begins like one of alkhub's may be accepted without being described here.
pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
    const NAME: &str = "[A-Za-z][A-Za-z0-9_-]*";
    const EVENT: &str = r"(?!__|call\.|hub\.)[!-)+-9;-~]{1,64}";
    let scope = json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": SCOPE_LIMIT_BYTES,
        "anyOf": [
            { "enum": super::words().collect::<Vec<_>>() },
            { "pattern": format!(r"^call:(\*|(?!hub\.){NAME}\.(\*|{NAME}))$"), "maxLength": 100 },
            { "pattern": format!(r"^events:publish:(\*|{EVENT}(:[!-)+-~]{{0,64}})?)$") },
            { "pattern": format!(r"^events:subscribe:(\*|{EVENT}(:(\*|[!-)+-~]{{0,64}}))?)$") },
            { "pattern": r"^(?![Cc][Aa][Ll][Ll]|[Ee][Vv][Ee][Nn][Tt]|[Oo][Pp][Ee][Rr]|[Ss][Pp][Oo][Kk][Ee]|[Aa][Dd][Mm])[A-Za-z0-9][!-~]*$" },
        ],
    });
    json_schema!({ "type": "array", "uniqueItems": true, "items": scope })
}

fn verdict(scope: &str) -> Result<(), String> {
    if scope.is_empty() || scope.len() > SCOPE_LIMIT_BYTES || !scope.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("a scope has 1 to {SCOPE_LIMIT_BYTES} visible ASCII characters"));
    }
    if let Some(operation) = scope.strip_prefix(CALL) {
        return call(operation);
    }
    if let Some(topic) = scope.strip_prefix(PUBLISH) {
        return event(PUBLISH, topic, PUBLISH_FORMS);
    }
    if let Some(topic) = scope.strip_prefix(SUBSCRIBE) {
        return event(SUBSCRIBE, topic, SUBSCRIBE_FORMS);
    }
    match near(scope) {
        Some(cure) => Err(cure),
        None => Ok(()),
    }
}

fn write(scope: impl std::fmt::Display) -> String {
    format!("write `{scope}`")
}

// === calls ===

fn call(pattern: &str) -> Result<(), String> {
    if pattern == "*" {
        return Ok(());
    }
    let name: Option<OperationName> = match pattern.strip_suffix(".*") {
        Some(namespace) => format!("{namespace}.x").parse().ok(),
        // A star in a name would be taken for one of its characters.
        None => pattern.parse().ok().filter(|_| !pattern.contains('*')),
    };
    match name {
        Some(name) if name.is_reserved() => Err(format!(
            "the hub's own operations need `{OPERATIONS_READ}`, and `hub.call` the scope of the operation that it calls"
        )),
        // Elsewhere `ns/op` is read as `ns.op`, but a scope is compared literally.
        Some(name) if !pattern.ends_with(".*") && name.as_str() != pattern => Err(write(format!("{CALL}{name}"))),
        Some(name) if pattern.ends_with(".*") && pattern != format!("{}.*", name.namespace()) => {
            Err(write(format!("{CALL}{}.*", name.namespace())))
        }
        Some(_) => Ok(()),
        None => Err(nearest_call(pattern)),
    }
}

/// The nearest scope for calls: the namespace counts most.
fn nearest_call(pattern: &str) -> String {
    if pattern == "read" {
        return write(CALLS_READ);
    }
    let mut parts = pattern.split(['.', '/', ':']).filter(|part| !part.is_empty());
    let namespace = parts.next().unwrap_or_default().trim_end_matches('*');
    if namespace.is_empty() {
        return if pattern.starts_with('*') {
            format!("{}; {CALL_FORMS}", write("call:*"))
        } else {
            CALL_FORMS.to_owned()
        };
    }
    let near = format!("{namespace}.*");
    match format!("{namespace}.x").parse::<OperationName>() {
        Ok(name) if !name.is_reserved() => write(format!("{CALL}{near}")),
        _ => CALL_FORMS.to_owned(),
    }
}

// === events ===

fn event(family: &str, topic: &str, forms: &str) -> Result<(), String> {
    if topic == "*" {
        return Ok(());
    }
    let filter: TopicFilter = topic.parse().map_err(|error| match topic.split_once(':') {
        _ if topic.is_empty() => forms.to_owned(),
        Some(("*", _)) => write(format!("{family}*")),
        None if topic.ends_with('*') => write(format!("{family}*")),
        _ => format!("{error}; {forms}"),
    })?;
    match &filter {
        TopicFilter::AllOf(event_type) if family == PUBLISH => Err(write(format!("{family}{event_type}"))),
        TopicFilter::One(one) if one.id().contains(ANY_ID) && family == PUBLISH => {
            Err(write(format!("{family}{}", one.event_type())))
        }
        TopicFilter::One(one) if one.id().contains(ANY_ID) => {
            Err(write(format!("{family}{}:{ANY_ID}", one.event_type())))
        }
        TopicFilter::AllOf(_) | TopicFilter::One(_) => Ok(()),
    }
}

// === everything else ===

/// The valid form, if a text is close to a scope of alkhub's. Any other text is a scope of the user's own.
fn near(scope: &str) -> Option<String> {
    if super::words().any(|word| word == scope) {
        return None;
    }
    let lower = scope.to_ascii_lowercase();
    if super::words().any(|word| word == lower) {
        return Some(write(lower));
    }
    if let Some(family) = FAMILIES.iter().find(|own| lower.starts_with(**own)) {
        return Some(write(format!("{family}{}", &scope[family.len()..])));
    }
    if let Some(operation) = lower
        .strip_prefix("calls:")
        .filter(|_| call(&scope["calls:".len()..]).is_ok())
    {
        return Some(write(format!("{CALL}{}", &scope[scope.len() - operation.len()..])));
    }
    let cure = match lower.trim_end_matches([':', '*', '.', '/']) {
        "" => everything(),
        "call" => CALL_FORMS.to_owned(),
        "calls" => format!("{}; {CALL_FORMS}", write(CALLS_READ)),
        "spokes" | "spoke:read" | "spokes:list" => {
            format!("{}; offering operations needs `{SPOKE}`", write(SPOKES_READ))
        }
        "events:publish" => PUBLISH_FORMS.to_owned(),
        "events:subscribe" => SUBSCRIBE_FORMS.to_owned(),
        other if other == "events" || other == "event" => EVENT_FORMS.to_owned(),
        _ if lower.starts_with("events:") || lower.starts_with("event:") => EVENT_FORMS.to_owned(),
        other if super::words().any(|word| word == other) => write(other),
        other => match super::words().find(|word| is_meant(other, word)) {
            Some(word) => write(word),
            None => return misspelt(&lower),
        },
    };
    Some(cure)
}

/// Whether a text means what a word says: `thing`, `things`, `thing:read` or `things:list` for `things:read`.
fn is_meant(text: &str, word: &str) -> bool {
    let rest = word.strip_suffix(READ).and_then(|thing| text.strip_prefix(thing));
    rest.is_some_and(|rest| ["", "s", ":read", "s:list"].contains(&rest))
}

/// The scopes for everything, and for the largest parts of it.
fn everything() -> String {
    let families = FAMILIES.map(|family| format!("`{family}*`"));
    let words = super::words().filter(|word| word.ends_with(READ));
    let parts: Vec<String> = families
        .into_iter()
        .chain(words.map(|word| format!("`{word}`")))
        .collect();
    format!("`{ADMIN}` stands for everything; for parts of it {}", parts.join(", "))
}

/// The word that was meant, if a text is one or two typing errors away from it. Short words that are close to other
/// words are left out: `spoke` (`smoke`), `call` (`cell`).
fn misspelt(scope: &str) -> Option<String> {
    let mut words = super::words().filter(|word| *word != SPOKE);
    if let Some(word) = words.find(|word| is_near(scope, word, if word.len() < LONG { 1 } else { 2 })) {
        return Some(write(word));
    }
    let family = scope.match_indices(':').nth(1).map(|(end, _)| &scope[..=end])?;
    let forms = [(PUBLISH, PUBLISH_FORMS), (SUBSCRIBE, SUBSCRIBE_FORMS)];
    let meant = forms.iter().find(|(own, _)| is_near(family, own, 2));
    meant.map(|(_, forms)| (*forms).to_owned())
}

/// Whether this many typing errors turn one text into the other: a letter too many, too few, a different one, or two
/// swapped.
fn is_near(text: &str, word: &str, strokes: usize) -> bool {
    if text.len().abs_diff(word.len()) > strokes {
        return false;
    }
    let (text, word) = (text.as_bytes(), word.as_bytes());
    let (mut older, mut old) = (Vec::new(), (0..=word.len()).collect::<Vec<usize>>());
    for (row, letter) in text.iter().enumerate() {
        let mut new = vec![row + 1];
        for (column, other) in word.iter().enumerate() {
            let mut least = (old[column] + usize::from(letter != other)).min(old[column + 1].min(new[column]) + 1);
            let turned = row > 0 && column > 0 && text[row - 1] == *other && word[column - 1] == *letter;
            if turned {
                let before: &Vec<usize> = &older;
                least = least.min(before[column - 1] + 1);
            }
            new.push(least);
        }
        older = std::mem::replace(&mut old, new);
    }
    old[word.len()] <= strokes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_alkhubs_own_scopes_passes_and_so_does_a_users_own() {
        for scope in [
            "call:text.upper",
            "call:text.*",
            "call:*",
            "events:publish:job",
            "events:publish:job:42",
            "events:publish:job:",
            "events:publish:*",
            "events:subscribe:job.done",
            "events:subscribe:job:42",
            "events:subscribe:job:a:b",
            "events:subscribe:job:*",
            "events:subscribe:*",
            "operations:read",
            "spokes:read",
            "calls:read",
            "spoke",
            "admin",
            "task:read",
            "task:*",
            "operations:write",
            "tasks:read",
            "bills:read",
            "smoke",
            "administrator",
            "cell:text.upper",
            "https://example.org/scopes/x",
        ] {
            assert_eq!(check(scope), Ok(()), "{scope}");
        }
    }

    proptest::proptest! {
        /// Whatever the schema accepts is a scope, form by form.
        #[test]
        fn what_the_schema_describes_is_accepted(
            own in "[abdf-nq-z0-9][!-~]{0,40}",
            call in "call:([a-g][A-Za-z0-9_-]{0,9})[.](\\*|[A-Za-z][A-Za-z0-9_-]{0,9})",
            publish in "events:publish:[abdf-gi-z][a-z.]{0,9}(:[!-)+-~]{0,9})?",
            subscribe in "events:subscribe:[abdf-gi-z][a-z.]{0,9}(:(\\*|[!-)+-~]{0,9}))?",
        ) {
            let near = ["adm", "event", "oper", "spoke", "call"];
            for scope in [own, call, publish, subscribe] {
                let own = !scope.starts_with("call:") && !scope.starts_with("events:");
                if own && near.iter().any(|near| scope.starts_with(near)) {
                    continue;
                }
                proptest::prop_assert_eq!(check(&scope), Ok(()));
            }
        }
    }

    #[test]
    fn a_scope_that_can_never_match_is_answered_with_the_nearest_that_can() {
        for (scope, right) in [
            ("call:text*", "`call:text.*`"),
            ("call:text", "`call:text.*`"),
            ("call:text.", "`call:text.*`"),
            ("call:text.up*", "`call:text.*`"),
            ("call:a.b.c", "`call:a.b__2Ec`"),
            ("call:text/upper", "`call:text.upper`"),
            ("call:/text/upper", "`call:text.upper`"),
            ("call:*.upper", "`call:*`"),
            ("call:", "`call:*`"),
            ("call:hub.list", "`operations:read`"),
            ("call:hub.*", "`operations:read`"),
            ("call:read", "`calls:read`"),
            ("Call:text.upper", "`call:text.upper`"),
            ("calls:text.upper", "`call:text.upper`"),
            ("calls", "`calls:read`"),
            ("Admin", "`admin`"),
            ("ADMIN", "`admin`"),
            ("admin:*", "`admin`"),
            ("*", "`admin`"),
            ("Operations:Read", "`operations:read`"),
            ("operations:*", "`operations:read`"),
            ("spokes", "`spokes:read`"),
            ("spoke:*", "`spoke`"),
            ("events", "`events:publish:TYPE`"),
            ("events:read:job", "`events:subscribe:TYPE`"),
            ("event:publish:job", "`events:publish:TYPE`"),
            ("events:publish:job:*", "`events:publish:job`"),
            ("events:publish:*:1", "`events:publish:*`"),
            ("events:publish:job:4*", "`events:publish:job`"),
            ("events:subscribe:job.*", "`events:subscribe:*`"),
            ("events:subscribe:job:4*", "`events:subscribe:job:*`"),
            ("events:subscribe:", "`events:subscribe:TYPE`"),
            ("events:subscribe:call.x", "reserved"),
            ("admn", "`admin`"),
            ("amdin", "`admin`"),
            ("opertion:read", "`operations:read`"),
            ("spokse:read", "`spokes:read`"),
            ("cals:read", "`calls:read`"),
            ("evnts:publish:job", "`events:publish:TYPE`"),
            ("events:subcribe:job", "`events:subscribe:TYPE`"),
            ("eventz:subscribes:job", "`events:subscribe:TYPE`"),
            ("with space", "visible ASCII"),
            ("", "visible ASCII"),
        ] {
            let error = check(scope).expect_err(scope).to_string();

            assert!(error.contains(right), "{error}");
            assert!(error.contains("can never match"), "{error}");
        }
    }
}
