//! JSON as text: made compact or indented token by token, and never through a parsed value.
//!
//! Invariants
//! - Numbers, escapes and the order of members are kept as they are, whatever a parser could represent: `1E400`, thirty
//!   digits, `\ud83d` alone.
//! - What is written is the same JSON value as what was read.

use alkhub_sdk::RawJson;

/// JSON without white space between its tokens.
pub(crate) fn compact(json: &RawJson) -> String {
    let mut text = String::with_capacity(json.len());
    tokens(json.as_str(), |token| text.push_str(token));
    text
}

/// JSON for people: each member or item on a line of its own, two spaces deeper than its container.
pub(crate) fn indented(json: &RawJson) -> String {
    let (mut text, mut depth, mut before) = (String::with_capacity(2 * json.len()), 0_usize, "");
    tokens(json.as_str(), |token| {
        let closes = matches!(token, "}" | "]");
        if closes {
            depth = depth.saturating_sub(1);
        }
        let empty = closes && matches!(before, "{" | "[");
        if (closes && !empty) || (!closes && matches!(before, "{" | "[" | ",")) {
            text.push('\n');
            text.push_str(&"  ".repeat(depth));
        }
        text.push_str(token);
        match token {
            ":" => text.push(' '),
            "{" | "[" => depth += 1,
            _ => {}
        }
        before = token;
    });
    text
}

/// The text of a JSON string, or `None` for any other value. Half of a surrogate pair is not a character, so U+FFFD
/// stands for it.
pub(crate) fn text(json: &RawJson) -> Option<String> {
    if !json.as_str().starts_with('"') {
        return None;
    }
    let whole = || serde_json::from_str(&paired(json.as_str()));
    json.to::<String>().or_else(|_| whole()).ok()
}

/// Passes each token to `each`: a bracket, a comma, a colon, or a whole string, number or word.
fn tokens<'a>(json: &'a str, mut each: impl FnMut(&'a str)) {
    let mut rest = json.trim_start();
    while let Some(first) = rest.bytes().next() {
        let length = match first {
            b'"' => string_length(rest),
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            _ => rest
                .find(|c: char| c.is_ascii_whitespace() || "{}[],:\"".contains(c))
                .unwrap_or(rest.len()),
        };
        let (token, more) = rest.split_at(length);
        each(token);
        rest = more.trim_start();
    }
}

/// The length of the string at the beginning of a text, including its two quotes.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

/// A JSON string with U+FFFD in place of each escape of half a surrogate pair.
fn paired(string: &str) -> String {
    let mut text = String::with_capacity(string.len());
    let mut rest = string;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match (surrogate(rest), rest.get(6..).and_then(surrogate)) {
            (Some(Half::High), Some(Half::Low)) => {
                text.push_str(&rest[..12]);
                12
            }
            (Some(_), _) => {
                text.push_str("\\ufffd");
                6
            }
            (None, _) => {
                text.push_str(&rest[..2]);
                2
            }
        };
        rest = &rest[length..];
    }
    text + rest
}

/// One half of a UTF-16 surrogate pair.
enum Half {
    High,
    Low,
}

/// The half that the escape at the beginning of a text stands for.
fn surrogate(text: &str) -> Option<Half> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    match u16::from_str_radix(digits, 16).ok()? {
        0xD800..=0xDBFF => Some(Half::High),
        0xDC00..=0xDFFF => Some(Half::Low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> RawJson {
        RawJson::parse(text.to_owned()).expect("JSON")
    }

    #[test]
    fn input_is_made_compact_and_nothing_else() {
        for (given, compacted) in [
            (r#"{ "b": 1.50, "a": [ 1,  2 ] }"#, r#"{"b":1.50,"a":[1,2]}"#),
            (r#"["a b", "c\" d", "e\\" , 1]"#, r#"["a b","c\" d","e\\",1]"#),
            (" 1E400 ", "1E400"),
            ("null", "null"),
        ] {
            assert_eq!(compact(&raw(given)), compacted);
        }
    }

    #[test]
    fn indented_is_what_serde_writes_where_serde_can_hold_the_value() {
        for text in [
            "{}",
            "[]",
            r#"{"a":[],"b":{},"c":[1,[2,{"d":null}]],"e":"x: [1, {"}"#,
            r#"[true,false,"\"\\",-1.5]"#,
        ] {
            let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(
                indented(&raw(text)),
                serde_json::to_string_pretty(&value).expect("it writes")
            );
        }
    }

    #[test]
    fn numbers_escapes_and_order_stay_as_they_came() {
        let text = r#"{"z":123456789012345678901234567890,"a":1.10,"m":1E400,"s":"\ud83d \u0041"}"#;

        let shown = indented(&raw(text));

        let lines: Vec<_> = shown.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "{",
                r#""z": 123456789012345678901234567890,"#,
                r#""a": 1.10,"#,
                r#""m": 1E400,"#,
                r#""s": "\ud83d \u0041""#,
                "}"
            ]
        );
    }

    #[test]
    fn half_a_pair_is_the_replacement_character_and_a_whole_pair_is_not() {
        for (string, said) in [
            (r#""cut \ud83d""#, "cut \u{fffd}"),
            (r#""\ude00\ud83d\ude00\ud83d\ud83d\ude00""#, "\u{fffd}😀\u{fffd}😀"),
            (r#""\\ud83d \"\ud83d\n""#, "\\ud83d \"\u{fffd}\n"),
            (r#""plain""#, "plain"),
        ] {
            assert_eq!(text(&raw(string)).as_deref(), Some(said), "{string}");
        }
        assert_eq!(text(&raw("[1]")), None);
    }
}
