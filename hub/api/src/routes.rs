//! Every route of this surface with its scope, on one page. The router, which asks for the scopes, and the OpenAPI
//! document are both made of this list.

use alkhub_edge::Endpoint;
use alkhub_edge::endpoint::schema_of;
use alkhub_protocol::admin::{DrainPut, HubReport, KeyCreate, KeyCreated, KeyInfo, PodReport, SpokeInfo, SpokePut};
use alkhub_protocol::call::CallRecord;
use alkhub_protocol::operation::OperationInfo;
use alkhub_protocol::{HubId, OperationName, RequestId, SpokeName, header, scope, topic};
use axum::routing::{MethodRouter, delete, get, post, put};
use http::Method;

use crate::api::Api;
use crate::{calls, document, events, hub, keys, operations, shapes, spokes};

/// The routes of this surface.
pub fn routes() -> Vec<Endpoint<Api>> {
    let mut all = calling();
    all.extend(publishing());
    all.extend(lists());
    all.extend(administration());
    all.extend(orders());
    all
}

/// Operations.
fn calling() -> Vec<Endpoint<Api>> {
    vec![
        at(Method::POST, "/v1/call/{operation}", post(calls::call))
            .says("Calls an operation and waits for its output; a subscription answers as server-sent events.")
            .asks("call:{operation}")
            .path("operation", schema_of::<OperationName>)
            .header(
                header::TIMEOUT.title,
                "How long to wait: `500ms`, `5s`, `2m`; seconds without a unit.",
                shapes::timeout,
            )
            .header(
                header::METADATA.title,
                "A JSON object that reaches the handler as it is; all headers together have 16 KiB at most.",
                shapes::metadata,
            )
            .header(
                header::PARENT.title,
                "The call in whose course this one is made.",
                schema_of::<RequestId>,
            )
            .reads_any("The input; with an empty body there is none, which is checked as `null`.")
            .gives_output()
            .streams(),
        at(Method::GET, "/v1/operations", get(operations::list))
            .says("Lists the operations that spokes offer now and that the key may call.")
            .needs(scope::OPERATIONS_READ)
            .query(
                "search",
                "Words that name, title, description or tags must have.",
                shapes::text,
            )
            .query("namespace", "Of this namespace only.", shapes::text)
            .query("all", "`true`: also those that the key may not call.", shapes::switch)
            .query(
                "limit",
                "Operations in a page; a page may end sooner, by its size.",
                shapes::limit,
            )
            .query("cursor", "`meta.next` of the page before.", schema_of::<OperationName>)
            .gives::<Vec<OperationInfo>>(200),
        at(Method::GET, "/v1/operations/{name}", get(operations::get))
            .says("One operation with its schemas.")
            .path("name", schema_of::<OperationName>)
            .needs(scope::OPERATIONS_READ)
            .gives::<OperationInfo>(200),
    ]
}

/// Events.
fn publishing() -> Vec<Endpoint<Api>> {
    vec![
        at(Method::GET, "/v1/events", get(events::stream))
            .says("Events of the named topics as server-sent events, from the moment of the answer.")
            .asks("events:subscribe:{type}")
            .repeated(
                "topic",
                "`type:id`, or `type:*` for all ids of a type; may be repeated.",
                topic::filter_schema,
            )
            .query(
                "lastEventId",
                "As the header `Last-Event-ID`, for a client that can set none.",
                shapes::text,
            )
            .streams(),
        at(Method::POST, "/v1/events", post(events::publish_to_topic))
            .says("Publishes an event to a topic that a path cannot name: `.` and `..` in a path mean another path.")
            .asks("events:publish:{type}")
            .required(
                "topic",
                "`type:id`, or a type alone for an empty id.",
                topic::topic_schema,
            )
            .reads_any("The payload; an empty body is an event without one.")
            .gives::<events::PublishedEvent>(202),
        at(Method::POST, "/v1/events/{type}", post(events::publish_without_id))
            .says("Publishes an event with an empty id.")
            .path("type", topic::type_schema)
            .asks("events:publish:{type}")
            .reads_any("The payload; an empty body is an event without one.")
            .gives::<events::PublishedEvent>(202),
        at(Method::POST, "/v1/events/{type}/{id}", post(events::publish))
            .says("Publishes an event.")
            .path("type", topic::type_schema)
            .path("id", topic::id_schema)
            .asks("events:publish:{type}")
            .reads_any("The payload; an empty body is an event without one.")
            .gives::<events::PublishedEvent>(202),
    ]
}

