//! Payloads that wait to become one list.

use alkhub_protocol::DEPTH_LIMIT;

/// The text of a list that is not closed yet.
#[derive(Debug, Default)]
pub(super) struct Held {
    text: String,
    pub(super) count: usize,
}

// === impl Held ===

impl Held {
    /// Its bytes.
    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The bytes with one more payload, once the list is closed.
    pub(super) fn bytes_with(&self, payload: &str) -> usize {
        self.text.len() + payload.len() + 2
    }

    pub(super) fn add(&mut self, payload: &str) {
        self.text.push(if self.count == 0 { '[' } else { ',' });
        self.text.push_str(payload);
        self.count += 1;
    }

    /// The list, after which nothing is held.
    pub(super) fn take(&mut self) -> String {
        let mut text = std::mem::take(&mut self.text);
        if self.count == 0 {
            text.push('[');
        }
        text.push(']');
        self.count = 0;
        text
    }
}

/// Whether a payload may get so many levels around it.
pub(super) fn fits_within(payload: &str, levels: usize) -> bool {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut quoted, mut escaped) = (false, false);
    for byte in payload.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest + levels <= DEPTH_LIMIT
}
