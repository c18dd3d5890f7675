//! The steps for Rust programs: methods of a [`Flow`], which any stream of results becomes.
//!
//! They are methods of a type and not of a trait over streams, so that they do not collide with those of
//! `futures::StreamExt`, which has `filter`, `map` and `take` too.
//!
//! Invariants
//! - An error is one item: it ends nothing, counts for no `take`, and passes what `batch` and `window` gather. Only `reduce`
//!   and `to_array` end with it.
//! - Whoever polls drives the flow; there is no task, and one item is asked for at a time.
//! - A flow that was dropped, or has ended, has dropped its upstream and its timers.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use futures::future::Either;
use pin_project_lite::pin_project;

mod batches;
mod dedupe;
mod flat;
mod group;
mod merge;
mod simple;
mod together;

pub use batches::{BatchBy, Batches, WindowBy};
pub use dedupe::{Deduped, Remember};
pub use flat::{Flattened, FlattenedTogether};
pub use group::{GroupBounds, Grouped, KeyedGroup, Unread};
pub use merge::{Chained, Joined};
pub use simple::{Filtered, Mapped, Taken};
pub use together::{Emission, MappedTogether};

/// Makes a [`Flow`] of a stream of results.
pub trait StreamSteps<T, E>: Stream<Item = Result<T, E>> + Sized {
    /// The stream as a flow, which has the steps.
    ///
    /// ```
    /// use alkhub_pipeline::StreamSteps;
    /// use futures::stream;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let numbers = stream::iter([1, 2, 3, 4, 5].map(Ok::<u32, String>));
    ///
    /// let even = numbers.steps().filter(|n| n % 2 == 0).map(async |n| Ok(10 * n)).take(2).to_array(100).await;
    ///
    /// assert_eq!(even, Ok(vec![20, 40]));
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn steps(self) -> Flow<Self> {
        Flow { stream: self }
    }
}

impl<S, T, E> StreamSteps<T, E> for S where S: Stream<Item = Result<T, E>> {}

pin_project! {
    /// A stream of results that has the steps.
    #[derive(Debug)]
    #[must_use = "a flow does nothing until it is polled"]
    pub struct Flow<S> {
        #[pin]
        stream: S,
    }
}

/// Why a flow did not become one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved<E> {
    /// An item was an error.
    #[error("an item is an error")]
    Item(#[source] E),
    /// There are more items than may be taken.
    #[error("there are more than {0} items")]
    TooMany(usize),
}

/// The items of all streams as they come, by turns where several have one. An error of one ends none; the end comes when
/// all have ended.
pub fn join<S, T, E>(streams: impl IntoIterator<Item = S>) -> Flow<Joined<S>>
where
    S: Stream<Item = Result<T, E>>,
{
    Joined::new(streams).steps()
}

// === impl Flow ===

