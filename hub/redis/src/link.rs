//! The link as its users see it: its state, and the present incarnation.

use std::sync::Arc;

use alkhub_retry::LinkState;
use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::error::Error;
use crate::incarnation::Incarnation;

/// Keeps the link open at the end of the hub, for whatever has to be sent before it closes; `events.timeout` at most.
#[must_use = "the link may close when it is dropped"]
#[derive(Debug)]
pub struct LinkHold {
    _token: TaskTrackerToken,
}

/// The present incarnation, for everybody who needs one.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    inner: Arc<LinkInner>,
}

#[derive(Debug)]
struct LinkInner {
    incarnation: ArcSwapOption<Incarnation>,
    state: watch::Sender<LinkState>,
    /// Counts the holds.
    holds: TaskTracker,
}

// === impl Link ===

impl Link {
    pub(crate) fn new() -> Self {
        let (state, _) = watch::channel(LinkState::Down("not connected yet".to_owned()));
        Self {
            inner: Arc::new(LinkInner {
                incarnation: ArcSwapOption::empty(),
                state,
                holds: TaskTracker::new(),
            }),
        }
    }

    /// The present incarnation.
    pub(crate) fn incarnation(&self) -> Result<Arc<Incarnation>, Error> {
        self.inner.incarnation.load_full().ok_or_else(|| self.why_down())
    }

    /// The state of the link, now and later: up once everything is subscribed and a message to this hub itself came
    /// back.
    pub(crate) fn state(&self) -> watch::Receiver<LinkState> {
        self.inner.state.subscribe()
    }

    pub(crate) fn why_down(&self) -> Error {
        match &*self.inner.state.borrow() {
            LinkState::Down(reason) => Error::Unavailable(reason.clone()),
            LinkState::Up => Error::Unavailable("it was just lost".to_owned()),
        }
    }

    pub(crate) fn hold(&self) -> LinkHold {
        LinkHold {
            _token: self.inner.holds.token(),
        }
    }

    /// Waits until every hold is dropped.
    pub(crate) async fn released(&self) {
        self.inner.holds.close();
        self.inner.holds.wait().await;
    }

    pub(crate) fn up(&self, incarnation: Arc<Incarnation>) {
        self.inner.incarnation.store(Some(incarnation));
        self.inner.state.send_replace(LinkState::Up);
    }

    pub(crate) fn down(&self, reason: String) {
        self.inner.incarnation.store(None);
        self.inner.state.send_replace(LinkState::Down(reason));
    }
}
