//! Topics: where an event is published, and what a subscriber asks for.
//!
//! A topic is an event type and an id, written `type:id` on the wire as in the origin. A type contains no `:`, so that
//! the text can be read in one way only (the origin could not tell (`a`,`b:c`) from (`a:b`,`c`)).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Longest event type, in bytes.
pub const TYPE_LIMIT_BYTES: usize = 128;

/// Longest topic id, in bytes.
pub const ID_LIMIT_BYTES: usize = 512;

/// The id that asks for all ids of a type; nothing can be published to it.
pub const ANY_ID: &str = "*";

/// An event type and an id; the id may be empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic {
    text: Arc<str>,
    colon: usize,
}

/// What a subscriber asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TopicFilter {
    /// One topic.
    One(Topic),
    /// All ids of one type.
    AllOf(Arc<str>),
}

/// Why a topic is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopic {
    /// The type is empty or too long.
    #[error("event type must have 1 to {TYPE_LIMIT_BYTES} bytes")]
    TypeLength,
    /// The type holds a colon, white space or a control character.
    #[error("event type `{0}` may not contain `:`, white space or control characters")]
    TypeCharacters(String),
    /// The type contains a star.
    #[error("event type `{0}` holds `*`: there is no wildcard over types; `TYPE:*` means all ids of one type")]
    TypeWildcard(String),
    /// The type is reserved for transports (`__*`) or connections (`call.*`, `hub.*`).
    #[error(
        "event type `{0}` is reserved: types beginning with `__`, `call.` or `hub.` cannot be published or subscribed to"
    )]
    Reserved(String),
    /// The id is too long or holds a control character.
    #[error("topic id must have at most {ID_LIMIT_BYTES} bytes and no control characters")]
    Id,
    /// `*` asks for all ids and is not an id itself.
    #[error("`*` asks for all ids of a type: name an id to publish to")]
    Wildcard,
}

/// The forms in which `__subscribe` and `__unsubscribe` may name a topic.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a topic is \"type:id\", {\"topic\": \"type:id\"} or {\"type\": \"…\", \"id\": \"…\"}"
)]
pub enum TopicRequest {
    /// `"type:id"`.
    Text(String),
    /// `{"topic": "type:id"}`, the origin's form.
    Topic {
        /// `type:id`.
        topic: String,
    },
    /// `{"type": …, "id": …}`.
    Parts {
        /// Event type.
        #[serde(rename = "type")]
        event_type: String,
        /// Topic id; empty if absent.
        #[serde(default)]
        id: String,
    },
}

// === impl Topic ===

impl Topic {
    /// A topic from its two parts.
    ///
    /// # Errors
    /// [`InvalidTopic`] names the part and the rule.
    pub fn new(event_type: &str, id: &str) -> Result<Self, InvalidTopic> {
        check_type(event_type)?;
        if id == ANY_ID {
            return Err(InvalidTopic::Wildcard);
        }
        if id.len() > ID_LIMIT_BYTES || id.chars().any(char::is_control) {
            return Err(InvalidTopic::Id);
        }
        Ok(Self {
            text: format!("{event_type}:{id}").into(),
            colon: event_type.len(),
        })
    }

    /// The event type.
    pub fn event_type(&self) -> &str {
        &self.text[..self.colon]
    }

    /// The id, possibly empty.
    pub fn id(&self) -> &str {
        &self.text[self.colon + 1..]
    }

    /// `type:id`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl FromStr for Topic {
    type Err = InvalidTopic;

    /// Splits at the first colon; a text without one is a type with an empty id.
    fn from_str(text: &str) -> Result<Self, InvalidTopic> {
        let (event_type, id) = text.split_once(':').unwrap_or((text, ""));
        Self::new(event_type, id)
    }
}

// === impl TopicFilter ===

impl TopicFilter {
    /// A filter from a type and an id, where `*` means all ids.
    ///
    /// # Errors
    /// [`InvalidTopic`] names the part and the rule.
    pub fn new(event_type: &str, id: &str) -> Result<Self, InvalidTopic> {
        if id == ANY_ID {
            check_type(event_type)?;
            return Ok(Self::AllOf(event_type.into()));
        }
        Topic::new(event_type, id).map(Self::One)
    }

    /// The event type.
    pub fn event_type(&self) -> &str {
        match self {
            Self::One(topic) => topic.event_type(),
            Self::AllOf(event_type) => event_type,
        }
    }

