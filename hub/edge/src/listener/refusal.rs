//! Answers that no handler gives: to connections over a limit, to plain HTTP on a TLS port, and to what hyper cannot
//! read.

use std::io::IoSlice;
use std::time::Duration;

use alkhub_protocol::error::{PROBLEM_PREFIX, SPEAKS_TLS};
use alkhub_protocol::{Code, Delivered, Problem};
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::raw::Raw;
use crate::error::PROBLEM_JSON;

/// Longest header of a request, and longest target, in bytes.
pub(super) const HEADER_LIMIT: usize = 16 * 1024;

/// Time for a client that is refused to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a connection is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The hub has as many as it may.
    Full,
    /// The address has as many as it may.
    Address,
    /// The client speaks plain HTTP to a TLS port.
    Plain,
}

/// A refusal that hyper wrote by itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Own<'a> {
    /// Bytes of other answers before it.
    pub(super) before: usize,
    /// Its status line and headers; its body is empty.
    pub(super) head: &'a [u8],
}

// === impl Refusal ===

impl Refusal {
    fn text(self) -> String {
        let (status, code, detail) = match self {
            Self::Full => (
                StatusCode::SERVICE_UNAVAILABLE,
                Code::Overloaded,
                "this hub has as many connections as `server.max-connections` allows",
            ),
            Self::Address => (
                StatusCode::TOO_MANY_REQUESTS,
                Code::RateLimited,
                "this address has as many connections as `server.max-connections-per-address` allows",
            ),
            Self::Plain => (StatusCode::BAD_REQUEST, Code::BadRequest, SPEAKS_TLS),
        };
        let again = if self == Self::Plain { "" } else { "retry-after: 5\r\n" };
        let id = uuid::Uuid::now_v7().to_string();
        let body = problem(status, code, detail, self != Self::Plain, &id);
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: {PROBLEM_JSON}\r\nx-request-id: {id}\r\n{again}connection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

/// Answers a client that is not served. Its request is read, before and after: closing with unread bytes would lose the
/// answer.
pub(super) async fn refuse(mut stream: Raw, refusal: Refusal) {
    let exchange = async {
        let mut request = [0; 4096];
        let _read = stream.read(&mut request).await?;
        stream.write_all(refusal.text().as_bytes()).await?;
        stream.shutdown().await?;
        while stream.read(&mut request).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(REFUSAL_TIMEOUT, exchange).await {
        tracing::debug!(%error, "a refused connection was gone");
    }
}

/// Finds hyper's own refusal at the end of what is to be written. It closes the connection, so nothing follows it.
/// Answers of ours have a request id and nearly always a body; JSON and server-sent events contain no bare line breaks
/// that could be mistaken for it.
pub(super) fn find<'a>(slices: &'a [IoSlice<'_>]) -> Option<Own<'a>> {
    let last = slices.iter().rposition(|slice| !slice.is_empty())?;
    let bytes: &[u8] = &slices[last];
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let start = memchr::memmem::rfind(bytes, b"HTTP/1.")?;
    let head = &bytes[start..];
    let known = [&b" 400 "[..], b" 414 ", b" 431 "].contains(&head.get(8..13)?);
    let has = |text: &[u8]| memchr::memmem::find(head, text).is_some();
    if !known || !has(b"content-length: 0\r\n") || has(b"x-request-id:") {
        return None;
    }
    let before: usize = slices[..last].iter().map(|slice| slice.len()).sum();
    Some(Own {
        before: before + start,
        head,
    })
}

/// The first bytes of what is to be written.
pub(super) fn up_to<'a>(slices: &'a [IoSlice<'_>], mut count: usize) -> Vec<IoSlice<'a>> {
    let mut first = Vec::new();
    for slice in slices {
        let part = slice.len().min(count);
        count -= part;
        if part > 0 {
            first.push(IoSlice::new(&slice[..part]));
        }
    }
    first
}

/// The refusal with a body that says what is wrong. `one_line` says that the header's last line alone reached the
/// limit: then it is the first line, with the target.
pub(super) fn document(head: &[u8], one_line: bool) -> Vec<u8> {
    let head = String::from_utf8_lossy(head);
    let (status, detail) = match head.get(9..12) {
        Some("431") if one_line => (StatusCode::URI_TOO_LONG, "the request's target is too long"),
        Some("414") => (StatusCode::URI_TOO_LONG, "the request's target is too long"),
        Some("431") => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the request's header is larger than 16384 bytes",
        ),
        _ => (StatusCode::BAD_REQUEST, "the request is not HTTP/1.1 that can be read"),
    };
    let id = uuid::Uuid::now_v7().to_string();
    let body = problem(status, Code::BadRequest, detail, false, &id);
    let date = head.lines().find(|line| line.starts_with("date:")).unwrap_or("");
    let date = if date.is_empty() {
        String::new()
    } else {
        format!("{date}\r\n")
    };
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {PROBLEM_JSON}\r\nx-request-id: {id}\r\nconnection: close\r\n{date}\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn problem(status: StatusCode, code: Code, detail: &str, retryable: bool, id: &str) -> String {
    let problem = Problem {
        kind: format!("{PROBLEM_PREFIX}{code}"),
        title: code.title().to_owned(),
        status: status.as_u16(),
        detail: detail.to_owned(),
        instance: Some(id.to_owned()),
        code,
        retryable,
        delivered: Delivered::No,
        details: None,
    };
    serde_json::to_string(&problem).expect("a problem is a plain struct")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusals_have_the_length_that_they_say() {
        for refusal in [Refusal::Full, Refusal::Address, Refusal::Plain] {
            let text = refusal.text();
            let (head, body) = text.split_once("\r\n\r\n").expect("a blank line");

            assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
            let problem = serde_json::from_str::<Problem>(body).expect("a problem document");
            let id = problem.instance.as_deref().expect("the request's id");
            assert!(head.contains(&format!("\r\nx-request-id: {id}\r\n")), "{head}");
            assert!(
                !problem.title.contains("calls"),
                "it is about a connection: {problem:?}"
            );
        }
    }

    #[test]
    fn a_refusal_of_hypers_is_found_behind_other_answers_and_an_answer_of_ours_is_not() {
        let own = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let ours = b"HTTP/1.1 400 Bad Request\r\nx-request-id: a\r\ncontent-length: 0\r\n\r\n";
        let answer = &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"[..];

        let alone = [IoSlice::new(own)];
        assert_eq!(
            find(&alone),
            Some(Own {
                before: 0,
                head: &own[..]
            })
        );
        let behind = [answer, &own[..]].concat();
        let behind = [IoSlice::new(answer), IoSlice::new(&behind)];
        let found = find(&behind).expect("found");
        assert_eq!(found.before, answer.len() * 2);
        assert_eq!(
            up_to(&behind, found.before)
                .iter()
                .map(|slice| slice.len())
                .sum::<usize>(),
            found.before
        );
        for other in [&ours[..], answer, b"HTTP/1.1 204 No Content\r\n\r\n", b"\r\n\r\n", b""] {
            assert_eq!(find(&[IoSlice::new(other)]), None);
        }
    }

    #[test]
    fn a_refusal_says_what_is_wrong() {
        let head = |status: &str| format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\ndate: now\r\n\r\n");
        for (status, one_line, expected) in [
            ("400", false, 400),
            ("414", false, 414),
            ("431", false, 431),
            ("431", true, 414),
        ] {
            let text = String::from_utf8(document(head(status).as_bytes(), one_line)).expect("text");
            let (head, body) = text.split_once("\r\n\r\n").expect("a blank line");
            let problem: Problem = serde_json::from_str(body).expect("a problem document");

            assert_eq!(problem.status, expected);
            assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{head}");
            assert!(head.contains("date: now\r\n"), "{head}");
            assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
        }
    }
}
