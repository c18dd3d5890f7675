//! Watches of one term of leadership: what they bring is kept in stores and triggers reconciles.
//!
//! Invariants
//! - One malformed Hub or Spoke is counted, logged and skipped; it does not hold up the others, and when it is deleted,
//!   it is removed from the store by its name.
//! - A store is read only after it was filled once; while a watch begins anew, it keeps what it had.
//! - `managedFields` are dropped, and of Secrets only the metadata is kept: no key stays in memory.

mod read;
mod stores;
mod unreadable;

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, Lookup, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use kube::runtime::{WatchStreamExt as _, watcher as events_of};
use kube::{Api, Client, Resource};
use tokio::sync::watch;

use self::read::kind_of;
pub(crate) use self::read::{Read, Unreadable};
pub(crate) use self::stores::Stores;
pub(crate) use self::unreadable::UnreadableObjects;
use crate::health::Health;
use crate::kubernetes::{Object, WATCH_SECONDS};
use crate::metrics::Metrics;
use crate::names::MANAGED_BY;

/// A kind of ours may be missing because its definition was deleted and will be applied again any moment. The other
/// watches fail only with the API server, which is given more time.
const MISSING: Duration = Duration::from_secs(3);
const BROKEN: Duration = Duration::from_secs(30);

/// Objects that a watch touched.
pub(crate) type Touched<K> = BoxStream<'static, Result<K, watcher::Error>>;

/// Where to watch.
#[derive(Clone)]
pub(crate) struct Watches {
    pub(crate) client: Client,
    pub(crate) namespace: Option<String>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    pub(crate) unreadable: Arc<UnreadableObjects>,
}

/// One kind's events, and what they leave behind.
pub(crate) struct Watched<K: Resource + Lookup + Clone + 'static>
where
    <K as Lookup>::DynamicType: Default + Eq + std::hash::Hash + Clone,
{
    pub(crate) store: Store<K>,
    pub(crate) touched: Touched<K>,
    /// Becomes true once the store was filled. This is not the store's own `wait_until_ready`: in kube 5.0 that wakes
    /// only the last of several waiters, and a reconcile that was not the last would wait for ever.
    pub(crate) filled: watch::Receiver<bool>,
}

/// The waits of kube's default, with another limit.
struct Waits {
    inner: DefaultBackoff,
    longest: Duration,
}

// === impl Waits ===

impl Waits {
    fn upto(longest: Duration) -> Self {
        Self {
            inner: DefaultBackoff::default(),
            longest,
        }
    }
}

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.inner.next().map(|wait| wait.min(self.longest))
    }
}

impl Backoff for Waits {
    fn reset(&mut self) {
        self.inner.reset();
    }
}

// === impl Watches ===

impl Watches {
    /// Watches one of our own kinds; an object that cannot be read is skipped.
    pub(crate) fn resources<K: Object + Lookup<DynamicType = ()> + Default>(&self) -> Watched<K> {
        let events = events_of(self.api::<Read<K>>(), config());
        let (metrics, unreadable) = (Arc::clone(&self.metrics), Arc::clone(&self.unreadable));
        let readable = events.filter_map(move |event| {
            let event = readable(event, &metrics, &unreadable);
            async move { event }
        });
        self.keep(readable, MISSING)
    }

    /// Watches one kind of the objects that this operator makes.
    pub(crate) fn children<K: Object + Lookup<DynamicType = ()>>(&self) -> Watched<K> {
        self.keep(
            events_of(
                self.api::<K>(),
                config().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1)),
            ),
            BROKEN,
        )
    }

    /// Watches the metadata of the Secrets that this operator makes.
    pub(crate) fn secrets(&self) -> Watched<PartialObjectMeta<Secret>> {
        let config = config().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
        self.keep(events_of(self.api::<PartialObjectMeta<Secret>>(), config), BROKEN)
    }

    fn keep<K>(
        &self,
        events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
        longest: Duration,
    ) -> Watched<K>
    where
        K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
    {
        keep(&self.metrics, &self.health, events, longest)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        <K as Resource>::DynamicType: Default,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }
}

