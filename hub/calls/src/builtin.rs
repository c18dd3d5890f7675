//! The hub's own operations: `hub.list`, `hub.search`, `hub.schema` and `hub.call`.
//!
//! They are answered where every call passes, so that each surface has them. What tells of operations needs
//! `operations:read`, as over HTTP. `hub.call` is the call of another operation under the same request id; it needs the
//! scopes of that one and no other.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use alkhub_protocol::json::whole;
use alkhub_protocol::operation::OperationInfo;
use alkhub_protocol::{
    CallError, CallRequest, CallStatus, Code, OperationName, OperationSpec, PAYLOAD_LIMIT_BYTES, RawJson, SpokeName,
    scope,
};
use serde::{Deserialize, Deserializer};
use serde_json::json;

use crate::Caller;
use crate::call::Clock;
use crate::calls::Ticket;
use crate::core::Core;
use crate::envelope;
use crate::list::{self, ListQuery, OperationPage};
use crate::records::Ended;
use crate::router;
use crate::schema::Check;
use crate::sink::{End, Sink};

/// One of the hub's own operations.
struct Builtin {
    kind: Kind,
    name: OperationName,
    spec: OperationSpec,
    input: Check,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    List,
    Search,
    Schema,
    Call,
}

/// The input of `hub.list`, and that of `hub.search` with its `query`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ListInput {
    namespace: Option<String>,
    query: String,
    all: bool,
    cursor: Option<OperationName>,
    #[serde(deserialize_with = "whole::optional_small")]
    limit: Option<usize>,
}

#[derive(Deserialize)]
struct SchemaInput {
    operation: OperationName,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallInput {
    operation: OperationName,
    #[serde(default, deserialize_with = "given")]
    input: Option<RawJson>,
    #[serde(default, deserialize_with = "whole::optional")]
    timeout_ms: Option<u64>,
    #[serde(default)]
    target: Option<SpokeName>,
}

/// Keeps `null` apart from an absent field.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RawJson>, D::Error> {
    RawJson::deserialize(deserializer).map(Some)
}

static BUILTINS: LazyLock<Vec<Builtin>> = LazyLock::new(|| {
    let name = json!({ "type": "string", "minLength": 1, "maxLength": 128 });
    let all = json!({ "type": "boolean", "description": "Also those that the caller may not call." });
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": list::PAGE_LIMIT });
    vec![
        Builtin::new(
            Kind::List,
            "list",
            "Lists the operations that spokes offer now and that the caller may call, page by page.",
            &json!({
                "type": ["object", "null"],
                "properties": { "namespace": name, "all": all, "cursor": name, "limit": limit }
            }),
        ),
        Builtin::new(
            Kind::Search,
            "search",
            "Finds operations whose name, title, description or tags have every word of the query.",
            &json!({
                "type": "object",
                "properties": {
                    "query": { "type": "string", "maxLength": 1000 },
                    "namespace": name, "all": all, "cursor": name, "limit": limit
                },
                "required": ["query"]
            }),
        ),
        Builtin::new(
            Kind::Schema,
            "schema",
            "Tells everything about one operation: schemas of input and output, errors, scopes.",
            &json!({ "type": "object", "properties": { "operation": name }, "required": ["operation"] }),
        ),
        Builtin::new(
            Kind::Call,
            "call",
            "Calls an operation by its name; the answer is the operation's own.",
            &json!({
                "type": "object",
                "properties": {
                    "operation": name,
                    "input": true,
                    "timeoutMs": { "type": "integer", "minimum": 0 },
                    "target": { "type": "string", "maxLength": 63 }
                },
                "required": ["operation"]
            }),
        ),
    ]
});

/// Answers a call of one of the hub's own operations.
pub(crate) fn dispatch(
    core: &Arc<Core>,
    caller: &Arc<Caller>,
    request: &CallRequest,
    sink: Sink,
) -> Result<Ticket, CallError> {
    let clock = Clock::start();
    let found = BUILTINS.iter().find(|builtin| builtin.name == request.operation);
    let outcome = match found {
        None if request.operation.as_str() == "hub.register" => Err(CallError::new(
            Code::Unsupported,
            "`hub.register` is for WebSocket connections: the calls come back over them",
        )),
        None => Err(router::not_found(&request.operation)),
        Some(builtin) if builtin.kind == Kind::Call => match target(builtin, request) {
            Ok(inner) => return core.dispatch(caller, inner, sink),
            Err(error) => Err(error),
        },
        Some(builtin) => builtin.answer(core, caller, &request.input_or_null()),
    };
    let data = outcome.inspect_err(|error| core.refused(caller, request, &clock, error))?;
    let output = envelope::local(&request.operation, &data);
    core.answered_here(caller, request, &clock, output.len());
    let mut sink = sink;
    sink.end(&request.request_id, End::Output(output));
    Ok(Ticket::new(core, 0))
}

