//! A request that is routed to whoever answers it, and its answer.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::nats;
use crate::peer::{Kind, PAYLOAD, Servers, contains, limited};
use crate::ws::{Reader, Writer, push_frame};

/// Calls before the clock starts.
const WARM_UP: usize = 500;

/// CPU microseconds of all servers for each call, checked and recorded where the peer does that.
pub(crate) async fn measure(servers: &Servers, in_flight: usize, length: Duration) -> Result<f64> {
    let (mut reader, mut writer) = servers.connect(1).await?;
    serve_operation(servers.kind(), &mut reader, &mut writer).await?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let answering = answer(servers.kind(), reader, writer);
    let spoke = tasks.spawn(stop.clone().run_until_cancelled_owned(answering));
    let result = limited("calls", call(servers, in_flight, length)).await;
    stop.cancel();
    if let Some(ended) = spoke.await? {
        ended.context("the answering side ended early")?;
    }
    result
}

async fn serve_operation(kind: Kind, reader: &mut Reader, writer: &mut Writer) -> Result<()> {
    match kind {
        Kind::Alkhub => {
            let schema = r#"{"type":"object","properties":{"text":{"type":"string"}},"required":["text"],"additionalProperties":false}"#;
            let register = format!(
                r#"{{"type":"call.requested","id":"","payload":{{"requestId":"r","operationId":"hub.register","input":{{"name":"bench","operations":[{{"namespace":"bench","name":"echo","version":"1.0.0","type":"query","description":"echo","inputSchema":{schema},"outputSchema":{schema},"accessControl":{{"requiredScopes":[]}}}}]}}}}}}"#
            );
            writer.send(register.as_bytes(), false).await?;
            let answer = reader.next().await?;
            ensure!(contains(&answer, b"\"registered\""), "not registered: {answer:?}");
        }
        Kind::Nats => {
            writer.send(b"SUB bench.echo 1\r\nPING\r\n", true).await?;
            nats::pong(reader).await?;
        }
    }
    Ok(())
}

/// Answers every request with its own input, all that have arrived in one write.
async fn answer(kind: Kind, mut reader: Reader, mut writer: Writer) -> Result<()> {
    loop {
        let mut frames = Vec::new();
        let mut message = Some(reader.next().await?);
        while let Some(request) = message {
            push_answer(kind, &mut frames, &request)?;
            message = reader.arrived()?;
        }
        writer.send_raw(&frames).await?;
    }
}

fn push_answer(kind: Kind, frames: &mut Vec<u8>, message: &[u8]) -> Result<()> {
    match kind {
        Kind::Alkhub => {
            let id = between(message, b"\"requestId\":\"", b"\"").context("a request id")?;
            let text = between(message, b"\"text\":\"", b"\"").context("the input")?;
            let answer = [
                br#"{"type":"call.responded","id":"","payload":{"requestId":""#.as_slice(),
                id,
                br#"","output":{"data":{"text":""#,
                text,
                br#""},"meta":{"source":"local","operationId":"bench.echo","timestamp":0}}}}"#,
            ]
            .concat();
            push_frame(frames, &answer, false);
        }
        Kind::Nats => {
            let mut answers = Vec::new();
            nats::deliveries(message, |request| {
                answers.extend_from_slice(b"PUB ");
                answers.extend_from_slice(request.reply.context("where the answer goes")?);
                answers.extend_from_slice(format!(" {}\r\n", request.payload.len()).as_bytes());
                answers.extend_from_slice(request.payload);
                answers.extend_from_slice(b"\r\n");
                Ok(())
            })?;
            if !answers.is_empty() {
                push_frame(frames, &answers, true);
            }
        }
    }
    Ok(())
}

/// Which requests have been answered; each is answered once.
#[derive(Debug, Default)]
struct Answered {
    each: Vec<bool>,
    count: usize,
}

// === impl Answered ===

impl Answered {
    fn add(&mut self, n: Option<usize>) -> Result<()> {
        // One that was sent before the answering side was known, and answered late.
        let Some(n) = n else { return Ok(()) };
        let one = self
            .each
            .get_mut(n)
            .context("an answer to a request that was not sent")?;
        ensure!(!std::mem::replace(one, true), "request {n} is answered twice");
        self.count += 1;
        Ok(())
    }
}

