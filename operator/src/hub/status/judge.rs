//! The conditions of a Hub; pure.

use alkhub_crds::HubStatus;
use alkhub_crds::condition::{
    ACCEPTED, ConditionStatus, DEGRADED, PAUSED, PREFIX_CONFLICT, PROGRESSING, READY, Verdict,
};
use k8s_openapi::api::apps::v1::Deployment;

use crate::context::Seen;
use crate::hub::validate::Refusal;

/// What the Deployment says of its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pods {
    pub(crate) wanted: i32,
    /// Of the current revision.
    pub(crate) current: i32,
    pub(crate) ready: i32,
    /// Of every revision.
    pub(crate) all: i32,
    /// The Deployment's controller has seen the newest template.
    pub(crate) observed: bool,
    /// The Deployment gave up waiting.
    pub(crate) stuck: Option<String>,
}

// === impl Pods ===

impl Pods {
    pub(crate) fn of(deployment: &Deployment, wanted: i32) -> Self {
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

    /// There is no Deployment.
    pub(super) fn none(wanted: i32) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    pub(super) fn fill(&self, status: &mut HubStatus) {
        status.replicas = self.current;
        status.ready_replicas = self.ready;
        status.pods = Some(format!("{}/{}", self.ready, self.wanted));
    }

    /// Everything runs the newest revision and nothing else does.
    fn settled(&self) -> bool {
        self.current == self.wanted && self.all == self.wanted && self.ready == self.wanted
    }
}

/// Conditions of a Hub whose objects were applied.
pub(super) fn applied(pods: &Pods, seen: &Result<Seen, String>) -> Vec<Verdict> {
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
pub(super) fn paused(pods: &Pods, seen: &Result<Seen, String>) -> Vec<Verdict> {
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
pub(super) fn refused(refusal: &Refusal, pods: Option<&Pods>, seen: &Result<Seen, String>) -> Vec<Verdict> {
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
        match pods {
            Some(pods) => degraded(pods, seen),
            None => Verdict::new(
                DEGRADED,
                ConditionStatus::Unknown,
                "NotAccepted",
                "there is nothing to look at before the spec is accepted",
            ),
        },
        Verdict::new(READY, false, "NotAccepted", &refusal.message),
    ]
}

/// Conditions of a Hub of which something could not be applied. What ran before runs on.
pub(super) fn failed(message: &str, pods: Option<&Pods>) -> Vec<Verdict> {
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
        match pods {
            Some(pods) => ready(pods),
            None => Verdict::new(READY, false, "ApplyFailed", message),
        },
    ]
}

fn progressing(pods: &Pods) -> Verdict {
    let message = format!(
        "{} of {} pods run the newest revision, {} ready, {} in all",
        pods.current, pods.wanted, pods.ready, pods.all
    );
    if !pods.observed {
        // What it counts as newest is the revision before.
        let message = format!("a change was written; {} of {} pods are ready", pods.ready, pods.wanted);
        return Verdict::new(PROGRESSING, true, "RollingOut", &message);
    }
    if pods.settled() {
        return Verdict::new(PROGRESSING, false, "Stable", &message);
    }
    match &pods.stuck {
        Some(why) => Verdict::new(PROGRESSING, false, "Stuck", &format!("{message}: {why}")),
        None => Verdict::new(PROGRESSING, true, "RollingOut", &message),
    }
}

fn degraded(pods: &Pods, seen: &Result<Seen, String>) -> Verdict {
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
        Err(why) => Verdict::new(DEGRADED, ConditionStatus::Unknown, "HubUnreachable", why),
        Ok(seen) => {
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
    if pods.wanted == 0 {
        return Verdict::new(READY, false, "Stopped", "spec.replicas is 0");
    }
    let message = format!("{} of {} pods are ready", pods.ready, pods.wanted);
    // Pods of an older revision serve too: a roll-out, begun or not yet begun, leaves a Hub ready.
    let enough = pods.ready >= pods.wanted;
    let reason = if enough { "Serving" } else { "WaitingForPods" };
    Verdict::new(READY, enough, reason, &message)
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
            dead_keys: None,
        };
        Ok(Seen {
            report,
            spokes: Ok(std::collections::HashMap::new()),
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
            assert_eq!(all(&applied(&pods, &healthy)), expect);
        }
    }

    #[test]
    fn a_change_of_the_spec_leaves_a_hub_ready_and_counts_no_old_pod_as_new() {
        let written = Pods {
            observed: false,
            ..pods(2, 2, 2, 2)
        };

        let verdicts = applied(&written, &seen("up", "up"));

        let of = |kind: &str| verdicts.iter().find(|verdict| verdict.kind == kind).expect("there");
        assert_eq!((of(READY).status, of(READY).reason), (ConditionStatus::True, "Serving"));
        assert_eq!(of(PROGRESSING).reason, "RollingOut");
        assert_eq!(of(PROGRESSING).message, "a change was written; 2 of 2 pods are ready");
    }

    #[test]
    fn a_refused_or_failing_hub_shows_what_its_pods_do() {
        let refusal = Refusal {
            kind: ACCEPTED,
            reason: "InvalidSetting",
            message: "why".to_owned(),
        };
        let (running, healthy) = (pods(2, 2, 2, 2), seen("up", "up"));

        let refused = all(&refused(&refusal, Some(&running), &healthy));
        let failed = all(&failed("why", Some(&running)));

        assert!(
            refused.contains("Degraded=False/Healthy") && refused.contains("Ready=False/NotAccepted"),
            "{refused}"
        );
        assert!(
            failed.contains("Degraded=True/ApplyFailed") && failed.contains("Ready=True/Serving"),
            "{failed}"
        );
    }

    #[test]
    fn a_hub_that_does_not_answer_is_neither_well_nor_degraded() {
        let verdict = degraded(&pods(2, 2, 2, 2), &Err("no answer".to_owned()));

        assert_eq!(
            (verdict.status, verdict.reason),
            (ConditionStatus::Unknown, "HubUnreachable")
        );
        assert_eq!(degraded(&pods(2, 2, 2, 2), &seen("down", "up")).reason, "RedisDown");
    }

    #[test]
    fn a_refusal_names_itself_in_the_conditions_that_people_look_at() {
        let refusal = Refusal {
            kind: PREFIX_CONFLICT,
            reason: "PrefixInUse",
            message: "why".to_owned(),
        };

        let verdicts = refused(&refusal, None, &Err("not asked".to_owned()));

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
