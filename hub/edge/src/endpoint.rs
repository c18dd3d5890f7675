//! One route as the router serves it and as the OpenAPI document describes it.

use axum::routing::MethodRouter;
use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};

/// One route of a surface whose state is `S`.
#[derive(Debug)]
pub struct Endpoint<S> {
    /// How the document describes it.
    pub route: Route,
    /// What answers.
    pub handler: MethodRouter<S>,
}

/// A route as the OpenAPI document describes it.
#[derive(Debug)]
pub struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) summary: &'static str,
    /// The scope that it needs; `None` if the key alone is enough.
    pub(crate) scope: Option<RouteScope>,
    /// Whether a key is needed.
    pub(crate) keyed: bool,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) body: Option<RequestBody>,
    pub(crate) answers: Vec<(u16, Content)>,
}

/// The scope that a route needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RouteScope {
    /// This one: [`router::mount`](crate::router::mount) asks for it before the handler runs.
    Fixed(&'static str),
    /// One that depends on the request, as the document writes it: the handler, or what it calls, asks for it.
    OfRequest(&'static str),
}

/// A query parameter, a header, or a part of the path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) place: &'static str,
    pub(crate) required: bool,
    pub(crate) repeated: bool,
    pub(crate) help: &'static str,
    pub(crate) schema: SchemaFn,
}

/// Makes the schema of a type.
pub type SchemaFn = fn(&mut SchemaGenerator) -> Schema;

/// What a request carries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RequestBody {
    /// A type.
    Typed(SchemaFn),
    /// Any JSON, or nothing.
    Any(&'static str),
}

/// What an answer carries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    /// `{data, meta}` with data of this type.
    Data(SchemaFn),
    /// `{data, meta}` as the spoke gave it.
    Output,
    /// Server-sent events.
    Stream,
    /// A JSON document without an envelope.
    Plain,
    /// The upgrade.
    Upgrade,
    /// Nothing.
    Nothing,
}

/// The schema of a type.
pub fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

// === impl RouteScope ===

impl RouteScope {
    /// As the document names it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Fixed(scope) | Self::OfRequest(scope) => scope,
        }
    }
}

// === impl Endpoint ===

impl<S> Endpoint<S> {
    /// A route that needs a key; what it reads and returns is still to be described.
    pub fn new(method: Method, path: &'static str, handler: MethodRouter<S>) -> Self {
        Self {
            route: Route {
                method,
                path,
                summary: "",
                scope: None,
                keyed: true,
                parameters: Vec::new(),
                body: None,
                answers: Vec::new(),
            },
            handler,
        }
    }

    /// What it does, in a sentence.
    pub fn says(mut self, summary: &'static str) -> Self {
        self.route.summary = summary;
        self
    }

    /// Its handler runs only for a key with this scope; for any other key the body is not even read.
    pub fn needs(mut self, scope: &'static str) -> Self {
        self.route.scope = Some(RouteScope::Fixed(scope));
        self
    }

    /// Its handler asks for a scope that depends on the request; the document shows it as this pattern.
    pub fn asks(mut self, pattern: &'static str) -> Self {
        self.route.scope = Some(RouteScope::OfRequest(pattern));
        self
    }

    /// It needs no key.
    pub fn open(mut self) -> Self {
        self.route.keyed = false;
        self
    }

    /// A part of the path.
    pub fn path(self, name: &'static str, schema: SchemaFn) -> Self {
        self.parameter(name, "path", "", schema)
    }

    /// A query parameter that may be there once.
    pub fn query(self, name: &'static str, help: &'static str, schema: SchemaFn) -> Self {
        self.parameter(name, "query", help, schema)
    }

    /// A query parameter that must be there and may be repeated.
    pub fn repeated(mut self, name: &'static str, help: &'static str, schema: SchemaFn) -> Self {
        self = self.parameter(name, "query", help, schema);
        if let Some(last) = self.route.parameters.last_mut() {
            (last.required, last.repeated) = (true, true);
        }
        self
    }

    /// A query parameter that must be there.
    pub fn required(mut self, name: &'static str, help: &'static str, schema: SchemaFn) -> Self {
        self = self.parameter(name, "query", help, schema);
        if let Some(last) = self.route.parameters.last_mut() {
            last.required = true;
        }
        self
    }

    /// A header that it reads.
    pub fn header(self, name: &'static str, help: &'static str, schema: SchemaFn) -> Self {
        self.parameter(name, "header", help, schema)
    }

    /// It reads a JSON body of this type.
    pub fn reads<T: JsonSchema>(mut self) -> Self {
        self.route.body = Some(RequestBody::Typed(|generator| generator.subschema_for::<T>()));
        self
    }

    /// It reads any JSON, or nothing.
    pub fn reads_any(mut self, help: &'static str) -> Self {
        self.route.body = Some(RequestBody::Any(help));
        self
    }

    /// It answers `{data, meta}` with data of this type.
    pub fn gives<T: JsonSchema>(self, status: u16) -> Self {
        self.answers(status, Content::Data(|generator| generator.subschema_for::<T>()))
    }

    /// It answers `{data, meta}` as the spoke gave it.
    pub fn gives_output(self) -> Self {
        self.answers(200, Content::Output)
    }

    /// It answers without a body.
    pub fn gives_nothing(self) -> Self {
        self.answers(204, Content::Nothing)
    }

    /// It answers with server-sent events.
    pub fn streams(self) -> Self {
        self.answers(200, Content::Stream)
    }

    /// It answers with a JSON document without an envelope.
    pub fn plain(self) -> Self {
        self.answers(200, Content::Plain)
    }

    /// It answers with an upgrade.
    pub fn upgrades(self) -> Self {
        self.answers(101, Content::Upgrade)
    }

    fn answers(mut self, status: u16, answer: Content) -> Self {
        self.route.answers.push((status, answer));
        self
    }

    fn parameter(mut self, name: &'static str, place: &'static str, help: &'static str, schema: SchemaFn) -> Self {
        self.route.parameters.push(Parameter {
            name,
            place,
            required: place == "path",
            repeated: false,
            help,
            schema,
        });
        self
    }
}
