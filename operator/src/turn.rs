//! One reconcile with everything around it: waiting for filled stores, metrics, back-off, and catching panics.
//!
//! Invariants
//! - A fault in one object's reconcile affects that object only: a panic becomes an error like any other, counted,
//!   shown and tried again. Uncaught, it would end the controller's stream, and with it the reconciles of all other
//!   objects.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use alkhub_retry::jittered;
use futures::FutureExt as _;
use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use tokio::time::Instant;

use crate::context::Context;
use crate::error::{Cure, Error, chain};
use crate::kubernetes::Object;
use crate::names::digest;

/// A write that found the gate shut is tried again after this long, in case the term goes on.
const SHUT: Duration = Duration::from_secs(1);

/// How a reconcile ended, and when it is to be looked at again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reconciled {
    /// As wanted, or on the way there.
    Valid(Duration),
    /// Only a person can go on; a change to what they edit wakes it earlier.
    Invalid(Duration),
}

/// Runs one reconcile; `panicked` shows a fault of the operator's in the object's conditions.
pub(crate) async fn run<K, F, G>(
    object: Arc<K>,
    context: Arc<Context>,
    reconcile: impl FnOnce(Arc<K>, Arc<Context>) -> F,
    panicked: impl FnOnce(Arc<K>, Arc<Context>, Error) -> G,
) -> Result<Action, Error>
where
    K: Object,
    F: Future<Output = Result<Reconciled, Error>>,
    G: Future<Output = Result<(), Error>>,
{
    if !context.stores.ready().await {
        return Err(Error::Stale);
    }
    let (kind, uid) = (K::kind(&()), object.uid().unwrap_or_default());
    let begun = Instant::now();
    let done = caught(reconcile(Arc::clone(&object), Arc::clone(&context))).await;
    if let Err(Error::Panicked { id }) = &done {
        let error = Error::Panicked { id: id.clone() };
        if let Err(error) = caught(panicked(object, Arc::clone(&context), error)).await {
            tracing::warn!(error = chain(&error), "the fault could not be shown in the conditions");
        }
    }
    context
        .metrics
        .reconcile_duration
        .with_label_values(&[&kind])
        .observe(begun.elapsed().as_secs_f64());
    let (result, action) = match done {
        Ok(Reconciled::Valid(again)) => ("ok", Ok(Action::requeue(jittered(again)))),
        Ok(Reconciled::Invalid(again)) => ("invalid", Ok(Action::requeue(jittered(again)))),
        Err(Error::Shut(shut)) => return Err(shut.into()),
        Err(error) => ("error", Err(error)),
    };
    context
        .metrics
        .reconciles
        .with_label_values(&[kind.as_ref(), result])
        .inc();
    if action.is_ok() {
        context.failures.succeeded(&uid);
    }
    action
}

/// Runs a task; a panic in it becomes an error. Its message goes only to the log, since it may hold what a condition
/// must not.
async fn caught<T>(task: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    AssertUnwindSafe(task).catch_unwind().await.unwrap_or_else(|panic| {
        let words = text(&*panic);
        let id = digest(&[words.as_bytes()])[..8].to_owned();
        tracing::error!(error.id = id, panic = words, "a reconcile panicked: please report it");
        Err(Error::Panicked { id })
    })
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without words")
}

/// How long an object waits after a failure.
pub(crate) fn error_policy<K: Object>(object: Arc<K>, error: &Error, context: Arc<Context>) -> Action {
    if error.cure() == Cure::Leader {
        // Either the term is over and nothing runs again, or a renewal was late and the gate will open again.
        return Action::requeue(jittered(SHUT));
    }
    let uid = object.uid().unwrap_or_default();
    let delay = context.failures.failed(&uid);
    let delay = match context.polls.of(&uid) {
        // A Hub that has pods is looked at once per interval, however often applying it fails.
        Some(poll) if poll.key.is_some() => delay.min(jittered(context.options.poll_interval)),
        _ => delay,
    };
    // What hubs are told while they drain lapses unless it is repeated.
    let delay = context.steps.tells_in(&uid).map_or(delay, |again| delay.min(again));
    let delay = error.retry_after().map_or(delay, |asked| delay.max(asked));
    if error.is_namespace_going() {
        tracing::debug!(kind = %K::kind(&()), object.name = object.name_any(), "its namespace is being deleted");
        return Action::requeue(delay);
    }
    tracing::warn!(
        kind = %K::kind(&()),
        object.namespace = object.namespace(),
        object.name = object.name_any(),
        retry_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        error = chain(error),
        "reconcile failed"
    );
    drop((object, context));
    Action::requeue(delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_reconcile_is_an_error_with_an_id_and_none_of_its_words() {
        let fault =
            |words: &'static str| caught(async move { if words.is_empty() { Ok(()) } else { panic!("{words}") } });

        assert!(fault("").await.is_ok());
        let error = fault("the key alk_secret").await.expect_err("a panic");
        let again = fault("the key alk_secret").await.expect_err("a panic");

        assert!(error.is_shown(0), "it is shown at once");
        assert_eq!(error.chain(), again.chain(), "the same fault has the same words");
        assert!(error.chain().contains("error.id=") && !error.chain().contains("alk_secret"));
    }
}
