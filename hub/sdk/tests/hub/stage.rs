//! One hub, the proxy before it, and the peers that talk to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_sdk::{CallOptions, Client, Context, Error, Failure, Operation, Spoke, spoke};
use alkhub_test_support::{Proxy, RedisServer, until};
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::wire::{Peer, operation};
use anyhow::Result;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Longer than anything here takes, including on a silent link.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A hub, and the link to it that fails.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) link: Proxy,
}

/// Counts handlers that began and those whose future was dropped before its end.
#[derive(Default)]
pub(crate) struct Watched {
    pub(crate) dropped: AtomicUsize,
    pub(crate) began: Notify,
    pub(crate) ended: Notify,
}

struct OnDrop(Arc<Watched>);

// === impl Stage ===

impl Stage {
    pub(crate) async fn start() -> Result<Self> {
        Self::with(|_| {}).await
    }

    /// A hub that keeps no session whose connection is lost.
    pub(crate) async fn forgetful() -> Result<Self> {
        Self::with(|config| config.server.resume = Duration::ZERO).await
    }

    /// A hub with settings of the test's own.
    pub(crate) async fn with(change: impl FnOnce(&mut HubConfig)) -> Result<Self> {
        let mut cluster = Cluster::empty(Some(RedisServer::start().await)).await?;
        cluster.add(change).await?;
        let address = cluster.url(0).replacen("http://", "", 1);
        let link = Proxy::start(address).await?;
        Ok(Self { cluster, link })
    }

    /// The hub, as seen over the link.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.link.address())
    }

    /// A client over the link.
    pub(crate) fn client(&self) -> Client {
        self.client_with(self.cluster.admin())
    }

    pub(crate) fn client_with(&self, key: &str) -> Client {
        let client = Client::builder(self.url()).token(key).timeout(SOON);
        client.build().expect("valid settings")
    }

    /// A spoke over the link.
    pub(crate) fn spoke(&self) -> spoke::Builder {
        Spoke::builder(self.url()).token(self.cluster.admin()).name("text")
    }

    /// A spoke without the SDK that offers `text.upper`, `text.wait` and `text.ticks`, straight at the hub.
    pub(crate) async fn peer(&self) -> Result<Peer> {
        let mut peer = Peer::connect(&self.cluster.url(0), self.cluster.admin()).await?;
        let operations = [("upper", "query"), ("wait", "mutation"), ("ticks", "subscription")];
        let operations = operations.map(|(name, kind)| operation("text", name, kind));
        peer.register("text", json!(operations)).await?;
        Ok(peer)
    }

    /// HTTP straight to the hub.
    pub(crate) fn http(&self) -> Http {
        Http::new(self.cluster.url(0), self.cluster.admin())
    }

    /// A new key: its id, and the key.
    pub(crate) async fn key(&self, body: Value) -> Result<(String, String)> {
        self.http().new_key(&body).await
    }

    /// Cuts every connection over the link; new ones may be made at once.
    pub(crate) fn break_link(&self) {
        self.link.cut();
        self.link.heal();
    }

    /// The value of one gauge or counter of the hub.
    pub(crate) async fn metric(&self, name: &str) -> Result<String, String> {
        let url = format!("{}/metrics", self.cluster.hubs[0].management_url());
        let answer = reqwest::get(url).await.map_err(|e| e.to_string())?;
        let text = answer.text().await.map_err(|e| e.to_string())?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(str::to_owned).ok_or(text)
    }
}

// === impl Watched ===

impl Watched {
    /// An operation `text.wait` that never ends by itself.
    pub(crate) fn endless(self: &Arc<Self>) -> Operation {
        let watched = Arc::clone(self);
        Operation::mutation("text.wait", move |(): (), context: Context| {
            let watched = Arc::clone(&watched);
            async move {
                let _guard = OnDrop(Arc::clone(&watched));
                watched.began.notify_one();
                std::future::pending::<()>().await;
                Ok::<_, Failure>(context.operation().to_string())
            }
        })
    }
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
        self.0.ended.notify_one();
    }
}

/// `text.upper`.
pub(crate) async fn upper(text: String) -> Result<String, Failure> {
    Ok(text.to_uppercase())
}

/// Waits for something that must happen soon.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
}

/// A call's deadline.
pub(crate) fn within(time: Duration) -> CallOptions {
    CallOptions {
        timeout: Some(time),
        ..CallOptions::default()
    }
}

/// Waits until a client knows that its link was cut. A request made before that was handed to the dead socket, and is
/// lost.
pub(crate) async fn noticed(client: &Client) {
    until("the client has noticed the cut", || async {
        let called = client.call_with::<_, Value>("text.upper", "", within(Duration::from_millis(250)));
        match called.await {
            Err(Error::Unreachable { .. }) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// The next call that is sent to a spoke without the SDK.
pub(crate) async fn asked(peer: &mut Peer) -> Result<Value> {
    Ok(peer.next_of("call.requested").await?["payload"].take())
}

/// Answers a call.
pub(crate) async fn answer(peer: &mut Peer, call: &Value, output: impl Into<Value>) -> Result<()> {
    let payload = json!({ "requestId": call["requestId"], "output": output.into() });
    peer.send("call.responded", "", payload).await
}
