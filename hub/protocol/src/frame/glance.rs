//! A second look at a message that was refused: which call, or which topic, was it about?
//!
//! The text may be anything: cut off, too deep, with a field given twice. It is scanned once from left to right for the
//! strings that name a call (`type`, `id`, `payload.requestId`) or a topic (`payload`, `payload.topic`, `payload.type`,
//! `payload.id`); whether the rest is JSON does not matter here.
//!
//! Invariants
//! - There is one pass, without recursion, and nothing but these strings is kept.
//! - A field that occurs twice with two values counts as absent: a wrong guess could end another call.

use super::{Dialect, Named, kind, session};
use crate::RequestId;

/// What is known of one field.
#[derive(Debug, Default, PartialEq, Eq)]
enum Field {
    #[default]
    Absent,
    Text(String),
    /// Not a string, or two different ones.
    Unclear,
}

#[derive(Debug, Default)]
struct Glance {
    kind: Field,
    id: Field,
    request_id: Field,
    /// The payload, if it is a string.
    payload: Field,
    topic: Field,
    topic_type: Field,
    topic_id: Field,
}

/// What a message is about.
#[derive(Debug)]
pub(super) struct About {
    /// The call, if the message belongs to the call protocol and its id can be read.
    pub(super) call: Option<Named>,
    /// The topic, for any other message.
    pub(super) topic: Option<String>,
    /// Whether it counts among the messages of a session; if that cannot be told, it does.
    pub(super) counts: bool,
}

/// What the message is about.
pub(super) fn about(message: &[u8]) -> About {
    let glance = glance(message);
    match glance.kind.text() {
        Some(kind @ (kind::REQUESTED | kind::REGISTER | kind::REGISTER_UPDATE)) => {
            About::of_call(glance.call(kind, true))
        }
        Some(kind @ (kind::RESPONDED | kind::COMPLETED | kind::ABORTED | kind::FAILED)) => {
            About::of_call(glance.call(kind, false))
        }
        Some(kind) => About {
            call: None,
            topic: glance.topic(kind),
            counts: session::counts(kind),
        },
        None => About::of_call(None),
    }
}

// === impl About ===

impl About {
    fn of_call(call: Option<Named>) -> Self {
        Self {
            call,
            topic: None,
            counts: true,
        }
    }
}

// === impl Glance ===

impl Glance {
    fn call(&self, kind: &str, asks: bool) -> Option<Named> {
        let envelope_id = self.id.text().unwrap_or_default();
        let named = self.request_id.text().filter(|id| !id.is_empty());
        let named = match named.unwrap_or(envelope_id) {
            "" if matches!(kind, kind::REGISTER | kind::REGISTER_UPDATE) => kind,
            named => named,
        };
        Some(Named {
            request_id: named.parse::<RequestId>().ok()?,
            dialect: Dialect::of(kind, envelope_id),
            asks,
        })
    }

    /// The topic that a control message names in one of its three ways, or to which an event would have gone.
    fn topic(&self, kind: &str) -> Option<String> {
        if !kind.starts_with(kind::OF_CONTROL) {
            return Some(format!("{kind}:{}", self.id.text().unwrap_or_default()));
        }
        let whole = self.topic.text().or_else(|| self.payload.text()).map(str::to_owned);
        whole.or_else(|| Some(format!("{}:{}", self.topic_type.text()?, self.topic_id.text()?)))
    }
}

/// The position of the scan.
#[derive(Debug, Default)]
struct Scan<'a> {
    glance: Glance,
    depth: usize,
    /// The key whose value is being read in the object at depth 1, and the same in `payload`.
    keys: [Option<&'a [u8]>; 2],
    /// Whether a value, and not a key, comes next.
    in_value: bool,
}

fn glance(text: &[u8]) -> Glance {
    let mut scan = Scan::default();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let end = match byte {
            b'"' => string_end(text, at),
            _ => at + 1,
        };
        scan.token(byte, &text[at..end]);
        at = end;
    }
    scan.glance
}

/// The position after the string that begins at `start`.
fn string_end(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = text.get(at) {
        at += match byte {
            b'\\' => 2,
            b'"' => return at + 1,
            _ => 1,
        };
    }
    text.len()
}

// === impl Scan ===

impl<'a> Scan<'a> {
    fn token(&mut self, first: u8, token: &'a [u8]) {
        match first {
            b'{' | b'[' => {
                self.value(None);
                self.depth += 1;
                self.in_value = false;
                if let Some(key) = self.depth.checked_sub(1).and_then(|level| self.keys.get_mut(level)) {
                    *key = None;
                }
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.in_value = false;
            }
            b':' => self.in_value = true,
            b',' => self.in_value = false,
            b'"' if self.in_value => self.value(Some(token)),
            b'"' => {
                if let Some(key) = self.depth.checked_sub(1).and_then(|level| self.keys.get_mut(level)) {
                    *key = Some(token);
                }
            }
            byte if byte.is_ascii_whitespace() => {}
            // The first character of a number or a word stands for the whole of it.
            _ => self.value(None),
        }
    }

    /// Notes a value, or the start of one; a string as it is written in the text.
    fn value(&mut self, string: Option<&[u8]>) {
        if !self.in_value {
            return;
        }
        let field = match (self.depth, self.keys) {
            (1, [Some(b"\"type\""), _]) => &mut self.glance.kind,
            (1, [Some(b"\"id\""), _]) => &mut self.glance.id,
            (1, [Some(b"\"payload\""), _]) => &mut self.glance.payload,
            (2, [Some(b"\"payload\""), Some(b"\"requestId\"")]) => &mut self.glance.request_id,
            (2, [Some(b"\"payload\""), Some(b"\"topic\"")]) => &mut self.glance.topic,
            (2, [Some(b"\"payload\""), Some(b"\"type\"")]) => &mut self.glance.topic_type,
            (2, [Some(b"\"payload\""), Some(b"\"id\"")]) => &mut self.glance.topic_id,
            _ => return,
        };
        field.set(string);
    }
}

