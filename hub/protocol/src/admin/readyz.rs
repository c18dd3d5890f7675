//! The state of a hub and of what it depends on: the body of `/readyz`, whose words a hub's report uses too.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The body of a hub's `/readyz`. A reader ignores what it does not know, and an absent field says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Readyz {
    /// The hub as a whole.
    pub status: ReadyStatus,
    /// The link to Postgres, and what was prepared there.
    pub postgres: ReadyCheck,
    /// The link to Redis.
    pub redis: ReadyCheck,
    /// The reservation of the channel prefix.
    pub prefix: ReadyCheck,
    /// The loops that the process depends on.
    pub loops: ReadyCheck,
}

/// The state of a hub in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadyStatus {
    /// Everything is there.
    Ok,
    /// It was ready, and something is away now.
    Degraded,
    /// It has not been ready yet.
    Starting,
    /// It will not be ready until a person acts or the process restarts; or another Hub has its channel prefix, and it
    /// becomes ready when that is free.
    Failed,
    /// It is going away.
    Draining,
    /// Nothing was said, or a word that only a newer hub knows.
    #[default]
    #[serde(other)]
    Other,
}

/// The state of one part of a hub, or of something that it depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadyCheck {
    /// The state in a word.
    pub state: PartState,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The state of a part in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartState {
    /// A link that works.
    Up,
    /// A link that does not.
    Down,
    /// No link to Redis is configured: events stay in the process.
    None,
    /// Postgres cannot be used until a person acts.
    Failed,
    /// The channel prefix is the Hub's own.
    Ours,
    /// It is not known yet whose the channel prefix is.
    Unclaimed,
    /// The channel prefix is another Hub's.
    Taken,
    /// Every loop runs.
    Running,
    /// A loop is gone.
    Lost,
    /// Nothing was said, or a word that only a newer hub knows.
    #[default]
    #[serde(other)]
    Other,
}

// === impl ReadyStatus ===

impl ReadyStatus {
    /// Whether clients should connect.
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Ok | Self::Degraded)
    }
}

// === impl ReadyCheck ===

impl ReadyCheck {
    /// A state with nothing wrong.
    pub fn good(state: PartState) -> Self {
        Self { state, reason: None }
    }

    /// A state with something wrong.
    pub fn bad(state: PartState, reason: String) -> Self {
        Self {
            state,
            reason: Some(reason),
        }
    }
}

// === impl PartState ===

impl fmt::Display for PartState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::None => "none",
            Self::Failed => "failed",
            Self::Ours => "ours",
            Self::Unclaimed => "unclaimed",
            Self::Taken => "taken",
            Self::Running => "running",
            Self::Lost => "lost",
            Self::Other => "other",
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_is_written_as_it_always_was_and_read_whatever_else_is_in_it() {
        let body = Readyz {
            status: ReadyStatus::Starting,
            postgres: ReadyCheck::bad(PartState::Down, "refused".to_owned()),
            redis: ReadyCheck::good(PartState::None),
            prefix: ReadyCheck::good(PartState::Ours),
            loops: ReadyCheck::good(PartState::Running),
        };

        assert_eq!(
            serde_json::to_string(&body).expect("plain data"),
            r#"{"status":"starting","postgres":{"state":"down","reason":"refused"},"redis":{"state":"none"},"prefix":{"state":"ours"},"loops":{"state":"running"}}"#
        );
        let newer = json!({ "status": "moving", "redis": { "state": "sharded", "since": 1 }, "disk": {} });
        let newer: Readyz = serde_json::from_value(newer).expect("a body");
        assert_eq!(newer, Readyz::default());
    }

    #[test]
    fn a_state_is_shown_as_it_is_written() {
        for state in [PartState::Up, PartState::Down, PartState::None, PartState::Taken] {
            assert_eq!(json!(state), json!(state.to_string()));
        }
    }
}
