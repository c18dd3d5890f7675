//! The admin API of a Hub, as the operator uses it: any ready pod answers for all.
//!
//! A request is given up after 10 s, and one that changes something also when its pass ends. Nothing is retried here:
//! the reconcile loop does that.
//!
//! Invariants
//! - A request that changes something at a hub passes the gate, and is not waited for beyond the deadline of its pass:
//!   by then another operator may lead.
//! - The other end is a tenant's program (`spec.image`). It cannot redirect this process anywhere, and no more of an
//!   answer is kept than a real hub could have to say, counted in bytes and in what they become in memory.

mod reported;

use std::time::Duration;

use alkhub_config::PORT;
use alkhub_protocol::admin::{DrainPut, SpokePut};
use alkhub_protocol::{Answer, HubId};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

#[cfg(test)]
pub(crate) use self::reported::Instances;
pub(crate) use self::reported::{ReportedHub, ReportedPod, ReportedSpoke};
use crate::gate::Pass;
use crate::names::ObjectNames;

const LIMIT: Duration = Duration::from_secs(10);

/// Spokes per page.
const PAGE: &str = "1000";

/// The longest part of a refusal that is repeated in a condition, in characters.
const DETAIL_CHARS: usize = 300;

/// The longest answer that is read, except for lists of spokes.
pub(crate) const SHORT: usize = 64 << 10;

/// A list of spokes may have this many bytes, plus as many again for each Spoke of the Hub, up to a limit for all.
const LIST: usize = 2 << 20;
const LIST_OF_EACH: usize = 64 << 10;
const LIST_AT_MOST: usize = 32 << 20;

/// How many more spokes a list may have than are declared: some connect undeclared or were declared by hand.
const SPOKES: usize = 10_000;

/// The client for all Hubs.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    http: Client,
    template: String,
}

/// One Hub's admin API with the key to it.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    admin: Admin,
    base: String,
    key: SecretString,
}

/// Why a hub did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It gave no answer, or said that it cannot answer now.
    #[error("the hub at {url} does not answer")]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// Why.
        source: Option<reqwest::Error>,
    },
    /// The pass of a write ended before the answer came.
    #[error("given up: another operator may lead by now")]
    Late,
    /// The program that answers is not a hub.
    #[error("what answers at {url} is no hub: {why}")]
    NoHub {
        /// Where it was looked for.
        url: String,
        /// What a hub would never do.
        why: String,
    },
    /// The hub understood and refused.
    #[error("the hub refused: {detail} (HTTP {status})")]
    Refused {
        /// Status of the answer.
        status: u16,
        /// What the hub says.
        detail: String,
    },
}

// === impl Error ===

impl Error {
    /// Whether the hub refused the admin key itself.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Refused { status: 401 | 403, .. })
    }
}

// === impl Admin ===

impl Admin {
    /// A client; `{hub}`, `{namespace}` and `{port}` of the template are filled in for each Hub.
    pub(crate) fn new(template: &str) -> Result<Self, reqwest::Error> {
        let http = Client::builder()
            .timeout(LIMIT)
            .connect_timeout(Duration::from_secs(3))
            // Pods come and go behind the Service: a connection that stays open idle would stick to one of them.
            .pool_idle_timeout(Duration::from_secs(5))
            .pool_max_idle_per_host(2)
            .no_proxy()
            // A hub never redirects, and this process can reach things that a tenant cannot.
            .redirect(Policy::none())
            .user_agent(concat!("alkhub-operator/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            http,
            template: template.trim_end_matches('/').to_owned(),
        })
    }

    /// The client itself, for requests that need no key.
    pub(crate) fn http(&self) -> &Client {
        &self.http
    }

    /// The admin API of one Hub.
    pub(crate) fn door(&self, names: &ObjectNames, key: SecretString) -> Door {
        let base = self
            .template
            .replace("{hub}", &names.hub)
            .replace("{namespace}", &names.namespace)
            .replace("{port}", &PORT.to_string());
        Door {
            admin: self.clone(),
            base,
            key,
        }
    }
}

// === impl Door ===

impl Door {
    /// What the hub says of itself and its pods.
    pub(crate) async fn report(&self) -> Result<ReportedHub, Error> {
        self.data(self.admin.http.get(self.url("/v1/admin/hub")), LIST).await
    }

    /// Every spoke that is declared or connected; `about` is roughly how many there are. The total length of all pages
    /// is bounded, just as that of a single answer is.
    pub(crate) async fn spokes(&self, about: usize) -> Result<Vec<ReportedSpoke>, Error> {
        let limit = LIST.saturating_add(about.saturating_mul(LIST_OF_EACH));
        let mut left = limit.min(LIST_AT_MOST);
        let most = about.saturating_add(SPOKES);
        let (mut spokes, mut cursor) = (Vec::new(), None::<String>);
        loop {
            // A hub of the previous version does not know pages and returns everything.
            let mut query = vec![("limit", PAGE)];
            query.extend(cursor.as_deref().map(|next| ("cursor", next)));
            let request = self.admin.http.get(self.url("/v1/admin/spokes")).query(&query);
            let body = self.answer(request, left).await?;
            let page: Answer<&RawValue> = self.understood(serde_json::from_slice(&body))?;
            self.understood(reported::add_spokes(page.data, &mut spokes, most))?;
            left -= body.len();
            // Stops a hub that keeps naming the same place from being asked for ever.
            match page.meta.next {
                Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                _ => return Ok(spokes),
            }
        }
    }

