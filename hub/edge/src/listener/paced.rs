//! Answers over HTTP/2, piece by piece: a client that stops reading an answer loses it.
//!
//! Flow control lets a client close the window of each answer and keep its connection alive with pings, so that no
//! write to its socket ever stalls. Each answer is therefore watched separately.
//!
//! Invariants
//! - An answer of which a piece waits, while none is taken for `server.write-timeout`, is reset, which frees what it
//!   made the hub keep. The pieces are small, to tell a slow client from one that takes nothing.
//! - The end of an answer of several pieces is not sent before they are taken: until then it can be reset. An answer of
//!   a single piece is sent together with its end; if that waits too long, the connection is cut.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::task::AtomicWaker;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How many bytes are handed to the connection at once: the largest frame that every client accepts.
const PIECE: usize = 16 * 1024;

tokio::task_local! {
    /// The progress of the answer to the request that this task serves.
    static PROGRESS: Arc<Progress>;
}

/// Runs the tasks that HTTP/2 runs next to a connection, where the drain waits for them; each request is such a task.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    tasks: TaskTracker,
    /// Those of this connection.
    open: TaskTracker,
    limit: Duration,
    cut: CancellationToken,
}

/// The part of an answer that waits to be written.
#[derive(Debug)]
struct Progress {
    state: Mutex<State>,
    /// Notified when the first piece begins to wait, or none waits any more.
    changed: Notify,
    /// The task that waits to send the end.
    end: AtomicWaker,
}

#[derive(Clone, Copy, Debug)]
struct State {
    waiting: usize,
    /// When a piece was last taken, or the first one began to wait.
    since: Instant,
}

/// A body in pieces.
pub(super) struct Paced {
    body: Body,
    rest: Bytes,
    /// Whether the end waits for the pieces.
    several: bool,
    progress: Arc<Progress>,
}

/// Bytes that count as waiting until they are dropped.
struct Piece {
    bytes: Bytes,
    progress: Arc<Progress>,
}

// === impl Requests ===

impl Requests {
    /// The requests of one connection; `limit` is how long an answer may wait.
    pub(super) fn new(tasks: TaskTracker, limit: Duration) -> Self {
        Self {
            tasks,
            open: TaskTracker::new(),
            limit,
            cut: CancellationToken::new(),
        }
    }

    /// Resolves when the connection must be cut.
    pub(super) async fn cut(&self) {
        self.cut.cancelled().await;
    }

    /// Resolves when the connection, which was asked to close, must be cut: it has had its time since the last request
    /// ended.
    pub(super) async fn late(&self) {
        self.open.close();
        tokio::select! {
            () = self.cut() => return,
            () = self.open.wait() => {}
        }
        tokio::select! {
            () = self.cut() => {}
            () = tokio::time::sleep(self.limit) => {}
        }
    }

    async fn watch<F: Future<Output = ()>>(self, request: F, progress: Arc<Progress>) {
        let mut request = Box::pin(request);
        tokio::select! {
            biased;
            () = &mut request => {}
            () = progress.stalled(self.limit) => {
                // When dropped, it is reset.
                tracing::debug!("an answer was reset: the client took nothing of it for `server.write-timeout`");
                return;
            }
        }
        drop(request);
        if !progress.is_taken(self.limit).await {
            tracing::debug!("a connection is cut: an answer on it was not taken for `server.write-timeout`");
            self.cut.cancel();
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Requests {
    fn execute(&self, request: F) {
        let progress = Arc::new(Progress::new());
        let watched = self.clone().watch(request, progress.clone());
        let counted = self.open.track_future(PROGRESS.scope(progress, watched));
        self.tasks.spawn(counted);
    }
}

// === impl Progress ===

impl Progress {
    fn new() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: 0,
                since: Instant::now(),
            }),
            changed: Notify::new(),
            end: AtomicWaker::new(),
        }
    }

    fn given(&self) {
        let mut state = self.state.lock();
        if state.waiting == 0 {
            state.since = Instant::now();
            self.changed.notify_one();
        }
        state.waiting += 1;
    }

    fn taken(&self) {
        let mut state = self.state.lock();
        state.waiting -= 1;
        state.since = Instant::now();
        if state.waiting == 0 {
            self.changed.notify_one();
            self.end.wake();
        }
    }

    fn state(&self) -> State {
        *self.state.lock()
    }

    /// Resolves when a piece waits and none has been taken for `limit`.
    async fn stalled(&self, limit: Duration) {
        loop {
            let State { waiting, since } = self.state();
            if waiting == 0 {
                self.changed.notified().await;
            } else if since.elapsed() < limit {
                sleep_until(since + limit).await;
            } else {
                return;
            }
        }
    }

    /// Waits until every piece is taken; false if one waits for `limit`.
    async fn is_taken(&self, limit: Duration) -> bool {
        loop {
            let State { waiting, since } = self.state();
            if waiting == 0 {
                return true;
            }
            if since.elapsed() >= limit {
                return false;
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep_until(since + limit) => {}
            }
        }
    }
}

