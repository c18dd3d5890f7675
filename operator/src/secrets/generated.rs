//! Secrets that the operator makes once and never changes by itself.

use std::collections::BTreeMap;

use alkhub_protocol::ApiKey;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rand::TryRng as _;
use rand::rngs::SysRng;

use crate::error::Error;
use crate::kubernetes::Kubernetes;
use crate::names::is_owned_by;

/// Texts by key.
pub(crate) type Texts = BTreeMap<String, String>;

/// The Secret of this name, made from `texts` when there is none.
///
/// # Errors
/// [`Error::Taken`] when it belongs to something else, [`Error::Going`] when it is being deleted.
pub(crate) async fn ensure(
    kubernetes: &Kubernetes,
    meta: ObjectMeta,
    owner_uid: &str,
    texts: impl FnOnce() -> Texts,
) -> Result<Secret, Error> {
    let (namespace, name) = (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    );
    let found = match kubernetes.get::<Secret>(&namespace, &name).await? {
        Some(found) => found,
        None => {
            let data = texts()
                .into_iter()
                .map(|(key, text)| (key, ByteString(text.into_bytes())))
                .collect();
            let secret = Secret {
                metadata: meta,
                data: Some(data),
                type_: Some("Opaque".to_owned()),
                ..Secret::default()
            };
            return kubernetes.create(&namespace, &secret).await;
        }
    };
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
    fn no_two_keys_are_the_same() {
        assert_ne!(key(), key());
        assert_ne!(hexadecimal(), hexadecimal());
        assert_eq!(hexadecimal().len(), 64);
    }
}
