//! The conditions of a Hub; pure.
//!
//! Invariants
//! - No condition asserts what was not checked: a spec that was not judged is neither accepted nor refused.
//! - `Ready` is about pods alone. What is wrong with the spec is in `Accepted` and `PrefixConflict`.

use alkhub_crds::condition::{
    ACCEPTED, ConditionStatus, DEGRADED, PAUSED, PREFIX_CONFLICT, PROGRESSING, READY, Verdict,
};
use alkhub_crds::hub::PausedRollout;
use alkhub_protocol::admin::PartState;

use super::Sight;
use super::pods::Pods;
use crate::context::Seen;
use crate::hub::pause::RESUME;
use crate::hub::pod_problem::PodProblem;
use crate::hub::spec_error::SpecError;
use crate::reason::{APPLY_FAILED, HUB_UNREACHABLE, PREFIX_IN_USE};

/// Conditions of a Hub whose objects were applied.
pub(super) fn applied(pods: &Pods, paused: Option<&PausedRollout>, sight: &Sight) -> Vec<Verdict> {
    vec![
        accepted(),
        prefix(sight.problem.as_ref()),
        active(),
        paused.map_or_else(|| progressing(pods), pausing),
        degraded(pods, sight),
        ready(pods),
    ]
}

/// Conditions of a Hub that is paused: its spec is not looked at.
pub(super) fn paused(pods: &Pods, sight: &Sight) -> Vec<Verdict> {
    let [accepted, prefix] = unchecked("spec.paused is set: the spec is not looked at");
    vec![
        accepted,
        prefix,
        Verdict::new(PAUSED, true, "Paused", "spec.paused is set: changes of the spec wait"),
        progressing(pods),
        degraded(pods, sight),
        ready(pods),
    ]
}

/// Conditions of a Hub that its user must fix. What ran before keeps running, as it was applied of the generation
/// `applied`.
pub(super) fn refused(error: &SpecError, applied: Option<i64>, sight: &Sight) -> Vec<Verdict> {
    let conflict = error.kind == PREFIX_CONFLICT;
    let own = Verdict::new(error.kind, conflict, error.reason, &error.message);
    let other = if conflict {
        Verdict::new(ACCEPTED, false, error.reason, &error.message)
    } else {
        let message = "not looked at before the spec is valid";
        Verdict::new(PREFIX_CONFLICT, ConditionStatus::Unknown, "NotAccepted", message)
    };
    let pending = applied.map_or_else(
        || "nothing is changed before the spec is accepted".to_owned(),
        |applied| format!("changes since generation {applied} are not applied before the spec is accepted"),
    );
    let message = format!("{pending}: {}", error.message);
    let progressing = Verdict::new(PROGRESSING, false, "NotAccepted", &message);
    let (degraded, ready) = match &sight.pods {
        Some(pods) => {
            let ready = ready(pods);
            let message = format!("{}; {pending}", ready.message);
            (degraded(pods, sight), Verdict { message, ..ready })
        }
        None => (
            Verdict::new(
                DEGRADED,
                ConditionStatus::Unknown,
                "NotAccepted",
                "there is nothing to look at before the spec is accepted",
            ),
            Verdict::new(READY, false, "NotAccepted", &error.message),
        ),
    };
    vec![own, other, active(), progressing, degraded, ready]
}

/// Conditions of a Hub of which something could not be read (`accepted` is false) or applied. What ran before keeps
/// running.
pub(super) fn failed(message: &str, is_accepted: bool, sight: &Sight) -> Vec<Verdict> {
    let [accepted, prefix] = if is_accepted {
        [accepted(), prefix(sight.problem.as_ref())]
    } else {
        unchecked(message)
    };
    vec![
        accepted,
        prefix,
        active(),
        Verdict::new(PROGRESSING, false, APPLY_FAILED, message),
        Verdict::new(DEGRADED, true, APPLY_FAILED, message),
        match &sight.pods {
            Some(pods) => ready(pods),
            None => Verdict::new(READY, false, APPLY_FAILED, message),
        },
    ]
}

fn accepted() -> Verdict {
    Verdict::new(ACCEPTED, true, "Valid", "the spec is being carried out")
}

