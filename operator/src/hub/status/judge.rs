//! The conditions of a Hub; pure.

use alkhub_crds::condition::{
    self, ACCEPTED, ConditionStatus, DEGRADED, PAUSED, PREFIX_CONFLICT, PROGRESSING, READY, Verdict,
};
use alkhub_crds::{Condition, HubStatus};
use k8s_openapi::api::apps::v1::Deployment;

use crate::context::Seen;
use crate::hub::validate::Refusal;

/// What the Deployment says of its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pods {
    pub(super) wanted: i32,
    /// Of the current revision.
    pub(super) current: i32,
    pub(super) ready: i32,
    /// Of every revision.
    pub(super) all: i32,
    /// The Deployment's controller has seen the newest template.
    pub(super) observed: bool,
    /// The Deployment gave up waiting.
    pub(super) stuck: Option<String>,
}

// === impl Pods ===

impl Pods {
    pub(super) fn of(deployment: &Deployment, wanted: i32) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let stuck = conditions.into_iter().find(|c| {
            (c.type_ == "Progressing" && c.status == "False") || (c.type_ == "ReplicaFailure" && c.status == "True")
        });
        Self {
            wanted,
            current: status.updated_replicas.unwrap_or_default(),
            ready: status.ready_replicas.unwrap_or_default(),
            all: status.replicas.unwrap_or_default(),
            observed: status.observed_generation >= deployment.metadata.generation,
            stuck: stuck.map(|c| c.message.or(c.reason).unwrap_or_default()),
        }
    }

    pub(super) fn fill(&self, status: &mut HubStatus) {
        status.replicas = self.current;
        status.ready_replicas = self.ready;
        status.pods = Some(format!("{}/{}", self.ready, self.wanted));
    }

    /// Everything runs the newest revision and nothing else does.
    fn settled(&self) -> bool {
        self.observed && self.current == self.wanted && self.all == self.wanted && self.ready == self.wanted
    }
}

/// Conditions of a Hub whose objects were applied.
pub(super) fn applied(pods: &Pods, seen: Option<&Result<Seen, String>>) -> Vec<Verdict> {
    vec![
        Verdict::new(ACCEPTED, true, "Valid", "the spec is being carried out"),
        Verdict::new(
            PREFIX_CONFLICT,
            false,
            "Unique",
            "no other Hub uses the prefix in this Redis",
        ),
        Verdict::new(PAUSED, false, "Active", "spec.paused is not set"),
        progressing(pods),
        degraded(pods, seen),
        ready(pods),
    ]
}

/// Conditions of a Hub that is paused.
pub(super) fn paused(pods: &Pods, seen: Option<&Result<Seen, String>>) -> Vec<Verdict> {
    let mut verdicts = applied(pods, seen);
    verdicts.retain(|verdict| verdict.kind != PAUSED);
    verdicts.push(Verdict::new(
        PAUSED,
        true,
        "Paused",
        "spec.paused is set: changes of the spec wait",
    ));
    verdicts
}

/// Conditions of a Hub that its user must mend. What ran before runs on.
pub(super) fn refused(refusal: &Refusal) -> Vec<Verdict> {
    let conflict = refusal.kind == PREFIX_CONFLICT;
    let own = Verdict::new(refusal.kind, conflict, refusal.reason, &refusal.message);
    let other = if conflict {
        Verdict::new(ACCEPTED, false, refusal.reason, &refusal.message)
    } else {
        Verdict::new(
            PREFIX_CONFLICT,
            ConditionStatus::Unknown,
            "NotAccepted",
            "not looked at before the spec is valid",
        )
    };
    vec![
        own,
        other,
        Verdict::new(PAUSED, false, "Active", "spec.paused is not set"),
        Verdict::new(
            PROGRESSING,
            false,
            "NotAccepted",
            "nothing is changed before the spec is accepted",
        ),
        Verdict::new(
            DEGRADED,
            ConditionStatus::Unknown,
            "NotAccepted",
            "not looked at before the spec is accepted",
        ),
        Verdict::new(READY, false, "NotAccepted", &refusal.message),
    ]
}

/// Conditions of a Hub of which something could not be applied; the others stay as they were.
pub(super) fn failed(before: &[Condition], message: &str) -> Vec<Verdict> {
    let was_ready = condition::is_true(before, READY);
    vec![
        Verdict::new(ACCEPTED, true, "Valid", "the spec is being carried out"),
        Verdict::new(
            PREFIX_CONFLICT,
            false,
            "Unique",
            "no other Hub uses the prefix in this Redis",
        ),
        Verdict::new(PAUSED, false, "Active", "spec.paused is not set"),
        Verdict::new(PROGRESSING, false, "ApplyFailed", message),
        Verdict::new(DEGRADED, true, "ApplyFailed", message),
        // What ran before runs on; what never ran is not ready.
        Verdict::new(
            READY,
            was_ready,
            if was_ready { "Serving" } else { "ApplyFailed" },
            message,
        ),
    ]
}

fn progressing(pods: &Pods) -> Verdict {
    let message = format!(
        "{} of {} pods run the newest revision, {} ready, {} in all",
        pods.current, pods.wanted, pods.ready, pods.all
    );
    if pods.settled() {
        return Verdict::new(PROGRESSING, false, "Stable", &message);
    }
    match &pods.stuck {
        Some(why) => Verdict::new(PROGRESSING, false, "Stuck", &format!("{message}: {why}")),
        None => Verdict::new(PROGRESSING, true, "RollingOut", &message),
    }
}