    /// Whether an event on `topic` is wanted.
    pub fn matches(&self, topic: &Topic) -> bool {
        match self {
            Self::One(wanted) => wanted == topic,
            Self::AllOf(event_type) => &**event_type == topic.event_type(),
        }
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(topic) => topic.fmt(f),
            Self::AllOf(event_type) => write!(f, "{event_type}:{ANY_ID}"),
        }
    }
}

impl FromStr for TopicFilter {
    type Err = InvalidTopic;

    fn from_str(text: &str) -> Result<Self, InvalidTopic> {
        let (event_type, id) = text.split_once(':').unwrap_or((text, ""));
        Self::new(event_type, id)
    }
}

// === schemas ===

/// The schema of an event type: only those in ASCII, whose length in bytes can be told in characters; more is accepted.
pub fn type_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": TYPE_LIMIT_BYTES,
        "pattern": r"^(?!__|call\.|hub\.)[!-)+-9;-~]+$",
    })
}

/// The schema of the id of a topic to publish to, in ASCII.
pub fn id_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": ID_LIMIT_BYTES,
        "pattern": r"^(?!\*$)[ -~]+$",
    })
}

/// The schema of a topic, or of all ids of a type, in ASCII.
pub fn filter_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": r"^(?!__|call\.|hub\.)[!-)+-9;-~]{1,128}(:[ -~]{0,512})?$",
    })
}

/// The schema of a topic, in ASCII.
pub fn topic_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": r"^(?!__|call\.|hub\.)[!-)+-9;-~]{1,128}(:(?!\*$)[ -~]{0,512})?$",
    })
}

// === impl TopicRequest ===

impl TopicRequest {
    /// The filter that the request names.
    ///
    /// # Errors
    /// [`InvalidTopic`].
    pub fn filter(&self) -> Result<TopicFilter, InvalidTopic> {
        match self {
            Self::Text(topic) | Self::Topic { topic } => topic.parse(),
            Self::Parts { event_type, id } => TopicFilter::new(event_type, id),
        }
    }
}

fn check_type(event_type: &str) -> Result<(), InvalidTopic> {
    if event_type.is_empty() || event_type.len() > TYPE_LIMIT_BYTES {
        return Err(InvalidTopic::TypeLength);
    }
    if event_type
        .chars()
        .any(|c| c == ':' || c.is_whitespace() || c.is_control())
    {
        return Err(InvalidTopic::TypeCharacters(event_type.to_owned()));
    }
    if event_type.contains(ANY_ID) {
        return Err(InvalidTopic::TypeWildcard(event_type.to_owned()));
    }
    if ["__", "call.", "hub."]
        .iter()
        .any(|reserved| event_type.starts_with(reserved))
    {
        return Err(InvalidTopic::Reserved(event_type.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_splits_at_the_first_colon() {
        let topic: Topic = "session.status:a:b".parse().expect("valid");

        assert_eq!((topic.event_type(), topic.id()), ("session.status", "a:b"));
        assert_eq!(topic.as_str(), "session.status:a:b");
    }

    #[test]
    fn a_type_with_a_colon_is_refused() {
        assert!(matches!(Topic::new("a:b", "c"), Err(InvalidTopic::TypeCharacters(_))));
    }

    #[test]
    fn there_is_no_wildcard_over_types() {
        for text in ["*", "*:1", "*:*", "job.*", "job.*:42", "*.done:*"] {
            assert!(
                matches!(text.parse::<TopicFilter>(), Err(InvalidTopic::TypeWildcard(_))),
                "{text}"
            );
            assert!(text.parse::<Topic>().is_err(), "{text}");
        }
    }

    #[test]
    fn call_and_hub_events_stay_on_their_connection() {
        for text in ["call.requested:1", "hub.register:1", "__subscribe:1"] {
            assert!(
                matches!(text.parse::<TopicFilter>(), Err(InvalidTopic::Reserved(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn a_star_asks_for_all_ids_and_cannot_be_published_to() {
        let all: TopicFilter = "job.done:*".parse().expect("valid");

        assert!(all.matches(&Topic::new("job.done", "7").expect("valid")));
        assert!(!all.matches(&Topic::new("job.failed", "7").expect("valid")));
        assert_eq!(Topic::new("job.done", "*"), Err(InvalidTopic::Wildcard));
    }
}
