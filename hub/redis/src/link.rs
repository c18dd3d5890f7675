//! The link as those see it who use it: how it is, and its session of now.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::error::Error;
use crate::session::Session;

/// How the link to Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// There is no Redis: events stay in this process.
    Local,
    /// It works: everything is subscribed, and a message to oneself came back.
    Up,
    /// It does not; the text says why.
    Down(String),
}

/// Keeps the link open at the end of the hub, for what has to be sent before; `events.timeout` at most.
#[must_use = "the link may close when it is dropped"]
#[derive(Debug)]
pub struct Hold {
    _token: TaskTrackerToken,
}

/// The session of now, for everybody who needs one.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    session: ArcSwapOption<Session>,
    state: watch::Sender<LinkState>,
    /// Counts the holds.
    holds: TaskTracker,
}

// === impl Link ===

impl Link {
    pub(crate) fn new() -> Self {
        let (state, _) = watch::channel(LinkState::Down("not connected yet".to_owned()));
        Self {
            shared: Arc::new(Shared {
                session: ArcSwapOption::empty(),
                state,
                holds: TaskTracker::new(),
            }),
        }
    }

    /// The session of now.
    pub(crate) fn session(&self) -> Result<Arc<Session>, Error> {
        self.shared.session.load_full().ok_or_else(|| self.why_down())
    }

    /// How the link is, now and later.
    pub(crate) fn state(&self) -> watch::Receiver<LinkState> {
        self.shared.state.subscribe()
    }

    pub(crate) fn why_down(&self) -> Error {
        match &*self.shared.state.borrow() {
            LinkState::Down(reason) => Error::Unavailable(reason.clone()),
            LinkState::Up | LinkState::Local => Error::Unavailable("it was just lost".to_owned()),
        }
    }

    pub(crate) fn hold(&self) -> Hold {
        Hold {
            _token: self.shared.holds.token(),
        }
    }

    /// Waits until every hold is dropped.
    pub(crate) async fn released(&self) {
        self.shared.holds.close();
        self.shared.holds.wait().await;
    }

    pub(crate) fn up(&self, session: Arc<Session>) {
        self.shared.session.store(Some(session));
        self.shared.state.send_replace(LinkState::Up);
    }

    pub(crate) fn down(&self, reason: String) {
        self.shared.session.store(None);
        self.shared.state.send_replace(LinkState::Down(reason));
    }
}