impl<S, T, E> Flow<S>
where
    S: Stream<Item = Result<T, E>>,
{
    /// Items for which the condition holds.
    pub fn filter<F: FnMut(&T) -> bool>(self, condition: F) -> Flow<Filtered<S, F>> {
        Filtered::new(self.stream, condition).steps()
    }

    /// What becomes of each item, one at a time: the next item is asked for when the future of the previous one is done.
    pub fn map<U, R, F>(self, change: F) -> Flow<Mapped<S, F, R>>
    where
        F: FnMut(T) -> R,
        R: Future<Output = Result<U, E>>,
    {
        Mapped::new(self.stream, change).steps()
    }

    /// What becomes of each item, with up to `at_once` futures (at least one) running at a time.
    pub fn map_concurrent<U, R, F>(
        self,
        at_once: usize,
        emission: Emission,
        change: F,
    ) -> Flow<MappedTogether<S, F, R, U, E>>
    where
        F: FnMut(T) -> R,
        R: Future<Output = Result<U, E>>,
    {
        MappedTogether::new(self.stream, at_once, emission, change).steps()
    }

    /// What a function makes of the flow: composes steps that are used in several places, left to right.
    pub fn pipe<R>(self, steps: impl FnOnce(Self) -> R) -> R {
        steps(self)
    }

    /// The first `count` items. The upstream is dropped with the last of them, not when one more is asked for.
    pub fn take(self, count: usize) -> Flow<Taken<S>> {
        Taken::new(self.stream, count).steps()
    }

    /// All items folded into one value, from the first to the last. Dropping the future drops the upstream.
    ///
    /// # Errors
    /// [`Unresolved`], at the first item that is an error, or when there are more than `most`.
    pub async fn reduce<A>(
        self,
        most: usize,
        first: A,
        mut fold: impl FnMut(A, T) -> Result<A, E>,
    ) -> Result<A, Unresolved<E>> {
        let mut upstream = std::pin::pin!(self.stream);
        let (mut folded, mut count) = (first, 0);
        while let Some(item) = std::future::poll_fn(|context| upstream.as_mut().poll_next(context)).await {
            let item = item.map_err(Unresolved::Item)?;
            if count == most {
                return Err(Unresolved::TooMany(most));
            }
            count += 1;
            folded = fold(folded, item).map_err(Unresolved::Item)?;
        }
        Ok(folded)
    }

    /// All items in one list. Dropping the future drops the upstream.
    ///
    /// # Errors
    /// [`Unresolved`], at the first item that is an error, or when there are more than `most`.
    pub async fn to_array(self, most: usize) -> Result<Vec<T>, Unresolved<E>> {
        let add = |mut list: Vec<T>, item| {
            list.push(item);
            Ok(list)
        };
        self.reduce(most, Vec::new(), add).await
    }

    /// Lists of items: one is emitted when it is full, or old enough, or when the upstream ends.
    pub fn batch(self, by: BatchBy) -> Flow<Batches<S, T>> {
        Batches::new(self.stream, by.into()).steps()
    }

    /// Lists of the items of one window after the other. Windows of time follow each other from the first item on; one
    /// without items emits nothing. The last one closes at the end of the upstream.
    pub fn window(self, by: WindowBy) -> Flow<Batches<S, T>> {
        Batches::new(self.stream, by.into()).steps()
    }

    /// Items whose key is not among those that are remembered.
    pub fn dedupe<K, F>(self, remember: Remember, key: F) -> Flow<Deduped<S, F, K>>
    where
        F: FnMut(&T) -> K,
        K: std::hash::Hash + Eq + Clone,
    {
        Deduped::new(self.stream, remember, key).steps()
    }

    /// A stream for each key, with the items of that key.
    ///
    /// Whoever polls, be it this flow or one of the groups, drives all of them; a new group waits for this flow to be
    /// polled. Dropping this flow drops the upstream: the groups then give what they have, and end.
    pub fn group_by<K, F>(self, bounds: GroupBounds, key: F) -> Flow<Grouped<S, F, K, T, E>>
    where
        F: FnMut(&T) -> K,
        K: std::hash::Hash + Eq + Clone,
    {
        Grouped::new(self.stream, bounds, key).steps()
    }

    /// The items of the streams that the items are, one stream after the other.
    pub fn flat<U>(self) -> Flow<Flattened<S, T>>
    where
        T: Stream<Item = Result<U, E>>,
    {
        Flattened::new(self.stream).steps()
    }

    /// The items of the streams that the items are, as they come from up to `at_once` of them (at least one).
    pub fn flat_concurrent<U>(self, at_once: usize) -> Flow<FlattenedTogether<S, T>>
    where
        T: Stream<Item = Result<U, E>>,
    {
        FlattenedTogether::new(self.stream, at_once).steps()
    }

    /// This flow, and then the other stream, which is not polled before this one has ended.
    pub fn chain<B: Stream<Item = Result<T, E>>>(self, then: B) -> Flow<Chained<S, B>> {
        Chained::new(self.stream, then).steps()
    }

    /// The items of both as they come, by turns where both have one. An error of one ends neither; the end comes when both
    /// have ended. For more than two there is [`join`].
    pub fn join<B: Stream<Item = Result<T, E>>>(self, other: B) -> Flow<Joined<Either<S, B>>> {
        join([Either::Left(self.stream), Either::Right(other)])
    }
}

impl<S: Stream> Stream for Flow<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.project().stream.poll_next(context)
    }
}

#[cfg(test)]
mod tests;
