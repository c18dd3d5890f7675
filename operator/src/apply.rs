//! Server-side apply with a look before each write, and pruning.
//!
//! Invariants
//! - An object that is still as it was applied is not written again: a steady state has no writes.
//! - Nothing is taken over. A missing object is created, never applied; an object without our owner's uid is left
//!   alone, and its own uid guards each write.
//! - Nothing is deleted before the API server, not just the cache, has confirmed that its owner still does not want it.

mod compare;
mod ownership;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::{Lookup, ObjectRef, Store};
use kube::{Resource, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::error::Error;
use crate::kubernetes::{Kubernetes, Object};
use crate::names::{APPLIED, digest, is_owned_by};

/// How each object looked after it was applied, by uid: the server may store a value in a form other than ours.
#[derive(Debug, Default)]
pub(crate) struct Applied(Mutex<HashMap<String, String>>);

/// Applies the objects of one owner.
#[derive(Debug)]
pub(crate) struct Applier<'a> {
    pub(crate) kubernetes: &'a Kubernetes,
    pub(crate) applied: &'a Applied,
    /// The owner's uid.
    pub(crate) owner: &'a str,
}

// === impl Applied ===

impl Applied {
    fn has(&self, uid: &str) -> bool {
        self.0.lock().contains_key(uid)
    }

    /// Forgets objects that are gone.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.0.lock().retain(|uid, _| exists(uid));
    }
}

// === impl Applier ===

impl Applier<'_> {
    /// Makes one object as wanted; returns it as it is then.
    pub(crate) async fn apply<K>(&self, store: &Store<K>, wanted: K) -> Result<Arc<K>, Error>
    where
        K: Object + Lookup<DynamicType = ()>,
    {
        Box::pin(self.make(store, wanted, false)).await
    }

    /// The same for an object that is scaled: it is created with no pods, and the number that it asks for is not
    /// changed here ([`Kubernetes::scale`]).
    pub(crate) async fn apply_unscaled<K>(&self, store: &Store<K>, wanted: K) -> Result<Arc<K>, Error>
    where
        K: Object + Lookup<DynamicType = ()>,
    {
        Box::pin(self.make(store, wanted, true)).await
    }

    async fn make<K>(&self, store: &Store<K>, mut wanted: K, is_scaled: bool) -> Result<Arc<K>, Error>
    where
        K: Object + Lookup<DynamicType = ()>,
    {
        let (namespace, name) = (wanted.meta().namespace.clone().unwrap_or_default(), wanted.name_any());
        let stamp = digest(&[plain(&wanted).to_string().as_bytes()]);
        wanted.annotations_mut().insert(APPLIED.to_owned(), stamp);
        let shape = plain(&wanted);
        let live = match store.get(&ObjectRef::new(&name).within(&namespace)) {
            Some(live) => Some(live),
            // It may exist all the same, without our label or younger than the cache.
            None => self.kubernetes.get::<K>(&namespace, &name).await?.map(Arc::new),
        };
        let made = match &live {
            // Applying would take over what somebody else created since the look.
            None if is_scaled => self.kubernetes.create(&namespace, &asking_for_none(&shape)?).await?,
            None => self.kubernetes.create(&namespace, &wanted).await?,
            Some(live) => {
                self.check_owner::<K>(live.meta(), &name)?;
                if !self.differs(live.as_ref(), &shape) {
                    return Ok(Arc::clone(live));
                }
                self.change(live.as_ref(), &shape, is_scaled).await?
            }
        };
        let made = self.own(&namespace, made).await?;
        let seen = digest(&[compare::projection(&plain(&made), &shape).to_string().as_bytes()]);
        self.applied
            .0
            .lock()
            .insert(made.meta().uid.clone().unwrap_or_default(), seen);
        Ok(Arc::new(made))
    }

    async fn change<K: Object>(&self, live: &K, shape: &Value, is_scaled: bool) -> Result<K, Error> {
        let meta = live.meta();
        let (namespace, name) = (meta.namespace.clone().unwrap_or_default(), live.name_any());
        let mut version = meta.resource_version.clone();
        if !self.applied.has(meta.uid.as_deref().unwrap_or_default()) {
            // Created by another process, which may have ended before it took ownership of the fields.
            let now = self.kubernetes.get::<K>(&namespace, &name).await?.ok_or(Error::Stale)?;
            if now.meta().uid != meta.uid || (is_scaled && now.meta().resource_version != version) {
                return Err(Error::Stale);
            }
            version = self.own(&namespace, now).await?.meta().resource_version.clone();
        }
        let mut patch = with_identity::<K>(shape, meta.uid.as_deref());
        if is_scaled {
            // Left out, it would become the server's default, 1.
            patch["spec"]["replicas"] = plain(live)["spec"]["replicas"].clone();
            patch["metadata"]["resourceVersion"] = version.into();
        }
        self.kubernetes.apply(&namespace, &name, &patch).await
    }

    /// Takes the fields of a new object over; see [`ownership`].
    async fn own<K: Object>(&self, namespace: &str, made: K) -> Result<K, Error> {
        let entries = made.meta().managed_fields.as_deref().unwrap_or_default();
        let Some(entries) = ownership::applied(entries) else {
            return Ok(made);
        };
        let fields = json!({ "metadata": {
            "uid": made.meta().uid,
            "resourceVersion": made.meta().resource_version,
            "managedFields": entries,
        } });
        self.kubernetes.merge(namespace, &made.name_any(), &fields).await
    }

    /// The objects of a kind that the owner has and no longer wants, according to the cache; see [`Applier::remove`].
    pub(crate) fn unwanted<K>(&self, store: &Store<K>, wanted: &[String]) -> Vec<Arc<K>>
    where
        K: Object + Lookup<DynamicType = ()>,
    {
        store.state_filter(|live| {
            is_owned_by(live.meta(), self.owner)
                && live.meta().deletion_timestamp.is_none()
                && !wanted.contains(&live.name_any())
        })
    }

    /// Deletes exactly the objects that were seen. The caller has checked with the API server that they are unwanted.
    pub(crate) async fn remove<K: Object>(&self, unwanted: &[Arc<K>]) -> Result<(), Error> {
        for live in unwanted {
            tracing::info!(kind = %<K as Resource>::kind(&()), object.name = live.name_any(), "deleting what is no longer wanted");
            self.kubernetes.delete(live.as_ref()).await?;
        }
        Ok(())
    }

    fn check_owner<K: Object>(&self, meta: &ObjectMeta, name: &str) -> Result<(), Error> {
        let kind = || <K as Resource>::kind(&()).into_owned();
        if meta.deletion_timestamp.is_some() {
            return Err(Error::Going {
                kind: kind(),
                name: name.to_owned(),
            });
        }
        if !is_owned_by(meta, self.owner) {
            return Err(Error::Taken {
                kind: kind(),
                name: name.to_owned(),
            });
        }
        Ok(())
    }

    fn differs<K: Object>(&self, live: &K, wanted: &Value) -> bool {
        let live_json = plain(live);
        if live_json["metadata"]["annotations"][APPLIED] != wanted["metadata"]["annotations"][APPLIED] {
            return true;
        }
        let seen = compare::projection(&live_json, wanted);
        if &seen == wanted {
            return false;
        }
        let shape = digest(&[seen.to_string().as_bytes()]);
        self.applied
            .0
            .lock()
            .get(live.meta().uid.as_deref().unwrap_or_default())
            != Some(&shape)
    }
}

