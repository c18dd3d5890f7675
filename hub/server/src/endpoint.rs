//! One route as the router serves it and as the OpenAPI document describes it.

use axum::routing::MethodRouter;
use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::app::App;

/// One route.
pub(crate) struct Endpoint {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) route: MethodRouter<App>,
    pub(crate) summary: &'static str,
    /// The scope that it needs; `None` where the key alone is enough.
    pub(crate) scope: Option<&'static str>,
    /// Whether a key is needed.
    pub(crate) keyed: bool,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) body: Option<Body>,
    pub(crate) answers: Vec<(u16, Answer)>,
}

/// A query parameter or a header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) place: &'static str,
    pub(crate) required: bool,
    pub(crate) repeated: bool,
    pub(crate) help: &'static str,
    pub(crate) shape: Shape,
}

/// Makes a type's schema.
pub(crate) type Shape = fn(&mut SchemaGenerator) -> Schema;

/// What a request carries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body {
    /// A type.
    Typed(Shape),
    /// Any JSON, or nothing.
    Any(&'static str),
}

/// What an answer carries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// `{data, meta}` with data of this type.
    Data(Shape),
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
pub(crate) fn shape<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

// === impl Endpoint ===

impl Endpoint {
    /// A route that needs a key and says nothing yet of what it reads and gives.
    pub(crate) fn new(method: Method, path: &'static str, route: MethodRouter<App>) -> Self {
        Self {
            method,
            path,
            route,
            summary: "",
            scope: None,
            keyed: true,
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
        }
    }

    pub(crate) fn says(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }

    pub(crate) fn needs(mut self, scope: &'static str) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Needs no key.
    pub(crate) fn open(mut self) -> Self {
        self.keyed = false;
        self
    }

    /// A part of the path; one that is not told is any text.
    pub(crate) fn path(self, name: &'static str, shape: Shape) -> Self {
        self.parameter(name, "path", "", shape)
    }

    pub(crate) fn query(self, name: &'static str, help: &'static str, shape: Shape) -> Self {
        self.parameter(name, "query", help, shape)
    }

    pub(crate) fn repeated(mut self, name: &'static str, help: &'static str, shape: Shape) -> Self {
        self = self.parameter(name, "query", help, shape);
        if let Some(last) = self.parameters.last_mut() {
            (last.required, last.repeated) = (true, true);
        }
        self
    }

    pub(crate) fn required(mut self, name: &'static str, help: &'static str, shape: Shape) -> Self {
        self = self.parameter(name, "query", help, shape);
        if let Some(last) = self.parameters.last_mut() {
            last.required = true;
        }
        self
    }

    pub(crate) fn header(self, name: &'static str, help: &'static str, shape: Shape) -> Self {
        self.parameter(name, "header", help, shape)
    }

    pub(crate) fn reads<T: JsonSchema>(mut self) -> Self {
        self.body = Some(Body::Typed(|generator| generator.subschema_for::<T>()));
        self
    }

    pub(crate) fn reads_any(mut self, help: &'static str) -> Self {
        self.body = Some(Body::Any(help));
        self
    }

    pub(crate) fn gives<T: JsonSchema>(self, status: u16) -> Self {
        self.answers(status, Answer::Data(|generator| generator.subschema_for::<T>()))
    }

    pub(crate) fn gives_output(self) -> Self {
        self.answers(200, Answer::Output)
    }

    pub(crate) fn gives_nothing(self) -> Self {
        self.answers(204, Answer::Nothing)
    }

    pub(crate) fn streams(self) -> Self {
        self.answers(200, Answer::Stream)
    }

    pub(crate) fn plain(self) -> Self {
        self.answers(200, Answer::Plain)
    }

    pub(crate) fn upgrades(self) -> Self {
        self.answers(101, Answer::Upgrade)
    }

    fn answers(mut self, status: u16, answer: Answer) -> Self {
        self.answers.push((status, answer));
        self
    }

    fn parameter(mut self, name: &'static str, place: &'static str, help: &'static str, shape: Shape) -> Self {
        self.parameters.push(Parameter {
            name,
            place,
            required: place == "path",
            repeated: false,
            help,
            shape,
        });
        self
    }
}
