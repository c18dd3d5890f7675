//! `map_concurrent`.

use std::future::{Future, Ready, ready as done};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use futures::future::Either;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use pin_project_lite::pin_project;

use super::simple::next;

/// In which order concurrent results are emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emission {
    /// In the order of the items.
    InOrder,
    /// As they are done.
    AsDone,
}

/// A future, or an error that waits for its turn.
type Work<R, U, E> = Either<R, Ready<Result<U, E>>>;

#[derive(Debug)]
enum Running<R: Future> {
    InOrder(FuturesOrdered<R>),
    AsDone(FuturesUnordered<R>),
}

pin_project! {
    /// See [`crate::Flow::map_concurrent`].
    #[derive(Debug)]
    pub struct MappedTogether<S, F, R, U, E>
    where
        R: Future<Output = Result<U, E>>,
    {
        #[pin]
        upstream: Option<S>,
        change: F,
        at_once: usize,
        running: Running<Work<R, U, E>>,
    }
}

// === impl MappedTogether ===

impl<S, F, R, U, E> MappedTogether<S, F, R, U, E>
where
    R: Future<Output = Result<U, E>>,
{
    pub(super) fn new(upstream: S, at_once: usize, emission: Emission, change: F) -> Self {
        Self {
            upstream: Some(upstream),
            change,
            at_once: at_once.max(1),
            running: match emission {
                Emission::InOrder => Running::InOrder(FuturesOrdered::new()),
                Emission::AsDone => Running::AsDone(FuturesUnordered::new()),
            },
        }
    }
}

impl<S, F, R, T, U, E> Stream for MappedTogether<S, F, R, U, E>
where
    S: Stream<Item = Result<T, E>>,
    F: FnMut(T) -> R,
    R: Future<Output = Result<U, E>>,
{
    type Item = Result<U, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        while this.upstream.is_some() && this.running.len() < *this.at_once {
            match next(this.upstream.as_mut(), context) {
                Poll::Ready(Some(Ok(item))) => this.running.push(Either::Left((this.change)(item))),
                Poll::Ready(Some(Err(error))) => this.running.push(Either::Right(done(Err(error)))),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        match this.running.poll_next(context) {
            Poll::Ready(None) if this.upstream.is_some() => Poll::Pending,
            other => other,
        }
    }
}

// === impl Running ===

impl<R: Future> Running<R> {
    fn len(&self) -> usize {
        match self {
            Self::InOrder(running) => running.len(),
            Self::AsDone(running) => running.len(),
        }
    }

    fn push(&mut self, work: R) {
        match self {
            Self::InOrder(running) => running.push_back(work),
            Self::AsDone(running) => running.push(work),
        }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<R::Output>> {
        match self {
            Self::InOrder(running) => Pin::new(running).poll_next(context),
            Self::AsDone(running) => Pin::new(running).poll_next(context),
        }
    }
}
