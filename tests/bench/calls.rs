//! A request that is routed to whoever answers it, and its answer.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::peer::{Kind, Servers, contains, limited, payload};
use crate::ws::{Reader, Writer, push_frame};

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
            while !reader.next().await?.ends_with(b"PONG\r\n") {}
        }
    }
    Ok(())
}

/// Answers every request with its own input, all that have arrived in one write.
async fn answer(kind: Kind, mut reader: Reader, mut writer: Writer) -> Result<()> {
    loop {
        let message = reader.next().await?;
        let mut frames = Vec::with_capacity(message.len() + 64);
        match kind {
            Kind::Alkhub => {
                let id = between(&message, b"\"requestId\":\"", b"\"").context("a request id")?;
                let text = between(&message, b"\"text\":\"", b"\"").context("the input")?;
                let answer = [
                    br#"{"type":"call.responded","id":"","payload":{"requestId":""#.as_slice(),
                    id,
                    br#"","output":{"data":{"text":""#,
                    text,
                    br#""},"meta":{"source":"local","operationId":"bench.echo","timestamp":0}}}}"#,
                ]
                .concat();
                push_frame(&mut frames, &answer, false);
            }
            Kind::Nats => {
                let mut answers = Vec::new();
                nats_messages(&message, |reply, payload| {
                    answers.extend_from_slice(b"PUB ");
                    answers.extend_from_slice(reply.unwrap_or_default());
                    answers.extend_from_slice(format!(" {}\r\n", payload.len()).as_bytes());
                    answers.extend_from_slice(payload);
                    answers.extend_from_slice(b"\r\n");
                })?;
                push_frame(&mut frames, &answers, true);
            }
        }
        writer.send_raw(&frames).await?;
    }
}

async fn call(servers: &Servers, in_flight: usize, length: Duration) -> Result<f64> {
    let (mut reader, mut writer) = servers.connect(0).await?;
    if servers.kind() == Kind::Nats {
        writer.send(b"SUB inbox.> 1\r\nPING\r\n", true).await?;
        while !reader.next().await?.ends_with(b"PONG\r\n") {}
    }
    ready(servers.kind(), &mut reader, &mut writer).await?;
    let (mut sent, mut answered, mut start) = (0_usize, 0_usize, None);
    let warm_up = 500;
    loop {
        if answered >= warm_up && start.is_none() {
            start = Some((Instant::now(), servers.cpu()?, answered));
        }
        let over = start.is_some_and(|(at, ..)| at.elapsed() >= length);
        if over && answered == sent {
            break;
        }
        let window = if over { 0 } else { in_flight - (sent - answered) };
        if window > 0 {
            let mut frames = Vec::new();
            for n in sent..sent + window {
                push_request(servers.kind(), &mut frames, n);
            }
            writer.send_raw(&frames).await?;
            sent += window;
        }
        answered += answers(servers.kind(), &reader.next().await?)?;
        ensure!(answered <= sent, "more answers than requests");
    }
    let (_, cpu, before) = start.expect("the loop ends only after it was set");
    Ok((servers.cpu()? - cpu).as_secs_f64() * 1e6 / (answered - before) as f64)
}

/// Waits until a request is answered: across two servers the news of who answers takes a moment.
async fn ready(kind: Kind, reader: &mut Reader, writer: &mut Writer) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let mut frames = Vec::new();
        push_request(kind, &mut frames, usize::MAX);
        writer.send_raw(&frames).await?;
        let answer = tokio::time::timeout(Duration::from_millis(500), reader.next()).await;
        match answer {
            Ok(answer) if answers(kind, answer.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?).is_ok() => {
                return Ok(());
            }
            answer => ensure!(Instant::now() < end, "nobody answers: {answer:?}"),
        }
    }
}

fn push_request(kind: Kind, frames: &mut Vec<u8>, n: usize) {
    let payload = payload();
    match kind {
        Kind::Alkhub => {
            let request = format!(
                r#"{{"type":"call.requested","id":"","payload":{{"requestId":"c{n}","operationId":"bench.echo","input":{{"text":"{payload}"}}}}}}"#
            );
            push_frame(frames, request.as_bytes(), false);
        }
        Kind::Nats => {
            let request = format!("PUB bench.echo inbox.{n} {}\r\n{payload}\r\n", payload.len());
            push_frame(frames, request.as_bytes(), true);
        }
    }
}

/// How many answers a message carries.
fn answers(kind: Kind, message: &[u8]) -> Result<usize> {
    match kind {
        Kind::Alkhub if contains(message, b"call.responded") => Ok(1),
        Kind::Alkhub => bail!("a call failed: {}", String::from_utf8_lossy(message)),
        Kind::Nats => {
            let mut count = 0;
            nats_messages(message, |_, _| count += 1)?;
            ensure!(count > 0, "no message: {}", String::from_utf8_lossy(message));
            Ok(count)
        }
    }
}

/// Goes through the `MSG` of one WebSocket message: reply subject and payload of each.
fn nats_messages<'a>(mut text: &'a [u8], mut each: impl FnMut(Option<&'a [u8]>, &'a [u8])) -> Result<()> {
    while let Some(rest) = text.strip_prefix(b"MSG ") {
        let line = rest.windows(2).position(|window| window == b"\r\n").context("a line")?;
        let fields: Vec<&[u8]> = rest[..line].split(|byte| *byte == b' ').collect();
        let length: usize = std::str::from_utf8(fields.last().context("a length")?)?.parse()?;
        let payload = rest.get(line + 2..line + 2 + length).context("a whole payload")?;
        each(if fields.len() == 4 { Some(fields[2]) } else { None }, payload);
        text = &rest[line + 4 + length..];
    }
    Ok(())
}

fn between<'a>(text: &'a [u8], before: &[u8], after: &[u8]) -> Option<&'a [u8]> {
    let start = text.windows(before.len()).position(|window| window == before)? + before.len();
    let end = start + text[start..].windows(after.len()).position(|window| window == after)?;
    Some(&text[start..end])
}
