//! Small calls while large outputs take the same path, and the same small calls alone.
//!
//! Invariants
//! - In this process nothing small waits for anything large, which has connections and a thread of its own.
//! - Large outputs are on their way for as long as small calls are, however long those take.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::Instant;
use tokio_util::context::TokioContext;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::calls::{self, Called};
use crate::pace::Latency;
use crate::system::{Kind, Servers};
use crate::ws::{Reader, Writer};

/// The rate of small calls, low enough that neither system is busy with them.
const PER_SECOND: f64 = 500.0;

/// Below the most that both systems accept in one message: 1 MiB.
const OUTPUT_BYTES: usize = 900 * 1024;

/// How many large calls wait for their answers.
const IN_FLIGHT: usize = 4;

/// How many large calls precede the first small one, until connections and the servers' memory have reached their size.
const WARM_UP: usize = 50;

/// A caller whose calls have large outputs.
struct LargeCaller {
    kind: Kind,
    called: Called,
    reader: Reader,
    writer: Writer,
    sent: usize,
    waiting: BTreeSet<usize>,
}

/// The thread for everything large.
struct Apart(Option<Runtime>);

/// Latencies of small calls with nothing beside them.
pub(crate) async fn alone(servers: &Servers, length: Duration) -> Result<Latency> {
    calls::latency_at(servers, PER_SECOND, length).await
}

/// Latencies of small calls while another caller on their server gets large outputs from another spoke of their
/// servers.
pub(crate) async fn measure(servers: &Servers, length: Duration) -> Result<Latency> {
    let apart = Apart::start()?;
    let called = Called {
        name: "large",
        inbox: "large",
        output: Some(vec![b'y'; OUTPUT_BYTES].into()),
    };
    let calls = small_calls(servers, (&called, apart.handle()), length);
    calls::answered(servers, &called, apart.handle(), calls).await
}

async fn small_calls(servers: &Servers, (called, apart): (&Called, &Handle), length: Duration) -> Result<Latency> {
    let connecting = TokioContext::new(LargeCaller::new(servers, called), apart.clone());
    let mut caller = connecting.await?;
    caller.call(|sent| sent < WARM_UP).await?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let (began, is_over) = (Instant::now(), stop.clone());
    let large = async move {
        caller.call(|_| !is_over.is_cancelled()).await?;
        anyhow::Ok(caller.sent)
    };
    let large = tasks.spawn_on(large, apart);
    let small = calls::latency_at(servers, PER_SECOND, length).await;
    stop.cancel();
    let sent = large.await?.context("large outputs")?;
    Ok(Latency {
        beside: (sent - WARM_UP) as f64 / began.elapsed().as_secs_f64(),
        ..small?
    })
}

// === impl LargeCaller ===

impl LargeCaller {
    async fn new(servers: &Servers, called: &Called) -> Result<Self> {
        let (reader, writer) = calls::caller(servers, called).await?;
        Ok(Self {
            kind: servers.kind(),
            called: called.clone(),
            reader,
            writer,
            sent: 0,
            waiting: BTreeSet::new(),
        })
    }

    /// Keeps calls under way while `goes_on`, which is told how many were sent, holds; then waits for the remaining
    /// answers.
    async fn call(&mut self, goes_on: impl Fn(usize) -> bool) -> Result<()> {
        loop {
            let mut frames = Vec::new();
            while self.waiting.len() < IN_FLIGHT && goes_on(self.sent) {
                calls::push_request(self.kind, &self.called, &mut frames, Some(self.sent));
                self.waiting.insert(self.sent);
                self.sent += 1;
            }
            if self.waiting.is_empty() {
                return Ok(());
            }
            if !frames.is_empty() {
                self.writer.send_raw(&frames).await?;
            }
            let mut message = Some(self.reader.next().await?);
            while let Some(answer) = message {
                calls::answers(self.kind, &self.called, &answer, |n| {
                    // A call that was sent before the answering side was known has no number.
                    let is_awaited = n.is_none_or(|n| self.waiting.remove(&n));
                    ensure!(is_awaited, "an answer to a request that waits for none: {n:?}");
                    Ok(())
                })?;
                message = self.reader.arrived()?;
            }
        }
    }
}

// === impl Apart ===

impl Apart {
    fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is there until it is dropped").handle()
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // Dropping the runtime would wait for its thread, which is not allowed inside a task.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
