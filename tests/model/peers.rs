//! Spokes and callers: what they send, and readers that report to the model what they see.

use std::sync::Arc;
use std::time::Duration;

use alkhub_tests::http::{Answer, Http, Sse};
use alkhub_tests::promise::delivered;
use alkhub_tests::wire::{Closing, Peer, Receiver, Sender, operation};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::model::{End, FAULT};
use crate::scene::Scene;
use crate::steps::{Kind, Leave, Reply};

/// The request id of a registration.
const REGISTER: &str = "register";

/// Where a peer puts a request id: the two dialects of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    Payload,
    Id,
}

/// A WebSocket whose incoming messages a task reads.
#[derive(Debug)]
pub(crate) struct Line {
    sender: Sender,
    reader: JoinHandle<()>,
    spelling: Spelling,
}

/// Whose messages a reader reads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    /// A spoke, by its connection.
    Spoke(usize),
    /// The callers of a hub.
    Callers(usize),
}

// === impl Spelling ===

impl Spelling {
    /// Every second peer speaks the newer dialect.
    pub(crate) fn of(number: usize) -> Self {
        if number.is_multiple_of(2) {
            Self::Payload
        } else {
            Self::Id
        }
    }
}

// === impl Line ===

impl Line {
    pub(crate) async fn connect(
        url: &str,
        key: &str,
        spelling: Spelling,
        who: Who,
        scene: &Arc<Scene>,
    ) -> Result<Self> {
        let (sender, receiver) = Peer::connect(url, key).await?.split();
        let reader = TaskTracker::new().spawn(read(receiver, who, Arc::clone(scene)));
        Ok(Self {
            sender,
            reader,
            spelling,
        })
    }

    /// Sends a message about a request. As for any peer, what is sent over a connection that has ended is lost.
    async fn say(&mut self, kind: &str, request: &str, mut payload: Value) {
        let id = match self.spelling {
            Spelling::Payload => "",
            Spelling::Id => request,
        };
        if self.spelling == Spelling::Payload {
            payload["requestId"] = json!(request);
        }
        drop(self.sender.send(kind, id, &payload).await);
    }

    pub(crate) async fn register(&mut self, spoke: &str, instance: usize) {
        let kinds = [Kind::Query, Kind::Mutation, Kind::Subscription];
        let operations = kinds.map(|kind| operation(spoke, name(kind), spec_type(kind)));
        let input = json!({ "name": spoke, "instanceId": format!("i{instance}"), "operations": operations });
        let payload = json!({ "operationId": "hub.register", "input": input });
        self.say("call.requested", REGISTER, payload).await;
    }

    pub(crate) async fn call(&mut self, number: usize, spoke: &str, kind: Kind, limit: Option<Duration>) {
        let mut payload = json!({ "operationId": format!("{spoke}.{}", name(kind)), "input": input(number) });
        if let Some(limit) = limit {
            payload["timeoutMs"] = json!(limit.as_millis());
        }
        self.say("call.requested", &number.to_string(), payload).await;
    }

    pub(crate) async fn abort(&mut self, request: &str) {
        self.say("call.aborted", request, json!({})).await;
    }

    /// Answers a call as its spoke; `first` is the number of the first item.
    pub(crate) async fn answer(&mut self, of: &Answering, reply: Reply, first: u64) {
        let (request, number) = (&of.request, of.number);
        match (reply, of.kind) {
            (Reply::Good, Kind::Subscription) => self.say("call.completed", request, json!({})).await,
            (Reply::Items(count), Kind::Subscription) => {
                for item in first..first + count {
                    let output = json!({ "output": { "call": number, "item": item } });
                    self.say("call.responded", request, output).await;
                }
            }
            (Reply::Good | Reply::Items(_), Kind::Query | Kind::Mutation) => {
                let output = json!({ "output": { "call": number, "by": of.connection } });
                self.say("call.responded", request, output).await;
            }
            (Reply::Fault, _) => {
                let error = json!({ "code": FAULT, "message": "as the test wants it" });
                self.say("call.error", request, error).await;
            }
            (Reply::GiveUp, _) => self.abort(request).await,
        }
    }

    /// Says something about a call that is over.
    pub(crate) async fn answer_late(&mut self, request: &str) {
        self.say("call.responded", request, json!({ "output": "late" })).await;
    }

    pub(crate) async fn leave(mut self, leave: Leave) {
        if leave == Leave::Close {
            drop(self.sender.close().await);
        } else {
            self.reader.abort();
        }
        // The reader ends when the hub has answered the close, or at once; the socket goes away with both halves.
        drop(self.reader.await);
    }
}

/// A call that a spoke answers.
#[derive(Debug)]
pub(crate) struct Answering {
    pub(crate) number: usize,
    pub(crate) kind: Kind,
    pub(crate) connection: usize,
    pub(crate) request: String,
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Query => "get",
        Kind::Mutation => "set",
        Kind::Subscription => "watch",
    }
}

fn spec_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Query => "query",
        Kind::Mutation => "mutation",
        Kind::Subscription => "subscription",
    }
}

