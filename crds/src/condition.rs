//! Conditions: the types that Hub and Spoke use, and how a list of them is changed.
//!
//! Invariants
//! - `lastTransitionTime` moves only when `status` changes.
//! - [`set`] returns the list that the next status is compared with, so a status is written on transitions only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// The spec was understood and is being carried out (Hub, Spoke).
pub const ACCEPTED: &str = "Accepted";
/// The Hub serves: it has had as many ready pods as asked for and has lost none since, and no roll-out is stuck. The
/// Spoke may connect: its key is in its Secret, the hub knows it, and the Spoke is not suspended.
pub const READY: &str = "Ready";
/// A roll-out or a scaling is under way.
pub const PROGRESSING: &str = "Progressing";
/// The connections are spread evenly over the pods that stay.
pub const BALANCED: &str = "Balanced";
/// Another autoscaler acts on the Hub that the operator scales itself.
pub const AUTOSCALING_CONFLICT: &str = "AutoscalingConflict";
/// Something is not as it should be while the Hub may still serve: a link is down, an object could not be applied.
pub const DEGRADED: &str = "Degraded";
/// `spec.paused` is set: nothing is changed.
pub const PAUSED: &str = "Paused";
/// Another Hub has the same Redis with a prefix that overlaps.
pub const PREFIX_CONFLICT: &str = "PrefixConflict";
/// The Spoke's key is in its Secret and the hub knows it.
pub const CREDENTIALS_ISSUED: &str = "CredentialsIssued";
/// Every key in the Hub's schema was hashed with the hash key that the Hub has now.
pub const KEYS_VALID: &str = "KeysValid";
/// The template of the Hub's pods is what the operator would make of the spec now.
pub const TEMPLATE_CURRENT: &str = "TemplateCurrent";
/// No pod of the Hub was made for another content of a Secret than it has now.
pub const SECRETS_CURRENT: &str = "SecretsCurrent";
/// At least one instance of the Spoke is connected.
pub const CONNECTED: &str = "Connected";

/// The three answers that a condition gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It is unknown: whoever would know did not answer.
    Unknown,
}

/// One condition as a reconciler decides it; [`set`] adds the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// One of the types above.
    pub kind: &'static str,
    /// What holds.
    pub status: ConditionStatus,
    /// In CamelCase, from a closed set.
    pub reason: &'static str,
    /// For people; names the field and the remedy.
    pub message: String,
}

// === impl ConditionStatus ===

impl ConditionStatus {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

// === impl Verdict ===

impl Verdict {
    /// A verdict from its parts.
    pub fn new(kind: &'static str, status: impl Into<ConditionStatus>, reason: &'static str, message: &str) -> Self {
        Self {
            kind,
            status: status.into(),
            reason,
            message: message.to_owned(),
        }
    }
}

/// Puts verdicts into a list of conditions; types that no verdict names are dropped.
///
/// Returns the new list, sorted by type; conditions that did not change keep their times.
pub fn set(old: &[Condition], verdicts: &[Verdict], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let mut conditions: Vec<_> = verdicts
        .iter()
        .map(|verdict| one(old, verdict, generation, now))
        .collect();
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    conditions
}

/// The condition of a type, when the list has it.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether a condition is there and `True`.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "True")
}

fn one(old: &[Condition], verdict: &Verdict, generation: Option<i64>, now: Timestamp) -> Condition {
    let before = find(old, verdict.kind).filter(|before| before.status == verdict.status.as_str());
    Condition {
        type_: verdict.kind.to_owned(),
        status: verdict.status.as_str().to_owned(),
        reason: verdict.reason.to_owned(),
        message: verdict.message.clone(),
        observed_generation: generation,
        last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn the_time_of_a_condition_moves_only_with_its_status() {
        let first = set(
            &[],
            &[Verdict::new(READY, false, "Waiting", "0 of 2 pods")],
            Some(1),
            at(10),
        );
        let same = set(
            &first,
            &[Verdict::new(READY, false, "Waiting", "1 of 2 pods")],
            Some(1),
            at(20),
        );
        let other = set(
            &same,
            &[Verdict::new(READY, true, "Serving", "2 of 2 pods")],
            Some(1),
            at(30),
        );

        assert_eq!(same[0].last_transition_time.0, at(10));
        assert_eq!(same[0].message, "1 of 2 pods");
        assert_eq!(other[0].last_transition_time.0, at(30));
    }

    #[test]
    fn setting_the_same_verdicts_again_changes_nothing() {
        let verdicts = [
            Verdict::new(READY, true, "Serving", ""),
            Verdict::new(ACCEPTED, true, "Valid", ""),
        ];
        let first = set(&[], &verdicts, Some(3), at(10));

        assert_eq!(set(&first, &verdicts, Some(3), at(99)), first);
        assert!(is_true(&first, READY));
        assert_eq!(first[0].type_, ACCEPTED);
    }
}
