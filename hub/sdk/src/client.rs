//! The client: calls, subscriptions and events over one WebSocket, lists and keys over HTTP.
//!
//! The WebSocket is opened by the first call, subscription or event stream. If that first attempt fails, the caller is
//! told at once. Later the client reconnects by itself (full jitter, 250 ms to 15 s) while callers wait until their
//! time is up; then they get the reason why there is no connection.

mod admin;
mod body;
mod event;
mod events;
mod followed;
mod http;
mod items;
mod link;
mod options;
mod outcome;
mod request;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::{OperationName, RawJson, TopicFilter};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub use self::event::{Delivery, Event};
pub use self::events::Events;
pub use self::http::{CallFilter, CallPage, Published};
pub use self::items::Items;
use self::link::Link;
pub use self::options::CallOptions;
pub use self::outcome::{Outcome, Streamed};
use self::request::requested;
pub(crate) use self::request::{new_id, now_ms, payload};
use crate::Error;
use crate::endpoint::HubEndpoint;

/// How long a call without a deadline of its own may take.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The hub's own answer to a deadline is better than ours, since it knows whether the spoke had the call. It gets this
/// much longer.
const GRACE: Duration = Duration::from_millis(500);

/// Settings that all builders share: how to get into a hub.
macro_rules! access_settings {
    () => {
        /// The key.
        pub fn token(mut self, token: impl Into<String>) -> Self {
            self.token = Some(token.into());
            self
        }

        /// PEM file with certificate authorities to trust besides the system's.
        pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
            self.ca_file = Some(path.into());
            self
        }
    };
}
pub(crate) use access_settings;

/// A connection to a hub; clones share it. It closes when the last clone and the last stream are gone.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoint: HubEndpoint,
    http: reqwest::Client,
    link: Arc<Link>,
    timeout: Duration,
}

/// Settings of a [`Client`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    url: String,
    token: Option<String>,
    ca_file: Option<PathBuf>,
    timeout: Duration,
}

// === impl Client ===

impl Client {
    /// Settings for a hub at `url`: `http://`, `https://`, `ws://` or `wss://`.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder {
            url: url.into(),
            token: None,
            ca_file: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// The hub's address.
    pub fn url(&self) -> &str {
        self.0.endpoint.url()
    }

    /// Calls an operation and waits for its value. Dropping the future aborts the call at the spoke.
    ///
    /// # Errors
    /// [`Error::Call`] if the hub or the spoke gave a reason; [`Error::Lost`] and [`Error::Timeout`] if neither did;
    /// [`Error::Unreachable`] and [`Error::Untrusted`] if there was no connection to send it over.
    pub async fn call<I, O>(&self, operation: &str, input: &I) -> Result<O, Error>
    where
        I: Serialize + ?Sized,
        O: DeserializeOwned,
    {
        self.call_with(operation, input, CallOptions::default()).await
    }

    /// [`Client::call`] with options.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_with<I, O>(&self, operation: &str, input: &I, options: CallOptions) -> Result<O, Error>
    where
        I: Serialize + ?Sized,
        O: DeserializeOwned,
    {
        let name: OperationName = operation.parse()?;
        let input = payload(input)?;
        let data = self.call_raw(&name, &input, &options).await?;
        data.to()
            .map_err(|e| Error::decode(format!("the output of `{name}`"), e))
    }

    /// Calls an operation with JSON as it is, and returns its `data` as it is.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_raw(
        &self,
        operation: &OperationName,
        input: &RawJson,
        options: &CallOptions,
    ) -> Result<RawJson, Error> {
        let timeout = options.timeout.unwrap_or(self.0.timeout);
        let end = Instant::now() + timeout;
        let answer = async {
            loop {
                let outbox = self.0.link.outbox(end).await?;
                let left = end.saturating_duration_since(Instant::now());
                let request_id = new_id();
                let frame = requested(
                    &request_id,
                    operation,
                    input,
                    &CallOptions {
                        timeout: Some(left),
                        ..options.clone()
                    },
                )?;
                if let Some(answer) = self.0.link.call(outbox, &request_id, frame).await {
                    return answer;
                }
            }
        };
        let output = tokio::time::timeout(timeout + GRACE, answer)
            .await
            .map_err(|_| Error::Timeout(timeout))??;
        items::data(&output, operation)
    }

    /// Starts a subscription. Dropping the stream aborts it at the spoke.
    ///
    /// # Errors
    /// The hub cannot be reached. An error from the hub or the spoke comes as the stream's last item.
    pub async fn subscribe<I, O>(&self, operation: &str, input: &I) -> Result<Items<O>, Error>
    where
        I: Serialize + ?Sized,
        O: DeserializeOwned,
    {
        self.subscribe_with(operation, input, CallOptions::default()).await
    }

    /// [`Client::subscribe`] with options.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn subscribe_with<I, O>(
        &self,
        operation: &str,
        input: &I,
        options: CallOptions,
    ) -> Result<Items<O>, Error>
    where
        I: Serialize + ?Sized,
        O: DeserializeOwned,
    {
        let name: OperationName = operation.parse()?;
        let input = payload(input)?;
        let end = Instant::now() + self.0.timeout;
        let begin = async {
            loop {
                let outbox = self.0.link.outbox(end).await?;
                let request_id = new_id();
                let frame = requested(&request_id, &name, &input, &options)?;
                if let Some((items, ticket)) = self.0.link.subscribe(outbox, &request_id, frame).await {
                    return Ok(Items::new(name, items, ticket, self.clone()));
                }
            }
        };
        tokio::time::timeout(self.0.timeout + GRACE, begin)
            .await
            .map_err(|_| Error::Timeout(self.0.timeout))?
    }

    /// Follows a topic, `type:id` or `type:*`. Resolves once the hub has confirmed: everything published after that is
    /// seen, or a [`Delivery::Gap`] takes its place. Dropping the stream unsubscribes.
    ///
    /// # Errors
    /// The topic is not valid, the hub cannot be reached, or it refuses.
    pub async fn events(&self, topic: &str) -> Result<Events, Error> {
        let filter: TopicFilter = topic.parse()?;
        let end = Instant::now() + self.0.timeout;
        let begin = tokio::time::timeout(self.0.timeout + GRACE, self.0.link.events(filter, end));
        let (queue, seat) = begin.await.map_err(|_| Error::Timeout(self.0.timeout))??;
        Ok(Events::new(queue, seat, self.clone()))
    }

    /// Closes the connection after everything queued was sent; running calls and streams end with [`Error::Closed`].
    pub async fn close(&self) {
        self.0.link.close().await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.link.release();
    }
}

// === impl Builder ===

impl Builder {
    access_settings!();

    /// The timeout of calls that set none; 30 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Checks the settings; does not connect yet.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn build(self) -> Result<Client, Error> {
        let Self {
            url,
            token,
            ca_file,
            timeout,
        } = self;
        let endpoint = HubEndpoint::new(&url, token.as_deref(), ca_file.as_deref())?;
        let http = endpoint.http()?;
        let link = Link::new(endpoint.clone());
        Ok(Client(Arc::new(Inner {
            endpoint,
            http,
            link,
            timeout,
        })))
    }
}
