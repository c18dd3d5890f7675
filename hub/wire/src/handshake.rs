//! The two values of the opening handshake by which each end knows that the other speaks WebSocket.
//!
//! The rest of the handshake is HTTP, and is checked by whoever has the request or the answer (RFC 6455, sections 4.1
//! and 4.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes in a key.
const KEY_LEN: usize = 16;

/// A client's `Sec-WebSocket-Key`, a new one for each handshake.
pub fn fresh_key() -> String {
    STANDARD.encode(rand::random::<[u8; KEY_LEN]>())
}

/// Whether a client may send this as its `Sec-WebSocket-Key`.
pub fn is_key(key: &[u8]) -> bool {
    STANDARD.decode(key).is_ok_and(|key| key.len() == KEY_LEN)
}

/// The `Sec-WebSocket-Accept` that answers a key.
pub fn accept(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(GUID);
    STANDARD.encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_is_answered_as_there() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base_64() {
        for bad in [
            "",
            "x",
            "dGhlIHNhbXBsZSBub25jZQ",
            "c2hvcnQ=",
            "ISEhISEhISEhISEhISEhISE=",
        ] {
            assert!(!is_key(bad.as_bytes()), "{bad}");
        }
        assert!(is_key(fresh_key().as_bytes()));
        assert_ne!(fresh_key(), fresh_key());
    }
}
