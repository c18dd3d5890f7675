//! One incarnation of the link: its two connections, and the reason why they are closed.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind, Value};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::channel::Names;
use crate::error::Error;

/// What took this hub's link may have taken those of the others, which try again every 5 s at the latest: so long after
/// a loss nobody needs to be listening yet.
const RETURNING: Duration = Duration::from_secs(8);

/// Two connections that live and end together.
pub struct Incarnation {
    /// Counts incarnations from 1.
    pub(crate) number: u64,
    pub(crate) names: Arc<Names>,
    pub(crate) subscriptions: MultiplexedConnection,
    commands: MultiplexedConnection,
    teardown: Teardown,
    timeout: Duration,
    began: Instant,
}

/// Ends an incarnation; if there are several reasons, the first one is kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Teardown {
    token: CancellationToken,
    reason: Arc<OnceLock<String>>,
}

/// Whether the server is a replica.
pub(crate) fn is_read_only(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

// === impl Incarnation ===

impl Incarnation {
    pub(crate) fn new(
        number: u64,
        names: Arc<Names>,
        subscriptions: MultiplexedConnection,
        commands: MultiplexedConnection,
        teardown: Teardown,
        timeout: Duration,
    ) -> Self {
        Self {
            number,
            names,
            subscriptions,
            commands,
            teardown,
            timeout,
            began: Instant::now(),
        }
    }

    /// Whether the link was away until just now, so that other hubs may still be on their way back.
    pub(crate) fn is_just_back(&self) -> bool {
        self.number > 1 && self.began.elapsed() < RETURNING
    }

    /// Sends a command and reads its answer. If no answer comes in time, the incarnation ends.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        command
            .query_async(&mut self.commands.clone())
            .await
            .map_err(|error| self.failed(error))
    }

    /// Sends several commands in one write; returns one answer for each, including errors of the server.
    pub(crate) async fn query_all(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
        let answers = self
            .commands
            .clone()
            .send_packed_commands(pipeline, 0, pipeline.len())
            .await;
        answers.map_err(|error| self.failed(error))
    }

    /// Reads one of the answers of [`Incarnation::query_all`].
    pub(crate) fn read<T: FromRedisValue>(&self, answer: Value) -> Result<T, Error> {
        let value = answer.extract_error().map_err(|error| self.failed(error))?;
        redis::from_redis_value(value).map_err(|error| Error::Refused(error.into()))
    }

    /// The meaning of a failure; a lost connection or a silent server ends the incarnation.
    pub(crate) fn failed(&self, error: RedisError) -> Error {
        if error.is_timeout() {
            self.teardown.begin("Redis did not answer in time");
            Error::Timeout(self.timeout)
        } else if error.is_unrecoverable_error() || error.is_connection_dropped() {
            self.teardown.begin("the connection was lost");
            Error::Unavailable(error.to_string())
        } else {
            if is_read_only(&error) {
                // The server became a replica: what is published here no longer reaches everybody.
                self.teardown.begin("Redis is read-only");
            }
            Error::Refused(error)
        }
    }

    pub(crate) fn teardown(&self) -> &Teardown {
        &self.teardown
    }
}

impl std::fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incarnation")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

// === impl Teardown ===

impl Teardown {
    pub(crate) fn begin(&self, reason: &str) {
        self.reason.get_or_init(|| reason.to_owned());
        self.token.cancel();
    }

    /// Whether it has begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until it begins; returns the reason.
    pub(crate) async fn reason(&self) -> String {
        self.token.cancelled().await;
        self.reason.get().cloned().unwrap_or_default()
    }

    /// Waits until it begins.
    pub(crate) async fn begun(&self) {
        self.token.cancelled().await;
    }
}
