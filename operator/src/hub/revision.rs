//! One revision of a Hub's pods: what goes into it, and what was made of that; pure.
//!
//! Invariants
//! - A revision is named after its inputs (fields of the Hub, its image, digests of Secrets), never after what this
//!   operator makes of them: another version of the operator finds the same name, and restarts no pod.
//! - What was made is kept in a ControllerRevision and is used as it stands from then on.
//! - No stored digest lets a password be guessed: those of Secrets that people fill are salted.

use std::collections::BTreeMap;

use alkhub_crds::hub::SecretKey;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::hub::generated::Generated;
use crate::hub::validate::{Plan, Wiring};
use crate::names::{Part, REVISION, digest};
use crate::secrets::Location;

/// How many digits of the digest make up a name.
const DIGITS: usize = 10;

/// What goes into a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// The name of the revision.
    pub(crate) name: String,
    /// Digests of the Secrets that its pods read, by the Secret's name.
    pub(crate) secrets: BTreeMap<String, String>,
}

/// A revision that is kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Revision {
    /// What its pods carry as [`REVISION`].
    pub(crate) name: String,
    /// Grows with each use: of two revisions, the one with the higher number was asked for later.
    pub(crate) number: i64,
    pub(crate) made: Made,
}

/// What was made of the inputs: all that a pod of the revision ever needs besides Secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Made {
    /// The number of the revision when it was made: what its pods tell the other hubs.
    pub(crate) count: i64,
    /// The template of its pods.
    pub(crate) template: PodTemplateSpec,
    /// The hub's settings, as text.
    pub(crate) settings: String,
    /// See [`Inputs::secrets`].
    pub(crate) secrets: BTreeMap<String, String>,
}

// === impl Inputs ===

impl Inputs {
    pub(crate) fn of(plan: &Plan, generated: &Generated) -> Self {
        let names = &plan.names;
        let mut secrets = BTreeMap::from([(names.auth(), generated.auth.clone())]);
        let mut redis = wiring(&plan.redis, &generated.salt, &mut secrets);
        let mut postgres = wiring(&plan.postgres, &generated.salt, &mut secrets);
        for (part, backend, own) in [
            (Part::Redis, &mut redis, &generated.redis),
            (Part::Postgres, &mut postgres, &generated.postgres),
        ] {
            if backend.is_null() {
                *backend = json!({ "secret": names.server(part) });
                secrets.insert(names.server(part), own.clone().unwrap_or_default());
            }
        }
        let fields = json!({
            "hub": [names.namespace, names.hub, names.uid],
            "image": plan.image,
            "prefix": plan.prefix.as_str(),
            "config": plan.given,
            "template": plan.template,
            "redis": redis,
            "postgres": postgres,
            "secrets": secrets,
        });
        let mut text = Vec::new();
        spell(&fields, &mut text);
        Self {
            name: digest(&[&text])[..DIGITS].to_owned(),
            secrets,
        }
    }
}

/// The Secrets of an external server, with digests of what is in them now; null if the operator runs the server.
fn wiring(wiring: &Wiring, salt: &str, secrets: &mut BTreeMap<String, String>) -> Value {
    let Wiring::Given { url, ca } = wiring else {
        return Value::Null;
    };
    let mut add = |(location, value): &(Location, String)| {
        let own = digest(&[salt.as_bytes(), location.key.as_bytes(), value.as_bytes()]);
        let all = secrets.entry(location.secret.clone()).or_default();
        // If two keys are in one Secret, both count.
        *all = if all.is_empty() {
            own
        } else {
            digest(&[all.as_bytes(), own.as_bytes()])
        };
        reference(location)
    };
    json!({ "url": add(url), "ca": ca.as_ref().map(&mut add) })
}

fn reference(location: &Location) -> SecretKey {
    SecretKey {
        name: location.secret.clone(),
        key: Some(location.key.clone()),
    }
}

/// Writes a value in a form that does not depend on a serializer: members by name, each text with its length. Nulls and
/// empty values are left out, so that a new field that nobody has set yet does not make another revision.
fn spell(value: &Value, to: &mut Vec<u8>) {
    match value {
        Value::Null => to.push(b'n'),
        Value::Bool(truth) => to.extend([b'b', u8::from(*truth)]),
        Value::Number(number) => spell_text(b'#', &number.to_string(), to),
        Value::String(text) => spell_text(b's', text, to),
        Value::Array(items) => {
            to.push(b'[');
            items.iter().for_each(|item| spell(item, to));
            to.push(b']');
        }
        Value::Object(members) => {
            let set: BTreeMap<_, _> = members.iter().filter(|(_, member)| !is_empty(member)).collect();
            to.push(b'{');
            for (name, member) in set {
                spell_text(b'.', name, to);
                spell(member, to);
            }
            to.push(b'}');
        }
    }
}

fn spell_text(kind: u8, text: &str, to: &mut Vec<u8>) {
    to.push(kind);
    to.extend(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
    to.extend(text.as_bytes());
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

// === impl Revision ===

impl Revision {
    /// Reads a kept revision; `None`: this operator cannot use it.
    pub(crate) fn read(kept: &ControllerRevision) -> Option<Self> {
        Some(Self {
            name: kept.labels().get(REVISION)?.clone(),
            number: kept.revision,
            made: serde_json::from_value(kept.data.as_ref()?.0.clone()).ok()?,
        })
    }

    /// The object that keeps it, with this metadata.
    pub(crate) fn kept(
        &self,
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    ) -> ControllerRevision {
        let made = serde_json::to_value(&self.made).expect("a template is plain data");
        ControllerRevision {
            metadata,
            data: Some(RawExtension(made)),
            revision: self.number,
        }
    }
}

#[cfg(test)]
mod tests;
