//! The hub's own operations: `hub.list`, `hub.search`, `hub.schema` and `hub.call`.
//!
//! They are answered where every call passes, so that each surface has them. What tells of operations needs
//! `operations:read`, as over HTTP. `hub.call` is the call of another operation under the same request id; it needs the
//! scopes of that one and no other.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use alkhub_protocol::operation::OperationInfo;
use alkhub_protocol::{
    CallError, CallRequest, CallStatus, Code, OperationName, OperationSpec, RawJson, SpokeName, scope,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Caller;
use crate::call::Clock;
use crate::calls::Ticket;
use crate::core::Core;
use crate::directory::Pool;
use crate::envelope;
use crate::records::Ended;
use crate::router;
use crate::schema::Check;
use crate::sink::{End, Sink};

/// Operations in one answer, at most; `total` says how many there are.
const LIST_LIMIT: usize = 1_000;

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

#[derive(Deserialize)]
struct ListInput {
    #[serde(default)]
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct SearchInput {
    query: String,
}

#[derive(Deserialize)]
struct SchemaInput {
    operation: OperationName,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallInput {
    operation: OperationName,
    #[serde(default = "RawJson::null")]
    input: RawJson,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    target: Option<SpokeName>,
}

/// An operation in a list; `hub.schema` has the rest.
#[derive(Serialize)]
struct Summary<'a> {
    operation: &'a OperationName,
    #[serde(rename = "type")]
    kind: alkhub_protocol::OperationKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    description: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    tags: &'a [String],
    spokes: Vec<String>,
}

static BUILTINS: LazyLock<Vec<Builtin>> = LazyLock::new(|| {
    let name = json!({ "type": "string", "minLength": 1, "maxLength": 128 });
    vec![
        Builtin::new(
            Kind::List,
            "list",
            "Lists the operations that spokes offer now, all or those of one namespace.",
            &json!({ "type": ["object", "null"], "properties": { "namespace": name } }),
        ),
        Builtin::new(
            Kind::Search,
            "search",
            "Finds operations whose name, title, description or tags have every word of the query.",
            &json!({ "type": "object", "properties": { "query": { "type": "string", "maxLength": 1000 } }, "required": ["query"] }),
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
        Some(builtin) => builtin.answer(core, caller, &request.input),
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
    let input: CallInput = builtin.read(&request.input)?;
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
            Kind::List => {
                let input: Option<ListInput> = self.read(input)?;
                let namespace = input.and_then(|input| input.namespace);
                summaries(core, |pool| {
                    namespace
                        .as_deref()
                        .is_none_or(|wanted| pool.name.namespace() == wanted)
                })
            }
            Kind::Search => {
                let words = words(&self.read::<SearchInput>(input)?.query);
                summaries(core, |pool| matches(pool, &words))
            }
            Kind::Schema => {
                let name = self.read::<SchemaInput>(input)?.operation;
                let info = core.operation_info(&name).ok_or_else(|| router::not_found(&name))?;
                RawJson::from_value(&info)
            }
            Kind::Call => unreachable!("`hub.call` is dispatched"),
        };
        answer.map_err(|error| CallError::new(Code::Internal, format!("the answer cannot be written: {error}")))
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
        self.directory.pool(name).and_then(|pool| info(&pool))
    }

    /// The operations that spokes offer now and that fit the words.
    pub(crate) fn operation_infos(&self, search: Option<&str>) -> Vec<OperationInfo> {
        let words = words(search.unwrap_or_default());
        let pools = self.directory.pools();
        pools
            .iter()
            .filter(|pool| matches(pool, &words))
            .filter_map(|pool| info(pool))
            .collect()
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
            output_bytes: output_bytes as u64,
        });
    }
}

fn info(pool: &Pool) -> Option<OperationInfo> {
    Some(OperationInfo {
        operation: pool.name.clone(),
        spec: pool.operation.as_ref()?.spec.clone(),
        spokes: spokes(pool),
    })
}

/// `{operations, total}`.
fn summaries(core: &Core, wanted: impl Fn(&Pool) -> bool) -> Result<RawJson, serde_json::Error> {
    #[derive(Serialize)]
    struct List<'a> {
        operations: Vec<Summary<'a>>,
        total: usize,
    }
    let mut pools = core.directory.pools();
    pools.retain(|pool| wanted(pool));
    let operations = pools.iter().take(LIST_LIMIT).filter_map(|pool| {
        let spec = &pool.operation.as_ref()?.spec;
        Some(Summary {
            operation: &pool.name,
            kind: spec.kind,
            title: spec.title.as_deref(),
            description: &spec.description,
            tags: &spec.tags,
            spokes: spokes(pool),
        })
    });
    RawJson::from_value(&List {
        operations: operations.collect(),
        total: pools.len(),
    })
}

/// The names of the spokes in a pool, each once.
fn spokes(pool: &Pool) -> Vec<String> {
    let mut spokes: Vec<String> = pool.all().map(|instance| instance.entry.spoke.to_string()).collect();
    spokes.sort_unstable();
    spokes.dedup();
    spokes
}

fn words(query: &str) -> Vec<String> {
    query.split_whitespace().map(str::to_lowercase).collect()
}

/// Whether every word is in the name, the title, the description or a tag; case does not count.
fn matches(pool: &Pool, words: &[String]) -> bool {
    let Some(spec) = pool.operation.as_ref().map(|operation| &operation.spec) else {
        return words.is_empty();
    };
    if words.is_empty() {
        return true;
    }
    let title = spec.title.as_deref().unwrap_or_default();
    let text = [pool.name.as_str(), title, &spec.description, &spec.tags.join(" ")]
        .join(" ")
        .to_lowercase();
    words.iter().all(|word| text.contains(word.as_str()))
}
