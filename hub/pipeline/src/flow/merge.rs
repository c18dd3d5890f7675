//! `chain` and `join`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use pin_project_lite::pin_project;

use super::simple::next;

pin_project! {
    /// See [`crate::Flow::chain`].
    #[derive(Debug)]
    pub struct Chained<A, B> {
        #[pin]
        first: Option<A>,
        #[pin]
        second: Option<B>,
    }
}

/// See [`crate::join`].
#[derive(Debug)]
pub struct Joined<S> {
    streams: Vec<Pin<Box<S>>>,
    /// Whose turn it is.
    turn: usize,
}

// === impl Chained ===

impl<A, B> Chained<A, B> {
    pub(super) fn new(first: A, second: B) -> Self {
        Self {
            first: Some(first),
            second: Some(second),
        }
    }
}

impl<A, B> Stream for Chained<A, B>
where
    A: Stream,
    B: Stream<Item = A::Item>,
{
    type Item = A::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        if let Some(item) = ready!(next(this.first, context)) {
            return Poll::Ready(Some(item));
        }
        next(this.second, context)
    }
}

// === impl Joined ===

impl<S> Joined<S> {
    pub(super) fn new(streams: impl IntoIterator<Item = S>) -> Self {
        let streams = streams.into_iter().map(Box::pin).collect();
        Self { streams, turn: 0 }
    }
}

impl<S: Stream> Stream for Joined<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut unasked = this.streams.len();
        while unasked > 0 {
            let at = this.turn % this.streams.len();
            match this.streams[at].as_mut().poll_next(context) {
                Poll::Ready(Some(item)) => {
                    this.turn = at + 1;
                    return Poll::Ready(Some(item));
                }
                // The next one is in its place now.
                Poll::Ready(None) => {
                    drop(this.streams.remove(at));
                    this.turn = at;
                }
                Poll::Pending => this.turn = at + 1,
            }
            unasked -= 1;
        }
        if this.streams.is_empty() {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}
