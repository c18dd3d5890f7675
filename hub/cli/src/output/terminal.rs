//! Makes visible what a terminal would execute: escape sequences (ESC, and C1 in one character), the bell and the other
//! C0 characters, and the controls that change the direction of text.

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};

/// Whether a stream gets colours: it is a terminal that has them, and `NO_COLOR` is not set.
pub(super) fn is_coloured(stream: &impl RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}

/// A text on one line: what a terminal would execute is written as its escape, `\n` or `\u{1b}`.
pub(crate) fn visible(text: &str) -> String {
    escaped(text, |_| false, |c, out| out.extend(c.escape_default()))
}

/// The same, keeping its lines.
pub(super) fn visible_lines(text: &str) -> String {
    escaped(
        text,
        |c| matches!(c, '\n' | '\t'),
        |c, out| out.extend(c.escape_default()),
    )
}

/// JSON with JSON's own escapes, so that it stays the same value. It has line breaks only between its tokens.
pub(super) fn visible_json(json: &str) -> String {
    escaped(
        json,
        |c| matches!(c, '\n' | '\t'),
        |c, out| {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        },
    )
}

fn escaped(text: &str, kept: impl Fn(char) -> bool, escape: impl Fn(char, &mut String)) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_control(c) && !kept(c) {
            escape(c, &mut out);
        } else {
            out.push(c);
        }
    }
    out
}

/// Controls (C0, DEL, C1), line separators, and the controls of bidirectional text.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_execute_is_shown_and_everything_else_stays() {
        let text = "ä\t😀 \u{1b}]52;c;aGk=\u{7}\u{9b}2J\u{7f}\u{202e}x\r\n2";

        assert_eq!(
            visible(text),
            "ä\\t😀 \\u{1b}]52;c;aGk=\\u{7}\\u{9b}2J\\u{7f}\\u{202e}x\\r\\n2"
        );
        assert_eq!(visible_lines("a\tb\nc\u{1b}"), "a\tb\nc\\u{1b}");
    }

    #[test]
    fn json_stays_the_same_value() {
        let json = "{\n  \"a\": \"\u{9b}2J \u{202e}\u{7f}\"\n}";

        let shown = visible_json(json);

        assert_eq!(shown, "{\n  \"a\": \"\\u009b2J \\u202e\\u007f\"\n}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(value(&shown), value(json));
    }
}
