//! A hub is killed with thousands of spokes on it, and all of them come to the other one.
//!
//! Each spoke has a session, a key of its own and the pauses of the SDK (`hub/sdk/src/session.rs`, `spoke/keep.rs`). It
//! connects at once and asks for its session, and does so again after a pause for as long as it is told to. When the
//! session is lost, it pauses, connects, greets and registers again, by hash. It dials the hub that lives: by then a
//! load balancer would have removed the killed one.

use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::admin::SpokePut;
use alkhub_protocol::{ApiKey, SpokeName};
use alkhub_retry::Backoff;
use alkhub_sdk::Client;
use alkhub_tests::load::pause;
use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::storm::{OPERATIONS, operation, results};
use crate::system::{Kept, Servers};
use crate::ws::{Reader, Writer};

/// The most seconds until all are back.
pub(crate) const AIM: f64 = 10.0;

const SPOKES: usize = 5_000;

/// How many spokes are declared, and later connected, at once before the kill.
const AT_ONCE: usize = 64;

/// The pauses of the SDK (`hub/sdk/src/endpoint.rs`).
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));

/// The pauses of the SDK while a hub that it reaches does not give it its session yet (`hub/sdk/src/session.rs`).
const REACHED: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(4));

/// A hub that has not answered by then is given up, as in the SDK.
const ANSWER: Duration = Duration::from_secs(10);

/// A spoke that is not back by then fails the run.
const LIMIT: Duration = Duration::from_secs(120);

/// What one kill took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Killed {
    /// Seconds from the kill until half, 99 %, and all of the spokes were registered at the other hub.
    pub(crate) back: [f64; 3],
    /// What the killed hub kept, with all spokes on it.
    pub(crate) before: Kept,
    /// What the other hub keeps, with all of them.
    pub(crate) after: Kept,
}

/// A spoke with one session.
#[derive(Clone, Debug)]
struct Spoke {
    name: SpokeName,
    key: String,
    /// What it offers: the specifications, or their hashes.
    offered: Arc<[Value]>,
}

/// A connection on which it is registered.
#[derive(Debug)]
struct Attached {
    reader: Reader,
    /// It sends nothing more, but keeps the connection open.
    _writer: Writer,
    session: String,
}

/// What became of a session that was asked for.
enum Asked {
    /// It is lost.
    Lost,
    /// It should be asked for again.
    Later,
}

/// Connects all spokes to the first of two hubs, kills it, and waits until all are registered at the second.
pub(crate) async fn measure(servers: &Arc<Servers>) -> Result<Killed> {
    let declaring = stream::iter(0..SPOKES).map(|number| declared(servers, number));
    let mut spokes: Vec<Spoke> = declaring.buffered(AT_ONCE).try_collect().await?;
    let hashes = hashes(servers, &spokes[0]).await?;
    spokes.iter_mut().for_each(|spoke| spoke.offered = Arc::clone(&hashes));
    let attaching = stream::iter(&spokes).map(|spoke| spoke.attach(servers, 0));
    let attached: Vec<Attached> = attaching.buffered(AT_ONCE).try_collect().await?;
    let before = servers.kept(0).await?;

    let tasks = TaskTracker::new();
    let began = Instant::now();
    servers.kill(0)?;
    let coming = spokes.into_iter().zip(attached).map(|(spoke, attached)| {
        let servers = Arc::clone(servers);
        tasks.spawn(async move { spoke.come_back(attached, &servers, began).await })
    });
    let coming: Vec<_> = coming.collect();
    let (mut there, mut took) = (Vec::new(), Vec::new());
    for coming in coming {
        let (attached, after) = coming.await??;
        there.push(attached);
        took.push(after.as_secs_f64());
    }
    let after = servers.kept(1).await?;

    took.sort_by(f64::total_cmp);
    let at = |part: usize| took[(took.len() * part).div_ceil(100) - 1];
    Ok(Killed {
        back: [at(50), at(99), at(100)],
        before,
        after,
    })
}

/// A spoke with a key of its own.
async fn declared(servers: &Servers, number: usize) -> Result<Spoke> {
    let name: SpokeName = format!("killed-{number}").parse()?;
    let mut entropy = [0x17; 32];
    entropy[..8].copy_from_slice(&number.to_le_bytes());
    let key = ApiKey::from_entropy(entropy).expose().to_owned();
    let declaration = SpokePut {
        uid: format!("cli-{name}"),
        key: Some(key.clone()),
        operations: vec!["bench.*".to_owned()],
        ..SpokePut::default()
    };
    let client = Client::builder(servers.url(0)).token(servers.token()).build()?;
    let declaring = client.declare_spoke(&name, &declaration);
    declaring.await.with_context(|| format!("declaring {name}"))?;
    let offered = (0..OPERATIONS).map(operation).collect();
    Ok(Spoke { name, key, offered })
}

