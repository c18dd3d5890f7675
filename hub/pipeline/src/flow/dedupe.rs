//! `dedupe`.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::simple::next;

/// Which keys are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remember {
    /// The last so many. 0 counts as 1.
    pub count: usize,
    /// Those first seen within this time.
    pub time: Duration,
}

pin_project! {
    /// See [`crate::Flow::dedupe`].
    #[derive(Debug)]
    pub struct Deduped<S, F, K> {
        #[pin]
        upstream: Option<S>,
        key: F,
        remember: Remember,
        order: VecDeque<(Instant, K)>,
        keys: HashSet<K>,
    }
}

// === impl Deduped ===

impl<S, F, K> Deduped<S, F, K> {
    pub(super) fn new(upstream: S, remember: Remember, key: F) -> Self {
        Self {
            upstream: Some(upstream),
            key,
            remember,
            order: VecDeque::new(),
            keys: HashSet::new(),
        }
    }
}

impl<S, F, K, T, E> Stream for Deduped<S, F, K>
where
    S: Stream<Item = Result<T, E>>,
    F: FnMut(&T) -> K,
    K: Hash + Eq + Clone,
{
    type Item = Result<T, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        loop {
            let item = match ready!(next(this.upstream.as_mut(), context)) {
                Some(Ok(item)) => item,
                other => return Poll::Ready(other),
            };
            let (key, now) = ((this.key)(&item), Instant::now());
            let is_old = |seen: Instant| now.saturating_duration_since(seen) >= this.remember.time;
            while this.order.front().is_some_and(|(seen, _)| is_old(*seen)) {
                let (_, old) = this.order.pop_front().expect("there is a first one");
                this.keys.remove(&old);
            }
            if this.keys.contains(&key) {
                continue;
            }
            if this.order.len() >= this.remember.count.max(1)
                && let Some((_, oldest)) = this.order.pop_front()
            {
                this.keys.remove(&oldest);
            }
            this.keys.insert(key.clone());
            this.order.push_back((now, key));
            return Poll::Ready(Some(Ok(item)));
        }
    }
}
