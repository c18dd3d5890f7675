//! Requests that are routed to whoever answers them, and their answers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::context::TokioContext;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::nats;
use crate::pace::{Latency, Schedule};
use crate::system::{Kind, PAYLOAD, Servers, contains, limited};
use crate::ws::{Reader, Writer, push_frame};

/// How many calls are made before the clock starts.
const WARM_UP: usize = 500;

/// How many calls wait for their answers while throughput is measured.
const FULL_LOAD: usize = 128;

/// An operation that answers each call with its own input.
const ECHO: Called = Called {
    name: "echo",
    inbox: "inbox",
    output: None,
};

/// The operation that is called.
#[derive(Clone, Debug)]
pub(crate) struct Called {
    /// Its name in its namespace.
    pub(crate) name: &'static str,
    /// Where nats-server sends the answers: callers that are active at the same time have one each.
    pub(crate) inbox: &'static str,
    /// The answer to every call; `None` means its own input.
    pub(crate) output: Option<Arc<[u8]>>,
}

/// The cost of calls, each of which is sent as soon as another was answered.
struct Closed {
    /// CPU microseconds of all servers per call, including checks and records where the system has them.
    cpu: f64,
    /// How many calls are answered per second.
    per_second: f64,
}

/// CPU microseconds of all servers per call.
pub(crate) async fn measure(servers: &Servers, in_flight: usize, length: Duration) -> Result<f64> {
    let calls = async { Ok(call(servers, in_flight, length).await?.cpu) };
    answered(servers, &ECHO, &Handle::current(), calls).await
}

/// Latencies at half of the throughput, which is measured first.
pub(crate) async fn latency(servers: &Servers, length: Duration) -> Result<Latency> {
    let calls = async {
        let full = call(servers, FULL_LOAD, length).await?.per_second;
        call_openly(servers, full / 2.0, length).await
    };
    answered(servers, &ECHO, &Handle::current(), calls).await
}

/// Latencies at this many calls a second, whatever the system could carry.
pub(crate) async fn latency_at(servers: &Servers, per_second: f64, length: Duration) -> Result<Latency> {
    let calls = call_openly(servers, per_second, length);
    answered(servers, &ECHO, &Handle::current(), calls).await
}

/// Runs `calls` while somebody answers them, on the threads of `runtime`.
pub(crate) async fn answered<T>(
    servers: &Servers,
    called: &Called,
    runtime: &Handle,
    calls: impl Future<Output = Result<T>>,
) -> Result<T> {
    let offering = async {
        let (mut reader, mut writer) = servers.connect(1).await?;
        serve_operation(servers.kind(), called, &mut reader, &mut writer).await?;
        anyhow::Ok((reader, writer))
    };
    let (reader, writer) = TokioContext::new(offering, runtime.clone()).await?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let answering = answer(servers.kind(), called.clone(), reader, writer);
    let spoke = tasks.spawn_on(stop.clone().run_until_cancelled_owned(answering), runtime);
    let result = limited("calls", calls).await;
    stop.cancel();
    if let Some(ended) = spoke.await? {
        ended.context("the answering side ended early")?;
    }
    result
}

async fn serve_operation(kind: Kind, called: &Called, reader: &mut Reader, writer: &mut Writer) -> Result<()> {
    let name = called.name;
    match kind {
        Kind::Alkhub => {
            let schema = r#"{"type":"object","properties":{"text":{"type":"string"}},"required":["text"],"additionalProperties":false}"#;
            let register = format!(
                r#"{{"type":"call.requested","id":"","payload":{{"requestId":"r","operationId":"hub.register","input":{{"name":"bench-{name}","operations":[{{"namespace":"bench","name":"{name}","version":"1.0.0","type":"query","description":"{name}","inputSchema":{schema},"outputSchema":{schema},"accessControl":{{"requiredScopes":[]}}}}]}}}}}}"#
            );
            writer.send(register.as_bytes(), false).await?;
            let answer = reader.next().await?;
            ensure!(contains(&answer, b"\"registered\""), "not registered: {answer:?}");
        }
        Kind::Nats => {
            let frame = format!("SUB bench.{name} 1\r\nPING\r\n");
            writer.send(frame.as_bytes(), true).await?;
            nats::pong(reader).await?;
        }
    }
    Ok(())
}

