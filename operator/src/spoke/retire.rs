//! Ends a Spoke at its hub and releases it.
//!
//! Invariants
//! - While its Hub exists and does not answer, the Spoke is kept: its key might still open doors. The poll asks such a
//!   Hub again, once for all its Spokes, and then wakes them.
//! - A Hub that is gone, according to the API server itself, or is being deleted, keeps no Spoke.
//! - Our finalizer is removed whoever wrote it (a restored Spoke has it from a file); the finalizers of others stay.

use alkhub_crds::{Hub, Spoke};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use serde_json::json;

use super::{RESYNC, observe, status};
use crate::admin;
use crate::context::{Context, Poll};
use crate::error::Error;
use crate::hub;
use crate::kubernetes::Going as _;
use crate::names::{FINALIZER, ObjectNames, is_kept_for};
use crate::turn::Reconciled;

pub(super) async fn retire(ctx: &Context, spoke: &Spoke) -> Result<Reconciled, Error> {
    if !spoke.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(Reconciled::Valid(RESYNC));
    }
    // The API server is asked: a lagging cache may not know a Hub yet, or may still have one that is gone.
    let namespace = spoke.namespace().unwrap_or_default();
    let hub = ctx.kubernetes.get::<Hub>(&namespace, &spoke.spec.hub_ref.name).await?;
    if let Some(hub) = hub.filter(|hub| !hub.meta_is_going())
        && let Err(error) = end(ctx, spoke, &ObjectNames::of(&hub)).await
    {
        if let Error::Busy(_) = error {
            return Err(error);
        }
        let observed = observe::observe(ctx, spoke);
        let is_stopped = is_stopped(&hub, &error);
        let why = if is_stopped {
            "deleted, but its key cannot be ended while its Hub is scaled to 0: scale the Hub up, or delete it"
                .to_owned()
        } else {
            format!("deleted, but its key cannot be ended: {}", error.chain())
        };
        status::unanswered(ctx, spoke, &observed, &why).await?;
        // It is no failure if nobody is meant to answer, or to be asked; the first poll that finds a pod wakes the
        // Hub's Spokes.
        return match error {
            _ if is_stopped => Ok(Reconciled::Invalid(RESYNC)),
            Error::Silent { .. } => Ok(Reconciled::Valid(RESYNC)),
            error => Err(error),
        };
    }
    release(ctx, spoke, &namespace).await?;
    Ok(Reconciled::Valid(RESYNC))
}

/// Whether nobody answers because the Hub shall have no pods.
fn is_stopped(hub: &Hub, error: &Error) -> bool {
    let no_answer = matches!(
        error,
        Error::Hub(admin::Error::Unreachable { .. }) | Error::Stranger { .. } | Error::Silent { .. }
    );
    hub.spec.replicas == 0 && no_answer
}

/// Removes the finalizer from exactly the Spoke that was retired, as it is now.
async fn release(ctx: &Context, spoke: &Spoke, namespace: &str) -> Result<(), Error> {
    let name = spoke.name_any();
    let now = ctx.kubernetes.get::<Spoke>(namespace, &name).await?;
    let Some(now) = now.filter(|now| now.uid() == spoke.uid()) else {
        return Ok(());
    };
    let others: Vec<_> = now.finalizers().iter().filter(|other| *other != FINALIZER).collect();
    if others.len() == now.finalizers().len() {
        return Ok(());
    }
    let fields = json!({
        "metadata": { "uid": now.uid(), "resourceVersion": now.resource_version(), "finalizers": others }
    });
    let left: Spoke = match ctx.kubernetes.merge(namespace, &name, &fields).await {
        Ok(left) => left,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error),
    };
    if left.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Err(Error::Kept { name });
    }
    Ok(())
}

/// Ends the spoke at a Hub that exists.
async fn end(ctx: &Context, spoke: &Spoke, names: &ObjectNames) -> Result<(), Error> {
    let secret: Option<Secret> = ctx.kubernetes.get(&names.namespace, &names.auth()).await?;
    let secret = secret.filter(|secret| is_kept_for(&secret.metadata, &names.uid));
    let Some(key) = secret.as_ref().and_then(hub::admin_key) else {
        // A Hub without its first key never had a pod: nothing was ever declared there.
        return Ok(());
    };
    let door = hub::door(ctx, names, &key)?;
    asked_in_vain(ctx.polls.of(&names.uid).as_deref())?;
    let place = ctx.in_flight.place(&names.uid).await?;
    let pass = ctx.kubernetes.gate().pass()?;
    let (name, uid) = (spoke.name_any(), spoke.uid().unwrap_or_default());
    Ok(place.ended(door.delete(pass, &name, &uid).await)?)
}

/// Whether the last poll failed to get an answer, or could not ask: each of the Hub's Spokes would find the same. A hub
/// that refused the key may accept another by now.
fn asked_in_vain(poll: Option<&Poll>) -> Result<(), Error> {
    match poll.map(|poll| (&poll.seen, poll.denied)) {
        Some((Err(why), false)) => Err(Error::Silent { why: why.clone() }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Seen;
    use crate::hub::testing::{given, hub};

    #[test]
    fn a_stopped_hub_that_does_not_answer_is_no_failure_and_anything_else_is() {
        let mut hub = hub(given());
        let silent = || {
            Error::Hub(admin::Error::Unreachable {
                url: "http://demo".to_owned(),
                source: None,
            })
        };
        let refused = || {
            Error::Hub(admin::Error::Refused {
                status: 403,
                detail: "no".to_owned(),
            })
        };

        let unasked = || Error::Silent {
            why: "no pod is ready".to_owned(),
        };

        assert!(!is_stopped(&hub, &silent()) && !is_stopped(&hub, &unasked()));
        hub.spec.replicas = 0;
        assert!(is_stopped(&hub, &silent()) && is_stopped(&hub, &unasked()));
        assert!(!is_stopped(&hub, &refused()) && !is_stopped(&hub, &Error::Stale));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hub_that_did_not_answer_the_last_poll_is_not_asked_again_for_each_spoke() {
        let poll = |seen, denied| Poll {
            at: tokio::time::Instant::now(),
            asked: true,
            key: None,
            denied,
            seen,
        };
        let seen = Seen {
            report: admin::ReportedHub::healthy(),
            spokes: Ok(std::sync::Arc::default()),
            listed_at: tokio::time::Instant::now(),
        };
        let silent = asked_in_vain(Some(&poll(Err("no answer".to_owned()), false)));
        let denied = asked_in_vain(Some(&poll(Err("refused".to_owned()), true)));

        assert!(matches!(silent, Err(Error::Silent { why }) if why == "no answer"));
        assert!(denied.is_ok() && asked_in_vain(Some(&poll(Ok(seen), false))).is_ok());
        assert!(asked_in_vain(None).is_ok(), "nobody has asked yet");
    }
}
