//! What a Hub's conditions say about its revisions, and what of that stays while the Hub is not carried out; pure.

use alkhub_crds::Condition;
use alkhub_crds::condition::{self, AUTOSCALING_CONFLICT, ConditionStatus, SECRETS_CURRENT, TEMPLATE_CURRENT, Verdict};

use crate::hub::apply::LiveObjects;

/// What was found when the Hub was last carried out.
pub(super) fn found(live: &LiveObjects) -> [Verdict; 2] {
    [
        template(&live.history.newest().name, live.history.is_outdated),
        secrets(&live.changed_secrets),
    ]
}

/// The verdicts with the earlier ones where the Hub was not carried out: then nobody looked at its revisions, nor at
/// who scales it.
pub(super) fn judged(mut verdicts: Vec<Verdict>, old: &[Condition]) -> Vec<Verdict> {
    for kind in [TEMPLATE_CURRENT, SECRETS_CURRENT, AUTOSCALING_CONFLICT] {
        if !verdicts.iter().any(|verdict| verdict.kind == kind) {
            verdicts.push(before(kind, condition::find(old, kind)));
        }
    }
    verdicts
}

fn before(kind: &'static str, known: Option<&Condition>) -> Verdict {
    const REASONS: [&str; 8] = [
        "Current",
        "OlderOperator",
        "Unchanged",
        "SecretChanged",
        "Off",
        "Alone",
        "HorizontalPodAutoscaler",
        "NotScaled",
    ];
    let reason = known.and_then(|known| REASONS.into_iter().find(|reason| *reason == known.reason));
    match (known, reason) {
        (Some(known), Some(reason)) => {
            let status = match known.status.as_str() {
                "True" => ConditionStatus::True,
                "False" => ConditionStatus::False,
                _ => ConditionStatus::Unknown,
            };
            Verdict::new(kind, status, reason, &known.message)
        }
        _ => Verdict::new(
            kind,
            ConditionStatus::Unknown,
            "NotChecked",
            "the Hub was not carried out yet",
        ),
    }
}

fn template(revision: &str, is_outdated: bool) -> Verdict {
    if is_outdated {
        let message = format!(
            "the pods keep the template of revision {revision}, which an older operator made; this one would make another. \
             They get it with the next change of what goes into them, for example of spec.template.annotations"
        );
        return Verdict::new(TEMPLATE_CURRENT, false, "OlderOperator", &message);
    }
    let message = format!("revision {revision} is what this operator would make");
    Verdict::new(TEMPLATE_CURRENT, true, "Current", &message)
}

fn secrets(changed: &[String]) -> Verdict {
    if changed.is_empty() {
        let message = "no pod was made for another content of a Secret";
        return Verdict::new(SECRETS_CURRENT, true, "Unchanged", message);
    }
    let message = format!(
        "pods run that were made for another content of {}: one that starts again reads what is there now, and no revision \
         brings the old content back",
        changed.join(", ")
    );
    Verdict::new(SECRETS_CURRENT, false, "SecretChanged", &message)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn after(old: &[Condition], found: Vec<Verdict>) -> Vec<Condition> {
        condition::set(old, &judged(found, old), None, Timestamp::UNIX_EPOCH)
    }

    fn said(conditions: &[Condition]) -> Vec<(&str, &str)> {
        conditions
            .iter()
            .map(|c| (c.status.as_str(), c.reason.as_str()))
            .collect()
    }

    #[test]
    fn what_was_found_of_revisions_stays_while_nobody_looks() {
        let new = after(&[], Vec::new());
        let other = Verdict::new(AUTOSCALING_CONFLICT, true, "HorizontalPodAutoscaler", "h");
        let found = after(&new, vec![template("0a", true), secrets(&["redis".to_owned()]), other]);
        let refused = after(&found, Vec::new());

        assert_eq!(said(&new), [("Unknown", "NotChecked"); 3]);
        let conflict = ("True", "HorizontalPodAutoscaler");
        assert_eq!(
            said(&found),
            [conflict, ("False", "SecretChanged"), ("False", "OlderOperator")]
        );
        assert_eq!(refused, found);
        assert!(found[1].message.contains("redis") && found[2].message.contains("0a"));
        let mended = after(&refused, vec![template("0b", false), secrets(&[])]);
        assert_eq!(said(&mended), [conflict, ("True", "Unchanged"), ("True", "Current")]);
    }
}
