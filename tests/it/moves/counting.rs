//! Three hubs, and a peer that counts what it receives and can go from hub to hub.

use alkhub_test_support::until;
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// How the hubs reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    Redis,
    Link,
}

/// A peer that counts.
pub(super) struct Counting {
    pub(super) peer: Peer,
    pub(super) seen: Seen,
}

/// What it knows about its session, whatever becomes of the connection.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) key: String,
    pub(super) id: String,
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// Hubs that know each other.
pub(super) async fn hubs(count: usize, carrier: Carrier) -> Result<Cluster> {
    Cluster::joined(count, carrier == Carrier::Link).await
}

/// Waits until a hub knows that the instance is on another one.
pub(super) async fn is_known_at(cluster: &Cluster, hub: usize, spoke: &str, at: usize) {
    let (http, wanted) = (
        Http::new(cluster.url(hub), cluster.admin()),
        cluster.hubs[at].hub_id().to_string(),
    );
    until("the hub knows where the spoke is", || async {
        let answer = http.send("GET", "/v1/spokes", None).await.map_err(|e| e.to_string())?;
        let spokes = answer.body["data"].as_array().into_iter().flatten();
        let at = spokes.filter(|listed| listed["name"] == spoke);
        let mut at = at.flat_map(|listed| listed["instances"].as_array().into_iter().flatten());
        if at.any(|instance| instance["hubId"] == wanted.as_str()) {
            Ok(())
        } else {
            Err(answer.body.to_string())
        }
    })
    .await;
}

// === impl Counting ===

impl Counting {
    /// Connects to a hub and gets a session.
    pub(super) async fn begin(cluster: &Cluster, hub: usize, key: &str) -> Result<Self> {
        Self::begin_with(cluster, hub, key, &["resume"]).await
    }

    async fn begin_with(cluster: &Cluster, hub: usize, key: &str, features: &[&str]) -> Result<Self> {
        let mut peer = Peer::connect(&cluster.url(hub), key).await?;
        peer.send("__hello", "", json!({ "features": features })).await?;
        let welcome = peer.next_of("__welcome").await?;
        let id = welcome["payload"]["sessionId"].as_str().context("an id")?.to_owned();
        let seen = Seen {
            key: key.to_owned(),
            id,
            received: 0,
            sent: 0,
        };
        Ok(Self { peer, seen })
    }

    /// The spoke `text` with `text.upper` and `text.watch`.
    pub(super) async fn spoke(cluster: &Cluster, hub: usize) -> Result<Self> {
        Self::spoke_with(cluster, hub, &["resume"]).await
    }

    /// The same with these features.
    pub(super) async fn spoke_with(cluster: &Cluster, hub: usize, features: &[&str]) -> Result<Self> {
        let mut spoke = Self::begin_with(cluster, hub, cluster.admin(), features).await?;
        let operations = [
            operation("text", "upper", "mutation"),
            operation("text", "watch", "subscription"),
        ];
        let input = json!({ "name": "text", "instanceId": "one", "operations": operations });
        spoke.ask("register", "hub.register", input).await?;
        spoke.expect("call.responded").await?;
        for other in 0..cluster.hubs.len() {
            is_known_at(cluster, other, "text", hub).await;
        }
        Ok(spoke)
    }

    /// Sends a message that counts.
    pub(super) async fn send(&mut self, kind: &str, id: &str, payload: Value) -> Result<()> {
        self.seen.sent += 1;
        self.peer.send(kind, id, payload).await
    }

    pub(super) async fn ask(&mut self, id: &str, operation: &str, input: Value) -> Result<()> {
        let payload = json!({ "operationId": operation, "input": input });
        self.send("call.requested", id, payload).await
    }

    /// Has a caller at a hub follow its `text.watch` in the call `w`; returns the caller, and the call as the spoke
    /// gets it.
    pub(super) async fn followed_at(&mut self, cluster: &Cluster, hub: usize) -> Result<(Peer, Value)> {
        let mut reader = Peer::connect(&cluster.url(hub), cluster.admin()).await?;
        let ask = json!({ "operationId": "text.watch", "input": "a" });
        reader.send("call.requested", "w", ask).await?;
        let watch = self.expect("call.requested").await?;
        Ok((reader, watch))
    }

