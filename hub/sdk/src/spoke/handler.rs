//! What can be a typed handler: functions of an input, with or without a [`Context`].

use std::future::Future;

use futures::{FutureExt as _, Stream, StreamExt as _};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Context, Failure};

/// An `async fn(Input) -> Result<Output, Error>`, or one that also takes a [`Context`].
pub trait Handler<M>: Send + Sync + 'static {
    /// Its input.
    type Input: DeserializeOwned + JsonSchema + Send;
    /// Its output.
    type Output: Serialize + JsonSchema + Send;

    /// Answers one call.
    fn run(&self, input: Self::Input, context: Context) -> impl Future<Output = Result<Self::Output, Failure>> + Send;
}

/// A `fn(Input) -> impl Stream<Item = Result<Output, Error>>`, or one that also takes a [`Context`].
pub trait StreamHandler<M>: Send + Sync + 'static {
    /// Its input.
    type Input: DeserializeOwned + JsonSchema + Send;
    /// The type of each item.
    type Output: Serialize + JsonSchema + Send;

    /// Begins one subscription.
    fn items(
        &self,
        input: Self::Input,
        context: Context,
    ) -> impl Stream<Item = Result<Self::Output, Failure>> + Send + 'static;
}

// === impl Handler, StreamHandler ===

impl<F, I, O, E, T> Handler<(I, O, E)> for F
where
    F: Fn(I) -> T + Send + Sync + 'static,
    I: DeserializeOwned + JsonSchema + Send,
    O: Serialize + JsonSchema + Send,
    E: Into<Failure>,
    T: Future<Output = Result<O, E>> + Send,
{
    type Input = I;
    type Output = O;

    fn run(&self, input: I, _: Context) -> impl Future<Output = Result<O, Failure>> + Send {
        self(input).map(|result| result.map_err(Into::into))
    }
}

impl<F, I, O, E, T> Handler<(I, Context, O, E)> for F
where
    F: Fn(I, Context) -> T + Send + Sync + 'static,
    I: DeserializeOwned + JsonSchema + Send,
    O: Serialize + JsonSchema + Send,
    E: Into<Failure>,
    T: Future<Output = Result<O, E>> + Send,
{
    type Input = I;
    type Output = O;

    fn run(&self, input: I, context: Context) -> impl Future<Output = Result<O, Failure>> + Send {
        self(input, context).map(|result| result.map_err(Into::into))
    }
}

impl<F, I, O, E, S> StreamHandler<(I, O, E)> for F
where
    F: Fn(I) -> S + Send + Sync + 'static,
    I: DeserializeOwned + JsonSchema + Send,
    O: Serialize + JsonSchema + Send,
    E: Into<Failure>,
    S: Stream<Item = Result<O, E>> + Send + 'static,
{
    type Input = I;
    type Output = O;

    fn items(&self, input: I, _: Context) -> impl Stream<Item = Result<O, Failure>> + Send + 'static {
        self(input).map(|item| item.map_err(Into::into))
    }
}

impl<F, I, O, E, S> StreamHandler<(I, Context, O, E)> for F
where
    F: Fn(I, Context) -> S + Send + Sync + 'static,
    I: DeserializeOwned + JsonSchema + Send,
    O: Serialize + JsonSchema + Send,
    E: Into<Failure>,
    S: Stream<Item = Result<O, E>> + Send + 'static,
{
    type Input = I;
    type Output = O;

    fn items(&self, input: I, context: Context) -> impl Stream<Item = Result<O, Failure>> + Send + 'static {
        self(input, context).map(|item| item.map_err(Into::into))
    }
}
