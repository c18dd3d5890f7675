//! Programs that call, subscribe and follow events: with the SDK, over a plain WebSocket, and over HTTP.

mod http;
mod plain;
mod sdk;

use std::time::Duration;

use alkhub_test_support::Proxy;
use anyhow::Result;
use fastrand::Rng;
use tokio::task::JoinSet;

pub(crate) use self::http::{call as call_over_http, is_taken, publish};
use crate::run::Run;

/// The caller without the SDK.
const PLAIN: usize = 2;
/// The deadline of a call.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(6);

/// One program, running or not.
#[derive(Debug)]
pub(crate) struct Program {
    number: usize,
    pub(crate) proxy: Proxy,
    /// Its calls and subscriptions.
    calling: JoinSet<()>,
    /// Its stream of events, which ends once it has seen the last of them.
    following: JoinSet<()>,
    client: Option<alkhub_sdk::Client>,
}

// === impl Program ===

impl Program {
    pub(crate) async fn new(number: usize) -> Result<Self> {
        Ok(Self {
            number,
            proxy: Proxy::start("127.0.0.1:1").await?,
            calling: JoinSet::new(),
            following: JoinSet::new(),
            client: None,
        })
    }

    pub(crate) fn runs(&self) -> bool {
        !self.calling.is_empty()
    }

    /// Starts it unless it is running.
    pub(crate) fn start(&mut self, run: &Run) {
        if self.runs() {
            return;
        }
        self.proxy.heal();
        let url = format!("http://{}", self.proxy.address());
        if self.number == PLAIN {
            self.calling.spawn(plain::calls(run.clone(), url));
            return;
        }
        let client = alkhub_sdk::Client::builder(url).token(&*run.key).timeout(TIMEOUT);
        let client = client.build().expect("valid settings");
        let program = u64::try_from(self.number).expect("few");
        for task in 0..2 {
            let chance = run.chance(100 + 10 * program + task);
            self.calling.spawn(sdk::calls(run.clone(), client.clone(), chance));
        }
        let chance = run.chance(200 + program);
        self.calling
            .spawn(sdk::subscriptions(run.clone(), client.clone(), chance));
        self.following.spawn(sdk::events(run.clone(), client.clone()));
        self.client = Some(client);
    }

    /// Makes it vanish without a word, with everything that it waited for.
    pub(crate) fn kill(&mut self) {
        self.proxy.cut();
        (self.calling, self.following) = (JoinSet::new(), JoinSet::new());
        self.client = None;
    }

    /// Waits until its last calls have ended; it begins no more.
    pub(crate) async fn calls_end(&mut self) {
        while self.calling.join_next().await.is_some() {}
    }

    /// Waits until it has seen the last events.
    pub(crate) async fn events_end(&mut self) {
        while self.following.join_next().await.is_some() {}
    }

    /// Makes it leave in good order.
    pub(crate) async fn close(&mut self) {
        if let Some(client) = self.client.take() {
            client.close().await;
        }
    }
}

/// Time between two calls of one task.
pub(crate) fn rest(chance: &mut Rng) -> Duration {
    Duration::from_millis(chance.u64(5..60))
}
