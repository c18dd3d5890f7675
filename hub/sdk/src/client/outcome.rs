//! A call of an operation whose kind is not known beforehand. It goes over HTTP, where the content type of the answer
//! shows the kind.
//!
//! Invariants
//! - One deadline covers everything: the connection, the request, the answer and the items.
//! - A call that may have reached the hub and was not answered fails with [`Error::Lost`] or [`Error::Timeout`], never
//!   with an error that says nothing was sent.
//! - Nothing waits for ever: a hub writes to a silent stream every 15 seconds, and a hub that does not is gone.

use std::time::Duration;

use alkhub_protocol::json::strict;
use alkhub_protocol::{FRAME_LIMIT_BYTES, OperationName, PAYLOAD_LIMIT_BYTES, Problem, RawJson, header};
use http::header::{CONTENT_TYPE, HeaderName};
use reqwest::{Method, Response};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::body::{Unread, VALUE_LIMIT, body};
use super::request::check_size;
use super::{CallOptions, Client, GRACE, items};
use crate::Error;

/// How long a stream may be silent.
const SILENCE: Duration = Duration::from_secs(60);

const TIMEOUT: HeaderName = HeaderName::from_static(header::TIMEOUT.name);

/// What an operation answered.
#[derive(Debug)]
pub enum Outcome {
    /// The value of a query or a mutation.
    Value(RawJson),
    /// The items of a subscription.
    Items(Box<Streamed>),
}

/// The items of a subscription as JSON, as they come. Dropping it aborts the subscription at the spoke.
#[derive(Debug)]
pub struct Streamed {
    operation: OperationName,
    response: Response,
    /// The deadline, and how long after the start it is.
    end: Option<(Instant, Duration)>,
    reader: Reader,
    ended: bool,
}

/// Server-sent events, put together line by line.
#[derive(Debug, Default)]
struct Reader {
    /// Bytes that were read and not looked at yet.
    unread: Vec<u8>,
    event: String,
    data: Vec<u8>,
}

/// One of them.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    name: String,
    data: Vec<u8>,
}

/// The stream cannot be a hub's.
#[derive(Debug, PartialEq, Eq)]
struct TooLong;

/// The input of `hub.call`, by which a call over HTTP names its spoke.
#[derive(Serialize)]
struct Targeted<'a> {
    operation: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a RawJson>,
    target: &'a str,
}

// === impl Client ===

impl Client {
    /// Calls an operation of any kind and returns its `data` as it is, or its items. It needs no right but that to call
    /// the operation. Only the options `timeout`, `target` and `without_input` apply. Without a `timeout`, a value is
    /// waited for as long as the client's own timeout, and items come until the subscription ends. Dropping the future
    /// aborts the call at the spoke.
    ///
    /// # Errors
    /// [`Error::Problem`] if the hub or the spoke gave a reason; otherwise as [`Client::call`].
    pub async fn outcome(
        &self,
        operation: &OperationName,
        input: &RawJson,
        options: &CallOptions,
    ) -> Result<Outcome, Error> {
        check_size(input.len(), PAYLOAD_LIMIT_BYTES)?;
        let limit = options.timeout.unwrap_or(self.0.timeout);
        let end = Instant::now() + limit + GRACE;
        let in_time = async {
            let response = self.asked(operation, input, options).await?;
            if is_stream(&response) {
                let end = options.timeout.map(|limit| (end, limit));
                return Ok(Outcome::Items(Box::new(Streamed::new(operation, response, end))));
            }
            let what = || format!("the answer to `{operation}`");
            let body = body(response, VALUE_LIMIT).await.map_err(|error| match error {
                Unread::Broken(_) => Error::Lost,
                Unread::TooLong(_) => Error::unreadable(what(), error),
            })?;
            let body: RawJson = strict::from_slice(&body).map_err(|e| Error::decode(what(), e))?;
            items::data(&body, operation).map(Outcome::Value)
        };
        timeout_at(end, in_time)
            .await
            .unwrap_or_else(|_| Err(Error::Timeout(limit)))
    }

    async fn asked(
        &self,
        operation: &OperationName,
        input: &RawJson,
        options: &CallOptions,
    ) -> Result<Response, Error> {
        let input = Some(input).filter(|_| !options.without_input);
        let targeted = options.target.as_ref().map(|target| Targeted {
            operation: operation.as_str(),
            input,
            target: target.as_str(),
        });
        let (called, body) = match targeted {
            Some(targeted) => {
                let body = RawJson::from_value(&targeted).map_err(Error::encode)?;
                ("hub.call", body.bytes())
            }
            // An empty body means no input.
            None => (operation.as_str(), input.map(RawJson::bytes).unwrap_or_default()),
        };
        let url = self.0.endpoint.route(&["v1", "call", called])?;
        let mut request = self.0.http.request(Method::POST, url);
        if let Some(timeout) = options.timeout {
            request = request.header(TIMEOUT, format!("{}ms", timeout.as_millis()));
        }
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        let sent = request.send().await.map_err(|error| {
            let connected = !error.is_connect();
            match self.0.endpoint.unreachable(error) {
                Error::Unreachable { .. } if connected => Error::Lost,
                error => error,
            }
        });
        self.accepted(sent?).await
    }
}

fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

// === impl Streamed ===

impl Streamed {
    fn new(operation: &OperationName, response: Response, end: Option<(Instant, Duration)>) -> Self {
        Self {
            operation: operation.clone(),
            response,
            end,
            reader: Reader::default(),
            ended: false,
        }
    }

    /// The next item's `data`, or why there are no more; `None` after the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<RawJson, Error>> {
        if self.ended {
            return None;
        }
        let item = self.read().await.transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }

    async fn read(&mut self) -> Result<Option<RawJson>, Error> {
        loop {
            match self.reader.next().map_err(|TooLong| Error::Lost)? {
                Some(Event { name, data }) if name == "next" => {
                    return self.item(&data).map(Some);
                }
                Some(Event { name, data }) if name == "error" => {
                    let problem = strict::from_slice::<Problem>(&data);
                    let problem = problem.map_err(|e| Error::decode(self.what(), e))?;
                    return Err(Error::Problem(Box::new(problem)));
                }
                Some(Event { name, .. }) if name == "complete" => return Ok(None),
                Some(_) => {}
                None => self.more().await?,
            }
        }
    }

    fn item(&self, data: &[u8]) -> Result<RawJson, Error> {
        let item: RawJson = strict::from_slice(data).map_err(|e| Error::decode(self.what(), e))?;
        items::data(&item, &self.operation)
    }

    fn what(&self) -> String {
        format!("an item of `{}`", self.operation)
    }

    async fn more(&mut self) -> Result<(), Error> {
        let silent = Instant::now() + SILENCE;
        let (until, late) = match self.end {
            Some((end, limit)) if end < silent => (end, Error::Timeout(limit)),
            _ => (silent, Error::Lost),
        };
        match timeout_at(until, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) => {
                self.reader.unread.extend_from_slice(&chunk);
                Ok(())
            }
            // The hub marks every end, so a stream that just stops was broken.
            Ok(Ok(None) | Err(_)) => Err(Error::Lost),
            Err(_) => Err(late),
        }
    }
}

// === impl Reader ===

impl Reader {
    /// The next complete event in what was read.
    fn next(&mut self) -> Result<Option<Event>, TooLong> {
        let (mut looked, mut found) = (0, None);
        while let Some(end) = self.unread[looked..].iter().position(|&byte| byte == b'\n') {
            let line = &self.unread[looked..looked + end];
            looked += end + 1;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if let Some(name) = field(line, b"event:") {
                self.event = String::from_utf8_lossy(name).into_owned();
            } else if let Some(data) = field(line, b"data:") {
                self.data.extend_from_slice(data);
                self.data.push(b'\n');
            } else if line.is_empty() && !(self.event.is_empty() && self.data.is_empty()) {
                found = Some(Event {
                    name: std::mem::take(&mut self.event),
                    data: std::mem::take(&mut self.data),
                });
                break;
            }
        }
        self.unread.drain(..looked);
        match self.data.len().max(self.unread.len()) > 2 * FRAME_LIMIT_BYTES && found.is_none() {
            true => Err(TooLong),
            false => Ok(found),
        }
    }
}

/// The value of a field, if the line has this name.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name)?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_whole_however_they_are_cut() {
        let text =
            b"retry: 1200\n\n: keep-alive\n\nevent: next\ndata: {\ndata:  \"a\": 1}\n\nevent: complete\ndata: {}\n\n";
        for size in 1..text.len() {
            let (mut reader, mut events) = (Reader::default(), Vec::new());
            for chunk in text.chunks(size) {
                reader.unread.extend_from_slice(chunk);
                while let Some(Event { name, data }) = reader.next().expect("short") {
                    events.push((name, String::from_utf8(data).expect("UTF-8")));
                }
            }

            let sent = [("next", "{\n \"a\": 1}\n"), ("complete", "{}\n")];
            assert_eq!(
                events,
                sent.map(|(name, data)| (name.to_owned(), data.to_owned())),
                "{size}"
            );
        }
    }

    #[test]
    fn a_stream_without_an_end_of_line_is_given_up() {
        let mut reader = Reader::default();
        reader.unread.resize(2 * FRAME_LIMIT_BYTES, b'x');
        assert_eq!(reader.next(), Ok(None));
        reader.unread.push(b'x');

        assert_eq!(reader.next(), Err(TooLong));
    }
}