/// Answers every request; all requests that have arrived are answered in one write.
async fn answer(kind: Kind, called: Called, mut reader: Reader, mut writer: Writer) -> Result<()> {
    loop {
        let mut frames = Vec::new();
        let mut message = Some(reader.next().await?);
        while let Some(request) = message {
            push_answer(kind, &called, &mut frames, &request)?;
            message = reader.arrived()?;
        }
        writer.send_raw(&frames).await?;
    }
}

fn push_answer(kind: Kind, called: &Called, frames: &mut Vec<u8>, message: &[u8]) -> Result<()> {
    let output = called.output.as_deref();
    match kind {
        Kind::Alkhub => {
            let id = between(message, b"\"requestId\":\"", b"\"").context("a request id")?;
            let input = between(message, b"\"text\":\"", b"\"").context("the input")?;
            let answer = [
                br#"{"type":"call.responded","id":"","payload":{"requestId":""#.as_slice(),
                id,
                br#"","output":{"data":{"text":""#,
                output.unwrap_or(input),
                br#""},"meta":{"source":"local","operationId":"bench."#,
                called.name.as_bytes(),
                br#"","timestamp":0}}}}"#,
            ]
            .concat();
            push_frame(frames, &answer, false);
        }
        Kind::Nats => {
            let mut answers = Vec::new();
            nats::deliveries(message, |request| {
                let payload = output.unwrap_or(request.payload);
                answers.extend_from_slice(b"PUB ");
                answers.extend_from_slice(request.reply.context("where the answer goes")?);
                answers.extend_from_slice(format!(" {}\r\n", payload.len()).as_bytes());
                answers.extend_from_slice(payload);
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

/// Tracks which requests have been answered; each is answered once.
#[derive(Debug, Default)]
struct Answered {
    each: Vec<bool>,
    count: usize,
}

// === impl Answered ===

impl Answered {
    fn add(&mut self, n: Option<usize>) -> Result<()> {
        // A request that was sent before the answering side was known, and answered late.
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

/// A caller whose calls are answered.
pub(crate) async fn caller(servers: &Servers, called: &Called) -> Result<(Reader, Writer)> {
    let (mut reader, mut writer) = servers.connect(0).await?;
    if servers.kind() == Kind::Nats {
        let subscription = format!("SUB {}.> 1\r\nPING\r\n", called.inbox);
        writer.send(subscription.as_bytes(), true).await?;
        nats::pong(&mut reader).await?;
    }
    ready(servers.kind(), called, &mut reader, &mut writer).await?;
    Ok((reader, writer))
}

async fn call(servers: &Servers, in_flight: usize, length: Duration) -> Result<Closed> {
    let (mut reader, mut writer) = caller(servers, &ECHO).await?;
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
            push_request(servers.kind(), &ECHO, &mut frames, Some(answered.each.len()));
            answered.each.push(false);
        }
        if !frames.is_empty() {
            writer.send_raw(&frames).await?;
        }
        let mut message = Some(reader.next().await?);
        while let Some(answer) = message {
            answers(servers.kind(), &ECHO, &answer, |n| answered.add(n))?;
            message = reader.arrived()?;
        }
    }
    let (at, cpu, before) = start.expect("the loop ends only after it was set");
    let (elapsed, count) = (at.elapsed(), (answered.count - before) as f64);
    servers.recorded(answered.count).await?;
    Ok(Closed {
        cpu: (servers.cpu()? - cpu).as_secs_f64() * 1e6 / count,
        per_second: count / elapsed.as_secs_f64(),
    })
}

/// Sends each call when it is due, whatever has been answered.
async fn call_openly(servers: &Servers, per_second: f64, length: Duration) -> Result<Latency> {
    let (mut reader, writer) = caller(servers, &ECHO).await?;
    let (kind, schedule) = (servers.kind(), Schedule::new(per_second, length));
    let sending = schedule.send(writer, move |frames, n| push_request(kind, &ECHO, frames, Some(n)));
    let reading = async {
        let mut latencies = Vec::with_capacity(schedule.len());
        let mut answered = Answered {
            each: vec![false; schedule.len()],
            count: 0,
        };
        while answered.count < schedule.len() {
            let mut message = Some(reader.next().await?);
            let now = Instant::now();
            while let Some(answer) = message {
                answers(kind, &ECHO, &answer, |n| {
                    latencies.extend(n.and_then(|n| schedule.latency(n, now)));
                    answered.add(n)
                })?;
                message = reader.arrived()?;
            }
        }
        Ok(latencies)
    };
    let (_writer, latencies) = tokio::try_join!(sending, reading)?;
    Latency::of(latencies, length, schedule.len())
}

/// Waits until a request is answered: with two servers it takes a moment until both know who answers.
async fn ready(kind: Kind, called: &Called, reader: &mut Reader, writer: &mut Writer) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let mut frames = Vec::new();
        push_request(kind, called, &mut frames, None);
        writer.send_raw(&frames).await?;
        let mut answered = false;
        // A server that knows nobody who answers says so at once, or says nothing.
        let answer = tokio::time::timeout(Duration::from_millis(500), async {
            let message = reader.next().await?;
            answers(kind, called, &message, |_| {
                answered = true;
                Ok(())
            })
        })
        .await;
        if answered {
            return Ok(());
        }
        ensure!(Instant::now() < end, "nobody answers: {answer:?}");
    }
}

/// Appends a request; its id is `c` and its number, or `early`.
pub(crate) fn push_request(kind: Kind, called: &Called, frames: &mut Vec<u8>, n: Option<usize>) {
    let Called { name, inbox, .. } = called;
    let payload = std::str::from_utf8(PAYLOAD).expect("it is ASCII");
    let id = n.map_or_else(|| "early".to_owned(), |n| format!("c{n}"));
    match kind {
        Kind::Alkhub => {
            let request = format!(
                r#"{{"type":"call.requested","id":"","payload":{{"requestId":"{id}","operationId":"bench.{name}","input":{{"text":"{payload}"}}}}}}"#
            );
            push_frame(frames, request.as_bytes(), false);
        }
        Kind::Nats => {
            let request = format!("PUB bench.{name} {inbox}.{id} {}\r\n{payload}\r\n", payload.len());
            push_frame(frames, request.as_bytes(), true);
        }
    }
}

/// Goes through the answers in a message, with the number of the request that each answers.
pub(crate) fn answers(
    kind: Kind,
    called: &Called,
    message: &[u8],
    mut each: impl FnMut(Option<usize>) -> Result<()>,
) -> Result<()> {
    let shown = &message[..message.len().min(500)];
    let what = || format!("no answer: {}", String::from_utf8_lossy(shown));
    let output = called.output.as_deref().unwrap_or(PAYLOAD);
    match kind {
        Kind::Alkhub => {
            // Finds the beginning and compares all of it at once: a search would go through the whole of a large
            // output.
            let text = after(message, b"\"text\":\"").with_context(what)?;
            let is_output = text.starts_with(output) && text.get(output.len()) == Some(&b'"');
            ensure!(is_output && contains(message, b"call.responded"), what());
            let id = between(message, b"\"requestId\":\"", b"\"").with_context(what)?;
            each(number(id)?)
        }
        Kind::Nats => nats::deliveries(message, |answer| {
            ensure!(answer.payload == output, what());
            let inbox = answer.subject.strip_prefix(called.inbox.as_bytes());
            each(number(inbox.and_then(|id| id.strip_prefix(b".")).with_context(what)?)?)
        }),
    }
}

fn number(id: &[u8]) -> Result<Option<usize>> {
    match id.strip_prefix(b"c") {
        Some(n) => Ok(Some(std::str::from_utf8(n)?.parse()?)),
        None => Ok(None),
    }
}

fn between<'a>(text: &'a [u8], before: &[u8], behind: &[u8]) -> Option<&'a [u8]> {
    let text = after(text, before)?;
    let end = text.windows(behind.len()).position(|window| window == behind)?;
    Some(&text[..end])
}

/// What follows the first `mark`.
fn after<'a>(text: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    let start = text.windows(mark.len()).position(|window| window == mark)?;
    text.get(start + mark.len()..)
}
