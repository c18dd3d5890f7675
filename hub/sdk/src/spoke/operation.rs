//! An operation: its description and its handler.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use alkhub_protocol::id::InvalidId;
use alkhub_protocol::operation::{AccessControl, ErrorSpec, OperationKind, OperationSpec};
use alkhub_protocol::{Code, OperationName, PAYLOAD_LIMIT_BYTES, RawJson};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Context, Failure, Handler, StreamHandler};
use crate::Error;

/// What a raw handler answers with.
pub enum Answer {
    /// One value, the answer to a query or a mutation.
    Value(RawJson),
    /// The items of a subscription.
    Items(BoxStream<'static, Result<RawJson, Failure>>),
}

/// An operation to offer.
#[must_use]
pub struct Operation {
    name: Result<OperationName, InvalidId>,
    spec: OperationSpec,
    run: Run,
}

/// A handler with its types erased; its output is wrapped in `{data, meta}`.
#[derive(Clone)]
pub(super) struct Run {
    start: Arc<RunFn>,
    /// Whether it answers with a stream.
    is_stream: bool,
}

type RunFn = dyn Fn(RawJson, Context) -> BoxFuture<'static, Result<Outcome, Failure>> + Send + Sync;

/// An operation with its specification as it is sent.
pub(super) type NewOffer = (OperationName, RawJson, Run);

/// [`Answer`] with its values wrapped.
pub(super) enum Outcome {
    One(RawJson),
    Many(BoxStream<'static, Result<RawJson, Failure>>),
}

// === impl Operation ===

impl Operation {
    /// An operation that only reads: the hub may send a call again if it does not know what became of the first
    /// attempt.
    pub fn query<M, H: Handler<M>>(name: &str, handler: H) -> Self {
        Self::typed(name, OperationKind::Query, handler)
    }

    /// An operation with effects: a call is sent at most once.
    pub fn mutation<M, H: Handler<M>>(name: &str, handler: H) -> Self {
        Self::typed(name, OperationKind::Mutation, handler)
    }

    /// An operation that answers with a stream.
    pub fn subscription<M, H: StreamHandler<M>>(name: &str, handler: H) -> Self {
        let handler = Arc::new(handler);
        let run = move |input: RawJson, context: Context| {
            let handler = handler.clone();
            async move {
                let operation = context.operation.clone();
                let items = handler.items(decode(&input)?, context);
                let wrapped = items.map(move |item| item.and_then(|data| wrap(&data, &operation)));
                Ok(Outcome::Many(wrapped.boxed()))
            }
            .boxed()
        };
        Self::new(
            name,
            spec::<H::Input, H::Output>(OperationKind::Subscription),
            Arc::new(run),
        )
    }

    /// An operation with a specification of the caller's own, whose handler takes and returns JSON as it is.
    ///
    /// An [`Answer::Items`] answers a subscription, an [`Answer::Value`] anything else.
    pub fn raw<F, T>(spec: OperationSpec, handler: F) -> Self
    where
        F: Fn(RawJson, Context) -> T + Send + Sync + 'static,
        T: Future<Output = Result<Answer, Failure>> + Send + 'static,
    {
        let name = format!("{}.{}", spec.namespace, spec.name);
        let run = move |input: RawJson, context: Context| {
            let operation = context.operation.clone();
            let answer = handler(input, context);
            async move {
                Ok(match answer.await? {
                    Answer::Value(data) => Outcome::One(wrap(&data, &operation)?),
                    Answer::Items(items) => Outcome::Many(
                        items
                            .map(move |item| item.and_then(|data| wrap(&data, &operation)))
                            .boxed(),
                    ),
                })
            }
            .boxed()
        };
        Self::new(&name, spec, Arc::new(run))
    }

    fn typed<M, H: Handler<M>>(name: &str, kind: OperationKind, handler: H) -> Self {
        let handler = Arc::new(handler);
        let run = move |input: RawJson, context: Context| {
            let handler = handler.clone();
            async move {
                let operation = context.operation.clone();
                let data = handler.run(decode(&input)?, context).await?;
                Ok(Outcome::One(wrap(&data, &operation)?))
            }
            .boxed()
        };
        Self::new(name, spec::<H::Input, H::Output>(kind), Arc::new(run))
    }