async fn call(servers: &Servers, in_flight: usize, length: Duration) -> Result<f64> {
    let (mut reader, mut writer) = servers.connect(0).await?;
    if servers.kind() == Kind::Nats {
        writer.send(b"SUB inbox.> 1\r\nPING\r\n", true).await?;
        nats::pong(&mut reader).await?;
    }
    ready(servers.kind(), &mut reader, &mut writer).await?;
    let (mut answered, mut start) = (Answered::default(), None);
    loop {
        if answered.count >= WARM_UP && start.is_none() {
            start = Some((Instant::now(), servers.cpu()?, answered.count));
        }
        let over = start.is_some_and(|(at, ..)| at.elapsed() >= length);
        if over && answered.count == answered.each.len() {
            break;
        }
        let mut frames = Vec::new();
        while !over && answered.each.len() - answered.count < in_flight {
            push_request(servers.kind(), &mut frames, Some(answered.each.len()));
            answered.each.push(false);
        }
        if !frames.is_empty() {
            writer.send_raw(&frames).await?;
        }
        let mut message = Some(reader.next().await?);
        while let Some(answer) = message {
            answers(servers.kind(), &answer, |n| answered.add(n))?;
            message = reader.arrived()?;
        }
    }
    servers.recorded(answered.count).await?;
    let (_, cpu, before) = start.expect("the loop ends only after it was set");
    Ok((servers.cpu()? - cpu).as_secs_f64() * 1e6 / (answered.count - before) as f64)
}

/// Waits until a request is answered: across two servers the news of who answers takes a moment.
async fn ready(kind: Kind, reader: &mut Reader, writer: &mut Writer) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let mut frames = Vec::new();
        push_request(kind, &mut frames, None);
        writer.send_raw(&frames).await?;
        let mut answered = false;
        let answer = tokio::time::timeout(Duration::from_millis(500), async {
            let message = reader.next().await?;
            answers(kind, &message, |_| {
                answered = true;
                Ok(())
            })
        })
        .await;
        if answered {
            return Ok(());
        }
        ensure!(Instant::now() < end, "nobody answers: {answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Appends a request; its id is `c` and its number, or `early`.
fn push_request(kind: Kind, frames: &mut Vec<u8>, n: Option<usize>) {
    let payload = std::str::from_utf8(PAYLOAD).expect("it is ASCII");
    let id = n.map_or_else(|| "early".to_owned(), |n| format!("c{n}"));
    match kind {
        Kind::Alkhub => {
            let request = format!(
                r#"{{"type":"call.requested","id":"","payload":{{"requestId":"{id}","operationId":"bench.echo","input":{{"text":"{payload}"}}}}}}"#
            );
            push_frame(frames, request.as_bytes(), false);
        }
        Kind::Nats => {
            let request = format!("PUB bench.echo inbox.{id} {}\r\n{payload}\r\n", payload.len());
            push_frame(frames, request.as_bytes(), true);
        }
    }
}

/// Goes through the answers of a message: the number of the request that each answers.
fn answers(kind: Kind, message: &[u8], mut each: impl FnMut(Option<usize>) -> Result<()>) -> Result<()> {
    let what = || format!("no answer: {}", String::from_utf8_lossy(message));
    match kind {
        Kind::Alkhub => {
            ensure!(
                contains(message, b"call.responded") && contains(message, PAYLOAD),
                what()
            );
            let id = between(message, b"\"requestId\":\"", b"\"").with_context(what)?;
            each(number(id)?)
        }
        Kind::Nats => nats::deliveries(message, |answer| {
            ensure!(answer.payload == PAYLOAD, what());
            each(number(answer.subject.strip_prefix(b"inbox.").with_context(what)?)?)
        }),
    }
}

fn number(id: &[u8]) -> Result<Option<usize>> {
    match id.strip_prefix(b"c") {
        Some(n) => Ok(Some(std::str::from_utf8(n)?.parse()?)),
        None => Ok(None),
    }
}

fn between<'a>(text: &'a [u8], before: &[u8], after: &[u8]) -> Option<&'a [u8]> {
    let start = text.windows(before.len()).position(|window| window == before)? + before.len();
    let end = start + text[start..].windows(after.len()).position(|window| window == after)?;
    Some(&text[start..end])
}
