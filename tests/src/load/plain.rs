//! A plain spoke, as a person writes one without a library of ours: it registers, answers, and reconnects with jitter.

use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::CloseCode;
use anyhow::{Context as _, Result, bail, ensure};
use futures::stream::FuturesUnordered;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::{Kind, Member, PLAIN_OPERATION, Tally, pause, work};
use crate::wire::operation;

/// The pauses before it reconnects are random parts of a growing time.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(15);
/// Longest wait for an upgrade.
const PATIENCE: Duration = Duration::from_secs(10);
/// A hub pings every 10 s: one that is silent for this long is gone.
const SILENCE: Duration = Duration::from_secs(25);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Keeps it connected for ever.
pub(super) async fn keep(url: String, member: Member, tally: Arc<Tally>) {
    let mut longest = SHORTEST;
    let instance = uuid::Uuid::new_v4().to_string();
    loop {
        let mut registered = false;
        let why = serve(&url, &member, &instance, (&*tally, &mut registered)).await;
        tally.gone(member.number);
        if registered {
            longest = SHORTEST;
        }
        // A hub that refuses names a time: another hub will take the spoke then, so the pauses need not grow.
        let asked = why.err().and_then(|why| retry_after(&why));
        let most = if asked.is_some() { SHORTEST } else { longest };
        pause(asked.unwrap_or_default() + most.mul_f64(fastrand::f64())).await;
        if asked.is_none() {
            longest = (2 * longest).min(LONGEST);
        }
    }
}

/// How long to wait, according to the hub that refused.
fn retry_after(why: &anyhow::Error) -> Option<Duration> {
    let Some(Error::Http(answer)) = why.downcast_ref::<Error>() else {
        return None;
    };
    let seconds = answer.headers().get("retry-after")?.to_str().ok()?;
    Some(Duration::from_secs(seconds.parse().ok()?))
}

async fn connect(url: &str, key: &str) -> Result<Socket> {
    let mut request = format!("{}/v1/ws", url.replacen("http", "ws", 1)).into_client_request()?;
    let bearer = format!("Bearer {key}").parse()?;
    request.headers_mut().insert("authorization", bearer);
    let connecting = connect_async_with_config(request, None, true);
    let (socket, _) = timeout(PATIENCE, connecting).await.context("no upgrade")??;
    Ok(socket)
}

/// One connection from its beginning to its end.
async fn serve(
    url: &str,
    member: &Member,
    instance: &str,
    (tally, registered): (&Tally, &mut bool),
) -> Result<(), anyhow::Error> {
    // Boxed, since it is large and soon over.
    let mut socket = Box::pin(connect(url, &member.key)).await?;
    let (namespace, name) = PLAIN_OPERATION.split_once('.').context("a namespace")?;
    let register = json!({
        "requestId": "register", "name": member.name.as_str(), "instanceId": instance, "operations": [operation(namespace, name, "mutation")],
    });
    socket.send(envelope("hub.register", &register)).await?;
    let (mut heard, mut running) = (Instant::now(), FuturesUnordered::new());
    loop {
        let message = tokio::select! {
            answer = running.next(), if !running.is_empty() => {
                socket.send(answer.context("one runs")?).await?;
                continue;
            }
            message = timeout_at(heard + SILENCE, socket.next()) => message.context("the hub is silent")?,
        };
        heard = Instant::now();
        match message.context("the connection ended")?? {
            Message::Text(text) => {
                let message: Value = serde_json::from_str(&text)?;
                let payload = message["payload"].clone();
                match message["type"].as_str() {
                    Some("call.requested") => running.push(answer(tally, payload)),
                    Some("call.responded") => {
                        let data = &payload["output"]["data"];
                        let refused = data["operations"][0]["result"] == "rejected";
                        ensure!(!refused && data["hubId"].is_string(), "not registered: {message}");
                        *registered = true;
                        tally.arrived(member.number, Kind::Plain, data["hubId"].as_str().unwrap_or_default());
                        tally.here(member.number, Kind::Plain);
                    }
                    Some("call.aborted") => {}
                    _ => bail!("not registered: {message}"),
                }
            }
            Message::Close(frame) => {
                let code = frame.map(|frame| u16::from(frame.code));
                ensure!(code.and_then(CloseCode::of).is_some(), "closed with {code:?}");
                return Ok(());
            }
            _ => {}
        }
    }
}

/// Does the work, and returns the message with the output.
async fn answer(tally: &Tally, call: Value) -> Message {
    let output = work(tally, &call["input"]).await;
    envelope(
        "call.responded",
        &json!({ "requestId": call["requestId"], "output": output }),
    )
}

fn envelope(kind: &str, payload: &Value) -> Message {
    Message::text(json!({ "type": kind, "id": "", "payload": payload }).to_string())
}
