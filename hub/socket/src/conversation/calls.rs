//! The calls of a peer, and its answers to those that were sent to it.

use std::time::{SystemTime, UNIX_EPOCH};

use alkhub_calls::Reply;
use alkhub_edge::error::{left_running, unanswered};
use alkhub_protocol::frame::{Requested, encode};
use alkhub_protocol::{CallError, CloseCode, Code, Frame, RequestId};
use bytes::Bytes;

use super::Conversation;
use crate::spoke::SpokeMessage;

impl Conversation {
    /// Acts on `call.requested`, in a message of `bytes` bytes.
    pub(super) fn call(&mut self, mut requested: Requested, bytes: usize) {
        requested.input = requested.input.map(|input| input.out_of(bytes));
        let metadata = requested.metadata.take();
        // The metadata may be kept for longer than the input, which is what makes the frame large.
        requested.metadata = metadata.map(|metadata| Box::new(metadata.out_of(bytes)));
        let id = requested.request_id.clone();
        if self.is_running(&id) {
            let error = CallError::new(
                Code::BadRequest,
                format!("request id `{id}` belongs to a call that still runs"),
            );
            return self.refuse_of_call(&error, &id);
        }
        let reply = Reply::Outbox(self.outbox.clone());
        match self
            .sockets
            .calls()
            .dispatch(&self.key.caller(), requested.into_request(now_ms()), reply)
        {
            Ok(ticket) => self.tickets.insert(id, ticket),
            Err(error) => self.fail(&id, &error),
        }
    }

    /// Acts on `call.aborted`: the peer stops a call of its own, and gets an answer when that is done, or gives up a
    /// call that was sent to it.
    pub(super) fn abort(&mut self, id: RequestId, data: &Bytes) {
        const REASON: &str = "aborted by the caller";
        let elsewhere = self.abort_elsewhere(&id, data);
        if !elsewhere && !self.tickets.cancel(&id, REASON) && !self.answer_elsewhere(&id, data) {
            self.spoke
                .received(SpokeMessage::Frame(Frame::Aborted { request_id: id }), data.len());
        }
    }

    /// The last messages to a peer whose calls were still running, by the code of the close.
    pub(crate) fn last_errors(&mut self, code: CloseCode, reason: &str) -> Vec<Bytes> {
        let error = match code {
            CloseCode::Revoked => left_running(Code::Unauthenticated, reason),
            CloseCode::Suspended => left_running(Code::AccessDenied, reason),
            CloseCode::Normal
            | CloseCode::GoingAway
            | CloseCode::Protocol
            | CloseCode::NotUtf8
            | CloseCode::Policy
            | CloseCode::TooLarge
            | CloseCode::Replaced
            | CloseCode::Moved
            | CloseCode::Slow => unanswered(reason),
        };
        let dialect = self.dialect();
        let running = std::mem::take(&mut self.unanswered);
        running
            .iter()
            .map(|id| encode::call_error(dialect, id.as_str(), &error))
            .collect()
    }
}

/// An answer that does not keep a whole message alive for a small part of it.
pub(super) fn slim(answer: Frame, bytes: usize) -> Frame {
    match answer {
        Frame::Responded { request_id, output } => Frame::Responded {
            request_id,
            output: output.out_of(bytes),
        },
        other => other,
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