// === impl Paced ===

impl Paced {
    /// The body of the answer to the request that this task serves.
    pub(super) fn new(body: Body) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            several: false,
            progress: PROGRESS
                .try_with(Arc::clone)
                .unwrap_or_else(|_| Arc::new(Progress::new())),
        }
    }

    fn piece(&mut self) -> Bytes {
        let bytes = self.rest.split_to(self.rest.len().min(PIECE));
        self.several |= !self.rest.is_empty();
        self.progress.given();
        Bytes::from_owner(Piece {
            bytes,
            progress: self.progress.clone(),
        })
    }

    fn poll_taken(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.progress.end.register(cx.waker());
        if self.progress.state().waiting == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl hyper::body::Body for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => {
                    ready!(self.poll_taken(cx));
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
            }
        }
        Poll::Ready(Some(Ok(Frame::data(self.piece()))))
    }

    fn is_end_stream(&self) -> bool {
        !self.several && self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(rest));
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

// === impl Piece ===

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.progress.taken();
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use hyper::body::Body as _;
    use hyper::rt::Executor as _;
    use tokio::sync::oneshot;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_asked_to_go_has_its_time_from_the_end_of_its_last_request() {
        let requests = Requests::new(TaskTracker::new(), LIMIT);
        let (done, end) = oneshot::channel::<()>();
        requests.execute(async move { drop(end.await) });
        let late = requests.late();
        tokio::pin!(late);

        let early = tokio::time::timeout(10 * LIMIT, &mut late).await;

        assert!(early.is_err(), "a request runs");
        let begin = Instant::now();
        drop(done);
        late.await;
        assert_eq!(begin.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_take_a_small_answer_is_cut() {
        let requests = Requests::new(TaskTracker::new(), LIMIT);
        let (give, mut given) = tokio::sync::mpsc::channel(1);
        requests.execute(async move {
            let mut body = Paced::new(Body::from("small"));
            let piece = body.frame().await.expect("one").expect("read").into_data();
            assert!(body.is_end_stream(), "the end goes with it");
            give.send(piece.expect("data")).await.expect("kept");
        });
        let begin = Instant::now();

        let piece = given.recv().await.expect("a piece");
        requests.cut().await;

        assert_eq!(begin.elapsed(), LIMIT);
        drop(piece);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_large_answer_waits_for_its_pieces() {
        let mut body = Paced::new(Body::from(vec![0; 2 * PIECE]));
        let first = body
            .frame()
            .await
            .expect("a piece")
            .expect("read")
            .into_data()
            .expect("data");
        let second = body
            .frame()
            .await
            .expect("a piece")
            .expect("read")
            .into_data()
            .expect("data");
        assert_eq!((first.len(), second.len()), (PIECE, PIECE));

        let early = tokio::time::timeout(LIMIT, body.frame()).await;

        assert!(early.is_err(), "none is taken");
        drop((first, second));
        assert!(body.frame().await.is_none());
    }
}
