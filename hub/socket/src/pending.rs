//! Remote work that a connection waits for, polled by its own task.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use alkhub_calls::Registration;
use alkhub_protocol::register::RegisterOutput;
use alkhub_protocol::{CallError, RequestId};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use crate::spoke::RegistrationEnd;
use crate::subscriptions::Confirmation;

/// While this many wait, no more is read from the peer.
const MOST: usize = 256;

/// Remote work that is done.
pub(crate) enum Done {
    /// A publication, or why it failed.
    Published(Result<(), Box<Refusal>>),
    /// A subscription, confirmed or refused.
    Subscribed(Confirmation),
    /// A registration, done or refused.
    Registered(Box<RegistrationEnd>),
    /// A registration about which other hubs were asked, with their answer.
    Visible(Box<VisibleRegistration>),
    /// A registration that had to be narrowed, or why it could not be.
    Narrowed(Box<Result<Option<Registration>, CallError>>),
    /// A registration that came from another hub, or why it could not.
    TakenOver(Box<Result<Registration, CallError>>),
    /// Other hubs were asked about such a registration: what they could call before, they can call here.
    Settled,
}

/// A registration that is to be answered.
pub(crate) struct VisibleRegistration {
    pub(crate) request_id: RequestId,
    /// The operation that was asked for.
    pub(crate) of: &'static str,
    pub(crate) output: RegisterOutput,
}

/// Why an event was not published.
pub(crate) struct Refusal {
    pub(crate) error: CallError,
    pub(crate) topic: String,
}

type Waiting = Pin<Box<dyn Future<Output = Done> + Send>>;

/// Futures under way; most connections never have one.
#[derive(Default)]
pub(crate) struct PendingFutures(Option<Box<FuturesUnordered<Waiting>>>);

// === impl PendingFutures ===

impl PendingFutures {
    /// Adds a future.
    pub(crate) fn add(&mut self, future: impl Future<Output = Done> + Send + 'static) {
        self.0.get_or_insert_default().push(Box::pin(future));
    }

    /// Adds a future that is already pinned.
    pub(crate) fn add_boxed(&mut self, future: Waiting) {
        self.0.get_or_insert_default().push(future);
    }

    /// Whether no more should be added.
    pub(crate) fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|waiting| waiting.len() >= MOST)
    }

    /// Whether nothing is awaited.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The next that is done; also `Pending` if there is none.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        let Some(waiting) = &mut self.0 else {
            return Poll::Pending;
        };
        match waiting.poll_next_unpin(cx) {
            Poll::Ready(Some(done)) => Poll::Ready(done),
            Poll::Ready(None) => {
                self.0 = None;
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
