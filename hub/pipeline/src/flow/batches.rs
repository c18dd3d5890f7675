//! `batch` and `window`: lists of items.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::simple::next;

/// When a batch is emitted: by whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchBy {
    /// With so many items. 0 counts as 1.
    pub size: usize,
    /// So long after its first item.
    pub every: Option<Duration>,
}

/// How long a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowBy {
    /// So many items. 0 counts as 1.
    Count(usize),
    /// So much time.
    Time {
        /// The length of each window.
        every: Duration,
        /// The most items in memory: a window that has more is emitted in parts. 0 counts as 1.
        most: usize,
    },
}

/// Both, as they are carried out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    size: usize,
    every: Option<Duration>,
    /// Whether times are counted from the first item of all, and not from the first of the list.
    is_window: bool,
}

pin_project! {
    /// See [`crate::Flow::batch`] and [`crate::Flow::window`].
    #[derive(Debug)]
    pub struct Batches<S, T> {
        #[pin]
        upstream: Option<S>,
        timer: Option<Pin<Box<Sleep>>>,
        rule: Rule,
        base: Option<Instant>,
        items: Vec<T>,
    }
}

// === impl Rule ===

impl From<BatchBy> for Rule {
    fn from(by: BatchBy) -> Self {
        Self {
            size: by.size.max(1),
            every: by.every,
            is_window: false,
        }
    }
}

impl From<WindowBy> for Rule {
    fn from(by: WindowBy) -> Self {
        let (size, every) = match by {
            WindowBy::Count(count) => (count, None),
            WindowBy::Time { every, most } => (most, Some(every)),
        };
        Self {
            size: size.max(1),
            every,
            is_window: true,
        }
    }
}

impl Rule {
    /// When a list is emitted whose first item comes now.
    fn until(&self, now: Instant, base: Instant) -> Option<Instant> {
        let every = self.every?;
        if !self.is_window || every.is_zero() {
            return now.checked_add(every);
        }
        let into = (now - base).as_nanos() % every.as_nanos();
        let into = Duration::from_nanos(u64::try_from(into).unwrap_or(0));
        now.checked_add(every.saturating_sub(into))
    }
}

// === impl Batches ===

impl<S, T> Batches<S, T> {
    pub(super) fn new(upstream: S, rule: Rule) -> Self {
        Self {
            upstream: Some(upstream),
            timer: None,
            rule,
            base: None,
            items: Vec::new(),
        }
    }
}

impl<S, T, E> Stream for Batches<S, T>
where
    S: Stream<Item = Result<T, E>>,
{
    type Item = Result<Vec<T>, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        loop {
            // An upstream that is always ready must not keep the timer from being looked at.
            let is_due = this
                .timer
                .as_mut()
                .is_some_and(|timer| timer.as_mut().poll(context).is_ready());
            if is_due || this.items.len() >= this.rule.size {
                *this.timer = None;
                return Poll::Ready(Some(Ok(std::mem::take(this.items))));
            }
            match next(this.upstream.as_mut(), context) {
                Poll::Ready(Some(Ok(item))) => {
                    if this.items.is_empty() && this.rule.every.is_some() {
                        let now = Instant::now();
                        let base = *this.base.get_or_insert(now);
                        let until = this.rule.until(now, base);
                        *this.timer = until.map(|until| Box::pin(sleep_until(until)));
                    }
                    this.items.push(item);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    *this.timer = None;
                    let tail = std::mem::take(this.items);
                    return Poll::Ready((!tail.is_empty()).then_some(Ok(tail)));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
