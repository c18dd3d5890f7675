//! Secrets that the operator makes once and never changes by itself.
//!
//! A Secret that belongs to something else is never touched. Only one that nothing owns may be adopted, where the
//! caller says so.

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
use crate::names::is_owned_by;

/// Texts by key.
pub(crate) type Texts = BTreeMap<String, String>;

/// What becomes of a Secret of the wanted name that nothing owns.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stray {
    /// It is left alone.
    Refuse,
    /// It is taken when it has our labels and this says that it is whole: a restored backup.
    Adopt(fn(&Secret) -> bool),
}

/// The Secret of this name, made from `texts` when there is none.
///
/// # Errors
/// [`Error::Taken`] when it belongs to something else, [`Error::Going`] when it is being deleted.
pub(crate) async fn ensure(
    kubernetes: &Kubernetes,
    meta: ObjectMeta,
    owner_uid: &str,
    stray: Stray,
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
    if is_stray(&found, &meta, stray) {
        return adopt(kubernetes, &found, &meta).await;
    }
    if !is_owned_by(&found.metadata, owner_uid) {
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
    Ok(found)
}

/// Whether a Secret may be adopted: nobody's, with every label that we would have given it, and whole.
fn is_stray(found: &Secret, wanted: &ObjectMeta, stray: Stray) -> bool {
    let Stray::Adopt(is_whole) = stray else { return false };
    let is_labelled = wanted
        .labels
        .iter()
        .flatten()
        .all(|(key, value)| found.labels().get(key) == Some(value));
    found.owner_references().is_empty() && found.metadata.deletion_timestamp.is_none() && is_labelled && is_whole(found)
}

/// Makes a Secret ours, exactly as it was seen; what it holds stays.
async fn adopt(kubernetes: &Kubernetes, found: &Secret, wanted: &ObjectMeta) -> Result<Secret, Error> {
    let (namespace, name) = (wanted.namespace.clone().unwrap_or_default(), found.name_any());
    tracing::info!(
        object.namespace = namespace,
        object.name = name,
        "adopting a restored Secret"
    );
    let fields = json!({ "metadata": {
        "uid": found.uid(),
        "resourceVersion": found.resource_version(),
        "ownerReferences": wanted.owner_references,
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

/// 256 random bits in hexadecimal: a key for hashing, a password.
pub(crate) fn hexadecimal() -> String {
    entropy().iter().fold(String::with_capacity(64), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    })
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

    #[test]
    fn only_a_whole_secret_of_nobodys_with_all_our_labels_is_adopted() {
        let wanted: ObjectMeta =
            serde_json::from_value(json!({"name": "demo-auth", "labels": {"a": "1", "b": "2"}})).expect("metadata");
        let secret = |meta: serde_json::Value| -> Secret {
            serde_json::from_value(json!({"metadata": meta})).expect("a Secret")
        };
        let restored = secret(json!({"labels": {"a": "1", "b": "2", "theirs": "3"}}));
        let plain = secret(json!({"labels": {"a": "1"}}));
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"});
        let owned = secret(json!({"labels": {"a": "1", "b": "2"}, "ownerReferences": [owner]}));

        assert!(is_stray(&restored, &wanted, Stray::Adopt(|_| true)));
        assert!(!is_stray(&restored, &wanted, Stray::Adopt(|_| false)));
        assert!(!is_stray(&restored, &wanted, Stray::Refuse));
        assert!(!is_stray(&plain, &wanted, Stray::Adopt(|_| true)));
        assert!(!is_stray(&owned, &wanted, Stray::Adopt(|_| true)));
    }

    #[test]
    fn no_two_keys_are_the_same() {
        assert_ne!(key(), key());
        assert_ne!(hexadecimal(), hexadecimal());
        assert_eq!(hexadecimal().len(), 64);
    }
}