fn degraded(pods: &Pods, seen: Option<&Result<Seen, String>>) -> Verdict {
    if let Some(why) = &pods.stuck {
        return Verdict::new(DEGRADED, true, "PodsStuck", why);
    }
    if pods.wanted == 0 {
        return Verdict::new(DEGRADED, false, "Stopped", "no pods are wanted");
    }
    if pods.ready == 0 {
        return Verdict::new(
            DEGRADED,
            ConditionStatus::Unknown,
            "NoPodReady",
            "no pod is ready that could tell",
        );
    }
    match seen {
        None => Verdict::new(
            DEGRADED,
            ConditionStatus::Unknown,
            "NotAsked",
            "the hub was not asked yet",
        ),
        Some(Err(why)) => Verdict::new(DEGRADED, ConditionStatus::Unknown, "HubUnreachable", why),
        Some(Ok(seen)) => {
            let down = |link: &str| link == "down";
            match (down(&seen.report.redis), down(&seen.report.postgres)) {
                (false, false) => Verdict::new(DEGRADED, false, "Healthy", "Redis and Postgres are connected"),
                (true, false) => Verdict::new(DEGRADED, true, "RedisDown", "a hub pod has lost Redis"),
                (false, true) => Verdict::new(DEGRADED, true, "PostgresDown", "a hub pod has lost Postgres"),
                (true, true) => Verdict::new(DEGRADED, true, "BackendsDown", "a hub pod has lost Redis and Postgres"),
            }
        }
    }
}

fn ready(pods: &Pods) -> Verdict {
    let message = format!("{} of {} pods are ready", pods.ready, pods.wanted);
    if pods.wanted == 0 {
        return Verdict::new(READY, false, "Stopped", "spec.replicas is 0");
    }
    // Pods of an older revision serve too: a roll-out leaves a Hub ready.
    let enough = pods.observed && pods.ready >= pods.wanted;
    Verdict::new(
        READY,
        enough,
        if enough { "Serving" } else { "WaitingForPods" },
        &message,
    )
}

#[cfg(test)]
mod tests {
    use alkhub_protocol::admin::HubReport;

    use super::*;

    fn pods(wanted: i32, current: i32, ready: i32, all: i32) -> Pods {
        Pods {
            wanted,
            current,
            ready,
            all,
            observed: true,
            stuck: None,
        }
    }

    fn seen(redis: &str, postgres: &str) -> Result<Seen, String> {
        let report = HubReport {
            hub_id: "h-1".parse().expect("valid"),
            version: "1".to_owned(),
            channel_prefix: "alk:".to_owned(),
            pods: Vec::new(),
            spokes_connected: 0,
            redis: redis.to_owned(),
            postgres: postgres.to_owned(),
        };
        Ok(Seen {
            report,
            spokes: std::collections::HashMap::new(),
        })
    }

    fn all(verdicts: &[Verdict]) -> String {
        let mut lines: Vec<_> = verdicts
            .iter()
            .map(|v| format!("{}={}/{}", v.kind, v.status.as_str(), v.reason))
            .collect();
        lines.sort();
        lines.join(" ")
    }

    #[test]
    fn each_state_of_the_pods_has_its_conditions() {
        let healthy = seen("up", "up");
        for (pods, expect) in [
            (
                pods(2, 2, 2, 2),
                "Accepted=True/Valid Degraded=False/Healthy Paused=False/Active PrefixConflict=False/Unique Progressing=False/Stable Ready=True/Serving",
            ),
            (
                pods(2, 1, 1, 1),
                "Accepted=True/Valid Degraded=False/Healthy Paused=False/Active PrefixConflict=False/Unique Progressing=True/RollingOut Ready=False/WaitingForPods",
            ),
            (
                pods(2, 1, 2, 3),
                "Accepted=True/Valid Degraded=False/Healthy Paused=False/Active PrefixConflict=False/Unique Progressing=True/RollingOut Ready=True/Serving",
            ),
            (
                pods(0, 0, 0, 0),
                "Accepted=True/Valid Degraded=False/Stopped Paused=False/Active PrefixConflict=False/Unique Progressing=False/Stable Ready=False/Stopped",
            ),
        ] {
            assert_eq!(all(&applied(&pods, Some(&healthy))), expect);
        }
    }

    #[test]
    fn a_hub_that_does_not_answer_is_neither_well_nor_degraded() {
        let verdict = degraded(&pods(2, 2, 2, 2), Some(&Err("no answer".to_owned())));

        assert_eq!(
            (verdict.status, verdict.reason),
            (ConditionStatus::Unknown, "HubUnreachable")
        );
        assert_eq!(
            degraded(&pods(2, 2, 2, 2), Some(&seen("down", "up"))).reason,
            "RedisDown"
        );
    }

    #[test]
    fn a_refusal_names_itself_in_the_conditions_that_people_look_at() {
        let refusal = Refusal {
            kind: PREFIX_CONFLICT,
            reason: "PrefixInUse",
            message: "why".to_owned(),
        };

        let verdicts = refused(&refusal);

        assert!(
            verdicts
                .iter()
                .any(|v| v.kind == PREFIX_CONFLICT && v.status == ConditionStatus::True)
        );
        assert!(
            verdicts
                .iter()
                .any(|v| v.kind == READY && v.status == ConditionStatus::False && v.message == "why")
        );
    }
}
