//! Phase and conditions of a Spoke; pure.

use alkhub_crds::condition::{self, ACCEPTED, CONNECTED, CREDENTIALS_ISSUED, ConditionStatus, READY, Verdict};
use alkhub_crds::{Condition, Spoke, SpokePhase};

use crate::admin::ReportedSpoke;
use crate::reason::{APPLY_FAILED, HUB_UNREACHABLE};
use crate::spoke::register::Registered;
use crate::spoke::validate::Waiting;

/// How a reconcile of a Spoke ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Registered(Registered),
    Waiting { waiting: Waiting, why: String },
    Refused { reason: &'static str, message: String },
    Failed { message: String },
}

// === impl Finding ===

impl Finding {
    /// Whether there is no Hub that could know the spoke: then nothing it reported earlier holds any more.
    pub(super) fn is_without_hub(&self) -> bool {
        let Self::Waiting { waiting, .. } = self else {
            return false;
        };
        matches!(waiting, Waiting::HubNotFound | Waiting::HubGoing)
    }
}

/// Whether this very generation of the spec was declared at the hub and accepted: an earlier declaration says nothing
/// about a change made since.
fn is_declared(old: &[Condition], spoke: &Spoke) -> bool {
    let accepted = condition::find(old, ACCEPTED).filter(|accepted| accepted.status == "True");
    accepted.is_some_and(|accepted| accepted.observed_generation == spoke.metadata.generation)
}

/// Whether the spoke is suspended at the hub, as far as was declared there.
fn is_suspended(old: &[Condition], spoke: &Spoke, finding: &Finding) -> bool {
    if matches!(finding, Finding::Registered(_)) || is_declared(old, spoke) {
        return spoke.spec.suspended;
    }
    let before = spoke.status.as_ref().and_then(|status| status.phase);
    before == Some(SpokePhase::Suspended)
}

/// How far the spoke has come.
pub(super) fn phase(spoke: &Spoke, finding: &Finding, info: Option<&ReportedSpoke>) -> SpokePhase {
    let status = spoke.status.as_ref();
    let issued = matches!(finding, Finding::Registered(_)) || status.is_some_and(|status| status.declared.is_some());
    if !issued || finding.is_without_hub() || matches!(finding, Finding::Refused { .. }) {
        return SpokePhase::Pending;
    }
    let old = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    if is_suspended(old, spoke, finding) {
        return SpokePhase::Suspended;
    }
    let before = status.and_then(|status| status.phase);
    match info {
        // The hub does not know it (yet), or nothing is known: the last phase stays.
        None => before
            .filter(|phase| *phase != SpokePhase::Pending && *phase != SpokePhase::Suspended)
            .unwrap_or(SpokePhase::Ready),
        Some(info) if info.instances.are_reconnecting => SpokePhase::Reconnecting,
        Some(info) if info.instances.count > 0 => SpokePhase::Connected,
        Some(info) if was_there(info) => SpokePhase::Disconnected,
        Some(_) => SpokePhase::Ready,
    }
}

/// The conditions Accepted, CredentialsIssued and Connected.
pub(super) fn conditions(
    old: &[Condition],
    spoke: &Spoke,
    finding: &Finding,
    info: Option<&ReportedSpoke>,
) -> Vec<Verdict> {
    let suspended = is_suspended(old, spoke, finding);
    match finding {
        Finding::Registered(_) => vec![
            Verdict::new(ACCEPTED, true, "Valid", "the hub accepted the spoke"),
            Verdict::new(
                CREDENTIALS_ISSUED,
                true,
                "Issued",
                &format!("the key is in Secret `{}`", spoke.secret_name()),
            ),
            connected(suspended, info),
        ],
        Finding::Refused { reason, message } => vec![
            Verdict::new(ACCEPTED, false, reason, message),
            Verdict::new(CREDENTIALS_ISSUED, false, reason, message),
            connected(suspended, info),
        ],
        Finding::Failed { message } => {
            let issued = condition::is_true(old, CREDENTIALS_ISSUED);
            let reason = if issued { "Issued" } else { APPLY_FAILED };
            vec![
                Verdict::new(ACCEPTED, false, APPLY_FAILED, message),
                Verdict::new(CREDENTIALS_ISSUED, issued, reason, message),
                connected(suspended, info),
            ]
        }
        Finding::Waiting { waiting, why } => wait(old, spoke, *waiting, why),
    }
}

