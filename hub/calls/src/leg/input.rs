//! The input of a running call, kept for as long as the call may have to be sent to somebody.
//!
//! Invariants
//! - It is charged to the caller's key, and released once it is on its way to a spoke of this hub: from then on the
//!   call is never sent again. Only the input of a query by a caller of this hub stays until its end, since a query may
//!   be sent once more.
//! - Inputs that stay for this reason alone take up at most an eighth of the key's budget, and of what all keys share
//!   ([`Held::spare`]). One that does not fit is released, and its query is not sent again.

use alkhub_budget::{Exhausted, Held};
use alkhub_protocol::{CallRequest, RawJson};
use parking_lot::Mutex;

/// The approximate cost of a running call besides its input and its metadata.
pub(crate) const CALL_BYTES: usize = 1024;

/// How many bytes a running call costs without its input.
pub(crate) fn bare_bytes(request: &CallRequest) -> usize {
    CALL_BYTES + request.metadata.as_ref().map_or(0, |metadata| metadata.raw().len())
}

/// An input, and what it is charged.
#[derive(Debug)]
pub(crate) struct Input {
    /// Its length, for the call record.
    pub(crate) bytes: usize,
    /// Whether the caller gave one; otherwise `null` stands for it.
    pub(crate) is_given: bool,
    /// The bytes that stay charged without it.
    bare_bytes: usize,
    kept: Mutex<KeptInput>,
}

#[derive(Debug)]
struct KeptInput {
    json: Option<RawJson>,
    held: Held,
    /// It is kept when a spoke gets it for the first time.
    stays: bool,
    /// Why it was not kept then.
    no_room: Option<Exhausted>,
}

// === impl Input ===

impl Input {
    /// Takes the input out of a request, since it is kept for less time. `held` covers it and [`bare_bytes`].
    pub(crate) fn of(mut request: CallRequest, held: Held) -> (CallRequest, Self) {
        let input = request.input.take();
        (request, Self::new(input, held))
    }

    /// Keeps an input; `held` covers it and [`bare_bytes`].
    pub(crate) fn new(input: Option<RawJson>, held: Held) -> Self {
        let is_given = input.is_some();
        let input = input.unwrap_or_else(RawJson::null);
        Self {
            bytes: input.len(),
            is_given,
            bare_bytes: held.bytes().saturating_sub(input.len()),
            kept: Mutex::new(KeptInput {
                json: Some(input),
                held,
                stays: false,
                no_room: None,
            }),
        }
    }

    /// Lets it stay when a spoke gets it, in case that spoke is lost.
    pub(crate) fn staying(mut self) -> Self {
        self.kept.get_mut().stays = true;
        self
    }

    /// The call is being sent once more: the next spoke that gets it is the last one.
    pub(crate) fn stays_no_more(&self) {
        self.kept.lock().stays = false;
    }

    /// Why it did not stay, if it should have.
    pub(crate) fn no_room(&self) -> Option<Exhausted> {
        self.kept.lock().no_room
    }

    /// The input, or the `null` in its place; `None` once it is released.
    pub(crate) fn json(&self) -> Option<RawJson> {
        self.kept.lock().json.clone()
    }

    /// It is on its way to a spoke.
    pub(crate) fn delivered(&self) {
        let mut kept = self.kept.lock();
        if std::mem::take(&mut kept.stays) {
            match kept.held.spare(self.bytes) {
                Ok(()) => return,
                Err(full) => kept.no_room = Some(full),
            }
        }
        let input = kept.let_go(self.bare_bytes);
        drop(kept);
        drop(input);
    }

    /// The call has ended, so whoever still holds it needs no input.
    pub(crate) fn let_go(&self) {
        let input = self.kept.lock().let_go(self.bare_bytes);
        drop(input);
    }
}

// === impl KeptInput ===

impl KeptInput {
    fn let_go(&mut self, bare_bytes: usize) -> Option<RawJson> {
        let input = self.json.take();
        self.held.shrink(bare_bytes);
        input
    }
}
