//! The Hubs and Spokes that cannot be read, and whether that was reported.
//!
//! Invariants
//! - Nothing is done on the strength of what an unreadable object was before: what was made for it stays as it is until
//!   it can be read.
//! - Bounded by the objects that exist: one that is read, deleted, or missing from a new list is forgotten.

use std::collections::HashMap;
use std::sync::Arc;

use kube::ResourceExt as _;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::read::{Read, Unreadable, kind_of};
use crate::kubernetes::Object;

/// By kind and uid.
#[derive(Debug, Default)]
pub(crate) struct UnreadableObjects {
    notes: Mutex<HashMap<(&'static str, String), Note>>,
    new: Notify,
}

#[derive(Debug)]
struct Note {
    what: Arc<Unreadable>,
    /// Its condition reports it.
    reported: bool,
    /// Not seen yet in the list that is being read.
    stale: bool,
}

// === impl UnreadableObjects ===

impl UnreadableObjects {
    /// An object was seen, whether it can be read or not.
    pub(super) fn see<K: Object>(&self, kind: &'static str, object: &Read<K>) {
        let uid = kube::Resource::meta(object).uid.clone().unwrap_or_default();
        let mut notes = self.notes.lock();
        let Err(unread) = &object.0 else {
            notes.remove(&(kind, uid));
            return;
        };
        let reported = notes.get(&(kind, uid.clone())).is_some_and(|note| {
            note.reported && note.what.error == unread.error && note.what.meta.generation == unread.meta.generation
        });
        let note = Note {
            what: Arc::new(unread.as_ref().clone()),
            reported,
            stale: false,
        };
        notes.insert((kind, uid), note);
        if !reported {
            self.new.notify_one();
        }
    }

    /// An object is gone.
    pub(super) fn gone(&self, kind: &'static str, uid: &str) {
        self.notes.lock().remove(&(kind, uid.to_owned()));
    }

    /// Notes that a kind is being listed anew.
    pub(super) fn begin(&self, kind: &'static str) {
        let mut notes = self.notes.lock();
        let ours = notes.iter_mut().filter(|((of, _), _)| *of == kind);
        ours.for_each(|(_, note)| note.stale = true);
    }

    /// Notes that the list was read to its end.
    pub(super) fn done(&self, kind: &'static str) {
        self.notes.lock().retain(|(of, _), note| *of != kind || !note.stale);
    }

    /// Whether what is known of an object is from before it became unreadable.
    pub(crate) fn has<K: Object>(&self, object: &K) -> bool {
        let kind = kind_of(&K::kind(&()));
        let uid = object.uid().unwrap_or_default();
        self.notes.lock().contains_key(&(kind, uid))
    }

    /// Whether there is such a Hub, and it cannot be read.
    pub(crate) fn has_hub(&self, namespace: &str, name: &str) -> bool {
        let is = |what: &Unreadable| {
            what.meta.namespace.as_deref() == Some(namespace) && what.meta.name.as_deref() == Some(name)
        };
        let notes = self.notes.lock();
        notes.iter().any(|((kind, _), note)| *kind == "Hub" && is(&note.what))
    }

    /// Those whose conditions do not report it yet, with their kinds.
    pub(crate) fn unreported(&self) -> Vec<(&'static str, Arc<Unreadable>)> {
        let notes = self.notes.lock();
        let unreported = notes.iter().filter(|(_, note)| !note.reported);
        unreported
            .map(|((kind, _), note)| (*kind, Arc::clone(&note.what)))
            .collect()
    }

    /// The condition of an object reports it now.
    pub(crate) fn reported(&self, kind: &'static str, what: &Arc<Unreadable>) {
        let uid = what.meta.uid.clone().unwrap_or_default();
        if let Some(note) = self.notes.lock().get_mut(&(kind, uid)) {
            note.reported = note.reported || Arc::ptr_eq(&note.what, what);
        }
    }

    /// Waits for an object that has not been reported.
    pub(crate) async fn news(&self) {
        self.new.notified().await;
    }
}