fn active() -> Verdict {
    Verdict::new(PAUSED, false, "Active", "spec.paused is not set")
}

/// One Redis may have several names; the hubs themselves see who has the prefix there.
fn prefix(problem: Option<&PodProblem>) -> Verdict {
    match problem.and_then(|problem| problem.prefix.as_ref()) {
        Some(why) => Verdict::new(PREFIX_CONFLICT, true, PREFIX_IN_USE, why),
        None => Verdict::new(
            PREFIX_CONFLICT,
            false,
            "Unique",
            "no other Hub uses the prefix in this Redis",
        ),
    }
}

fn unchecked(why: &str) -> [Verdict; 2] {
    [ACCEPTED, PREFIX_CONFLICT].map(|kind| Verdict::new(kind, ConditionStatus::Unknown, "NotChecked", why))
}

fn progressing(pods: &Pods) -> Verdict {
    let message = format!(
        "{} of {} pods run the newest revision, {} ready, {} in all",
        pods.current, pods.wanted, pods.ready, pods.all
    );
    if !pods.observed {
        // Until the write is seen, `current` may still count pods of the previous revision.
        let message = format!("a change was written; {} of {} pods are ready", pods.ready, pods.wanted);
        return Verdict::new(PROGRESSING, true, "RollingOut", &message);
    }
    if pods.is_settled() {
        return Verdict::new(PROGRESSING, false, "Stable", &message);
    }
    match &pods.stuck {
        Some(why) => Verdict::new(PROGRESSING, false, "Stuck", &format!("{message}: {why}")),
        None => Verdict::new(PROGRESSING, true, "RollingOut", &message),
    }
}

fn pausing(paused: &PausedRollout) -> Verdict {
    let PausedRollout {
        revision,
        message,
        since,
    } = paused;
    let message = format!(
        "the roll-out of revision {revision} is paused since {}: {message}. No older pod goes. Take the change back, or go on \
         with the annotation {RESUME}={revision}",
        since.0
    );
    Verdict::new(PROGRESSING, false, "RolloutPaused", &message)
}

fn degraded(pods: &Pods, sight: &Sight) -> Verdict {
    if let Some(problem) = &sight.problem {
        return Verdict::new(DEGRADED, true, "PodsFailing", &problem.message);
    }
    if let Some(why) = &pods.stuck {
        return Verdict::new(DEGRADED, true, "PodsStuck", why);
    }
    if pods.wanted == 0 {
        return Verdict::new(DEGRADED, false, "Stopped", "no pods are wanted");
    }
    if pods.ready == 0 {
        let message = "no pod is ready that could tell";
        return Verdict::new(DEGRADED, ConditionStatus::Unknown, "NoPodReady", message);
    }
    match &sight.poll.seen {
        Err(why) => Verdict::new(DEGRADED, ConditionStatus::Unknown, HUB_UNREACHABLE, why),
        Ok(seen) => links(seen),
    }
}

fn links(seen: &Seen) -> Verdict {
    let down = |link: PartState| link == PartState::Down;
    match (down(seen.report.redis), down(seen.report.postgres)) {
        (false, false) => Verdict::new(DEGRADED, false, "Healthy", "Redis and Postgres are connected"),
        (true, false) => Verdict::new(DEGRADED, true, "RedisDown", "a hub pod has lost Redis"),
        (false, true) => Verdict::new(DEGRADED, true, "PostgresDown", "a hub pod has lost Postgres"),
        (true, true) => Verdict::new(DEGRADED, true, "BackendsDown", "a hub pod has lost Redis and Postgres"),
    }
}

fn ready(pods: &Pods) -> Verdict {
    if pods.wanted == 0 {
        return Verdict::new(READY, false, "Stopped", "spec.replicas is 0");
    }
    let message = format!("{} of {} pods are ready", pods.ready, pods.wanted);
    if let Some(why) = &pods.stuck {
        return Verdict::new(READY, false, "Stuck", &format!("{message}: {why}"));
    }
    // Pods of an older revision serve too: a Hub stays ready whether or not a roll-out has begun.
    let enough = pods.is_enough();
    let reason = if enough { "Serving" } else { "WaitingForPods" };
    Verdict::new(READY, enough, reason, &message)
}

#[cfg(test)]
mod tests;