/// Keeps what a watch brings in a store; a broken watch is begun anew after `longest` at the latest.
fn keep<K>(
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    longest: Duration,
) -> Watched<K>
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let (done, filled) = watch::channel(false);
    let (metrics, health) = (Arc::clone(metrics), Arc::clone(health));
    let kind = kind_of(&<K as Resource>::kind(&()));
    let touched = events
        .inspect(move |event| match event {
            // The begin of a list is our own word.
            Ok(Event::Init) => {}
            Ok(_) => health.heard(kind),
            Err(error) => {
                metrics.watch_errors.with_label_values(&[kind]).inc();
                tracing::warn!(
                    kind,
                    error = crate::error::chain(error),
                    "a watch broke and is begun anew"
                );
            }
        })
        .backoff(Waits::upto(longest))
        .modify(|object| object.meta_mut().managed_fields = None)
        .reflect(writer)
        .inspect(move |event| {
            if matches!(event, Ok(Event::InitDone)) {
                done.send_replace(true);
            }
        })
        .touched_objects()
        .boxed();
    Watched { store, touched, filled }
}

fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS).page_size(500)
}

fn readable<K: Object + Default>(
    event: watcher::Result<Event<Read<K>>>,
    metrics: &Metrics,
    known: &UnreadableObjects,
) -> Option<watcher::Result<Event<K>>> {
    let kind = kind_of(&K::kind(&()));
    let read = |object: Read<K>| {
        known.see(kind, &object);
        object.0.map_err(|unread| count(kind, &unread, metrics))
    };
    Some(match event {
        Ok(Event::Apply(object)) => Ok(Event::Apply(read(object).ok()?)),
        Ok(Event::InitApply(object)) => Ok(Event::InitApply(read(object).ok()?)),
        Ok(Event::Delete(object)) => {
            known.gone(kind, object.meta().uid.as_deref().unwrap_or_default());
            Ok(Event::Delete(object.0.unwrap_or_else(|unread| {
                let mut named = K::default();
                *named.meta_mut() = unread.meta;
                named
            })))
        }
        Ok(Event::Init) => {
            known.begin(kind);
            Ok(Event::Init)
        }
        Ok(Event::InitDone) => {
            known.done(kind);
            Ok(Event::InitDone)
        }
        Err(error) => Err(error),
    })
}