    fn new(name: &str, mut spec: OperationSpec, start: Arc<RunFn>) -> Self {
        let is_stream = spec.kind == OperationKind::Subscription;
        let run = Run { start, is_stream };
        let name = name.parse::<OperationName>();
        if let Ok(name) = &name {
            (spec.namespace, spec.name) = (name.namespace().to_owned(), name.operation().to_owned());
        }
        Self { name, spec, run }
    }

    /// What it does, in a sentence; agents choose operations by it.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.spec.description = text.into();
        self
    }

    /// A short name for people.
    pub fn title(mut self, text: impl Into<String>) -> Self {
        self.spec.title = Some(text.into());
        self
    }

    /// Its semantic version; 1.0.0 unless set.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.spec.version = version.into();
        self
    }

    /// A word to find it by.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.spec.tags.push(tag.into());
        self
    }

    /// A scope that callers need besides `call:…`.
    pub fn required_scope(mut self, scope: impl Into<String>) -> Self {
        self.spec.access_control.required_scopes.push(scope.into());
        self
    }

    /// Declares that a call may be repeated without a second effect.
    pub fn idempotent(mut self) -> Self {
        self.spec.idempotent = true;
        self
    }

    /// Declares an error whose details are a `T`, and the HTTP status that callers see for it.
    pub fn error<T: JsonSchema>(
        mut self,
        code: impl Into<String>,
        description: &str,
        http_status: Option<u16>,
    ) -> Self {
        self.spec.error_schemas.push(ErrorSpec {
            code: code.into(),
            description: description.to_owned(),
            schema: schema::<T>(false),
            http_status,
        });
        self
    }

    /// As it is offered.
    pub(super) fn offer(self) -> Result<NewOffer, Error> {
        let spec = RawJson::from_value(&self.spec).map_err(Error::encode)?;
        Ok((self.name?, spec, self.run))
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("name", &self.name)
            .field("kind", &self.spec.kind)
            .finish_non_exhaustive()
    }
}

// === impl Run ===

impl Run {
    pub(super) fn start(&self, input: RawJson, context: Context) -> BoxFuture<'static, Result<Outcome, Failure>> {
        (self.start)(input, context)
    }

    pub(super) fn is_stream(&self) -> bool {
        self.is_stream
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Run")
    }
}

// === impl Answer ===

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => f.debug_tuple("Value").field(value).finish(),
            Self::Items(_) => f.write_str("Items"),
        }
    }
}

fn spec<I: JsonSchema, O: JsonSchema>(kind: OperationKind) -> OperationSpec {
    OperationSpec {
        name: String::new(),
        namespace: String::new(),
        version: "1.0.0".to_owned(),
        kind,
        title: None,
        description: String::new(),
        tags: Vec::new(),
        input_schema: schema::<I>(true),
        output_schema: schema::<O>(false),
        error_schemas: Vec::new(),
        access_control: AccessControl::default(),
        idempotent: false,
        meta: None,
    }
}

fn schema<T: JsonSchema>(input: bool) -> RawJson {
    let settings = SchemaSettings::draft2020_12();
    let settings = if input {
        settings.for_deserialize()
    } else {
        settings.for_serialize()
    };
    settings.into_generator().into_root_schema_for::<T>().to_value().into()
}

fn decode<I: DeserializeOwned>(input: &RawJson) -> Result<I, Failure> {
    input
        .to()
        .map_err(|e| Failure::new(Code::ValidationError.as_str(), format!("input does not fit: {e}")))
}

/// Puts a value into the origin's response envelope.
fn wrap<T: Serialize>(data: &T, operation: &OperationName) -> Result<RawJson, Failure> {
    #[derive(Serialize)]
    struct Envelope<'a, T> {
        data: &'a T,
        meta: Meta<'a>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Meta<'a> {
        source: &'static str,
        operation_id: &'a str,
        timestamp: u64,
    }
    let meta = Meta {
        source: "local",
        operation_id: operation.as_str(),
        timestamp: crate::client::now_ms(),
    };
    let failed = |e| {
        Failure::new(
            Code::ExecutionError.as_str(),
            format!("output cannot be written as JSON: {e}"),
        )
    };
    let wrapped = RawJson::from_value(&Envelope { data, meta }).map_err(failed)?;
    if wrapped.len() > PAYLOAD_LIMIT_BYTES {
        let text = format!(
            "output of {} bytes is larger than the limit of {PAYLOAD_LIMIT_BYTES} bytes",
            wrapped.len()
        );
        // It is the output that is too large, not the input.
        return Err(Failure::new(Code::ExecutionError.as_str(), text));
    }
    Ok(wrapped)
}
