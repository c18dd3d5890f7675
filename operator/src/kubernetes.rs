//! The Kubernetes API as the reconcilers use it: every call has a deadline, every write passes the gate and is counted.
//!
//! There are two clients: one for requests, whose connections may be silent for 10 s, and one for watches, which the
//! server ends after a minute each, so that a connection that died silently is noticed within 75 s.
//!
//! Retries belong to the reconcile loop ([`crate::failures`]); the client makes none of its own.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as Published;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::PartialObjectMeta;
use kube::runtime::events::{Event, Recorder, Reporter};
use kube::{Api, Client, Config, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use crate::error::Error;
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::start::StartError;
use crate::watch::Read;

/// Owner of the fields that this operator sets.
pub(crate) const MANAGER: &str = "alkhub-operator";

/// A request is given up after this long.
const LIMIT: Duration = Duration::from_secs(10);

/// The server ends a watch after this many seconds; it is then begun anew.
pub(crate) const WATCH_SECONDS: u32 = 60;

/// The two clients.
#[derive(Clone)]
pub(crate) struct Clients {
    /// For requests.
    pub(crate) requests: Client,
    /// For watches.
    pub(crate) watches: Client,
}

/// The API for one term of leadership.
#[derive(Clone)]
pub(crate) struct Kubernetes {
    client: Client,
    gate: Gate,
    metrics: std::sync::Arc<Metrics>,
}

/// What an object must be to be read and written here.
pub(crate) trait Object:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

// === impl Clients ===

impl Clients {
    /// Clients from a kubeconfig, or from the pod's service account.
    pub(crate) async fn new(kubeconfig: Option<&Path>) -> Result<Self, StartError> {
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| StartError::Client(e);
        let mut config = match kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|e| failed(e.into()))?;
                let options = KubeConfigOptions::default();
                Config::from_custom_kubeconfig(file, &options)
                    .await
                    .map_err(|e| failed(e.into()))?
            }
            None => Config::incluster().map_err(|e| failed(e.into()))?,
        };
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(5));
        config.write_timeout = Some(LIMIT);
        config.read_timeout = Some(LIMIT);
        config.reset_reader_on_write = true;
        let requests = Client::try_from(config.clone()).map_err(|e| failed(e.into()))?;
        config.read_timeout = Some(Duration::from_secs(u64::from(WATCH_SECONDS) + 15));
        let watches = Client::try_from(config).map_err(|e| failed(e.into()))?;
        Ok(Self { requests, watches })
    }
}

impl Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clients")
    }
}

// === impl Kubernetes ===

impl Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kubernetes")
    }
}

impl Kubernetes {
    pub(crate) fn new(client: Client, gate: Gate, metrics: std::sync::Arc<Metrics>) -> Self {
        Self { client, gate, metrics }
    }

    /// The writer of Events, for use by [`Kubernetes::publish`] only.
    pub(crate) fn recorder(&self, reporter: Reporter) -> Recorder {
        Recorder::new(self.client.clone(), reporter)
    }

    /// The gate, for writes that are made elsewhere.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// An object as it is now, not as a cache has it.
    pub(crate) async fn get<K: Object>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error> {
        let api = self.api::<K>(namespace);
        timed::<K, _>("get", name, Instant::now() + LIMIT, api.get_opt(name)).await
    }

    /// The metadata of all objects of a kind in a namespace as they are now.
    pub(crate) async fn list<K: Object>(&self, namespace: &str) -> Result<Vec<PartialObjectMeta<K>>, Error> {
        let api = self.api::<K>(namespace);
        let everything = ListParams::default();
        let list = timed::<K, _>(
            "list",
            namespace,
            Instant::now() + LIMIT,
            api.list_metadata(&everything),
        )
        .await?;
        Ok(list.items)
    }

