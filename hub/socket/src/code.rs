//! The close code for a peer that broke the WebSocket protocol.

use alkhub_protocol::CloseCode;
use alkhub_wire::Violation;

pub(crate) fn of(violation: Violation) -> CloseCode {
    match violation {
        Violation::Protocol => CloseCode::Protocol,
        Violation::NotUtf8 => CloseCode::NotUtf8,
        Violation::TooLarge => CloseCode::TooLarge,
    }
}
