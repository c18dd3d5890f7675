//! Whether an operator has told this hub to give its connections away.

use alkhub_hub_cluster::DrainMark;
use parking_lot::Mutex;

/// The drain mark of this hub, as the last look found it.
#[derive(Debug, Default)]
pub(crate) struct Marked(Mutex<Option<DrainMark>>);

// === impl Marked ===

impl Marked {
    /// Whether the hub is to give its connections away.
    pub(crate) fn is_draining(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Notes what a look has found; true if the hub begins or stops draining because of it.
    pub(crate) fn set(&self, mark: Option<DrainMark>) -> bool {
        let mut known = self.0.lock();
        let before = std::mem::replace(&mut *known, mark);
        before.is_some() != known.is_some()
    }

    /// The revision to which connections should go.
    pub(crate) fn wanted(&self) -> Option<String> {
        self.0.lock().as_ref()?.revision.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_begins_to_drain_once_however_often_it_is_told() {
        let marked = Marked::default();
        let mark = |revision: Option<&str>| {
            Some(DrainMark {
                revision: revision.map(str::to_owned),
            })
        };

        assert!(marked.set(mark(None)));
        assert!(!marked.set(mark(Some("2"))));
        assert_eq!((marked.is_draining(), marked.wanted().as_deref()), (true, Some("2")));
        assert!(marked.set(None));
        assert!(!marked.set(None));
    }
}