    /// Declares a spoke and returns what the hub has then; repeating it changes nothing.
    pub(crate) async fn put(&self, pass: Pass, name: &str, spoke: &SpokePut) -> Result<ReportedSpoke, Error> {
        let request = self
            .admin
            .http
            .put(self.url(&format!("/v1/admin/spokes/{name}")))
            .json(spoke);
        self.within(pass, self.data(request, SHORT)).await
    }

    /// Ends a spoke and its keys, if it is still the one with this uid. A spoke that is not there counts as ended.
    pub(crate) async fn delete(&self, pass: Pass, name: &str, uid: &str) -> Result<(), Error> {
        let request = self
            .admin
            .http
            .delete(self.url(&format!("/v1/admin/spokes/{name}")))
            .query(&[("uid", uid)]);
        self.within(pass, self.done(request)).await
    }

    /// Tells a pod's hub to give its connections away, and for how long. A hub that is not there has none to give.
    pub(crate) async fn drain(&self, pass: Pass, hub_id: &HubId, drain: &DrainPut) -> Result<(), Error> {
        let request = self.admin.http.put(self.drain_url(hub_id)).json(drain);
        self.within(pass, self.done(request)).await
    }

    /// Tells a pod's hub to keep its connections again.
    pub(crate) async fn undrain(&self, pass: Pass, hub_id: &HubId) -> Result<(), Error> {
        let request = self.admin.http.delete(self.drain_url(hub_id));
        self.within(pass, self.done(request)).await
    }

    /// Orders all hubs to even out their connections.
    pub(crate) async fn rebalance(&self, pass: Pass) -> Result<(), Error> {
        let request = self.admin.http.post(self.url("/v1/admin/rebalance"));
        self.within(pass, self.send(request)).await.map(drop)
    }

    /// Waits for a write for as long as its pass lets it, and holds the pass until then.
    ///
    /// The hub does not compare a fence (the transitions of the Lease) beyond that. A request that an earlier leader
    /// sent in time and that a hub reads late is harmless all the same: it names a uid and is compared with what is
    /// wanted at each poll, or ends something that is gone for good, or lapses by itself.
    async fn within<T>(&self, pass: Pass, write: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            // After this process was suspended, the deadline is seen before the answer.
            biased;
            () = tokio::time::sleep_until(pass.deadline) => Err(Error::Late),
            written = write => written,
        }
    }

    fn drain_url(&self, hub_id: &HubId) -> String {
        self.url(&format!("/v1/admin/hubs/{hub_id}/drain"))
    }

    /// Sends a request that has also succeeded when there is nothing left to act on.
    async fn done(&self, request: RequestBuilder) -> Result<(), Error> {
        match self.send(request).await {
            Ok(_) | Err(Error::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn data<T: DeserializeOwned>(&self, request: RequestBuilder, limit: usize) -> Result<T, Error> {
        let body = self.answer(request, limit).await?;
        let answer: Answer<T> = self.understood(serde_json::from_slice(&body))?;
        Ok(answer.data)
    }

    /// The text of an answer: `limit` bytes at most.
    async fn answer(&self, request: RequestBuilder, limit: usize) -> Result<Vec<u8>, Error> {
        let answer = self.send(request).await?;
        body(answer, limit).await.map_err(|error| match error {
            BodyError::Broken(source) => self.unreachable(Some(source)),
            BodyError::TooLong => self.no_hub(&format!("its answer is longer than {limit} bytes")),
        })
    }

    fn understood<T>(&self, read: serde_json::Result<T>) -> Result<T, Error> {
        read.map_err(|error| self.no_hub(&format!("its answer is not understood: {error}")))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let answer = request.bearer_auth(self.key.expose_secret()).send().await;
        let answer = answer.map_err(|source| self.unreachable(Some(source)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        if status.is_redirection() || status.is_informational() {
            return Err(self.no_hub(&format!("it answers HTTP {}", status.as_u16())));
        }
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(self.unreachable(answer.error_for_status().err()));
        }
        let problem = body(answer, SHORT).await.unwrap_or_default();
        let problem: serde_json::Value = serde_json::from_slice(&problem).unwrap_or_default();
        let detail = problem["detail"]
            .as_str()
            .or_else(|| problem["title"].as_str())
            .unwrap_or("no reason given");
        Err(Error::Refused {
            status: status.as_u16(),
            detail: detail.chars().filter(|c| !c.is_control()).take(DETAIL_CHARS).collect(),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn no_hub(&self, why: &str) -> Error {
        Error::NoHub {
            url: self.base.clone(),
            why: why.to_owned(),
        }
    }

    fn unreachable(&self, source: Option<reqwest::Error>) -> Error {
        Error::Unreachable {
            url: self.base.clone(),
            source: source.map(reqwest::Error::without_url),
        }
    }
}

/// Why a body was not read to its end.
#[derive(Debug)]
pub(crate) enum BodyError {
    TooLong,
    Broken(reqwest::Error),
}

/// Reads a body of at most `limit` bytes; stops reading a longer one.
pub(crate) async fn body(mut answer: Response, limit: usize) -> Result<Vec<u8>, BodyError> {
    let declared = answer.content_length().and_then(|length| usize::try_from(length).ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(BodyError::TooLong);
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(BodyError::Broken)? {
        if body.len().saturating_add(chunk.len()) > limit {
            return Err(BodyError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests;
