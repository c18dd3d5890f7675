//! Reports Hubs and Spokes that cannot be read, in their own conditions.
//!
//! Nothing else of them is written: the rest of their status may be all that is known of them.

use std::sync::Arc;
use std::time::Duration;

use alkhub_crds::condition::{self, ACCEPTED, Verdict};
use alkhub_crds::{Hub, Spoke};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::context::Context;
use crate::error::{Error, chain};
use crate::hub;
use crate::watch::Unreadable;

/// When a failed write is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// Runs until it is dropped.
pub(super) async fn report(ctx: Arc<Context>) {
    loop {
        for (kind, what) in ctx.unreadable.unreported() {
            match write(&ctx, kind, &what).await {
                Ok(()) => ctx.unreadable.reported(kind, &what),
                Err(error) => tracing::warn!(
                    kind,
                    object.namespace = what.meta.namespace,
                    object.name = what.meta.name,
                    error = chain(&error),
                    "an object that cannot be read could not be shown as such"
                ),
            }
        }
        tokio::select! {
            () = ctx.unreadable.news() => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

async fn write(ctx: &Context, kind: &str, what: &Unreadable) -> Result<(), Error> {
    if hub::is_other_install(&ctx.options, what.operator.as_deref()) {
        return Ok(());
    }
    let conditions = conditions(what, Timestamp::now());
    if conditions == what.conditions {
        return Ok(());
    }
    let fields = json!({
        "metadata": { "uid": what.meta.uid },
        "status": { "conditions": conditions, "observedGeneration": what.meta.generation },
    });
    let (namespace, name) = (
        what.meta.namespace.as_deref().unwrap_or_default(),
        what.meta.name.as_deref().unwrap_or_default(),
    );
    let written = match kind {
        "Spoke" => ctx.kubernetes.merge_status::<Spoke>(namespace, name, &fields).await,
        _ => ctx.kubernetes.merge_status::<Hub>(namespace, name, &fields).await,
    };
    match written {
        Err(error) if error.is_not_found() => Ok(()),
        written => written,
    }
}

/// The conditions that the object has, with `Accepted` set to false.
fn conditions(what: &Unreadable, now: Timestamp) -> Vec<alkhub_crds::Condition> {
    let message = format!(
        "the object cannot be read, and nothing of it is carried out: {}",
        what.error
    );
    let verdict = Verdict::new(ACCEPTED, false, "Unreadable", &message);
    let mut conditions = condition::set(&what.conditions, &[verdict], what.meta.generation, now);
    let others = what.conditions.iter().filter(|condition| condition.type_ != ACCEPTED);
    conditions.extend(others.cloned());
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    conditions
}

#[cfg(test)]
mod tests {
    use alkhub_crds::condition::READY;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_accepted_and_keeps_its_other_conditions() {
        let ready = Verdict::new(READY, true, "Serving", "");
        let accepted = Verdict::new(ACCEPTED, true, "Valid", "");
        let what = Unreadable {
            meta: ObjectMeta {
                generation: Some(4),
                ..ObjectMeta::default()
            },
            error: "spec.replicas: invalid type".to_owned(),
            operator: None,
            conditions: condition::set(&[], &[ready, accepted], Some(3), Timestamp::UNIX_EPOCH),
        };

        let reported = conditions(&what, Timestamp::UNIX_EPOCH);
        let again = conditions(
            &Unreadable {
                conditions: reported.clone(),
                ..what
            },
            Timestamp::now(),
        );

        let accepted = condition::find(&reported, ACCEPTED).expect("there");
        assert_eq!(
            (accepted.status.as_str(), accepted.reason.as_str()),
            ("False", "Unreadable")
        );
        assert!(accepted.message.contains("spec.replicas"), "{}", accepted.message);
        assert!(condition::is_true(&reported, READY) && reported.len() == 2);
        assert_eq!(reported, again);
    }
}
