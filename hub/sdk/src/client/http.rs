//! Requests over HTTP: publishing, lists, keys.

use alkhub_protocol::admin::{KeyCreate, KeyCreated, KeyInfo, SpokeInfo};
use alkhub_protocol::call::CallRecord;
use alkhub_protocol::error::SPEAKS_TLS;
use alkhub_protocol::json::strict;
use alkhub_protocol::operation::{OperationInfo, OperationSpec};
use alkhub_protocol::{Answer, CallStatus, OperationName, PAGE_LIMIT, PAYLOAD_LIMIT_BYTES, Problem, RawJson, Topic};
use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::body::{LIST_LIMIT, Unread, VALUE_LIMIT, body};
use super::request::check_size;
use super::{Client, payload};
use crate::Error;
use crate::endpoint::is_dots;

/// Which ended calls to list; all fields are optional.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallFilter {
    /// Of this operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// That ended with this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<CallStatus>,
    /// How many at most; if absent, the hub's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Those that ended before this place, from [`CallPage::next`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Those that ended after this place. Without `before`, the oldest of them come first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// A part of the list of ended calls.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CallPage {
    /// The latest first; with [`CallFilter::after`] alone, the oldest first.
    pub calls: Vec<CallRecord>,
    /// The place of the last one, if more may follow: pass it as `before`, or as `after`, to go on.
    pub next: Option<String>,
}

/// The result of publishing an event.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Published {
    /// Subscribers on the hub that took the event; those on other hubs are not counted.
    #[serde(default)]
    pub local: u64,
}

// === impl Client ===

impl Client {
    /// Publishes an event and waits until the hub has taken it.
    ///
    /// # Errors
    /// [`Error::Problem`]: with `delivered: maybe`, subscribers on the same hub got the event and others may not have.
    pub async fn publish<T: Serialize + ?Sized>(&self, topic: &str, event: &T) -> Result<Published, Error> {
        self.publish_raw(topic, Some(&payload(event)?)).await
    }

    /// Publishes JSON as it is, or an event without a payload.
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub async fn publish_raw(&self, topic: &str, event: Option<&RawJson>) -> Result<Published, Error> {
        let topic: Topic = topic.parse()?;
        let mut request = if [topic.event_type(), topic.id()].into_iter().any(is_dots) {
            // No path can hold this topic. An older hub has no such route, and answers 404.
            let request = self.request(Method::POST, &["v1", "events"])?;
            request.query(&[("topic", topic.as_str())])
        } else {
            let mut route = vec!["v1", "events", topic.event_type()];
            route.extend(Some(topic.id()).filter(|id| !id.is_empty()));
            self.request(Method::POST, &route)?
        };
        if let Some(event) = event {
            check_size(event.len(), PAYLOAD_LIMIT_BYTES)?;
            request = request
                .body(event.bytes())
                .header(http::header::CONTENT_TYPE, "application/json");
        }
        self.send(request, "publish").await
    }

    /// The operations that the key may call and that match `search`, by name, from all pages.
    ///
    /// # Errors
    /// [`Error::Problem`], for example without the scope `operations:read`.
    pub async fn operations(&self, search: Option<&str>) -> Result<Vec<OperationInfo>, Error> {
        let query: Vec<(&str, &str)> = search.map(|text| ("search", text)).into_iter().collect();
        let listed: Vec<Listed> = self
            .pages(&["v1", "operations"], &query, "the list of operations")
            .await?;
        Ok(listed.into_iter().map(|listed| listed.0).collect())
    }

