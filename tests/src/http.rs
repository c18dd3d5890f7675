//! HTTP as any client speaks it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use serde_json::Value;

/// An HTTP client with a key.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    url: String,
    token: String,
}

/// A status and a JSON body.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; `null` if empty.
    pub body: Value,
}

/// Server-sent events, one at a time.
pub struct Sse {
    bytes: std::pin::Pin<Box<dyn futures::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    buffer: String,
}

/// One server-sent event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// The `event:` field; empty if absent.
    pub event: String,
    /// The `id:` field; empty if absent.
    pub id: String,
    /// The `data:` lines.
    pub data: String,
}

// === impl Http ===

impl Http {
    /// A client of `url` with a bearer key.
    ///
    /// # Panics
    /// If no TLS provider can be installed.
    pub fn new(url: impl Into<String>, token: impl Into<String>) -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .build()
            .expect("a client");
        Self {
            client,
            url: url.into(),
            token: token.into(),
        }
    }

    /// A new key: its id and itself.
    ///
    /// # Errors
    /// It was not made.
    pub async fn new_key(&self, body: &Value) -> Result<(String, String)> {
        let answer = self.send("POST", "/v1/admin/keys", Some(body)).await?;
        ensure!(answer.status < 300, "{answer:?}");
        let text = |field: &str| {
            answer.body["data"][field]
                .as_str()
                .map(str::to_owned)
                .context("a field")
        };
        Ok((text("id")?, text("key")?))
    }

    /// Declares a spoke: its uid, its key, and what it may.
    ///
    /// # Errors
    /// It is refused.
    pub async fn declare(&self, spoke: &str, declaration: &Value) -> Result<()> {
        let path = format!("/v1/admin/spokes/{spoke}");
        let answer = self.send("PUT", &path, Some(declaration)).await?;
        ensure!(answer.status < 300, "{answer:?}");
        Ok(())
    }

    /// Sends a request with a JSON body.
    ///
    /// # Errors
    /// No answer, or one that is not JSON.
    pub async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        self.send_with(method, path, body, &[]).await
    }

    /// The same with more headers.
    ///
    /// # Errors
    /// No answer, or one that is not JSON.
    pub async fn send_with(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Answer> {
        let mut request = self
            .client
            .request(method.parse()?, format!("{}{path}", self.url))
            .bearer_auth(&self.token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).with_context(|| format!("{method} {path} answered {status} with {text}"))?
        };
        Ok(Answer { status, body })
    }

    /// `POST /v1/call/{operation}`.
    ///
    /// # Errors
    /// As [`Http::send`].
    pub async fn call(&self, operation: &str, input: &Value) -> Result<Answer> {
        self.send("POST", &format!("/v1/call/{operation}"), Some(input)).await
    }

    /// Opens a stream of server-sent events; resolves when the hub has answered.
    ///
    /// # Errors
    /// The hub refused.
    pub async fn sse(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Sse> {
        match self.sse_or_refusal(method, path, body).await? {
            Ok(stream) => Ok(stream),
            Err(refusal) => bail!("{method} {path} was refused: {refusal:?}"),
        }
    }

    /// [`Http::sse`] for callers that look at the refusal.
    ///
    /// # Errors
    /// No answer, or a refusal that is not JSON.
    pub async fn sse_or_refusal(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Result<Sse, Answer>> {
        let mut request = self
            .client
            .request(method.parse()?, format!("{}{path}", self.url))
            .bearer_auth(&self.token)
            .header("accept", "text/event-stream");
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        if !answer.status().is_success() {
            let status = answer.status().as_u16();
            let body = serde_json::from_str(&answer.text().await?)?;
            return Ok(Err(Answer { status, body }));
        }
        Ok(Ok(Sse {
            bytes: Box::pin(answer.bytes_stream()),
            buffer: String::new(),
        }))
    }
}

// === impl Sse ===

impl std::fmt::Debug for Sse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sse")
            .field("buffer", &self.buffer)
            .finish_non_exhaustive()
    }
}

impl Sse {
    /// The next event; comments are skipped. `None` once the hub has ended the stream.
    ///
    /// # Errors
    /// Nothing came within 10 s, or the connection broke.
    pub async fn next(&mut self) -> Result<Option<SseEvent>> {
        tokio::time::timeout(Duration::from_secs(10), self.next_whenever())
            .await
            .context("no event within 10 s")?
    }

    /// The next event, however long it takes.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn next_whenever(&mut self) -> Result<Option<SseEvent>> {
        loop {
            while let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let event = parse(block);
                self.buffer = rest.to_owned();
                if event != SseEvent::default() {
                    return Ok(Some(event));
                }
            }
            match self.bytes.next().await {
                Some(bytes) => self.buffer.push_str(std::str::from_utf8(&bytes?)?),
                None => return Ok(None),
            }
        }
    }
}

fn parse(block: &str) -> SseEvent {
    let mut event = SseEvent::default();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut event.event),
            "id" => value.clone_into(&mut event.id),
            "data" if event.data.is_empty() => value.clone_into(&mut event.data),
            "data" => {
                event.data.push('\n');
                event.data.push_str(value);
            }
            _ => {}
        }
    }
    event
}
