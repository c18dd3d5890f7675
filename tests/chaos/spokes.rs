//! Programs that offer operations: with the SDK and one or two sessions, and one that speaks the origin's plain wire.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alkhub_sdk::{Failure, Operation, Spoke, Status};
use alkhub_test_support::{Proxy, pause};
use alkhub_tests::wire::{Peer, Sender, operation};
use anyhow::Result;
use futures::{Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use crate::ledger::{Kind, items_of, time_of};
use crate::run::{NAMES, Run};

/// The program without the SDK.
const PLAIN: usize = 3;
/// The time between two tries of that program.
const AGAIN: Duration = Duration::from_millis(100);

/// One program, running or not.
#[derive(Debug)]
pub(crate) struct Program {
    number: usize,
    pub(crate) proxy: Proxy,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    /// `None` for the program without the SDK.
    spoke: Option<Spoke>,
    /// The tasks that watch it, or that it consists of.
    _tasks: JoinSet<()>,
}

// === impl Program ===

impl Program {
    pub(crate) async fn new(number: usize) -> Result<Self> {
        Ok(Self {
            number,
            proxy: Proxy::start("127.0.0.1:1").await?,
            running: None,
        })
    }

    /// Starts it unless it is running, always as the same instance.
    pub(crate) fn start(&mut self, run: &Run) {
        if self.running.is_some() {
            return;
        }
        self.proxy.heal();
        let url = format!("http://{}", self.proxy.address());
        let mut tasks = JoinSet::new();
        let spoke = if self.number == PLAIN {
            tasks.spawn(plain(run.clone(), url, self.instance()));
            None
        } else {
            let spoke = sdk(run, &url, self.number, &self.instance());
            tasks.spawn(watched(run.clone(), spoke.status()));
            Some(spoke)
        };
        self.running = Some(Running { spoke, _tasks: tasks });
    }

    /// Makes it vanish without a word.
    pub(crate) fn kill(&mut self) {
        self.proxy.cut();
        self.running = None;
    }

    /// Tells it to end, in the background: what it sends may be held up.
    pub(crate) fn end(&mut self) -> impl Future<Output = ()> + Send + use<> {
        // Nobody watches it any more, so that another program may take its place in the meantime.
        let spoke = self.running.take().and_then(|running| running.spoke);
        async move {
            if let Some(spoke) = spoke {
                spoke.shutdown().await;
            }
        }
    }

    fn instance(&self) -> String {
        format!("i{}", self.number)
    }
}

/// Two programs under the first name and one under the second; the very first has two sessions.
fn sdk(run: &Run, url: &str, number: usize, instance: &str) -> Spoke {
    let name = format!("{}{}", run.prefix, NAMES[number / 2]);
    let mut builder = Spoke::builder(url)
        .token(&*run.key)
        .name(&name)
        .instance_id(instance)
        .sessions(if number == 0 { 2 } else { 1 })
        .drain_timeout(Duration::from_secs(5));
    for offered in operations(run, &name, instance) {
        builder = builder.operation(offered);
    }
    builder.spawn().expect("valid settings")
}

fn operations(run: &Run, name: &str, instance: &str) -> [Operation; 3] {
    let (ledger, who): (_, Arc<str>) = (Arc::clone(&run.ledger), instance.into());
    let once = move |number: u64| {
        ledger.runs(number, &who);
        async move {
            pause(time_of(number)).await;
            Ok::<_, Failure>(BTreeMap::from([("call", number)]))
        }
    };
    let (ledger, who): (_, Arc<str>) = (Arc::clone(&run.ledger), instance.into());
    let many = move |number: u64| {
        ledger.runs(number, &who);
        items(number)
    };
    [
        Operation::query(&format!("{name}.get"), once.clone()),
        Operation::mutation(&format!("{name}.set"), once),
        Operation::subscription(&format!("{name}.watch"), many),
    ]
}

fn items(number: u64) -> impl Stream<Item = Result<(u64, u64), Failure>> + Send + 'static {
    futures::stream::iter(0..items_of(number)).then(move |item| async move {
        pause(time_of(number + item)).await;
        Ok((number, item))
    })
}

/// Notes each registration, and checks that the program does not end by itself.
async fn watched(run: Run, mut status: watch::Receiver<Status>) {
    while status.changed().await.is_ok() {
        let seen = status.borrow_and_update().clone();
        match seen {
            Status::Registered(registered) => {
                let (instance, hub) = (registered.instance_id.as_str(), registered.hub_id.as_str());
                let instance = format!("{}/{instance}", registered.spoke_id.as_str());
                run.ledger.registered(&instance, hub, registered.generation);
            }
            Status::Ended(Some(error)) => run.ledger.broken(format!("a spoke ended by itself: {error}")),
            Status::Ended(None) | Status::Connecting(_) => {}
        }
    }
}

/// Connects, registers and answers, again and again.
async fn plain(run: Run, url: String, instance: String) {
    loop {
        if let Err(error) = serve(&run, &url, &instance).await {
            run.ledger.count("connections that the plain spoke lost");
            run.ledger
                .note(format!("the plain spoke lost its connection: {error:#}"));
        }
        pause(AGAIN).await;
    }
}

async fn serve(run: &Run, url: &str, instance: &str) -> Result<()> {
    let (mut sender, mut receiver) = Peer::connect(url, &run.key).await?.split();
    let name = format!("{}{}", run.prefix, NAMES[2]);
    let operations = Kind::ALL.map(|kind| operation(&name, kind.name(), kind.spelled()));
    let input = json!({ "name": name, "instanceId": instance, "operations": operations });
    let payload = json!({ "requestId": "register", "operationId": "hub.register", "input": input });
    sender.send("call.requested", "", &payload).await?;
    let (sender, mut answering) = (Arc::new(Mutex::new(sender)), JoinSet::new());
    loop {
        let message = receiver.next_or_closed().await?;
        let message = message.map_err(|(code, reason)| anyhow::anyhow!("closed with {code} {reason}"))?;
        let payload = &message["payload"];
        match message["type"].as_str() {
            Some("call.requested") => {
                let number = payload["input"].as_u64().unwrap_or(u64::MAX);
                run.ledger.runs(number, instance);
                let is_stream = payload["operationId"]
                    .as_str()
                    .is_some_and(|name| name.ends_with(".watch"));
                let request = payload["requestId"].clone();
                answering.spawn(answer(Arc::clone(&sender), request, number, is_stream));
            }
            Some("call.responded") => {
                let registered = &payload["output"]["data"];
                let generation = registered["generation"].as_u64().unwrap_or_default();
                let hub = registered["hubId"].as_str().unwrap_or_default();
                run.ledger.registered(&format!("{name}/{instance}"), hub, generation);
            }
            _ => {}
        }
        while answering.try_join_next().is_some() {}
    }
}

/// Answers one call; whatever can no longer be sent is lost.
async fn answer(sender: Arc<Mutex<Sender>>, request: Value, number: u64, is_stream: bool) {
    let say = async |kind: &str, payload: Value| drop(sender.lock().await.send(kind, "", &payload).await);
    if is_stream {
        let mut items = Box::pin(items(number));
        while let Some(Ok(item)) = items.next().await {
            say("call.responded", json!({ "requestId": request, "output": item })).await;
        }
        say("call.completed", json!({ "requestId": request })).await;
    } else {
        pause(time_of(number)).await;
        let output = json!({ "call": number });
        say("call.responded", json!({ "requestId": request, "output": output })).await;
    }
}