    /// One operation; `None` if there is none of that name.
    ///
    /// # Errors
    /// As [`Client::operations`].
    pub async fn operation(&self, name: &OperationName) -> Result<Option<OperationInfo>, Error> {
        let request = self.request(Method::GET, &["v1", "operations", name.as_str()])?;
        match self.send::<Listed>(request, "the operation").await {
            Ok(listed) => Ok(Some(listed.0)),
            Err(Error::Problem(problem)) if problem.status == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The declared spokes and those that are connected, by name, from all pages.
    ///
    /// # Errors
    /// [`Error::Problem`], for example without the scope `spokes:read`.
    pub async fn spokes(&self) -> Result<Vec<SpokeInfo>, Error> {
        // Pages come only to clients that set a limit; a hub of the previous version ignores it and returns everything.
        let limit = PAGE_LIMIT.to_string();
        self.pages(&["v1", "spokes"], &[("limit", &limit)], "the list of spokes")
            .await
    }

    /// Ended calls, the latest first.
    ///
    /// # Errors
    /// [`Error::Problem`], for example without the scope `calls:read`.
    pub async fn calls(&self, filter: &CallFilter) -> Result<Vec<CallRecord>, Error> {
        Ok(self.calls_page(filter).await?.calls)
    }

    /// The same, together with the place where more may follow.
    ///
    /// # Errors
    /// As [`Client::calls`].
    pub async fn calls_page(&self, filter: &CallFilter) -> Result<CallPage, Error> {
        let request = self.request(Method::GET, &["v1", "calls"])?.query(filter);
        let Answer { data, meta } = self.envelope(request, "the list of calls").await?;
        Ok(CallPage {
            calls: data,
            next: meta.next,
        })
    }

    /// All keys, without their secrets, newest first, from all pages.
    ///
    /// # Errors
    /// [`Error::Problem`], for example without the scope `admin`.
    pub async fn keys(&self) -> Result<Vec<KeyInfo>, Error> {
        self.pages(&KEYS, &[], "the list of keys").await
    }

    /// Creates a key; this answer is the only time that it is shown.
    ///
    /// # Errors
    /// As [`Client::keys`].
    pub async fn create_key(&self, key: &KeyCreate) -> Result<KeyCreated, Error> {
        self.send(self.request(Method::POST, &KEYS)?.json(key), "the new key")
            .await
    }

    /// Revokes a key by its id: whatever is connected with it is cut off at once.
    ///
    /// # Errors
    /// As [`Client::keys`], and [`Error::Problem`] with 404 for an unknown id.
    pub async fn revoke_key(&self, id: &str) -> Result<(), Error> {
        let [v1, admin, keys] = KEYS;
        self.exchange(self.request(Method::DELETE, &[v1, admin, keys, id])?)
            .await
            .map(drop)
    }

    /// All items on all pages of a list.
    async fn pages<T: DeserializeOwned>(
        &self,
        route: &[&str],
        query: &[(&str, &str)],
        what: &'static str,
    ) -> Result<Vec<T>, Error> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let mut query = query.to_vec();
            query.extend(cursor.as_deref().map(|next| ("cursor", next)));
            let request = self.request(Method::GET, route)?.query(&query);
            let page: Answer<Vec<T>> = self.envelope(request, what).await?;
            all.extend(page.data);
            // Stops a hub that keeps naming the same place from being asked for ever.
            match page.meta.next {
                Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                _ => return Ok(all),
            }
        }
    }

    pub(super) fn request(&self, method: Method, route: &[&str]) -> Result<RequestBuilder, Error> {
        let url = self.0.endpoint.route(route)?;
        Ok(self.0.http.request(method, url).timeout(self.0.timeout))
    }

    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        what: &'static str,
    ) -> Result<T, Error> {
        Ok(self.envelope(request, what).await?.data)
    }

    async fn envelope<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        what: &'static str,
    ) -> Result<Answer<T>, Error> {
        let response = self.exchange(request).await?;
        let body = body(response, LIST_LIMIT).await.map_err(|error| match error {
            Unread::Broken(error) => self.0.endpoint.unreachable(error),
            Unread::TooLong(_) => Error::unreadable(what, error),
        })?;
        strict::from_slice(&body).map_err(|e| Error::decode(what, e))
    }

    pub(super) async fn exchange(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|e| self.0.endpoint.unreachable(e))?;
        self.accepted(response).await
    }

    /// Passes on an answer that is not a refusal.
    pub(super) async fn accepted(&self, response: Response) -> Result<Response, Error> {
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let endpoint = &self.0.endpoint;
        if status.is_redirection()
            && let Some(reason) = endpoint.redirect(response.url(), response.headers())
        {
            return Err(endpoint.refused(status.as_u16(), reason));
        }
        let body = body(response, VALUE_LIMIT).await.unwrap_or_default();
        Err(match strict::from_slice::<Problem>(&body) {
            Ok(problem) if problem.detail == SPEAKS_TLS => endpoint.refused(status.as_u16(), problem.detail),
            Ok(problem) => Error::Problem(Box::new(problem)),
            Err(_) => endpoint.refused(
                status.as_u16(),
                status.canonical_reason().unwrap_or_default().to_owned(),
            ),
        })
    }
}

const KEYS: [&str; 3] = ["v1", "admin", "keys"];

/// An [`OperationInfo`] as it is read: raw JSON cannot be read through serde's `flatten`.
struct Listed(OperationInfo);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Rest {
            operation: OperationName,
            #[serde(default)]
            spokes: Vec<String>,
        }
        let body = RawJson::deserialize(deserializer)?;
        let custom = serde::de::Error::custom;
        let spec: OperationSpec = body.to().map_err(custom)?;
        let Rest { operation, spokes } = body.to().map_err(custom)?;
        Ok(Self(OperationInfo {
            operation,
            spec,
            spokes,
        }))
    }
}