/// Who is there, what was called, and the documents.
fn lists() -> Vec<Endpoint<Api>> {
    vec![
        at(Method::GET, "/v1/spokes", get(spokes::list))
            .says("Lists spokes and their connected instances, by name: all of them, or pages where `limit` or `cursor` is given.")
            .needs(scope::SPOKES_READ)
            .query("limit", "Spokes in a page; a page may end sooner, by its size.", shapes::limit)
            .query("cursor", "`meta.next` of the page before.", schema_of::<SpokeName>)
            .gives::<Vec<SpokeInfo>>(200),
        at(Method::GET, "/v1/calls", get(calls::list))
            .says("Lists ended calls, the newest first; `meta.next` is the cursor of the next page.")
            .needs(scope::CALLS_READ)
            .query("operation", "Only calls of this operation.", schema_of::<OperationName>)
            .query("status", "Only calls that ended so.", shapes::ended)
            .query("caller", "Only calls of the key with this id.", shapes::line)
            .query("before", "Only calls that ended before this cursor.", shapes::cursor)
            .query(
                "after",
                "Only calls that ended after this cursor, in the order in which they were recorded; `before` as well: the newest first.",
                shapes::cursor,
            )
            .query("limit", "How many; 100 when absent.", shapes::limit)
            .gives::<Vec<CallRecord>>(200),
        at(Method::GET, "/v1/openapi.json", get(document::openapi))
            .says("This document.")
            .open()
            .plain(),
    ]
}

/// Orders to the pods.
fn orders() -> Vec<Endpoint<Api>> {
    vec![
        at(Method::PUT, "/v1/admin/hubs/{hub}/drain", put(hub::drain))
            .says("Tells a pod to give its connections away, for as long as this is repeated.")
            .path("hub", schema_of::<HubId>)
            .needs(scope::ADMIN)
            .reads::<DrainPut>()
            .gives::<PodReport>(200),
        at(Method::DELETE, "/v1/admin/hubs/{hub}/drain", delete(hub::undrain))
            .says("Tells a pod to keep its connections again.")
            .path("hub", schema_of::<HubId>)
            .needs(scope::ADMIN)
            .gives_nothing(),
        at(Method::POST, "/v1/admin/rebalance", post(hub::rebalance))
            .says("Tells the pods to even their connections out as far as they can, for ten minutes.")
            .needs(scope::ADMIN)
            .gives_nothing(),
    ]
}

fn administration() -> Vec<Endpoint<Api>> {
    vec![
        at(Method::GET, "/v1/admin/hub", get(hub::report))
            .says("This hub, the other pods, and the links to Redis and Postgres.")
            .needs(scope::ADMIN)
            .gives::<HubReport>(200),
        at(Method::GET, "/v1/admin/keys", get(keys::list))
            .says("Lists keys, without their secrets, the newest first.")
            .needs(scope::ADMIN)
            .query(
                "limit",
                "Keys in a page; a page may end sooner, by its size.",
                shapes::limit,
            )
            .query("cursor", "`meta.next` of the page before.", shapes::cursor)
            .gives::<Vec<KeyInfo>>(200),
        at(Method::POST, "/v1/admin/keys", post(keys::create))
            .says("Makes a key; the answer is the only one that shows it.")
            .needs(scope::ADMIN)
            .reads::<KeyCreate>()
            .gives::<KeyCreated>(201),
        at(Method::DELETE, "/v1/admin/keys/{id}", delete(keys::revoke))
            .says("Revokes a key and closes its WebSockets, on every hub. 409 for the last admin key.")
            .path("id", shapes::line)
            .needs(scope::ADMIN)
            .gives::<KeyInfo>(200),
        at(Method::GET, "/v1/admin/spokes/{name}", get(spokes::get))
            .says("One declared spoke, and what declares it.")
            .path("name", schema_of::<SpokeName>)
            .needs(scope::ADMIN)
            .gives::<spokes::Declared>(200),
        at(Method::PUT, "/v1/admin/spokes/{name}", put(spokes::put))
            .says("Declares a spoke; the same again changes nothing. 201 when it is new.")
            .path("name", schema_of::<SpokeName>)
            .needs(scope::ADMIN)
            .reads::<SpokePut>()
            .gives::<SpokeInfo>(200)
            .gives::<SpokeInfo>(201),
        at(Method::DELETE, "/v1/admin/spokes/{name}", delete(spokes::delete))
            .says("Removes a spoke, ends its keys and closes its WebSockets. 404 when there is none with that uid.")
            .path("name", schema_of::<SpokeName>)
            .needs(scope::ADMIN)
            .query("uid", "Only when the spoke has this uid.", shapes::line)
            .gives_nothing(),
        at(Method::POST, "/v1/admin/spokes/sweep", post(spokes::sweep))
            .says("Removes every declared spoke whose uid is not among those given.")
            .needs(scope::ADMIN)
            .reads::<spokes::Sweep>()
            .gives::<spokes::Swept>(200),
        at(Method::GET, "/v1/admin/spokes", get(spokes::list))
            .says("The same as `/v1/spokes`.")
            .needs(scope::SPOKES_READ)
            .query(
                "limit",
                "Spokes in a page; a page may end sooner, by its size.",
                shapes::limit,
            )
            .query("cursor", "`meta.next` of the page before.", schema_of::<SpokeName>)
            .gives::<Vec<SpokeInfo>>(200),
    ]
}

fn at(method: Method, path: &'static str, handler: MethodRouter<Api>) -> Endpoint<Api> {
    Endpoint::new(method, path, handler)
}
