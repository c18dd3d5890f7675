//! Events over HTTP: publishing, and topics as a stream.

use alkhub_budget::Kept;
use alkhub_edge::KeyHolder;
use alkhub_edge::body::RawBody;
use alkhub_edge::envelope::Data;
use alkhub_edge::error::ApiError;
use alkhub_edge::header::LAST_EVENT_ID;
use alkhub_edge::query::Query;
use alkhub_edge::request::Path;
use alkhub_edge::topics::{cost, not_published, not_subscribed};
use alkhub_protocol::topic::InvalidTopic;
use alkhub_protocol::{CallError, Chain, Topic, TopicFilter};
use axum::extract::State;
use axum::response::Response;
use futures::future::try_join_all;
use http::{HeaderMap, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::Api;
use crate::sse::{self, OnDrain};

/// Topics in one stream.
const TOPICS: usize = 1_000;

/// What became of a published event.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PublishedEvent {
    /// `type:id`.
    topic: String,
    /// Subscribers on the hub that took the event; those on other hubs are not counted.
    local: u64,
}

/// `POST /v1/events/{type}`: an event with an empty id.
pub(crate) async fn publish_without_id(
    state: State<Api>,
    caller: KeyHolder,
    Path(event_type): Path<String>,
    body: RawBody,
) -> Result<Data<PublishedEvent>, ApiError> {
    publish(state, caller, Path((event_type, String::new())), body).await
}

/// `POST /v1/events?topic=type:id`: for a topic that a path cannot name.
pub(crate) async fn publish_to_topic(
    State(api): State<Api>,
    caller: KeyHolder,
    query: Query,
    body: RawBody,
) -> Result<Data<PublishedEvent>, ApiError> {
    let text = query.first("topic").unwrap_or_default();
    let topic = text
        .parse()
        .map_err(|e: InvalidTopic| ApiError::bad_request(format!("query parameter `topic`: {e}")))?;
    publish_event(&api, &caller, &topic, body).await
}

/// `POST /v1/events/{type}/{id}`: the body is the payload; an empty body is an event without one.
pub(crate) async fn publish(
    State(api): State<Api>,
    caller: KeyHolder,
    Path((event_type, id)): Path<(String, String)>,
    body: RawBody,
) -> Result<Data<PublishedEvent>, ApiError> {
    let topic = Topic::new(&event_type, &id).map_err(|e| ApiError::bad_request(e.to_string()))?;
    publish_event(&api, &caller, &topic, body).await
}

async fn publish_event(
    api: &Api,
    caller: &KeyHolder,
    topic: &Topic,
    RawBody(payload): RawBody,
) -> Result<Data<PublishedEvent>, ApiError> {
    let allowed = caller.who().scopes.require_publish(topic);
    allowed.map_err(|scope| CallError::missing_scope(&scope))?;
    let published = api.bus().publish(topic, payload).await.map_err(|failed| {
        tracing::debug!(error = %Chain::of(&failed), "an event was not published everywhere");
        not_published(&failed)
    })?;
    Ok(Data(
        StatusCode::ACCEPTED,
        PublishedEvent {
            topic: topic.to_string(),
            local: u64::try_from(published.local).unwrap_or(u64::MAX),
        },
    ))
}

/// `GET /v1/events?topic=type:id&topic=…`: answered once every subscription is confirmed.
pub(crate) async fn stream(
    State(api): State<Api>,
    caller: KeyHolder,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let filters = filters(&caller, &query)?;
    let held = sse::open(api.edge(), &caller, OnDrain::End)?;
    let bytes = filters.iter().map(cost).sum();
    let budget = api
        .edge()
        .budgets()
        .key(&caller.key.id)
        .take(Kept::Subscriptions, bytes);
    let budget = budget.map_err(CallError::from)?;
    let (mailbox, deliveries) = alkhub_events::mailbox(api.parts().event_limits);
    let subscribed = filters.into_iter().map(|filter| api.bus().subscribe(filter, &mailbox));
    let subscriptions = try_join_all(subscribed).await.map_err(|error| {
        tracing::debug!(error = %Chain::of(&error), "a subscription was not confirmed");
        not_subscribed(&error)
    })?;
    let topics = sse::Topics {
        deliveries,
        subscriptions,
        budget,
        resumed: headers.contains_key(LAST_EVENT_ID) || query.first("lastEventId").is_some(),
    };
    Ok(sse::topics(&api, &caller, held, topics))
}

fn filters(caller: &KeyHolder, query: &Query) -> Result<Vec<TopicFilter>, ApiError> {
    let mut filters = Vec::new();
    for text in query.all("topic") {
        let filter: TopicFilter = text
            .parse()
            .map_err(|e: InvalidTopic| ApiError::bad_request(format!("topic `{text}`: {e}")))?;
        let allowed = caller.who().scopes.require_subscribe(&filter);
        allowed.map_err(|scope| CallError::missing_scope(&scope))?;
        if !filters.contains(&filter) {
            filters.push(filter);
        }
    }
    if filters.is_empty() || filters.len() > TOPICS {
        return Err(ApiError::bad_request(format!(
            "name 1 to {TOPICS} topics: `?topic=type:id&topic=…`"
        )));
    }
    Ok(filters)
}
