//! The close code for a peer that broke the WebSocket protocol.

use alkhub_protocol::CloseCode;
use alkhub_wire::Error;

/// What the codec names by its number in RFC 6455.
pub(crate) fn of(violation: &Error) -> CloseCode {
    CloseCode::of(violation.code).unwrap_or(CloseCode::Protocol)
}

#[cfg(test)]
mod tests {
    use alkhub_wire::code::{NORMAL, NOT_UTF8, PROTOCOL, TOO_LARGE};

    use super::*;

    #[test]
    fn the_codec_and_the_hub_number_alike() {
        for (number, code) in [
            (NORMAL, CloseCode::Normal),
            (PROTOCOL, CloseCode::Protocol),
            (NOT_UTF8, CloseCode::NotUtf8),
            (TOO_LARGE, CloseCode::TooLarge),
        ] {
            let reason = "";
            assert_eq!(of(&Error { code: number, reason }), code);
        }
    }
}
