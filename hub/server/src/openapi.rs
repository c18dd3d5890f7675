//! The OpenAPI 3.1 document, made of the routes and of the wire types' JSON Schemas.
//!
//! OpenAPI 3.1 takes JSON Schema 2020-12 as it is, which is what schemars writes: no second derive is needed.

use alkhub_protocol::Problem;
use alkhub_protocol::call::ResponseEnvelope;
use http::Method;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::app::VERSION;
use crate::endpoint::{Answer, Body, Endpoint, Parameter};
use crate::error::PROBLEM_JSON;
use crate::router;

/// The document.
pub(crate) fn document() -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in router::endpoints() {
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[endpoint.method.as_str().to_ascii_lowercase()] = operation(&endpoint, &mut generator);
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
                "description": "The request failed; `code` tells how, for programs.",
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

fn operation(endpoint: &Endpoint, generator: &mut SchemaGenerator) -> Value {
    let mut operation = json!({
        "operationId": operation_id(endpoint),
        "summary": endpoint.summary,
        "parameters": parameters(endpoint, generator),
        "responses": responses(endpoint, generator),
    });
    if let Some(scope) = endpoint.scope {
        operation["description"] = format!("Needs scope `{scope}`.").into();
    }
    if !endpoint.keyed {
        operation["security"] = json!([]);
    }
    if let Some(body) = &endpoint.body {
        operation["requestBody"] = request_body(*body, generator);
    }
    operation
}

/// Method and path in one word, for client generators: `post_v1_call_operation`.
fn operation_id(endpoint: &Endpoint) -> String {
    let path = endpoint.path.replace(['{', '}'], "").replace(['/', '.'], "_");
    format!("{}{path}", endpoint.method.as_str().to_ascii_lowercase())
}

fn parameters(endpoint: &Endpoint, generator: &mut SchemaGenerator) -> Vec<Value> {
    endpoint
        .parameters
        .iter()
        .map(|each| parameter(each, generator))
        .collect()
}

fn parameter(parameter: &Parameter, generator: &mut SchemaGenerator) -> Value {
    let schema = (parameter.shape)(generator);
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

fn request_body(body: Body, generator: &mut SchemaGenerator) -> Value {
    let (required, description, schema) = match body {
        Body::Typed(shape) => (true, "", shape(generator)),
        Body::Any(help) => (false, help, Schema::from(true)),
    };
    let mut body = json!({ "required": required, "content": { "application/json": { "schema": schema } } });
    if !description.is_empty() {
        body["description"] = description.into();
    }
    body
}

fn responses(endpoint: &Endpoint, generator: &mut SchemaGenerator) -> Value {
    let mut responses: Map<String, Value> = Map::new();
    for (status, answer) in &endpoint.answers {
        let response = responses
            .entry(status.to_string())
            .or_insert_with(|| json!({ "description": "", "headers": { "X-Request-Id": request_id() } }));
        response["description"] = describe(*answer).into();
        if let Some((media_type, schema)) = content(*answer, generator) {
            response["content"][media_type] = json!({ "schema": schema });
        }
    }
    for status in failures(endpoint) {
        responses.insert(status.to_string(), json!({ "$ref": "#/components/responses/Problem" }));
    }
    responses.insert(
        "default".to_owned(),
        json!({ "$ref": "#/components/responses/Problem" }),
    );
    responses.into()
}

fn describe(answer: Answer) -> &'static str {
    match answer {
        Answer::Data(_) | Answer::Output => "Done.",
        Answer::Stream => "The output, or a stream: `text/event-stream`.",
        Answer::Plain => "The document.",
        Answer::Upgrade => "The WebSocket is open.",
        Answer::Nothing => "Done; there is nothing to say.",
    }
}

fn content(answer: Answer, generator: &mut SchemaGenerator) -> Option<(&'static str, Value)> {
    const JSON: &str = "application/json";
    match answer {
        Answer::Data(shape) => Some((JSON, enveloped(&shape(generator)))),
        Answer::Output => Some((JSON, generator.subschema_for::<ResponseEnvelope>().to_value())),
        Answer::Stream => Some(("text/event-stream", json!({ "type": "string" }))),
        Answer::Plain => Some((JSON, json!({ "type": "object" }))),
        Answer::Upgrade | Answer::Nothing => None,
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

/// The failures that a route can expect, beside the default.
fn failures(endpoint: &Endpoint) -> Vec<u16> {
    // A frame that is not right (docs/HTTP.md), and what is over a limit.
    let mut failures = vec![400, 415, 417, 429];
    if endpoint.keyed {
        failures.extend([401, 403, 503]);
    }
    if endpoint.body.is_some() {
        failures.extend([408, 413]);
    }
    if endpoint.path.contains('{') && endpoint.method != Method::PUT {
        failures.push(404);
    }
    if endpoint
        .answers
        .iter()
        .any(|(_, answer)| matches!(answer, Answer::Output))
    {
        failures.extend([422, 502, 504]);
    }
    if endpoint.path.starts_with("/v1/admin/") && endpoint.method != Method::GET {
        failures.push(409);
    }
    if endpoint
        .answers
        .iter()
        .any(|(_, answer)| matches!(answer, Answer::Upgrade))
    {
        failures.extend([426, 501]);
    }
    failures
}

fn request_id() -> Value {
    json!({ "description": "The request's id, the client's own when it sent one.", "schema": { "type": "string" } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let document = document();
        let described: usize = document["paths"]
            .as_object()
            .expect("paths")
            .values()
            .map(|path| path.as_object().expect("methods").len())
            .sum();
        let endpoints = router::endpoints();

        for endpoint in &endpoints {
            let operation = &document["paths"][endpoint.path][endpoint.method.as_str().to_ascii_lowercase()];
            assert!(
                operation["summary"].as_str().is_some_and(|text| text.ends_with('.')),
                "{}",
                endpoint.path
            );
            assert!(!endpoint.answers.is_empty(), "{}", endpoint.path);
            let told = operation["parameters"].as_array().expect("a list");
            let told = told.iter().filter(|each| each["in"] == "path").count();
            assert_eq!(
                told,
                endpoint.path.matches('{').count(),
                "{}: each part of the path",
                endpoint.path
            );
        }
        assert_eq!(described, endpoints.len());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut references = Vec::new();
        collect(&document, &mut references);

        assert!(references.len() > 20);
        for reference in references {
            let pointer = reference.strip_prefix('#').expect("a reference inside the document");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }

    #[test]
    fn operation_ids_are_unique() {
        let mut ids: Vec<String> = router::endpoints().iter().map(operation_id).collect();
        let all = ids.len();
        ids.sort();
        ids.dedup();

        assert_eq!(ids.len(), all);
    }

    fn collect(value: &Value, references: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    references.push(reference.clone());
                }
                fields.values().for_each(|value| collect(value, references));
            }
            Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
            _ => {}
        }
    }
}