    pub(super) async fn respond(&mut self, call: &Value, output: Value) -> Result<()> {
        let id = call["id"].as_str().context("an id")?;
        self.send("call.responded", id, json!({ "output": output })).await
    }

    /// Calls `text.upper` at a hub, and answers the call with this output.
    pub(super) async fn answers_at(&mut self, cluster: &Cluster, hub: usize, output: &str) -> Result<()> {
        let http = Http::new(cluster.url(hub), cluster.admin());
        let input = json!("a");
        let answering = async {
            let call = self.expect("call.requested").await?;
            self.respond(&call, json!(output)).await
        };
        let (answer, answered) = tokio::join!(http.call("text.upper", &input), answering);
        answered?;
        let answer = answer?;
        ensure!(answer.status == 200 && answer.body["data"] == output, "{answer:?}");
        Ok(())
    }

    /// The next message that counts.
    pub(super) async fn next(&mut self) -> Result<Value> {
        loop {
            let message = self.peer.next().await?;
            if message["type"] != "__ack" {
                self.seen.received += 1;
                return Ok(message);
            }
        }
    }

    /// The next message that counts, which must have this type.
    pub(super) async fn expect(&mut self, kind: &str) -> Result<Value> {
        let message = self.next().await?;
        ensure!(message["type"] == kind, "{kind} was due, and this came: {message}");
        Ok(message)
    }

    /// Cuts the connection without a word.
    pub(super) fn cut(self) -> Seen {
        self.seen
    }
}

// === impl Seen ===

impl Seen {
    pub(super) fn hello(&self) -> Value {
        json!({ "features": ["resume"], "resume": { "sessionId": self.id, "received": self.received } })
    }

    /// Comes back on a hub; also returns how many messages the hub has received.
    pub(super) async fn resume(self, cluster: &Cluster, hub: usize) -> Result<(Counting, u64)> {
        let mut peer = self.ask(cluster, hub).await?;
        let welcome = peer.next().await?;
        ensure!(welcome["type"] == "__welcome", "{welcome}");
        ensure!(welcome["payload"]["sessionId"] == self.id.as_str(), "{welcome}");
        ensure!(
            welcome["payload"]["hubId"] == cluster.hubs[hub].hub_id().as_str(),
            "{welcome}"
        );
        let resumed = peer.next().await?;
        ensure!(resumed["type"] == "__resume", "{resumed}");
        let received = resumed["payload"]["received"].as_u64().context("a count")?;
        Ok((Counting { peer, seen: self }, received))
    }

    /// Comes back on a hub, which may say for a while that it should try again.
    pub(super) async fn comes_back(self, cluster: &Cluster, hub: usize) -> Result<Counting> {
        let came = until("the hub has the session", || async {
            let mut peer = self.ask(cluster, hub).await.map_err(|error| error.to_string())?;
            let answer = peer.next().await.map_err(|error| error.to_string())?;
            if answer["payload"]["retryable"] == true {
                return Err(answer.to_string());
            }
            Ok((peer, answer))
        });
        let (mut peer, welcome) = came.await;
        ensure!(welcome["type"] == "__welcome", "{welcome}");
        peer.next_of("__resume").await?;
        Ok(Counting { peer, seen: self })
    }

    async fn ask(&self, cluster: &Cluster, hub: usize) -> Result<Peer> {
        let mut peer = Peer::connect(&cluster.url(hub), &self.key).await?;
        peer.send("__hello", "", self.hello()).await?;
        Ok(peer)
    }

    /// Comes back on a hub and is refused; returns the code, the message and the connection.
    pub(super) async fn refused(&self, cluster: &Cluster, hub: usize) -> Result<(String, String, Peer)> {
        let mut peer = self.ask(cluster, hub).await?;
        let error = peer.next().await?;
        ensure!(error["type"] == "__error", "{error}");
        let text = |field: &str| error["payload"][field].as_str().map(str::to_owned).context("a text");
        Ok((text("code")?, text("message")?, peer))
    }
}
