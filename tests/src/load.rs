//! Spokes of both kinds and callers in one process, for a Hub that is scaled, rolled out and killed meanwhile.
//!
//! - Half of the spokes use the SDK, half are plain (the origin's wire, no `__hello`); each has a key of its own.
//! - Calls become due at a constant rate, whatever the hubs do, and take from 5 ms to 5 s at their spokes.
//! - Everything that a caller, or a spoke, sees is in the [`Tally`], without exception.

mod callers;
mod plain;
mod sdk;
mod tally;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::SpokeName;
use alkhub_protocol::admin::SpokePut;
use alkhub_sdk::{Client, Spoke};
use anyhow::{Context as _, Result};
use futures::future::join_all;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::keys;

pub use self::tally::{Aim, Arrival, Away, Ended, Failed, Kind, Tally, Window};

/// What spokes of each kind offer.
const SDK_OPERATION: &str = "load.sdk";
const PLAIN_OPERATION: &str = "load.plain";

/// How many spokes are declared, and then connected, at a time.
const AT_ONCE: usize = 32;

/// The size of the load.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Spokes in all; every other one is plain.
    pub spokes: usize,
    /// How many sessions a spoke with the SDK has, if there are hubs for them.
    pub sessions: u8,
    /// Calls a second.
    pub rate: f64,
    /// Clients that make them, each over a connection of its own.
    pub callers: usize,
}

/// Spokes that are connected and called until it is dropped.
#[derive(Debug)]
pub struct Load {
    /// What is seen.
    pub tally: Arc<Tally>,
    names: Vec<SpokeName>,
    spokes: Vec<Arc<Spoke>>,
    stop: CancellationToken,
    /// Stops the calls; cancelled with `stop`, or earlier.
    stop_calling: CancellationToken,
    tasks: TaskTracker,
}

/// A spoke with its key.
#[derive(Clone, Debug)]
struct Member {
    number: usize,
    name: SpokeName,
    key: String,
}

// === impl Load ===