/// The call that `hub.call` stands for.
fn target(builtin: &Builtin, request: &CallRequest) -> Result<CallRequest, CallError> {
    let input: CallInput = builtin.read(&request.input_or_null())?;
    if input.operation.is_reserved() {
        return Err(CallError::new(
            Code::BadRequest,
            "`hub.call` calls operations of spokes only",
        ));
    }
    Ok(CallRequest {
        operation: input.operation,
        input: input.input,
        timeout: input.timeout_ms.map(Duration::from_millis).or(request.timeout),
        target: input.target.or_else(|| request.target.clone()),
        ..request.clone()
    })
}

// === impl ListInput ===

impl ListInput {
    fn into_query(self) -> ListQuery {
        ListQuery {
            search: self.query,
            namespace: self.namespace,
            all: self.all,
            cursor: self.cursor,
            limit: self.limit,
        }
    }
}

// === impl Builtin ===

impl Builtin {
    fn new(kind: Kind, name: &str, description: &str, input_schema: &serde_json::Value) -> Self {
        let spec = json!({
            "namespace": "hub", "name": name, "type": if kind == Kind::Call { "mutation" } else { "query" },
            "description": description, "inputSchema": input_schema, "outputSchema": true,
        });
        let spec: OperationSpec = serde_json::from_value(spec).expect("the hub's own specification is valid");
        Self {
            kind,
            name: spec.operation().expect("the hub's own name is valid"),
            input: Check::compile(&spec.input_schema).expect("the hub's own schema is valid"),
            spec,
        }
    }

    fn answer(&self, core: &Core, caller: &Caller, input: &RawJson) -> Result<RawJson, CallError> {
        caller
            .scopes
            .require(scope::OPERATIONS_READ)
            .map_err(|scope| router::denied(&scope))?;
        let answer = match self.kind {
            Kind::List | Kind::Search => {
                let query = self.read::<Option<ListInput>>(input)?.unwrap_or_default().into_query();
                RawJson::from_value(&list::page(&core.listed(caller, &query), &query, list::summary))
            }
            Kind::Schema => {
                let name = self.read::<SchemaInput>(input)?.operation;
                let info = core.operation_info(&name).ok_or_else(|| router::not_found(&name))?;
                RawJson::from_value(&info)
            }
            Kind::Call => unreachable!("`hub.call` is dispatched"),
        };
        let answer =
            answer.map_err(|error| CallError::new(Code::Internal, format!("the answer cannot be written: {error}")))?;
        if answer.len() > PAYLOAD_LIMIT_BYTES {
            let message = format!("the answer is larger than {PAYLOAD_LIMIT_BYTES} bytes: ask for it over HTTP");
            return Err(CallError::new(Code::PayloadTooLarge, message));
        }
        Ok(answer)
    }

    /// Reads an input after its schema has been checked.
    fn read<T: serde::de::DeserializeOwned>(&self, input: &RawJson) -> Result<T, CallError> {
        self.input.check(input.as_bytes()).map_err(|violation| {
            CallError::new(Code::ValidationError, format!("input {violation}")).details(violation.details())
        })?;
        input
            .to()
            .map_err(|error| CallError::new(Code::ValidationError, format!("input: {error}")))
    }
}

impl Core {
    /// Everything about one operation, the hub's own included.
    pub(crate) fn operation_info(&self, name: &OperationName) -> Option<OperationInfo> {
        if let Some(builtin) = BUILTINS.iter().find(|builtin| builtin.name == *name) {
            return Some(OperationInfo {
                operation: name.clone(),
                spec: builtin.spec.clone(),
                spokes: Vec::new(),
            });
        }
        self.directory.pool(name).and_then(|pool| list::info(&pool))
    }

    /// A page of the operations that spokes offer now.
    pub(crate) fn operation_infos(&self, caller: &Caller, query: &ListQuery) -> OperationPage<OperationInfo> {
        list::page(&self.listed(caller, query), query, list::info)
    }

    /// Counts and records a call that the hub itself has answered.
    fn answered_here(&self, caller: &Caller, request: &CallRequest, clock: &Clock, output_bytes: usize) {
        let duration = clock.started.elapsed();
        let series = self.metrics.series(&request.operation);
        self.metrics.ended(&series, None, duration.as_secs_f64());
        self.records.add(Ended {
            request,
            caller,
            hub: &self.hub,
            spoke: None,
            status: CallStatus::Completed,
            code: None,
            started_at: clock.started_at,
            duration,
            input_bytes: request.input_or_null().len(),
            output_bytes: output_bytes as u64,
        });
    }
}
