//! Server-sent events as text.

use alkhub_edge::error::{problem, status};
use alkhub_protocol::frame::Gap;
use alkhub_protocol::{CallError, RawJson, TopicFilter};

/// Says when to come back, spread so that the clients of a lost hub do not all come at once.
pub(super) fn start() -> Vec<u8> {
    let retry_ms = 1_000 + u32::from(rand::random::<u16>()) % 2_000;
    format!("retry: {retry_ms}\n\n").into_bytes()
}

pub(super) fn comment() -> Vec<u8> {
    b": keep-alive\n\n".to_vec()
}

/// An item, or the end of a subscription.
pub(super) fn written(item: Option<Result<RawJson, CallError>>) -> Vec<u8> {
    match item {
        Some(Ok(item)) => named("next", item.as_bytes()),
        Some(Err(error)) => failed(&error),
        None => named("complete", b"{}"),
    }
}

/// Whether a text is on one line.
pub(super) fn is_line(text: &[u8]) -> bool {
    memchr::memchr2(b'\n', b'\r', text).is_none()
}

pub(super) fn gap(gap: &Gap) -> Vec<u8> {
    named("gap", &serde_json::to_vec(gap).expect("a gap is a plain struct"))
}

/// Events have no positions that outlast a connection; a client that comes back is told so.
pub(super) fn unresumable(filter: &TopicFilter) -> Gap {
    Gap {
        topic: filter.to_string(),
        reason: "resume_unavailable".to_owned(),
        missed: None,
    }
}

pub(super) fn failed(error: &CallError) -> Vec<u8> {
    let problem = problem(error, status(error));
    named(
        "error",
        &serde_json::to_vec(&problem).expect("a problem is a plain struct"),
    )
}

fn named(event: &str, text: &[u8]) -> Vec<u8> {
    let mut out = format!("event: {event}\n").into_bytes();
    data(&mut out, text);
    out
}

/// Line breaks in JSON are white space between values, so each line becomes a `data:` of its own.
pub(super) fn data(out: &mut Vec<u8>, text: &[u8]) {
    out.reserve(text.len() + 8);
    for line in text.split(|&byte| byte == b'\n' || byte == b'\r') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pretty_payload_stays_one_event() {
        let event = named("next", b"{\n  \"a\": 1\r\n}");

        assert_eq!(
            String::from_utf8(event).expect("UTF-8"),
            "event: next\ndata: {\ndata:   \"a\": 1\ndata: \ndata: }\n\n"
        );
    }
}