impl Load {
    /// Declares the spokes, connects them through `url`, and waits until all are registered. Nothing is called yet.
    ///
    /// # Errors
    /// The hub refused one, or did not answer in a minute.
    pub async fn connect(url: &str, admin: &str, scale: &Scale) -> Result<Self> {
        let client = Client::builder(url).token(admin).build()?;
        let members: Vec<Member> = stream::iter(0..scale.spokes)
            .map(|number| declared(client.clone(), number))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let (tally, stop, tasks) = (Arc::new(Tally::default()), CancellationToken::new(), TaskTracker::new());
        for member in members.iter().filter(|member| kind(member.number) == Kind::Plain) {
            let keeping = Box::pin(plain::keep(url.to_owned(), member.clone(), Arc::clone(&tally)));
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(keeping).await });
        }
        let with_sdk = members.iter().filter(|member| kind(member.number) == Kind::Sdk);
        let with_sdk: Vec<Member> = with_sdk.cloned().collect();
        let spokes: Vec<Arc<Spoke>> = stream::iter(with_sdk)
            .map(|member| sdk::start(url.to_owned(), member, scale.sessions, Arc::clone(&tally)))
            .buffered(AT_ONCE)
            .map_ok(Arc::new)
            .try_collect()
            .await?;
        for (spoke, member) in spokes.iter().zip(members.iter().step_by(2)) {
            let watching = sdk::watch(Arc::clone(spoke), member.number, Arc::clone(&tally));
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(watching).await });
        }
        let load = Self {
            tally,
            names: members.into_iter().map(|member| member.name).collect(),
            spokes,
            stop_calling: stop.child_token(),
            stop,
            tasks,
        };
        load.all_connected(Duration::from_secs(60)).await?;
        Ok(load)
    }

    /// Begins to call, and goes on until the end.
    ///
    /// # Errors
    /// A client cannot be built.
    pub fn call(&self, url: &str, key: &str, scale: &Scale) -> Result<()> {
        let clients = (0..scale.callers).map(|_| Client::builder(url).token(key).build());
        let clients: Vec<Client> = clients.collect::<Result<_, _>>()?;
        let calling = callers::call(
            clients,
            self.names.clone(),
            scale.rate,
            (Arc::clone(&self.tally), self.tasks.clone()),
        );
        let stop = self.stop_calling.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(calling).await });
        Ok(())
    }

    /// Calls no more, and waits until every call is over.
    ///
    /// # Errors
    /// Some are not, though their time is up; how many.
    pub async fn calls_end(&self) -> Result<()> {
        self.stop_calling.cancel();
        let within = callers::TIMEOUT + Duration::from_secs(5);
        none_left(within, "calls do not end", || self.tally.running()).await
    }

    /// Waits until every call that was made before is over; others are made meanwhile.
    ///
    /// # Errors
    /// Some are not, though their time is up; how many.
    pub async fn calls_until_now_end(&self) -> Result<()> {
        let made = self.tally.made();
        let within = callers::TIMEOUT + Duration::from_secs(5);
        none_left(within, "calls do not end", || self.tally.running_of(made)).await
    }

    /// Waits until every spoke with the SDK is on two hubs.
    ///
    /// # Errors
    /// Some are not, after so long; how many.
    pub async fn all_on_two_hubs(&self, within: Duration) -> Result<()> {
        let is_on_two = |spoke: &Arc<Spoke>| {
            let hubs = spoke.hubs();
            hubs.len() == 2 && hubs[0] != hubs[1]
        };
        let missing = || self.spokes.iter().filter(|spoke| !is_on_two(spoke)).count();
        none_left(within, "spokes are not on two hubs", missing).await
    }

    /// Waits until every spoke has a connection.
    ///
    /// # Errors
    /// One has none for so long; how many do not.
    pub async fn all_connected(&self, within: Duration) -> Result<()> {
        let missing = || self.names.len() - self.tally.connected();
        none_left(within, "spokes are not connected", missing).await
    }

    /// Plain spokes.
    pub fn plain(&self) -> usize {
        self.names.len() / 2
    }

    /// Connections that the spokes hold, or come back to.
    pub fn connections(&self) -> usize {
        self.plain() + self.spokes.iter().map(|spoke| spoke.hubs().len()).sum::<usize>()
    }

    /// Stops to call and to be called; running calls are lost.
    pub async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        join_all(self.spokes.iter().map(|spoke| spoke.shutdown())).await;
    }

    /// The same, and the hubs forget the spokes and their keys.
    ///
    /// # Errors
    /// A hub does not delete one.
    pub async fn end_and_forget(self, url: &str, admin: &str) -> Result<()> {
        let (client, names) = (Client::builder(url).token(admin).build()?, self.names.clone());
        self.end().await;
        for name in names {
            client.delete_spoke(&name, &uid(&name)).await?;
        }
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The SDK's spokes have even numbers, the plain ones odd numbers.
fn kind(number: usize) -> Kind {
    if number.is_multiple_of(2) {
        Kind::Sdk
    } else {
        Kind::Plain
    }
}

/// Like that of a spoke that a person declared: the operator leaves those alone.
fn uid(name: &SpokeName) -> String {
    format!("cli-{name}")
}

async fn declared(client: Client, number: usize) -> Result<Member> {
    let name: SpokeName = match kind(number) {
        Kind::Sdk => format!("load-sdk-{number}"),
        Kind::Plain => format!("load-plain-{number}"),
    }
    .parse()?;
    let key = keys::new_key().expose().to_owned();
    let declaration = SpokePut {
        uid: uid(&name),
        key: Some(key.clone()),
        operations: vec!["load.*".to_owned()],
        ..SpokePut::default()
    };
    let declaring = client.declare_spoke(&name, &declaration);
    declaring.await.with_context(|| format!("declaring {name}"))?;
    Ok(Member { number, name, key })
}

/// Works for as many milliseconds as the call asks for. The output is the number of microseconds that it took.
async fn work(tally: &Tally, input: &Value) -> Value {
    let began = Instant::now();
    let number = input["n"].as_u64().unwrap_or(u64::MAX);
    tally.ran(number);
    pause(Duration::from_millis(input["ms"].as_u64().unwrap_or(0))).await;
    let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    serde_json::json!({ "n": number, "us": took })
}

/// Waits until the count is zero, for `within` at most.
async fn none_left(within: Duration, what: &str, left: impl Fn() -> usize) -> Result<()> {
    let end = Instant::now() + within;
    loop {
        let left = left();
        if left == 0 {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < end, "{left} {what} after {within:?}");
        pause(Duration::from_millis(50)).await;
    }
}

/// Lets time pass.
pub async fn pause(time: Duration) {
    // Ends by the timeout only.
    drop(timeout(time, pending::<()>()).await);
}
