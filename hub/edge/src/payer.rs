//! Whom a request is charged to, and the charge for its answer while that is kept until it is written.
//!
//! Invariants
//! - An answer is charged from the moment it exists until its last byte is written, or nobody wants it any more: the
//!   charge is attached to its bytes, wherever a connection keeps them.
//! - A key that is refused for its budget still gets an answer: small ones are always given.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use alkhub_budget::{Budget, Exhausted, Held, Kept};
use alkhub_protocol::{CallError, Code, Delivered};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{Extensions, Method};
use hyper::body::{Body as _, Frame, SizeHint};

use crate::error::ApiError;

/// An answer of up to this many bytes is given even if the budget is full.
const SMALL: usize = 1024;

/// The budget of a request's key, once the key is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Payer(Arc<OnceLock<Budget>>);

/// Bytes with their charge.
struct Charged {
    bytes: Bytes,
    _held: Held,
}

/// An answer's body, whose bytes carry its charge.
struct ChargedBody {
    body: Body,
    held: Option<Held>,
}

// === impl Payer ===

impl Payer {
    /// The payer of a request, of which nothing is known yet.
    pub(crate) fn of(request: &mut Request) -> Self {
        let payer = Self::default();
        request.extensions_mut().insert(payer.clone());
        payer
    }

    /// Notes that the request belongs to the key with this budget.
    pub(crate) fn set(extensions: &Extensions, budget: Budget) {
        if let Some(payer) = extensions.get::<Self>() {
            payer.0.get_or_init(|| budget);
        }
    }

    /// The budget of a request's key; `None` before the key is known.
    pub(crate) fn budget(extensions: &Extensions) -> Option<Budget> {
        extensions.get::<Self>()?.0.get().cloned()
    }

    /// Charges an answer that exists as a whole; the parts of a stream are charged where they are made.
    ///
    /// # Errors
    /// The budget is full. What was asked for has been done all the same.
    pub(crate) fn charge(&self, response: Response, method: &Method) -> Result<Response, ApiError> {
        let Some(budget) = self.0.get() else {
            return Ok(response);
        };
        let size = response.body().size_hint().exact();
        let size = size.map_or(0, |size| usize::try_from(size).unwrap_or(usize::MAX));
        if size == 0 {
            return Ok(response);
        }
        match take(budget, size) {
            Ok(held) => Ok(response.map(|body| Body::new(ChargedBody { body, held }))),
            Err(full) => Err(refusal(full, method).into()),
        }
    }
}

/// Charges a part of an answer.
///
/// # Errors
/// The budget is full.
pub fn charged(budget: &Budget, bytes: Bytes) -> Result<Bytes, Exhausted> {
    Ok(match take(budget, bytes.len())? {
        Some(held) => carried(bytes, held),
        None => bytes,
    })
}

/// `None` for what is too small to be refused.
fn take(budget: &Budget, size: usize) -> Result<Option<Held>, Exhausted> {
    match budget.take(Kept::Answers, size) {
        Ok(held) => Ok(Some(held)),
        Err(_) if size <= SMALL => Ok(None),
        Err(full) => Err(full),
    }
}

fn carried(bytes: Bytes, held: Held) -> Bytes {
    Bytes::from_owner(Charged { bytes, _held: held })
}

fn refusal(full: Exhausted, method: &Method) -> CallError {
    if method.is_safe() {
        return full.into();
    }
    // Sending the request again would carry it out again.
    let message = format!("the request was carried out and its answer cannot be kept: {full}");
    CallError::new(Code::Overloaded, message).delivered(Delivered::Yes)
}

// === impl Charged, ChargedBody ===

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl hyper::body::Body for ChargedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        let held = &mut self.held;
        let charge = |bytes: Bytes| match held.take() {
            Some(held) => carried(bytes, held),
            None => bytes,
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(charge))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