/// The condition Ready: whether the spoke may connect, which it may from the phase of that name on. Whether it is
/// connected is in `Connected`. `verdicts` are the other conditions, which say what is missing.
pub(super) fn ready(spoke: &Spoke, phase: SpokePhase, verdicts: &[Verdict]) -> Verdict {
    match phase {
        SpokePhase::Pending => {
            let missing = |kind| {
                let is_missing = |verdict: &&Verdict| verdict.kind == kind && verdict.status != ConditionStatus::True;
                verdicts.iter().find(is_missing)
            };
            let missing = missing(CREDENTIALS_ISSUED).or_else(|| missing(ACCEPTED));
            missing.map_or_else(
                || Verdict::new(READY, false, "Pending", "the key is not in place yet"),
                |missing| Verdict::new(READY, false, missing.reason, &missing.message),
            )
        }
        SpokePhase::Suspended => {
            let message = "spec.suspended is set: the hub refuses the key";
            Verdict::new(READY, false, "Suspended", message)
        }
        SpokePhase::Ready | SpokePhase::Connected | SpokePhase::Reconnecting | SpokePhase::Disconnected => {
            let message = format!("the hub knows the key in Secret `{}`", spoke.secret_name());
            Verdict::new(READY, true, "MayConnect", &message)
        }
    }
}

/// Whether an instance was connected at some time.
fn was_there(info: &ReportedSpoke) -> bool {
    info.disconnected_at.is_some() || info.connected_at.is_some()
}

fn connected(suspended: bool, info: Option<&ReportedSpoke>) -> Verdict {
    match info {
        _ if suspended => Verdict::new(CONNECTED, false, "Suspended", "spec.suspended is set"),
        Some(info) if info.instances.are_reconnecting => {
            let message = "no instance is connected, and one that has lost its connection may come back";
            Verdict::new(CONNECTED, false, "Reconnecting", message)
        }
        Some(info) if info.instances.count > 0 => {
            Verdict::new(CONNECTED, true, "Connected", "an instance is connected")
        }
        Some(info) if was_there(info) => {
            let message = "no instance is connected, and there was one";
            Verdict::new(CONNECTED, false, "Disconnected", message)
        }
        Some(_) | None => Verdict::new(CONNECTED, false, "NotConnected", "no instance is connected"),
    }
}

