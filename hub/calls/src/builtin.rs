//! The hub's own operations: `hub.list`, `hub.search`, `hub.schema` and `hub.call`.
//!
//! They are answered on the path that every call takes, so each surface has them. Those that describe operations need
//! `operations:read`, as over HTTP. `hub.call` is a call of another operation under the same request id; it needs the
//! scopes of that operation and no others.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use alkhub_protocol::frame::kind;
use alkhub_protocol::json::whole;
use alkhub_protocol::operation::OperationInfo;
use alkhub_protocol::{
    CallError, CallRequest, Code, OperationKind, OperationName, OperationSpec, PAGE_LIMIT, PAYLOAD_LIMIT_BYTES,
    RawJson, SpokeName, scope,
};
use alkhub_schema::Check;
use serde::{Deserialize, Deserializer};
use serde_json::json;

use crate::caller::Caller;
use crate::directory::Directory;
use crate::directory::list::{self, ListQuery};
use crate::directory::router;
use crate::leg::envelope;

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
    limit: Option<u32>,
}

#[derive(Deserialize)]
struct SchemaInput {
    operation: OperationName,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallInput {
    operation: OperationName,
    #[serde(default, deserialize_with = "present")]
    input: Option<RawJson>,
    #[serde(default, deserialize_with = "whole::optional")]
    timeout_ms: Option<u64>,
    #[serde(default)]
    target: Option<SpokeName>,
}

/// Keeps `null` apart from an absent field.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RawJson>, D::Error> {
    RawJson::deserialize(deserializer).map(Some)
}

static BUILTINS: LazyLock<Vec<Builtin>> = LazyLock::new(|| {
    let name = json!({ "type": "string", "minLength": 1, "maxLength": 128 });
    let all = json!({ "type": "boolean", "description": "Also those that the caller may not call." });
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": PAGE_LIMIT });
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

/// Answers calls of the hub's own operations.
#[derive(Debug)]
pub(crate) struct Builtins {
    directory: Arc<Directory>,
}

/// The result of calling one of these operations.
#[derive(Debug)]
pub(crate) enum BuiltinReply {
    /// The answer, `{data, meta}`.
    Output(RawJson),
    /// The call of another operation, to be made in its place.
    Call(Box<CallRequest>),
}

// === impl Builtins ===

impl Builtins {
    pub(crate) fn new(directory: Arc<Directory>) -> Self {
        Self { directory }
    }

    /// The call that a `hub.call` stands for; `None` for any other operation.
    pub(crate) fn inner(&self, request: &CallRequest) -> Option<Result<CallRequest, CallError>> {
        let is_it = |builtin: &&Builtin| builtin.kind == Kind::Call && builtin.name == request.operation;
        let builtin = BUILTINS.iter().find(is_it)?;
        Some(target(builtin, request))
    }

    /// Answers a call, or says which call it stands for.
    pub(crate) fn call(&self, caller: &Caller, request: &CallRequest) -> Result<BuiltinReply, CallError> {
        let found = BUILTINS.iter().find(|builtin| builtin.name == request.operation);
        let Some(builtin) = found else {
            return Err(not_called(&request.operation));
        };
        if builtin.kind == Kind::Call {
            let inner = target(builtin, request)?;
            return Ok(BuiltinReply::Call(Box::new(inner)));
        }
        let data = builtin.answer(&self.directory, caller, &request.input_or_null())?;
        Ok(BuiltinReply::Output(envelope::local(&request.operation, &data)))
    }
}

/// Everything about one operation, the hub's own included.
pub(crate) fn info(directory: &Directory, name: &OperationName) -> Option<OperationInfo> {
    if let Some(builtin) = BUILTINS.iter().find(|builtin| builtin.name == *name) {
        return Some(OperationInfo {
            operation: name.clone(),
            spec: builtin.spec.clone(),
            spokes: Vec::new(),
        });
    }
    directory.pool(name).and_then(|pool| list::info(&pool))
}

/// The answer to a name in the hub's namespace that is none of these operations.
fn not_called(name: &OperationName) -> CallError {
    if name.as_str() == kind::REGISTER {
        let message = "`hub.register` is for WebSocket connections: the calls come back over them";
        return CallError::new(Code::Unsupported, message);
    }
    if name.as_str() == kind::REGISTER_UPDATE_NAME {
        let message = "`hub.register.update` is for the WebSocket connection that has registered";
        return CallError::new(Code::Unsupported, message);
    }
    router::not_found(name)
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
        let has = match kind {
            Kind::Call => OperationKind::Mutation,
            Kind::List | Kind::Search | Kind::Schema => OperationKind::Query,
        };
        let spec = json!({
            "namespace": "hub", "name": name, "type": has,
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

    fn answer(&self, directory: &Directory, caller: &Caller, input: &RawJson) -> Result<RawJson, CallError> {
        caller
            .scopes
            .require(scope::OPERATIONS_READ)
            .map_err(|scope| CallError::missing_scope(&scope))?;
        let answer = match self.kind {
            Kind::List | Kind::Search => {
                let query = self.read::<Option<ListInput>>(input)?.unwrap_or_default().into_query();
                RawJson::from_value(&list::page(
                    &list::listed(directory, caller, &query),
                    &query,
                    list::summary,
                ))
            }
            Kind::Schema => {
                let name = self.read::<SchemaInput>(input)?.operation;
                let info = info(directory, &name).ok_or_else(|| router::not_found(&name))?;
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
        self.input.check(input).map_err(|violation| {
            CallError::new(Code::ValidationError, format!("input {violation}")).details(violation.details())
        })?;
        input
            .to()
            .map_err(|error| CallError::new(Code::ValidationError, format!("input: {error}")))
    }
}