/// The object for a patch: with its kind, and with the uid of the one that was seen, on which the server then insists.
pub(crate) fn with_identity<K: Object>(object: &Value, uid: Option<&str>) -> Value {
    let mut patch = object.clone();
    patch["apiVersion"] = K::api_version(&()).into();
    patch["kind"] = <K as Resource>::kind(&()).into();
    if let Some(uid) = uid {
        patch["metadata"]["uid"] = uid.into();
    }
    patch
}

/// The object as it is first created, asking for no pods.
fn asking_for_none<K: Object>(shape: &Value) -> Result<K, Error> {
    let mut first = shape.clone();
    first["spec"]["replicas"] = 0.into();
    serde_json::from_value(first).map_err(|source| Error::Unmade {
        kind: "ReplicaSet",
        source,
    })
}

/// Checks that the owner, as the API server has it now, is the one that was seen.
///
/// # Errors
/// [`Error::Stale`]: it is another one, or it was changed.
pub(crate) async fn confirm<K: Object>(kubernetes: &Kubernetes, seen: &K) -> Result<(), Error> {
    let meta = seen.meta();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let now = kubernetes.get::<K>(namespace, &seen.name_any()).await?;
    let is_same = now.is_some_and(|now| now.meta().uid == meta.uid && now.meta().generation == meta.generation);
    if is_same { Ok(()) } else { Err(Error::Stale) }
}

fn plain<K: Object>(object: &K) -> Value {
    serde_json::to_value(object).expect("an object of Kubernetes is plain data")
}

#[cfg(test)]
mod tests;