fn wait(old: &[Condition], spoke: &Spoke, waiting: Waiting, why: &str) -> Vec<Verdict> {
    let issued = condition::is_true(old, CREDENTIALS_ISSUED);
    let keep = |reason, message: &str| {
        Verdict::new(
            CREDENTIALS_ISSUED,
            issued,
            if issued { "Issued" } else { reason },
            message,
        )
    };
    let unknown = |kind, reason, message: &str| Verdict::new(kind, ConditionStatus::Unknown, reason, message);
    match waiting {
        Waiting::InvalidName => {
            let message = "a Spoke's name is a DNS label of at most 63 characters";
            vec![
                Verdict::new(ACCEPTED, false, "InvalidName", message),
                keep("InvalidName", message),
                unknown(CONNECTED, "InvalidName", message),
            ]
        }
        Waiting::HubNotFound => {
            let message = "there is no Hub of the name in spec.hubRef in this namespace";
            vec![
                Verdict::new(ACCEPTED, false, "HubNotFound", message),
                Verdict::new(CREDENTIALS_ISSUED, false, "HubNotFound", message),
                Verdict::new(CONNECTED, false, "HubNotFound", message),
            ]
        }
        Waiting::HubGoing => {
            let message = "its Hub is being deleted";
            vec![
                Verdict::new(ACCEPTED, false, "HubGoing", message),
                Verdict::new(CREDENTIALS_ISSUED, false, "HubGoing", message),
                unknown(CONNECTED, "HubGoing", message),
            ]
        }
        Waiting::HubPaused => {
            let message = "its Hub is paused";
            let state = if is_declared(old, spoke) {
                ConditionStatus::True
            } else {
                ConditionStatus::Unknown
            };
            vec![
                Verdict::new(ACCEPTED, state, "HubPaused", message),
                keep("HubPaused", message),
                unknown(CONNECTED, "HubPaused", message),
            ]
        }
        Waiting::HubNotAsked | Waiting::HubUnreachable => {
            let message = if why.is_empty() {
                "its Hub was not asked yet"
            } else {
                why
            };
            let accepted = if is_declared(old, spoke) {
                Verdict::new(ACCEPTED, true, "Valid", "the hub accepted the spoke")
            } else {
                unknown(ACCEPTED, HUB_UNREACHABLE, message)
            };
            vec![
                accepted,
                keep(HUB_UNREACHABLE, message),
                unknown(CONNECTED, HUB_UNREACHABLE, message),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use alkhub_crds::SpokeStatus;
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::admin::Instances;
    use crate::spoke::validate::tests::spoke;

    fn info(instances: usize, was_there: bool) -> ReportedSpoke {
        let at: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        ReportedSpoke {
            name: "builder".parse().expect("valid"),
            uid: "uid-spoke".to_owned(),
            instances: Instances {
                count: instances,
                are_reconnecting: false,
                newest_at: (instances > 0).then(|| "demo-1-abc".parse().expect("valid")),
            },
            operations: 0,
            connected_at: None,
            disconnected_at: was_there.then_some(at),
            declaration_digest: None,
            key_hint: None,
        }
    }

    fn registered() -> Finding {
        Finding::Registered(Registered {
            declared: "d".to_owned(),
            key_hint: Some("alk_aaaaaa".to_owned()),
        })
    }

    fn unreachable() -> Finding {
        Finding::Waiting {
            waiting: Waiting::HubUnreachable,
            why: "no answer".to_owned(),
        }
    }

    #[test]
    fn the_phase_follows_what_the_hub_reports() {
        let mut suspended = spoke();
        suspended.spec.suspended = true;

        assert_eq!(phase(&spoke(), &unreachable(), None), SpokePhase::Pending);
        assert_eq!(phase(&spoke(), &registered(), None), SpokePhase::Ready);
        assert_eq!(phase(&spoke(), &registered(), Some(&info(0, false))), SpokePhase::Ready);
        assert_eq!(
            phase(&spoke(), &registered(), Some(&info(1, false))),
            SpokePhase::Connected
        );
        assert_eq!(
            phase(&spoke(), &registered(), Some(&info(0, true))),
            SpokePhase::Disconnected
        );
        assert_eq!(
            phase(&suspended, &registered(), Some(&info(1, true))),
            SpokePhase::Suspended
        );
    }

    #[test]
    fn a_spoke_whose_instances_are_all_reconnecting_is_so_and_is_not_connected() {
        let mut away = info(2, true);
        away.instances.are_reconnecting = true;
        let mut suspended = spoke();
        suspended.spec.suspended = true;

        let verdicts = conditions(&[], &spoke(), &registered(), Some(&away));

        assert_eq!(phase(&spoke(), &registered(), Some(&away)), SpokePhase::Reconnecting);
        assert_eq!(phase(&suspended, &registered(), Some(&away)), SpokePhase::Suspended);
        let connected = verdicts
            .iter()
            .find(|verdict| verdict.kind == CONNECTED)
            .expect("there");
        assert_eq!(
            (connected.status, connected.reason),
            (ConditionStatus::False, "Reconnecting")
        );
    }

    #[test]
    fn a_spoke_that_was_connected_is_told_from_one_that_never_was() {
        let reason = |info: Option<&ReportedSpoke>| {
            let verdicts = conditions(&[], &spoke(), &registered(), info);
            let connected = verdicts.iter().find(|verdict| verdict.kind == CONNECTED);
            connected.map(|verdict| (verdict.status, verdict.reason))
        };

        let no = ConditionStatus::False;
        assert_eq!(reason(None), Some((no, "NotConnected")));
        assert_eq!(reason(Some(&info(0, false))), Some((no, "NotConnected")));
        assert_eq!(reason(Some(&info(0, true))), Some((no, "Disconnected")));
    }

    #[test]
    fn a_spoke_whose_hub_is_gone_or_going_is_pending() {
        let mut spoke = spoke();
        spoke.status = Some(SpokeStatus {
            phase: Some(SpokePhase::Connected),
            declared: Some("d".to_owned()),
            ..SpokeStatus::default()
        });

        for waiting in [Waiting::HubNotFound, Waiting::HubGoing] {
            let why = String::new();
            let finding = Finding::Waiting { waiting, why };
            assert_eq!(phase(&spoke, &finding, None), SpokePhase::Pending, "{waiting:?}");
            let issued = conditions(&[], &spoke, &finding, None);
            let issued = issued.iter().find(|verdict| verdict.kind == CREDENTIALS_ISSUED);
            assert_eq!(issued.map(|verdict| verdict.status), Some(ConditionStatus::False));
        }
    }

    #[test]
    fn a_hub_that_does_not_answer_leaves_the_phase_and_makes_connected_unknown() {
        let mut spoke = spoke();
        let before = conditions(&[], &spoke, &registered(), Some(&info(1, false)));
        let before = condition::set(&[], &before, None, Timestamp::UNIX_EPOCH);
        spoke.status = Some(SpokeStatus {
            phase: Some(SpokePhase::Connected),
            declared: Some("d".to_owned()),
            conditions: before.clone(),
            ..SpokeStatus::default()
        });

        let verdicts = conditions(&before, &spoke, &unreachable(), None);

        assert_eq!(phase(&spoke, &unreachable(), None), SpokePhase::Connected);
        let of = |kind: &str| verdicts.iter().find(|v| v.kind == kind).map(|v| v.status);
        assert_eq!(of(CONNECTED), Some(ConditionStatus::Unknown));
        assert_eq!(of(CREDENTIALS_ISSUED), Some(ConditionStatus::True));
        assert_eq!(of(ACCEPTED), Some(ConditionStatus::True));
    }

    #[test]
    fn a_change_that_was_not_declared_is_neither_accepted_nor_in_force() {
        let declared = |suspended: bool, connected: usize| {
            let mut spoke = spoke();
            spoke.metadata.generation = Some(1);
            spoke.spec.suspended = suspended;
            let info = info(connected, true);
            let verdicts = conditions(&[], &spoke, &registered(), Some(&info));
            spoke.status = Some(SpokeStatus {
                phase: Some(phase(&spoke, &registered(), Some(&info))),
                declared: Some("d".to_owned()),
                conditions: condition::set(&[], &verdicts, Some(1), Timestamp::UNIX_EPOCH),
                ..SpokeStatus::default()
            });
            spoke
        };
        let paused = || Finding::Waiting {
            waiting: Waiting::HubPaused,
            why: String::new(),
        };
        let says = |spoke: &Spoke, finding: &Finding| {
            let old = &spoke.status.as_ref().expect("set").conditions;
            let verdicts = conditions(old, spoke, finding, None);
            let accepted = verdicts.iter().find(|verdict| verdict.kind == ACCEPTED).expect("there");
            (phase(spoke, finding, None), accepted.status)
        };

        for finding in [unreachable(), paused()] {
            let mut changed = declared(false, 1);
            assert_eq!(says(&changed, &finding), (SpokePhase::Connected, ConditionStatus::True));
            changed.metadata.generation = Some(2);
            changed.spec.suspended = true;
            assert_eq!(
                says(&changed, &finding),
                (SpokePhase::Connected, ConditionStatus::Unknown)
            );

            let mut resumed = declared(true, 0);
            assert_eq!(says(&resumed, &finding), (SpokePhase::Suspended, ConditionStatus::True));
            resumed.metadata.generation = Some(2);
            resumed.spec.suspended = false;
            assert_eq!(
                says(&resumed, &finding),
                (SpokePhase::Suspended, ConditionStatus::Unknown)
            );
        }
    }

    #[test]
    fn every_finding_sets_every_condition() {
        let waiting = Waiting::all().map(|waiting| Finding::Waiting {
            waiting,
            why: String::new(),
        });
        let failed = Finding::Failed {
            message: "no".to_owned(),
        };
        let refused = Finding::Refused {
            reason: "Refused",
            message: "no".to_owned(),
        };
        for finding in waiting.chain([registered(), failed, refused]) {
            let mut kinds: Vec<_> = conditions(&[], &spoke(), &finding, None)
                .iter()
                .map(|v| v.kind)
                .collect();
            kinds.sort_unstable();
            assert_eq!(kinds, [ACCEPTED, CONNECTED, CREDENTIALS_ISSUED], "{finding:?}");
        }
    }

    #[test]
    fn a_spoke_is_ready_from_the_phase_of_that_name_on_and_says_otherwise_what_is_missing() {
        const MAY: &str = "MayConnect";
        let judged = |spoke: &Spoke, finding: &Finding, info: Option<&ReportedSpoke>| {
            let old = spoke.status.clone().unwrap_or_default().conditions;
            let phase = phase(spoke, finding, info);
            let ready = ready(spoke, phase, &conditions(&old, spoke, finding, info));
            (phase, ready.status, ready.reason)
        };
        let mut suspended = spoke();
        suspended.spec.suspended = true;
        let mut known = spoke();
        let verdicts = conditions(&[], &known, &registered(), None);
        known.status = Some(SpokeStatus {
            phase: Some(SpokePhase::Disconnected),
            declared: Some("d".to_owned()),
            conditions: condition::set(&[], &verdicts, None, Timestamp::UNIX_EPOCH),
            ..SpokeStatus::default()
        });
        let gone = Finding::Waiting {
            waiting: Waiting::HubNotFound,
            why: String::new(),
        };
        let refused = Finding::Refused {
            reason: "InvalidSpec",
            message: "spec.scopes: no".to_owned(),
        };
        let connected = info(1, true);
        let left = info(0, true);

        for (spoke, finding, info, phase, reason) in [
            (&spoke(), unreachable(), None, SpokePhase::Pending, "HubUnreachable"),
            (&spoke(), registered(), None, SpokePhase::Ready, MAY),
            (&spoke(), registered(), Some(&connected), SpokePhase::Connected, MAY),
            (&spoke(), registered(), Some(&left), SpokePhase::Disconnected, MAY),
            (&suspended, registered(), None, SpokePhase::Suspended, "Suspended"),
            // What is in place stays so while the hub does not answer.
            (&known, unreachable(), None, SpokePhase::Disconnected, MAY),
            (&known, gone, None, SpokePhase::Pending, "HubNotFound"),
            (&known, refused, None, SpokePhase::Pending, "InvalidSpec"),
        ] {
            let expected = (phase, ConditionStatus::from(reason == MAY), reason);
            assert_eq!(judged(spoke, &finding, info), expected, "{finding:?}");
        }
    }

    #[test]
    fn a_failure_takes_no_key_away_that_was_issued() {
        let issued = condition::set(
            &[],
            &conditions(&[], &spoke(), &registered(), None),
            None,
            Timestamp::UNIX_EPOCH,
        );
        let failed = Finding::Failed {
            message: "no".to_owned(),
        };

        let of = |old: &[Condition]| {
            let verdicts = conditions(old, &spoke(), &failed, Some(&info(1, true)));
            let status = |kind| {
                verdicts
                    .iter()
                    .find(|v| v.kind == kind)
                    .map(|v| (v.status.as_str(), v.reason))
            };
            (status(ACCEPTED), status(CREDENTIALS_ISSUED), status(CONNECTED))
        };

        let accepted = Some(("False", "ApplyFailed"));
        let connected = Some(("True", "Connected"));
        assert_eq!(of(&issued), (accepted, Some(("True", "Issued")), connected));
        assert_eq!(of(&[]), (accepted, Some(("False", "ApplyFailed")), connected));
    }
}