    /// The objects of a kind that have these labels, as they are now.
    pub(crate) async fn list_labelled<K: Object>(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<K>, Error> {
        let api = self.api::<K>(namespace);
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let params = ListParams::default().labels(&labels.join(","));
        let list = timed::<K, _>("list", namespace, Instant::now() + LIMIT, api.list(&params)).await?;
        Ok(list.items)
    }

    /// Makes an object that must not exist yet.
    pub(crate) async fn create<K: Object>(&self, namespace: &str, object: &K) -> Result<K, Error> {
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let name = object.meta().name.clone().unwrap_or_default();
        self.write::<K, _>("create", &name, self.api::<K>(namespace).create(&params, object))
            .await
    }

    /// Changes fields of an object; a `resourceVersion` among them must still be the object's.
    pub(crate) async fn merge<K: Object>(&self, namespace: &str, name: &str, fields: &Value) -> Result<K, Error> {
        let api = self.api::<K>(namespace);
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.write::<K, _>("patch", name, api.patch(name, &params, &Patch::Merge(fields)))
            .await
    }

    /// Changes how many pods an object asks for; a `uid` and a `resourceVersion` among the fields must still be the
    /// object's.
    pub(crate) async fn scale<K: Object>(&self, namespace: &str, name: &str, fields: &Value) -> Result<Scale, Error> {
        let api = self.api::<K>(namespace);
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.write::<K, _>("scale", name, api.patch_scale(name, &params, &Patch::Merge(fields)))
            .await
    }

    /// Applies the fields of `object`, and removes those that this operator applied before and that are no longer in
    /// it.
    pub(crate) async fn apply<K: Object>(&self, namespace: &str, name: &str, object: &Value) -> Result<K, Error> {
        let api = self.api::<K>(namespace);
        let params = PatchParams::apply(MANAGER).force();
        self.write::<K, _>("apply", name, api.patch(name, &params, &Patch::Apply(object)))
            .await
    }

    /// The same for the status.
    pub(crate) async fn apply_status<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        object: &Value,
    ) -> Result<K, Error> {
        let api = self.api::<K>(namespace);
        let params = PatchParams::apply(MANAGER).force();
        self.write::<K, _>("status", name, api.patch_status(name, &params, &Patch::Apply(object)))
            .await
    }

    /// Changes fields of a status; a `resourceVersion` in the metadata must still be the object's. The rest of the
    /// object need not be readable.
    pub(crate) async fn merge_status<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        fields: &Value,
    ) -> Result<(), Error> {
        let api: Api<Read<K>> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.write::<K, _>("status", name, api.patch_status(name, &params, &Patch::Merge(fields)))
            .await
            .map(drop)
    }

    /// Deletes exactly the object that was seen: its uid and its version must still be the same.
    pub(crate) async fn delete<K: Object>(&self, seen: &K) -> Result<(), Error> {
        let meta = seen.meta();
        let (name, namespace) = (
            meta.name.clone().unwrap_or_default(),
            meta.namespace.clone().unwrap_or_default(),
        );
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
        });
        let api = self.api::<K>(&namespace);
        match self.write::<K, _>("delete", &name, api.delete(&name, &params)).await {
            Ok(_) => Ok(()),
            Err(Error::Kubernetes { source, .. }) if crate::error::status(&source) == Some(404) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Publishes an Event about an object, or counts a repetition of it.
    pub(crate) async fn publish(
        &self,
        recorder: &Recorder,
        event: &Event,
        about: &ObjectReference,
    ) -> Result<(), Error> {
        let name = about.name.as_deref().unwrap_or_default();
        self.write::<Published, _>("publish", name, recorder.publish(event, about))
            .await
    }

    fn api<K: Object>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn write<K: Object, T>(
        &self,
        verb: &'static str,
        name: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        let pass = self.gate.pass()?;
        self.metrics
            .api_writes
            .with_label_values(&[K::kind(&()).as_ref(), verb])
            .inc();
        timed::<K, T>(verb, name, pass.deadline, request).await
    }
}

async fn timed<K: Object, T>(
    verb: &'static str,
    name: &str,
    deadline: Instant,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Error> {
    let kind = || K::kind(&()).into_owned();
    let answer = tokio::select! {
        // After this process was suspended, the deadline is seen before the answer.
        biased;
        () = tokio::time::sleep_until(deadline) => {
            return Err(Error::Timeout {
                verb,
                kind: kind(),
                name: name.to_owned(),
            });
        }
        answer = request => answer,
    };
    answer.map_err(|source| Error::Kubernetes {
        verb,
        kind: kind(),
        name: name.to_owned(),
        source: Box::new(source),
    })
}

/// Whether a resource is being deleted.
pub(crate) trait Going {
    /// Whether `deletionTimestamp` is set.
    fn meta_is_going(&self) -> bool;
}

impl<K: Object> Going for K {
    fn meta_is_going(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_read_after_the_deadline_does_not_count() {
        let ask = async |deadline| timed::<Pod, _>("get", "demo", deadline, std::future::ready(Ok(()))).await;
        let past = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;

        let (late, in_time) = (ask(past).await, ask(Instant::now() + LIMIT).await);

        assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
        assert!(in_time.is_ok(), "{in_time:?}");
    }
}
