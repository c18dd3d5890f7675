//! What a Hub's conditions say about its keys: its own to the admin API, and those hashed with an earlier hash key;
//! pure.

use alkhub_crds::Condition;
use alkhub_crds::condition::{self, ConditionStatus, DEGRADED, KEYS_VALID, Verdict};

use crate::context::Poll;
use crate::reason::HUB_UNREACHABLE;

/// Adds what the last poll says about keys to the verdicts.
pub(super) fn judged(verdicts: &[Verdict], old: &[Condition], poll: Option<&Poll>, secret: &str) -> Vec<Verdict> {
    let denied = poll.is_some_and(|poll| poll.denied);
    let mut verdicts: Vec<_> = verdicts
        .iter()
        .map(|verdict| match verdict.reason {
            HUB_UNREACHABLE if denied && verdict.kind == DEGRADED => refused(secret),
            _ => verdict.clone(),
        })
        .collect();
    verdicts.push(valid(old, poll, secret));
    verdicts
}

fn refused(secret: &str) -> Verdict {
    let message = format!(
        "the hub refuses the admin key in Secret `{secret}`: it has ended, or the hubs have not read it yet. Spokes \
         cannot be declared. Write a new key there as `admin-key`; the hubs read it within two minutes"
    );
    Verdict::new(DEGRADED, true, "AdminKeyRefused", &message)
}

/// While no hub reports them, what was last known stays.
fn valid(old: &[Condition], poll: Option<&Poll>, secret: &str) -> Verdict {
    let reported = poll.and_then(|poll| poll.seen.as_ref().ok()?.report.dead_keys);
    let before = condition::find(old, KEYS_VALID).filter(|before| before.status != "Unknown");
    let all = "every key in the schema was hashed with the Hub's hash key of now";
    match (reported, before) {
        (Some(0), _) => Verdict::new(KEYS_VALID, true, "Valid", all),
        (Some(count), _) => {
            let message = format!(
                "{count} keys open nothing: another hash key than the one in Secret `{secret}` hashed them, so that \
                 Secret was lost or made anew. Spokes were issued again by themselves; `alkhub keys list` names the \
                 others: make new ones and revoke those"
            );
            Verdict::new(KEYS_VALID, false, "HashKeyChanged", &message)
        }
        (None, Some(before)) if before.status == "True" => Verdict::new(KEYS_VALID, true, "Valid", &before.message),
        (None, Some(before)) => Verdict::new(KEYS_VALID, false, "HashKeyChanged", &before.message),
        (None, None) => {
            let message = "no hub has reported yet which keys are in its schema";
            Verdict::new(KEYS_VALID, ConditionStatus::Unknown, "NotTold", message)
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use tokio::time::Instant;

    use super::*;
    use crate::admin::ReportedHub;
    use crate::context::Seen;

    fn poll(denied: bool, seen: Result<Option<u64>, String>) -> Poll {
        let report = |dead_keys| ReportedHub {
            dead_keys,
            ..ReportedHub::healthy()
        };
        Poll {
            at: Instant::now(),
            asked: true,
            key: None,
            denied,
            seen: seen.map(|dead| Seen {
                report: report(dead),
                spokes: Ok(std::sync::Arc::default()),
                listed_at: Instant::now(),
            }),
        }
    }

    fn says(verdicts: &[Verdict], kind: &str) -> (ConditionStatus, &'static str) {
        let verdict = verdicts.iter().find(|verdict| verdict.kind == kind).expect("there");
        (verdict.status, verdict.reason)
    }

    #[test]
    fn a_refused_admin_key_is_degraded_with_a_reason_of_its_own() {
        let silent = [Verdict::new(
            DEGRADED,
            ConditionStatus::Unknown,
            "HubUnreachable",
            "401",
        )];
        let stuck = [Verdict::new(DEGRADED, true, "PodsStuck", "why")];
        let denied = poll(true, Err("401".to_owned()));

        let of = |verdicts: &[Verdict], poll: &Poll| says(&judged(verdicts, &[], Some(poll), "demo-auth"), DEGRADED);

        assert_eq!(of(&silent, &denied), (ConditionStatus::True, "AdminKeyRefused"));
        assert_eq!(of(&stuck, &denied), (ConditionStatus::True, "PodsStuck"));
        let away = poll(false, Err("503".to_owned()));
        assert_eq!(of(&silent, &away), (ConditionStatus::Unknown, "HubUnreachable"));
    }

    #[test]
    fn keys_of_another_hash_key_are_a_condition_until_they_are_ended_and_while_no_hub_reports() {
        let after = |old: &[Condition], seen: Result<Option<u64>, String>| {
            let verdicts = judged(&[], old, Some(&poll(false, seen)), "demo-auth");
            condition::set(old, &verdicts, None, Timestamp::UNIX_EPOCH)
        };
        let reason = |conditions: &[Condition]| conditions[0].reason.clone();

        let unreported = after(&[], Err("503".to_owned()));
        let lost = after(&unreported, Ok(Some(2)));
        let silent = after(&lost, Ok(None));
        let mended = after(&silent, Ok(Some(0)));
        let away = after(&mended, Err("503".to_owned()));

        assert_eq!(reason(&unreported), "NotTold");
        assert_eq!(
            (reason(&lost), lost[0].status.as_str()),
            ("HashKeyChanged".to_owned(), "False")
        );
        assert!(lost[0].message.starts_with("2 keys") && silent == lost);
        assert_eq!((reason(&mended), away), ("Valid".to_owned(), mended));
    }
}
