//! Decides what is to be done for a Spoke; pure.

use alkhub_crds::spoke::SpokeType as Kind;
use alkhub_crds::{Hub, Spoke};
use alkhub_protocol::admin::SpokePut;
use alkhub_protocol::register::SpokeType;
use alkhub_protocol::{Scopes, SpokeName};
use kube::ResourceExt as _;

use super::observe::Observed;
use crate::admin::ReportedSpoke;
use crate::context::AdminKey;
use crate::kubernetes::Going as _;
use crate::names::{ObjectNames, digest, is_owned_by};

/// What is to be done.
#[derive(Debug)]
pub(super) enum Course {
    Declare(Box<Declaration>),
    Wait(Waiting),
}

/// What a Spoke waits for; a change there wakes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    HubNotFound,
    HubGoing,
    HubPaused,
    /// This process has not asked the hub yet; what was known before stays.
    HubNotAsked,
    /// The hub does not answer; the poll that succeeds wakes its Spokes.
    HubUnreachable,
    /// The API server should have refused it.
    InvalidName,
}

/// What to declare at the hub.
#[derive(Debug)]
pub(super) struct Declaration {
    pub(super) hub: ObjectNames,
    /// The hub's admin key.
    pub(super) key: AdminKey,
    /// Everything but the spoke's own key.
    pub(super) put: SpokePut,
    /// Whether the hub has all this, as far as it reports, or it was just declared.
    pub(super) known: bool,
}

// === impl Waiting ===

#[cfg(test)]
impl Waiting {
    /// All variants, each reached from the one before it: a new variant does not compile until it has a place.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        std::iter::successors(Some(Self::HubNotFound), |before| match before {
            Self::HubNotFound => Some(Self::HubGoing),
            Self::HubGoing => Some(Self::HubPaused),
            Self::HubPaused => Some(Self::HubNotAsked),
            Self::HubNotAsked => Some(Self::HubUnreachable),
            Self::HubUnreachable => Some(Self::InvalidName),
            Self::InvalidName => None,
        })
    }
}

pub(super) fn validate(spoke: &Spoke, observed: &Observed) -> Course {
    if spoke.name_any().parse::<SpokeName>().is_err() {
        return Course::Wait(Waiting::InvalidName);
    }
    let Some(hub) = &observed.hub else {
        return Course::Wait(Waiting::HubNotFound);
    };
    if hub.meta_is_going() {
        return Course::Wait(Waiting::HubGoing);
    }
    if hub.spec.paused {
        return Course::Wait(Waiting::HubPaused);
    }
    if observed.poll.is_none() {
        return Course::Wait(Waiting::HubNotAsked);
    }
    match declaration(spoke, hub, observed) {
        Some(declaration) => Course::Declare(Box::new(declaration)),
        None => Course::Wait(Waiting::HubUnreachable),
    }
}

// === impl Declaration ===

impl Declaration {
    /// Digest of the declaration and of what it depends on. It changes with the hub, the hash key and the Secret.
    pub(super) fn digest(&self, secret_uid: &str, secret_version: &str) -> String {
        let put = serde_json::to_vec(&SpokePut {
            key: None,
            ..self.put.clone()
        })
        .expect("a declaration is plain data");
        let parts: [&[u8]; 5] = [
            &put,
            self.hub.uid.as_bytes(),
            self.key.uid.as_bytes(),
            secret_uid.as_bytes(),
            secret_version.as_bytes(),
        ];
        digest(&parts)[..16].to_owned()
    }

    /// Whether the hub has exactly this already, so that nothing need be read or sent.
    pub(super) fn is_done(&self, spoke: &Spoke, observed: &Observed) -> bool {
        let Some(secret) = &observed.secret else { return false };
        let whole = is_owned_by(&secret.metadata, &self.put.uid) && secret.metadata.deletion_timestamp.is_none();
        let now = self.digest(
            secret.metadata.uid.as_deref().unwrap_or_default(),
            secret.metadata.resource_version.as_deref().unwrap_or_default(),
        );
        let declared = spoke.status.as_ref().and_then(|status| status.declared.as_ref());
        let finalizer = spoke
            .finalizers()
            .iter()
            .any(|finalizer| finalizer == crate::names::FINALIZER);
        whole && finalizer && self.known && declared == Some(&now)
    }
}

fn declaration(spoke: &Spoke, hub: &Hub, observed: &Observed) -> Option<Declaration> {
    let poll = observed.poll.as_ref()?;
    let seen = poll.seen.as_ref().ok()?;
    let uid = spoke.uid()?;
    // Without the list nobody knows whether the hub still has what was declared.
    seen.spokes.as_ref().ok()?;
    let put = put(spoke, uid);
    let hint = spoke.status.as_ref().and_then(|status| status.key_hint.as_deref());
    let reported = seen.spoke(&spoke.name_any(), &put.uid);
    Some(Declaration {
        hub: ObjectNames::of(hub),
        key: poll.key.clone()?,
        // A poll from before the last declaration cannot know of it.
        known: observed
            .declared_at
            .is_some_and(|declared_at| seen.listed_at <= declared_at)
            || reported.is_some_and(|info| is_held(info, &put, hint)),
        put,
    })
}

/// Whether the hub has what was declared, with the key that was issued last: after a restored backup, or if somebody
/// else wrote there, it may have an older declaration or another key.
fn is_held(info: &ReportedSpoke, put: &SpokePut, hint: Option<&str>) -> bool {
    match &info.declaration_digest {
        Some(declaration) => put.agrees_with(declaration) && hint.is_some() && info.key_hint.as_deref() == hint,
        // A hub before 0.2 reports neither.
        None => true,
    }
}

fn put(spoke: &Spoke, uid: String) -> SpokePut {
    let spec = &spoke.spec;
    let credentials = spec.credentials.as_ref();
    let overlap = credentials.and_then(|credentials| credentials.overlap_seconds);
    SpokePut {
        uid,
        key: None,
        overlap_seconds: overlap.map(u64::from).unwrap_or_default(),
        key_expires_at: None,
        spoke_type: match spec.spoke_type {
            Kind::DevEnv => SpokeType::DevEnv,
            Kind::Client => SpokeType::Client,
            Kind::Compute => SpokeType::Compute,
        },
        operations: spec.operations.clone(),
        scopes: Scopes::new(spec.scopes.iter().cloned()),
        labels: spec.labels.clone(),
        concurrency: spec.concurrency,
        suspended: spec.suspended,
    }
}

#[cfg(test)]
pub(super) mod tests;