// === impl Field ===

impl Field {
    fn set(&mut self, string: Option<&[u8]>) {
        let value = string.and_then(|text| crate::json::strict::from_slice(text).ok());
        let value = value.map_or(Self::Unclear, Self::Text);
        *self = match self {
            Self::Absent => value,
            ref known if **known == value => value,
            _ => Self::Unclear,
        };
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Absent | Self::Unclear => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Option<(String, Option<Dialect>, bool)> {
        let named = about(text.as_bytes()).call?;
        Some((named.request_id.to_string(), named.dialect, named.asks))
    }

    fn asked(id: &str, dialect: Dialect) -> Option<(String, Option<Dialect>, bool)> {
        Some((id.to_owned(), Some(dialect), true))
    }

    #[test]
    fn the_call_is_found_in_either_dialect_and_any_order() {
        for (text, wanted) in [
            (
                r#"{"type":"call.requested","id":"","payload":{"requestId":"r9","timeoutMs":1.5}}"#,
                asked("r9", Dialect::Payload),
            ),
            (
                r#"{"payload" : {"x":{"requestId":"no"},"requestId" : "r9"} , "type" : "call.requested"}"#,
                asked("r9", Dialect::Payload),
            ),
            (
                r#"{"type":"call.requested","id":"r9","payload":5}"#,
                asked("r9", Dialect::Id),
            ),
            (
                r#"{"type":"call.requested","id":7,"payload":{"requestId":"r9"}}"#,
                asked("r9", Dialect::Payload),
            ),
            (
                r#"{"type":"call.error","id":"","payload":{"code":3,"requestId":"r\u0039"}}"#,
                Some(("r9".to_owned(), Some(Dialect::Payload), false)),
            ),
            (
                r#"{"type":"hub.register","id":"","payload":[]}"#,
                Some(("hub.register".to_owned(), None, true)),
            ),
            (
                r#"{"type":"hub.register","id":"x","payload":[]}"#,
                Some(("x".to_owned(), None, true)),
            ),
            (
                r#"{"type":"hub.register.update","id":"","payload":[]}"#,
                Some(("hub.register.update".to_owned(), None, true)),
            ),
        ] {
            assert_eq!(named(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_text_that_is_cut_off_or_too_deep_still_names_its_call() {
        let cut = r#"{"type":"call.requested","id":"","payload":{"requestId":"r9","input":{"a":["#;
        let deep = format!(
            r#"{{"type":"call.requested","payload":{{"input":{}{},"requestId":"r9"}}}}"#,
            "[".repeat(5_000),
            "]".repeat(5_000)
        );

        assert_eq!(named(cut), asked("r9", Dialect::Payload));
        assert_eq!(named(&deep), asked("r9", Dialect::Payload));
    }

    #[test]
    fn what_is_no_call_or_not_clear_names_none() {
        let long = format!(r#"{{"type":"call.requested","id":"{}"}}"#, "x".repeat(5_000));
        for text in [
            "",
            "[]",
            r#"["type","call.requested","id","r9"]"#,
            r#"{"type":"job.done","id":"r9","payload":{"requestId":"r9"}}"#,
            r#"{"type":"__subscribe","id":"r9"}"#,
            r#"{"x":{"type":"call.requested","id":"r9"}}"#,
            r#"{"type":"call.requested","payload":{"input":{"requestId":"r9"}}}"#,
            r#"{"type":"call.requested","payload":["requestId","r9"]}"#,
            r#"{"type":"call.requested","payload":{"requestId":"r8","requestId":"r9"}}"#,
            r#"{"type":"call.requested","type":"job.done","id":"r9"}"#,
            r#"{"type":"call.requested","id":"with space"}"#,
            r#"{"type":"call.requested","id":"r9"#,
            long.as_str(),
        ] {
            assert_eq!(named(text), None, "{text}");
        }
    }

    #[test]
    fn the_topic_is_found_in_each_way_of_naming_it() {
        for (text, wanted) in [
            (
                r#"{"type":"__subscribe","id":"","payload":"a:1:2","x":[[["#,
                Some("a:1:2"),
            ),
            (
                r#"{"type":"__subscribe","payload":{"topic":"call.x:1"}}"#,
                Some("call.x:1"),
            ),
            (
                r#"{"payload":{"id":"1","type":"a"},"type":"__unsubscribe"}"#,
                Some("a:1"),
            ),
            (r#"{"type":"__later","id":"","payload":{"topic":"a:1"}}"#, Some("a:1")),
            (r#"{"type":"job.done","id":"7","payload":[1,"#, Some("job.done:7")),
            (r#"{"type":"job.done","payload":{"topic":"a:1"}}"#, Some("job.done:")),
            (
                r#"{"type":"__subscribe","payload":{"topic":"a:1","topic":"b:1"}}"#,
                None,
            ),
            (r#"{"type":"__subscribe","payload":{"topic":5,"type":"a"}}"#, None),
            (r#"{"type":"call.requested","id":"r9","payload":{"topic":"a:1"}}"#, None),
            (r#"{"id":"7","payload":{"topic":"a:1"}}"#, None),
        ] {
            assert_eq!(about(text.as_bytes()).topic.as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn the_same_value_twice_is_clear() {
        let text = r#"{"type":"call.requested","payload":{"requestId":"r9","requestId":"r9"}}"#;

        assert_eq!(named(text), asked("r9", Dialect::Payload));
    }
}