/// The hubs' hashes of the specifications, once a spoke has sent them.
async fn hashes(servers: &Servers, spoke: &Spoke) -> Result<Arc<[Value]>> {
    let (mut reader, mut writer) = servers.connect_as(0, &spoke.key).await?;
    greet(&mut reader, &mut writer).await?;
    let told = spoke.register(&mut reader, &mut writer).await?;
    let hashes: Arc<[Value]> = told.iter().map(|told| told["hash"].clone()).collect();
    ensure!(hashes.iter().all(Value::is_string), "no hashes: {told:?}");
    Ok(hashes)
}

// === impl Spoke ===

impl Spoke {
    /// Connects, greets and registers.
    async fn attach(&self, servers: &Servers, node: usize) -> Result<Attached> {
        let attaching = async {
            let (mut reader, mut writer) = servers.connect_as(node, &self.key).await?;
            let session = greet(&mut reader, &mut writer).await?;
            self.register(&mut reader, &mut writer).await?;
            Ok(Attached {
                reader,
                _writer: writer,
                session,
            })
        };
        timeout_at(Instant::now() + ANSWER, attaching)
            .await
            .context("no answer")?
    }

    async fn register(&self, reader: &mut Reader, writer: &mut Writer) -> Result<Vec<Value>> {
        let input = json!({ "name": self.name, "instanceId": self.name, "operations": &*self.offered });
        let message = json!({ "type": "hub.register", "id": "r", "payload": input });
        writer.send(message.to_string().as_bytes(), false).await?;
        loop {
            let answer: Value = serde_json::from_slice(&reader.next().await?)?;
            if answer["payload"]["requestId"] == "r" {
                return results(&answer);
            }
        }
    }

    /// Waits for the loss of the connection, and comes back to the other hub; also returns how long after `began` it
    /// was registered there.
    async fn come_back(self, mut lost: Attached, servers: &Servers, began: Instant) -> Result<(Attached, Duration)> {
        while lost.reader.next().await.is_ok() {}
        let mut backoff = REACHED;
        loop {
            match self.ask(servers, &lost.session).await {
                Ok(Asked::Lost) => break,
                asked => ensure!(began.elapsed() < LIMIT, "{}: its session: {:?}", self.name, asked.err()),
            }
            pause(backoff.pause()).await;
        }
        let mut backoff = BACKOFF;
        loop {
            pause(backoff.pause()).await;
            match self.attach(servers, 1).await {
                Ok(attached) => return Ok((attached, began.elapsed())),
                Err(error) => ensure!(began.elapsed() < LIMIT, "{} is not back: {error:#}", self.name),
            }
        }
    }

    /// Connects and asks for its session.
    async fn ask(&self, servers: &Servers, session: &str) -> Result<Asked> {
        let asking = async {
            let (mut reader, mut writer) = servers.connect_as(1, &self.key).await?;
            // The answer to the registration is all that it has received.
            let resume = json!({ "sessionId": session, "received": 1 });
            let hello = json!({ "features": ["resume", "hashes"], "resume": resume });
            let hello = json!({ "type": "__hello", "id": "", "payload": hello });
            writer.send(hello.to_string().as_bytes(), false).await?;
            loop {
                let message: Value = serde_json::from_slice(&reader.next().await?)?;
                match message["type"].as_str() {
                    Some("__error") if message["payload"]["retryable"] == true => return Ok(Asked::Later),
                    Some("__error") => return Ok(Asked::Lost),
                    Some("__resume") => bail!("a session of a killed hub goes on"),
                    _ => {}
                }
            }
        };
        timeout_at(Instant::now() + ANSWER, asking).await.context("no answer")?
    }
}

/// Begins a session; returns its id.
async fn greet(reader: &mut Reader, writer: &mut Writer) -> Result<String> {
    let hello = br#"{"type":"__hello","id":"","payload":{"features":["resume","hashes"]}}"#;
    writer.send(hello, false).await?;
    let welcome: Value = serde_json::from_slice(&reader.next().await?)?;
    let session = welcome["payload"]["sessionId"].as_str();
    Ok(session.with_context(|| format!("no session: {welcome}"))?.to_owned())
}
