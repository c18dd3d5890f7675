//! The items of a subscription.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use alkhub_protocol::{OperationName, RawJson};
use futures::Stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Client;
use super::link::Ticket;
use crate::Error;
use crate::queue::{Popped, Receiver};

/// The values that a subscription yields; it ends when the spoke ends it, or after an error.
/// Up to 1,024 unread items and 4 MiB are kept; beyond that the subscription ends with [`Error::Lagged`]. Dropping the
/// stream aborts the subscription at the spoke.
#[must_use = "a stream does nothing unless it is read"]
pub struct Items<O> {
    operation: OperationName,
    queue: Receiver<Result<RawJson, Error>>,
    ticket: Ticket,
    _client: Client,
    output: PhantomData<fn() -> O>,
}

// === impl Items ===

impl<O> Items<O> {
    pub(super) fn new(
        operation: OperationName,
        queue: Receiver<Result<RawJson, Error>>,
        ticket: Ticket,
        client: Client,
    ) -> Self {
        Self {
            operation,
            queue,
            ticket,
            _client: client,
            output: PhantomData,
        }
    }
}

impl<O: DeserializeOwned> Stream for Items<O> {
    type Item = Result<O, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        Poll::Ready(match std::task::ready!(this.queue.poll_next(context)) {
            Popped::Item(Ok(output)) => Some(read(&output, &this.operation)),
            Popped::Item(Err(error)) => Some(Err(error)),
            Popped::Lost(_) | Popped::End => None,
        })
    }
}

impl<O> fmt::Debug for Items<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items")
            .field("operation", &self.operation)
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

fn read<O: DeserializeOwned>(output: &RawJson, operation: &OperationName) -> Result<O, Error> {
    let data = data(output, operation)?;
    data.to()
        .map_err(|e| Error::decode(format!("an item of `{operation}`"), e))
}

/// The `data` of a response envelope.
pub(super) fn data(output: &RawJson, operation: &OperationName) -> Result<RawJson, Error> {
    #[derive(Deserialize)]
    struct Envelope {
        /// Absent if the operation has no output.
        #[serde(default = "RawJson::null")]
        data: RawJson,
    }
    let envelope: Envelope = output
        .to()
        .map_err(|e| Error::decode(format!("the answer to `{operation}`"), e))?;
    Ok(envelope.data)
}
