//! `filter`, `map` and `take`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use pin_project_lite::pin_project;

pin_project! {
    /// See [`crate::Flow::filter`].
    #[derive(Debug)]
    pub struct Filtered<S, F> {
        #[pin]
        upstream: Option<S>,
        condition: F,
    }
}

pin_project! {
    /// See [`crate::Flow::map`].
    #[derive(Debug)]
    pub struct Mapped<S, F, R> {
        #[pin]
        upstream: Option<S>,
        change: F,
        #[pin]
        running: Option<R>,
    }
}

pin_project! {
    /// See [`crate::Flow::take`].
    #[derive(Debug)]
    pub struct Taken<S> {
        #[pin]
        upstream: Option<S>,
        left: usize,
    }
}

/// The next item of an upstream, which is dropped when it has ended.
pub(super) fn next<S: Stream>(mut upstream: Pin<&mut Option<S>>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
    let Some(stream) = upstream.as_mut().as_pin_mut() else {
        return Poll::Ready(None);
    };
    let item = ready!(stream.poll_next(context));
    if item.is_none() {
        upstream.set(None);
    }
    Poll::Ready(item)
}

// === impl Filtered ===

impl<S, F> Filtered<S, F> {
    pub(super) fn new(upstream: S, condition: F) -> Self {
        Self {
            upstream: Some(upstream),
            condition,
        }
    }
}

impl<S, F, T, E> Stream for Filtered<S, F>
where
    S: Stream<Item = Result<T, E>>,
    F: FnMut(&T) -> bool,
{
    type Item = Result<T, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        loop {
            match ready!(next(this.upstream.as_mut(), context)) {
                Some(Ok(item)) if !(this.condition)(&item) => {}
                other => return Poll::Ready(other),
            }
        }
    }
}

// === impl Mapped ===

impl<S, F, R> Mapped<S, F, R> {
    pub(super) fn new(upstream: S, change: F) -> Self {
        Self {
            upstream: Some(upstream),
            change,
            running: None,
        }
    }
}

impl<S, F, R, T, U, E> Stream for Mapped<S, F, R>
where
    S: Stream<Item = Result<T, E>>,
    F: FnMut(T) -> R,
    R: Future<Output = Result<U, E>>,
{
    type Item = Result<U, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        loop {
            if let Some(running) = this.running.as_mut().as_pin_mut() {
                let made = ready!(running.poll(context));
                this.running.set(None);
                return Poll::Ready(Some(made));
            }
            match ready!(next(this.upstream.as_mut(), context)) {
                Some(Ok(item)) => this.running.set(Some((this.change)(item))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

// === impl Taken ===

impl<S> Taken<S> {
    pub(super) fn new(upstream: S, count: usize) -> Self {
        Self {
            upstream: (count > 0).then_some(upstream),
            left: count,
        }
    }
}

impl<S, T, E> Stream for Taken<S>
where
    S: Stream<Item = Result<T, E>>,
{
    type Item = Result<T, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        let item = ready!(next(this.upstream.as_mut(), context));
        if let Some(Ok(_)) = item {
            *this.left -= 1;
            if *this.left == 0 {
                this.upstream.set(None);
            }
        }
        Poll::Ready(item)
    }
}
