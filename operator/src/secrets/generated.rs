//! Secrets that the operator makes once and never changes by itself.
//!
//! Invariants
//! - A Secret that belongs to something else is never touched. One that nothing owns may be adopted, if the caller says
//!   so.
//! - The marks of our Secrets are put back, whoever removed them: without our label a Secret would not be watched.

use std::collections::BTreeMap;

use alkhub_protocol::ApiKey;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde_json::json;

use crate::error::Error;
use crate::kubernetes::Kubernetes;
use crate::names::{KEPT_FOR, is_kept_for, is_owned_by};

/// Texts by key.
pub(crate) type Texts = BTreeMap<String, String>;

/// When an existing Secret of the wanted name counts as the owner's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Adoption {
    /// Only when the owner's uid controls it.
    Owned,
    /// Also when it is kept for the owner ([`KEPT_FOR`]), or when it has all our labels, nothing owns it and this
    /// function finds it whole: it outlived a Hub, or was restored.
    Kept(fn(&Secret) -> bool),
    /// Also when nothing owns it and this function finds that it fits: a person made it in place of a lost one.
    Fits(fn(&Secret) -> bool),
}

/// The Secret of this name, made from `texts` if there is none; its labels, owners and our annotation are as in `meta`.
///
/// # Errors
/// [`Error::Taken`] if it belongs to something else, [`Error::Going`] if it is being deleted.
pub(crate) async fn ensure(
    kubernetes: &Kubernetes,
    meta: ObjectMeta,
    owner_uid: &str,
    adoption: Adoption,
    texts: impl FnOnce() -> Texts,
) -> Result<Secret, Error> {
    let (namespace, name) = (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    );
    let made = |meta: ObjectMeta| Secret {
        metadata: meta,
        data: Some(
            texts()
                .into_iter()
                .map(|(key, text)| (key, ByteString(text.into_bytes())))
                .collect(),
        ),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    let found = match kubernetes.get::<Secret>(&namespace, &name).await? {
        Some(found) => found,
        None => return kubernetes.create(&namespace, &made(meta)).await,
    };
    if !is_ours(&found, &meta, owner_uid, adoption) {
        return Err(Error::Taken {
            kind: "Secret".to_owned(),
            name,
        });
    }
    if found.metadata.deletion_timestamp.is_some() {
        return Err(Error::Going {
            kind: "Secret".to_owned(),
            name,
        });
    }
    if is_marked(&found.metadata, &meta) {
        return Ok(found);
    }
    mark(kubernetes, &found, &meta).await
}

/// Whether a Secret is the owner's.
fn is_ours(found: &Secret, wanted: &ObjectMeta, owner_uid: &str, adoption: Adoption) -> bool {
    if is_owned_by(&found.metadata, owner_uid) {
        return true;
    }
    let is_nobodys = found.owner_references().is_empty();
    match adoption {
        Adoption::Owned => false,
        Adoption::Fits(fits) => is_nobodys && fits(found),
        Adoption::Kept(is_whole) => {
            let is_left = is_nobodys && has(found.labels(), wanted.labels.as_ref()) && is_whole(found);
            is_left || is_kept_for(&found.metadata, owner_uid)
        }
    }
}

/// Whether the marks by which a Secret is found and judged are as wanted: labels, our annotation, owners.
pub(crate) fn is_marked(found: &ObjectMeta, wanted: &ObjectMeta) -> bool {
    let none = BTreeMap::new();
    let annotations = found.annotations.as_ref().unwrap_or(&none);
    has(found.labels.as_ref().unwrap_or(&none), wanted.labels.as_ref())
        && annotations.get(KEPT_FOR) == wanted.annotations.as_ref().and_then(|wanted| wanted.get(KEPT_FOR))
        && controllers(found) == controllers(wanted)
}

fn has(found: &BTreeMap<String, String>, wanted: Option<&BTreeMap<String, String>>) -> bool {
    wanted
        .into_iter()
        .flatten()
        .all(|(key, value)| found.get(key) == Some(value))
}

fn controllers(meta: &ObjectMeta) -> Vec<&str> {
    let owners = meta.owner_references.iter().flatten();
    owners
        .filter(|owner| owner.controller == Some(true))
        .map(|owner| owner.uid.as_str())
        .collect()
}

/// Puts our marks on exactly the Secret that was seen; its content and the marks of others stay.
async fn mark(kubernetes: &Kubernetes, found: &Secret, wanted: &ObjectMeta) -> Result<Secret, Error> {
    let (namespace, name) = (wanted.namespace.clone().unwrap_or_default(), found.name_any());
    tracing::info!(
        object.namespace = namespace,
        object.name = name,
        "marking a Secret that lost its marks or was restored"
    );
    let others = found
        .owner_references()
        .iter()
        .filter(|owner| owner.controller != Some(true));
    let owners: Vec<_> = others.chain(wanted.owner_references.iter().flatten()).collect();
    let kept_for = wanted.annotations.as_ref().and_then(|wanted| wanted.get(KEPT_FOR));
    let fields = json!({ "metadata": {
        "uid": found.uid(),
        "resourceVersion": found.resource_version(),
        "labels": wanted.labels,
        "annotations": { KEPT_FOR: kept_for },
        "ownerReferences": owners,
    } });
    kubernetes.merge(&namespace, &name, &fields).await
}

/// One text of a Secret.
pub(crate) fn text(secret: &Secret, key: &str) -> Option<String> {
    let value = secret.data.as_ref()?.get(key)?;
    String::from_utf8(value.0.clone()).ok()
}

/// A new key.
pub(crate) fn key() -> ApiKey {
    ApiKey::from_entropy(entropy())
}

/// 256 random bits in hexadecimal, for a hash key or a password.
pub(crate) fn hexadecimal() -> String {
    hex::encode(entropy())
}

fn entropy() -> [u8; 32] {
    let mut bits = [0; 32];
    SysRng
        .try_fill_bytes(&mut bits)
        .expect("a kernel without random numbers cannot run an operator");
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(meta: &serde_json::Value) -> Secret {
        serde_json::from_value(json!({"metadata": meta})).expect("a Secret")
    }

    fn wanted() -> ObjectMeta {
        let meta = json!({"name": "demo-auth", "labels": {"a": "1", "b": "2"}, "annotations": {KEPT_FOR: "hub"}});
        serde_json::from_value(meta).expect("metadata")
    }

    #[test]
    fn only_a_whole_secret_of_nobodys_with_all_our_labels_is_adopted() {
        let restored = secret(&json!({"labels": {"a": "1", "b": "2", "theirs": "3"}}));
        let plain = secret(&json!({"labels": {"a": "1"}}));
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
        let owned = secret(&json!({"labels": {"a": "1", "b": "2"}, "ownerReferences": [owner]}));
        let ours = |secret: &Secret, adoption| is_ours(secret, &wanted(), "hub", adoption);

        assert!(ours(&restored, Adoption::Kept(|_| true)));
        assert!(!ours(&restored, Adoption::Kept(|_| false)));
        assert!(!ours(&restored, Adoption::Owned));
        assert!(!ours(&plain, Adoption::Kept(|_| true)));
        assert!(ours(&plain, Adoption::Fits(|_| true)) && !ours(&plain, Adoption::Fits(|_| false)));
        assert!(!ours(&owned, Adoption::Fits(|_| true)));
        assert!(!ours(&owned, Adoption::Kept(|_| true)));
    }

    #[test]
    fn one_that_is_kept_for_a_hub_is_its_own_without_labels_too() {
        let kept = secret(&json!({"annotations": {KEPT_FOR: "hub"}}));

        assert!(is_ours(&kept, &wanted(), "hub", Adoption::Kept(|_| false)));
        assert!(!is_ours(&kept, &wanted(), "other", Adoption::Kept(|_| true)));
        assert!(!is_ours(&kept, &wanted(), "hub", Adoption::Owned));
    }

    #[test]
    fn a_secret_without_one_of_our_marks_is_marked_again() {
        let owner = json!({"apiVersion": "v1", "kind": "Hub", "name": "demo", "uid": "hub", "controller": true});
        let labels = json!({"a": "1", "b": "2", "theirs": "3"});
        let marked = |meta: serde_json::Value| is_marked(&secret(&meta).metadata, &wanted());

        assert!(marked(
            json!({"labels": labels, "annotations": {KEPT_FOR: "hub", "theirs": "x"}})
        ));
        assert!(!marked(json!({"labels": {"a": "1"}, "annotations": {KEPT_FOR: "hub"}})));
        assert!(!marked(json!({"labels": labels})));
        assert!(!marked(
            json!({"labels": labels, "annotations": {KEPT_FOR: "hub"}, "ownerReferences": [owner]})
        ));
    }

    #[test]
    fn no_two_keys_are_the_same() {
        assert_ne!(key(), key());
        assert_ne!(hexadecimal(), hexadecimal());
        assert_eq!(hexadecimal().len(), 64);
    }
}
