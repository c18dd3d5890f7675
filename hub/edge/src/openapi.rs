//! The OpenAPI 3.1 document, made from the routes and the JSON Schemas of the wire types.
//!
//! OpenAPI 3.1 accepts JSON Schema 2020-12 as it is, which is what schemars writes, so no second derive is needed.

use alkhub_protocol::Problem;
use alkhub_protocol::call::ResponseEnvelope;
use http::Method;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::VERSION;
use crate::endpoint::{Content, Parameter, RequestBody, Route};
use crate::error::PROBLEM_JSON;

/// The document for these routes.
pub fn document<'a>(routes: impl IntoIterator<Item = &'a Route>) -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route, &mut generator);
    }
    let problem = generator.subschema_for::<Problem>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "alkhub",
            "version": VERSION,
            "description": DESCRIPTION,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "key": [] }],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "responses": { "Problem": {
                "description": "The request failed; `code` names the failure, for programs.",
                "headers": { "X-Request-Id": request_id() },
                "content": { PROBLEM_JSON: { "schema": problem } },
            }},
            "securitySchemes": { "key": {
                "type": "http",
                "scheme": "bearer",
                "description": "A key, `alk_…`. WebSockets may carry it as subprotocol `alk.bearer.<key>`, and every \
                    request as `?access_token=<key>`.",
            }},
        },
    })
}

const DESCRIPTION: &str = "Calls, events and spokes of a hub. JSON answers are envelopes `{data, meta}`; errors are \
    problem documents (RFC 9457) with `code`, `retryable` and `delivered`. Every answer has `X-Request-Id`.";

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "parameters": parameters(route, generator),
        "responses": responses(route, generator),
    });
    if let Some(scope) = route.scope {
        operation["description"] = format!("Needs scope `{}`.", scope.text()).into();
    }
    if !route.keyed {
        operation["security"] = json!([]);
    }
    if let Some(body) = &route.body {
        operation["requestBody"] = request_body(*body, generator);
    }
    operation
}

/// Method and path in one word, for client generators: `post_v1_call_operation`.
fn operation_id(route: &Route) -> String {
    let path = route.path.replace(['{', '}'], "").replace(['/', '.'], "_");
    format!("{}{path}", route.method.as_str().to_ascii_lowercase())
}

fn parameters(route: &Route, generator: &mut SchemaGenerator) -> Vec<Value> {
    route.parameters.iter().map(|each| parameter(each, generator)).collect()
}

fn parameter(parameter: &Parameter, generator: &mut SchemaGenerator) -> Value {
    let schema = (parameter.schema)(generator);
    let schema = if parameter.repeated {
        json!({ "type": "array", "items": schema, "minItems": 1, "maxItems": 1_000 })
    } else {
        schema.to_value()
    };
    let mut described = json!({
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required,
        "schema": schema,
    });
    if !parameter.help.is_empty() {
        described["description"] = parameter.help.into();
    }
    described
}

fn request_body(body: RequestBody, generator: &mut SchemaGenerator) -> Value {
    let (required, description, schema) = match body {
        RequestBody::Typed(schema) => (true, "", schema(generator)),
        RequestBody::Any(help) => (false, help, Schema::from(true)),
    };
    let mut body = json!({ "required": required, "content": { "application/json": { "schema": schema } } });
    if !description.is_empty() {
        body["description"] = description.into();
    }
    body
}

fn responses(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut responses: Map<String, Value> = Map::new();
    for (status, answer) in &route.answers {
        let response = responses
            .entry(status.to_string())
            .or_insert_with(|| json!({ "description": "", "headers": { "X-Request-Id": request_id() } }));
        response["description"] = describe(*answer).into();
        if let Some((media_type, schema)) = content(*answer, generator) {
            response["content"][media_type] = json!({ "schema": schema });
        }
    }
    for status in failures(route) {
        responses.insert(status.to_string(), json!({ "$ref": "#/components/responses/Problem" }));
    }
    responses.insert(
        "default".to_owned(),
        json!({ "$ref": "#/components/responses/Problem" }),
    );
    responses.into()
}

fn describe(answer: Content) -> &'static str {
    match answer {
        Content::Data(_) | Content::Output => "Done.",
        Content::Stream => "The output, or a stream: `text/event-stream`.",
        Content::Plain => "The document.",
        Content::Upgrade => "The WebSocket is open.",
        Content::Nothing => "Done; there is nothing to say.",
    }
}

fn content(answer: Content, generator: &mut SchemaGenerator) -> Option<(&'static str, Value)> {
    const JSON: &str = "application/json";
    match answer {
        Content::Data(schema) => Some((JSON, enveloped(&schema(generator)))),
        Content::Output => Some((JSON, generator.subschema_for::<ResponseEnvelope>().to_value())),
        Content::Stream => Some(("text/event-stream", json!({ "type": "string" }))),
        Content::Plain => Some((JSON, json!({ "type": "object" }))),
        Content::Upgrade | Content::Nothing => None,
    }
}

fn enveloped(data: &Schema) -> Value {
    json!({
        "type": "object",
        "required": ["data", "meta"],
        "properties": {
            "data": data,
            "meta": {
                "type": "object",
                "required": ["source", "timestamp"],
                "properties": {
                    "source": { "const": "local" },
                    "timestamp": { "type": "integer", "description": "Milliseconds since the epoch." },
                    "next": { "type": "string", "description": "Of a list: the cursor of the next page." },
                },
            },
        },
    })
}

/// The failures to expect from a route, besides the default.
fn failures(route: &Route) -> Vec<u16> {
    // Invalid frames (docs/HTTP.md), and exceeded limits.
    let mut failures = vec![400, 415, 417, 429];
    if route.keyed {
        failures.extend([401, 403, 503]);
    }
    if route.body.is_some() {
        failures.extend([408, 413]);
    }
    if route.path.contains('{') && route.method != Method::PUT {
        failures.push(404);
    }
    if route
        .answers
        .iter()
        .any(|(_, answer)| matches!(answer, Content::Output))
    {
        failures.extend([422, 502, 504]);
    }
    if route.path.starts_with("/v1/admin/") && route.method != Method::GET {
        failures.push(409);
    }
    if route
        .answers
        .iter()
        .any(|(_, answer)| matches!(answer, Content::Upgrade))
    {
        failures.extend([426, 501]);
    }
    failures
}

fn request_id() -> Value {
    json!({ "description": "The request's id, the client's own when it sent one.", "schema": { "type": "string" } })
}