fn input(number: usize) -> Value {
    json!({ "call": number })
}

async fn read(mut receiver: Receiver, who: Who, scene: Arc<Scene>) {
    loop {
        match receiver.next_or_closed().await {
            Ok(Ok(message)) => {
                let seen = match who {
                    Who::Spoke(connection) => of_spoke(&scene, connection, &message),
                    Who::Callers(_) => of_callers(&scene, &message),
                };
                if seen.is_none() {
                    scene.with(|model| model.broke(format!("{who:?} got {message}")));
                }
            }
            closed => return ended(receiver, who, &scene, closed).await,
        }
    }
}

/// Called when the connection has ended; answers a close.
async fn ended(mut receiver: Receiver, who: Who, scene: &Scene, closed: Result<Closing<Value>>) {
    let code = match &closed {
        Ok(Err((code, _))) => Some(*code),
        Ok(Ok(_)) | Err(_) => None,
    };
    scene.with(|model| match who {
        Who::Spoke(connection) => model.closed(connection, code),
        Who::Callers(hub) => model.callers_closed(hub, code),
    });
    while receiver.next_or_closed().await.is_ok() {}
}

/// Returns `None` for a message that no spoke may get.
fn of_spoke(scene: &Scene, connection: usize, message: &Value) -> Option<()> {
    let payload = &message["payload"];
    let request = payload["requestId"].as_str()?;
    match message["type"].as_str()? {
        "call.requested" => {
            let number = payload["input"]["call"].as_u64()?.try_into().ok()?;
            scene.with(|model| model.reached(connection, number, request));
        }
        "call.aborted" => scene.with(|model| model.stopped(connection, request)),
        "call.responded" if request == REGISTER => {
            let data = &payload["output"]["data"];
            let fence = (data["generation"].as_u64()?, data["hubId"].as_str()?.to_owned());
            scene.with(|model| model.registered(connection, &fence));
        }
        "call.error" if request == REGISTER => {
            let code = payload["code"].as_str()?;
            scene.with(|model| model.refused(connection, code));
        }
        _ => return None,
    }
    Some(())
}

/// Returns `None` for a message that no caller may get.
fn of_callers(scene: &Scene, message: &Value) -> Option<()> {
    let payload = &message["payload"];
    let number = payload["requestId"].as_str()?.parse().ok()?;
    let end = match message["type"].as_str()? {
        "call.responded" => {
            let data = payload["output"]["data"].clone();
            if scene.with(|model| model.kind(number)) == Some(Kind::Subscription) {
                scene.with(|model| model.item(number, &data));
                return Some(());
            }
            End::Output(data)
        }
        "call.completed" => End::Completed,
        "call.aborted" => End::Aborted,
        "call.error" => failed(payload)?,
        _ => return None,
    };
    scene.with(|model| model.ended(number, end));
    Some(())
}

/// The end that an error describes, on the wire or as a problem document.
fn failed(error: &Value) -> Option<End> {
    Some(End::Failed {
        code: error["code"].as_str()?.to_owned(),
        delivered: delivered(error["delivered"].as_str()),
    })
}

/// Makes a call over HTTP and waits for its end. Dropping it leaves the call.
pub(crate) async fn call_over_http(
    http: Http,
    number: usize,
    operation: (String, Kind),
    limit: Option<Duration>,
    scene: Arc<Scene>,
) {
    let (spoke, kind) = operation;
    let path = format!("/v1/call/{spoke}.{}", name(kind));
    let end = match kind {
        Kind::Subscription => stream(&http, &path, number, &scene).await,
        Kind::Query | Kind::Mutation => request(&http, &path, number, limit).await,
    };
    scene.with(|model| match end {
        Ok(end) => model.ended(number, end),
        Err(error) => model.cut_off(number, &format!("{error:#}")),
    });
}

async fn request(http: &Http, path: &str, number: usize, limit: Option<Duration>) -> Result<End> {
    let limit = limit.map(|limit| format!("{}ms", limit.as_millis()));
    let header = limit.as_deref().map(|limit| ("Alkhub-Timeout", limit));
    let Answer { status, body } = http
        .send_with("POST", path, Some(&input(number)), header.as_slice())
        .await?;
    match status {
        200 => Ok(End::Output(body["data"].clone())),
        _ => failed(&body).context("a problem document"),
    }
}

async fn stream(http: &Http, path: &str, number: usize, scene: &Scene) -> Result<End> {
    let mut stream: Sse = match http.sse_or_refusal("POST", path, Some(&input(number))).await? {
        Ok(stream) => stream,
        Err(refusal) => return failed(&refusal.body).context("a problem document"),
    };
    loop {
        let event = stream.next_whenever().await?.context("a stream without an end")?;
        let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
        match event.event.as_str() {
            "next" => scene.with(|model| model.item(number, &data["data"])),
            "complete" => return Ok(End::Completed),
            "error" => return failed(&data).context("a problem document"),
            other => anyhow::bail!("an event of type `{other}`"),
        }
    }
}