fn count(kind: &'static str, unread: &Unreadable, metrics: &Metrics) {
    metrics.malformed_objects.with_label_values(&[kind]).inc();
    tracing::error!(
        kind,
        object.namespace = unread.meta.namespace,
        object.name = unread.meta.name,
        error = unread.error,
        "an object cannot be read and is passed over"
    );
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use alkhub_crds::Hub;
    use kube::client::Body;
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn everybody_who_waits_for_a_store_learns_that_it_is_filled() {
        let metrics = metrics();
        let events = futures::stream::iter([Ok(Event::<Hub>::Init), Ok(Event::InitDone)]);
        let watched = keep(&metrics, &Arc::default(), events, BROKEN);
        let wait = || async {
            let mut filled = watched.filled.clone();
            filled.wait_for(|filled| *filled).await.is_ok()
        };

        let (first, second, ()) = tokio::join!(wait(), wait(), watched.touched.for_each(|_| std::future::ready(())));

        assert!(first && second);
    }

    #[tokio::test(start_paused = true)]
    async fn a_definition_that_was_deleted_is_noticed_within_seconds_of_its_return() {
        let back = Instant::now() + Duration::from_secs(300);
        let answer = move |_: http::Request<Body>| {
            let (status, body) = if Instant::now() < back {
                (
                    404,
                    json!({"kind": "Status", "code": 404, "status": "Failure", "message": "no such kind", "reason": "NotFound"}),
                )
            } else {
                (
                    200,
                    json!({"kind": "HubList", "apiVersion": "alkhub.dev/v1alpha1", "metadata": {"resourceVersion": "7"}, "items": []}),
                )
            };
            let answer = http::Response::builder()
                .status(status)
                .body(Body::from(body.to_string().into_bytes()));
            std::future::ready(Ok::<_, Infallible>(answer.expect("an answer")))
        };
        let watches = Watches {
            client: Client::new(tower::service_fn(answer), "team"),
            namespace: None,
            metrics: metrics(),
            health: Arc::default(),
            unreadable: Arc::default(),
        };
        let watched = watches.resources::<Hub>();
        let mut filled = watched.filled.clone();

        tokio::select! {
            seen = filled.wait_for(|filled| *filled) => drop(seen.expect("it is watched")),
            () = watched.touched.for_each(|_| std::future::ready(())) => {}
        }

        let late = Instant::now() - back;
        assert!(late <= MISSING, "after {late:?}");
    }

    fn metrics() -> Arc<Metrics> {
        Arc::new(Metrics::new(&prometheus::Registry::new()).expect("registered"))
    }

    fn object(spec: &serde_json::Value) -> Read<Hub> {
        let meta = json!({"name": "h", "namespace": "n", "uid": "u", "generation": 1});
        let hub = json!({"apiVersion": "alkhub.dev/v1alpha1", "kind": "Hub", "metadata": meta, "spec": spec});
        serde_json::from_value(hub).expect("a guard reads everything")
    }

    fn good() -> serde_json::Value {
        json!({"redis": {"managed": true}, "postgres": {"managed": true}})
    }

    #[test]
    fn a_malformed_object_is_counted_passed_over_and_reported() {
        let (metrics, unreadable) = (metrics(), UnreadableObjects::default());
        let many = || object(&json!({"replicas": "many"}));
        let hub = Hub::default();
        let known = || unreadable.has_hub("n", "h");

        assert!(readable(Ok(Event::Apply(many())), &metrics, &unreadable).is_none());
        assert_eq!(metrics.malformed_objects.with_label_values(&["Hub"]).get(), 1);
        let (kind, what) = unreadable.unreported().pop().expect("it is to be reported");
        unreadable.reported(kind, &what);
        assert!(readable(Ok(Event::InitApply(many())), &metrics, &unreadable).is_none());
        assert!(
            unreadable.unreported().is_empty() && known() && !unreadable.has(&hub),
            "reported once"
        );

        let read = readable(Ok(Event::Apply(object(&good()))), &metrics, &unreadable);
        assert!(matches!(read, Some(Ok(Event::Apply(_)))) && !known());
    }

    #[test]
    fn an_unreadable_object_that_is_not_in_a_new_list_is_forgotten() {
        let (metrics, unreadable) = (metrics(), UnreadableObjects::default());
        let event = |event| drop(readable::<Hub>(Ok(event), &metrics, &unreadable));

        event(Event::InitApply(object(&json!({}))));
        event(Event::Init);
        assert!(unreadable.has_hub("n", "h"), "the list is not read yet");
        event(Event::InitDone);

        assert!(!unreadable.has_hub("n", "h"));
    }

    #[tokio::test]
    async fn a_hub_that_is_deleted_while_it_cannot_be_read_leaves_the_store() {
        let (metrics, unreadable) = (metrics(), UnreadableObjects::default());
        let event = |event| readable(Ok(event), &metrics, &unreadable);
        let broken = || object(&json!({"replicas": "many"}));
        let events = [
            event(Event::Init),
            event(Event::InitApply(object(&good()))),
            event(Event::InitDone),
            event(Event::Apply(broken())),
            event(Event::Delete(broken())),
        ];
        let watched = keep(
            &metrics,
            &Arc::default(),
            futures::stream::iter(events.into_iter().flatten()),
            BROKEN,
        );

        watched.touched.for_each(|_| std::future::ready(())).await;

        assert!(watched.store.state().is_empty());
        assert!(!unreadable.has_hub("n", "h"));
    }

    #[tokio::test]
    async fn the_begin_of_a_list_is_not_taken_for_a_word_of_the_api_server() {
        let health = Arc::new(Health::default());
        let events = futures::stream::iter([Ok(Event::<Hub>::Init)]);

        let watched = keep(&metrics(), &health, events, BROKEN);
        watched.touched.for_each(|_| std::future::ready(())).await;

        assert!(health.age("Hub").is_none());
    }
}
