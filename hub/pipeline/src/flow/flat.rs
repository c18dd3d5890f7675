//! `flat`: the items of streams.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use futures::stream::SelectAll;
use pin_project_lite::pin_project;

use super::simple::next;

pin_project! {
    /// See [`crate::Flow::flat`].
    #[derive(Debug)]
    pub struct Flattened<S, T> {
        #[pin]
        upstream: Option<S>,
        #[pin]
        inner: Option<T>,
    }
}

pin_project! {
    /// See [`crate::Flow::flat_concurrent`].
    #[derive(Debug)]
    pub struct FlattenedTogether<S, T> {
        #[pin]
        upstream: Option<S>,
        at_once: usize,
        inner: SelectAll<Pin<Box<T>>>,
    }
}

// === impl Flattened ===

impl<S, T> Flattened<S, T> {
    pub(super) fn new(upstream: S) -> Self {
        Self {
            upstream: Some(upstream),
            inner: None,
        }
    }
}

impl<S, T, U, E> Stream for Flattened<S, T>
where
    S: Stream<Item = Result<T, E>>,
    T: Stream<Item = Result<U, E>>,
{
    type Item = Result<U, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        loop {
            if let Some(item) = ready!(next(this.inner.as_mut(), context)) {
                return Poll::Ready(Some(item));
            }
            match ready!(next(this.upstream.as_mut(), context)) {
                Some(Ok(inner)) => this.inner.set(Some(inner)),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

// === impl FlattenedTogether ===

impl<S, T: Stream> FlattenedTogether<S, T> {
    pub(super) fn new(upstream: S, at_once: usize) -> Self {
        Self {
            upstream: Some(upstream),
            at_once: at_once.max(1),
            inner: SelectAll::new(),
        }
    }
}

impl<S, T, U, E> Stream for FlattenedTogether<S, T>
where
    S: Stream<Item = Result<T, E>>,
    T: Stream<Item = Result<U, E>>,
{
    type Item = Result<U, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        loop {
            while this.upstream.is_some() && this.inner.len() < *this.at_once {
                match next(this.upstream.as_mut(), context) {
                    Poll::Ready(Some(Ok(inner))) => this.inner.push(Box::pin(inner)),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            let open = this.inner.len();
            match Pin::new(&mut *this.inner).poll_next(context) {
                Poll::Ready(Some(item)) => return Poll::Ready(Some(item)),
                Poll::Ready(None) if this.upstream.is_some() && open == 0 => return Poll::Pending,
                Poll::Ready(None) if this.upstream.is_some() => {}
                Poll::Ready(None) => return Poll::Ready(None),
                // A stream that has ended makes room for another one, which nobody would be woken for.
                Poll::Pending if this.upstream.is_some() && this.inner.len() < open => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
