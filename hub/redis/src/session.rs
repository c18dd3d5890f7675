//! One life of the link: its two connections and how it ended.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind, Value};
use tokio_util::sync::CancellationToken;

use crate::channel::Names;
use crate::error::Error;

/// Two connections that live and end together.
pub struct Session {
    /// Counts sessions from 1.
    pub(crate) number: u64,
    pub(crate) names: Arc<Names>,
    pub(crate) subscriptions: MultiplexedConnection,
    commands: MultiplexedConnection,
    end: End,
    timeout: Duration,
}

/// Ends a session; the first reason given is the one that is told.
#[derive(Clone, Debug, Default)]
pub(crate) struct End {
    token: CancellationToken,
    reason: Arc<OnceLock<String>>,
}

/// Whether the server is a replica.
pub(crate) fn is_read_only(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

// === impl Session ===

impl Session {
    pub(crate) fn new(
        number: u64,
        names: Arc<Names>,
        subscriptions: MultiplexedConnection,
        commands: MultiplexedConnection,
        end: End,
        timeout: Duration,
    ) -> Self {
        Self {
            number,
            names,
            subscriptions,
            commands,
            end,
            timeout,
        }
    }

    /// Sends a command and reads its answer. No answer in time ends the session.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        command
            .query_async(&mut self.commands.clone())
            .await
            .map_err(|error| self.failed(error))
    }

    /// Sends commands in one write; one answer each, errors of the server among them.
    pub(crate) async fn query_all(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
        let answers = self
            .commands
            .clone()
            .send_packed_commands(pipeline, 0, pipeline.len())
            .await;
        answers.map_err(|error| self.failed(error))
    }

    /// Reads one of the answers of [`Session::query_all`].
    pub(crate) fn read<T: FromRedisValue>(&self, answer: Value) -> Result<T, Error> {
        let value = answer.extract_error().map_err(|error| self.failed(error))?;
        redis::from_redis_value(value).map_err(|error| Error::Refused(error.into()))
    }

    /// What a failure means; a lost connection or a silent server ends the session.
    pub(crate) fn failed(&self, error: RedisError) -> Error {
        if error.is_timeout() {
            self.end.now("Redis did not answer in time");
            Error::Timeout(self.timeout)
        } else if error.is_unrecoverable_error() || error.is_connection_dropped() {
            self.end.now("the connection was lost");
            Error::Unavailable(error.to_string())
        } else {
            if is_read_only(&error) {
                // It became a replica: what is published here no longer reaches everybody.
                self.end.now("Redis is read-only");
            }
            Error::Refused(error)
        }
    }

    pub(crate) fn end(&self) -> &End {
        &self.end
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

// === impl End ===

impl End {
    pub(crate) fn now(&self, reason: &str) {
        self.reason.get_or_init(|| reason.to_owned());
        self.token.cancel();
    }

    /// Whether the end is decided.
    pub(crate) fn is_decided(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits for the end and tells why.
    pub(crate) async fn reason(&self) -> String {
        self.token.cancelled().await;
        self.reason.get().cloned().unwrap_or_default()
    }

    pub(crate) async fn wait(&self) {
        self.token.cancelled().await;
    }
}
