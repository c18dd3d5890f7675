//! The task that keeps the state of the link to Postgres up to date.
//!
//! A statement that fails because of the link wakes the task at once; otherwise it checks once per
//! `store.ping-interval`. While the link is down it checks more often, with jitter, so that a hub is ready soon after
//! Postgres is.
//!
//! Each check also finds out which incarnation of the schema it is: another hub may have made it anew, in which case
//! everything that this one wrote is gone.

use std::time::Duration;

use alkhub_config::SchemaName;
use alkhub_retry::{Backoff, LinkState};
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::admin_key::AdminKey;
use crate::error::reason;
use crate::link::Link;
use crate::metrics::Metrics;
use crate::{Error, connect, keys, migrate};

/// Pauses between two checks while the link is down.
pub(crate) const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));

/// What the task needs; it holds no store, so that dropping the store ends the task.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) pool: PgPool,
    pub(crate) options: PgConnectOptions,
    pub(crate) schema: SchemaName,
    pub(crate) metrics: Metrics,
    pub(crate) interval: Duration,
    pub(crate) limit: Duration,
    pub(crate) admin: watch::Receiver<Option<AdminKey>>,
    pub(crate) incarnation: watch::Sender<i64>,
}

// === impl Watch ===

impl Watch {
    /// Checks again and again, and keeps the state of the link up to date, until `stop`.
    pub(crate) async fn keep(&self, link: &Link, stop: &CancellationToken) {
        let mut backoff = BACKOFF;
        loop {
            let wait = if link.state().is_up() {
                backoff.reset();
                self.interval
            } else {
                backoff.pause()
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = link.suspected() => {}
                () = tokio::time::sleep(wait) => {}
            }
            let state = tokio::select! {
                () = stop.cancelled() => return,
                state = self.look() => state,
            };
            link.set(state, &self.metrics);
        }
    }

    /// Asks over an idle connection; if there is none, or it fails, over a new one made for this, whose error is the
    /// reason.
    async fn look(&self) -> LinkState {
        if let Some(mut idle) = self.pool.try_acquire() {
            match timeout(self.limit, self.ask(&mut idle)).await {
                Ok(Ok(min_reader)) => return judge(min_reader),
                Ok(Err(_)) | Err(_) => idle.close_on_drop(),
            }
        }
        let min_reader = match timeout(self.limit, self.ask_anew()).await {
            Ok(Ok(min_reader)) => min_reader,
            Ok(Err(error)) => return LinkState::Down(reason(&error)),
            Err(_) => return LinkState::Down(format!("no answer within {:?}", self.limit)),
        };
        match min_reader {
            Some(min_reader) => judge(min_reader),
            None => self.make_anew().await,
        }
    }

    /// Asks how old a reader may be, and enters the first key if it is missing.
    async fn ask(&self, connection: &mut PgConnection) -> sqlx::Result<i64> {
        let min_reader = migrate::min_reader(connection).await?;
        self.note_incarnation(migrate::incarnation(connection).await?);
        self.enter_admin(connection).await;
        Ok(min_reader)
    }

    fn note_incarnation(&self, incarnation: i64) {
        self.incarnation
            .send_if_modified(|known| std::mem::replace(known, incarnation) != incarnation);
    }

    /// Without the first key nobody could declare a spoke or make a key. A failure leaves the link as it is: whatever
    /// works without the key goes on, and the next check tries again.
    async fn enter_admin(&self, connection: &mut PgConnection) {
        let Some(admin) = self.admin.borrow().clone() else {
            return;
        };
        match keys::enter_admin(connection, &admin).await {
            Ok(entered) if entered.created => {
                tracing::warn!(schema = %self.schema, "the first admin key was missing and is entered again");
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(
                    error = reason(&error),
                    "the first admin key is missing and cannot be entered"
                );
            }
        }
    }

    /// `None` if the schema is gone.
    async fn ask_anew(&self) -> sqlx::Result<Option<i64>> {
        let mut connection = self.options.connect().await?;
        connect::prepare(&mut connection, &self.schema, self.limit).await?;
        let min_reader = match self.ask(&mut connection).await {
            Err(error) if is_undefined_table(&error) => None,
            result => Some(result?),
        };
        connection.close().await.ok();
        Ok(min_reader)
    }

    /// A database that was emptied, or restored without this schema, must not require a restart of every hub.
    async fn make_anew(&self) -> LinkState {
        tracing::warn!(schema = %self.schema, "the schema is gone and is made anew");
        match migrate::run(&self.options, &self.schema, self.limit).await {
            Ok(mut connection) => {
                // Whatever of this fails is done by the next check.
                timeout(self.limit, self.ask(&mut connection)).await.ok();
                LinkState::Up
            }
            Err(Error::Unavailable { reason }) => LinkState::Down(reason),
            Err(error) => LinkState::Down(error.to_string()),
        }
    }
}

fn is_undefined_table(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.code().as_deref() == Some("42P01"))
}

/// A schema that has moved on past this software is as good as no database.
fn judge(min_reader: i64) -> LinkState {
    let ours = migrate::ours();
    if min_reader <= ours {
        return LinkState::Up;
    }
    LinkState::Down(format!(
        "the schema now needs alkhub with schema version {min_reader}, and this one has {ours}: use a newer alkhub"
    ))
}
