//! What the steps share: the cluster, names, and what earlier steps leave for later ones.

use std::path::{Path, PathBuf};

use alkhub_tests::kube::Kube;
use alkhub_tests::wire::Peer;
use anyhow::Result;
use serde_json::Value;

use crate::say;

/// Namespace of the operator.
pub(crate) const SYSTEM: &str = "alkhub-system";
/// Namespace of the Hub that most steps use.
pub(crate) const DEMO: &str = "demo";

/// One run.
#[derive(Debug)]
pub(crate) struct World {
    /// The cluster.
    pub(crate) kube: Kube,
    /// A scratch folder of this run.
    pub(crate) folder: tempfile::TempDir,
    /// The spoke that stays connected from the first step on.
    pub(crate) spoke: Option<Spoke>,
    /// Other spokes and their callers, while connections move.
    pub(crate) load: Option<alkhub_tests::load::Load>,
    /// The Prometheus that scrapes the cluster, from one step to the next.
    pub(crate) monitoring: Option<crate::monitoring::Stack>,
}

/// A pod of a Hub, for its logs.
#[derive(Debug)]
struct HubPod {
    namespace: String,
    name: String,
    /// Whether its container is not the first one.
    restarted: bool,
}

/// A spoke of the test's own: a raw WebSocket that answers every call with its input.
#[derive(Debug)]
pub(crate) struct Spoke {
    answering: tokio::task::JoinHandle<Result<(u16, String)>>,
}

// === impl World ===

impl World {
    pub(crate) fn new(kubeconfig: PathBuf) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        Self {
            kube: Kube::new(kubeconfig),
            folder,
            spoke: None,
            load: None,
            monitoring: None,
        }
    }

    /// A file of the checkout.
    pub(crate) fn file(&self, path: &str) -> String {
        root().join(path).to_string_lossy().into_owned()
    }

    /// Prints the state of the cluster, for whoever reads a failed run.
    pub(crate) async fn dump(&self) {
        for what in [
            "get nodes -o wide",
            "get pods,hubs,spokes,svc,pvc -A -o wide",
            "get events -A --sort-by=.lastTimestamp",
            "describe hubs,spokes -A",
            &format!("logs -n {SYSTEM} -l app.kubernetes.io/part-of=alkhub --tail=60 --prefix"),
        ] {
            self.show(what).await;
        }
        for pod in self.pods_of_hubs().await.unwrap_or_default() {
            let name = format!("-n {} {} --tail=40 --prefix", pod.namespace, pod.name);
            if pod.restarted {
                self.show(&format!("logs {name} --previous")).await;
            }
            self.show(&format!("logs {name}")).await;
        }
    }

    /// Prints the output of `kubectl`; no argument contains a space.
    async fn show(&self, what: &str) {
        let args: Vec<&str> = what.split(' ').collect();
        match self.kube.kubectl(&args).await {
            Ok(text) => say(&format!("--- kubectl {what}\n{text}")),
            Err(error) => say(&format!("--- {error:#}")),
        }
    }

    /// The pods of all Hubs, in all namespaces: `kubectl logs` takes only one at a time.
    async fn pods_of_hubs(&self) -> Result<Vec<HubPod>> {
        let selector = "app.kubernetes.io/component=hub";
        let args = ["get", "pods", "-A", "-l", selector, "-o", "json"];
        let pods: Value = serde_json::from_str(&self.kube.kubectl(&args).await?)?;
        let pods = pods["items"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(pods
            .map(|pod| HubPod {
                namespace: text(&pod["metadata"]["namespace"]),
                name: text(&pod["metadata"]["name"]),
                restarted: pod["status"]["containerStatuses"][0]["restartCount"].as_u64() > Some(0),
            })
            .collect())
    }
}

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests lie in the workspace")
}

// === impl Spoke ===

impl Spoke {
    /// Takes a registered peer and answers its calls until the hub closes the connection.
    pub(crate) fn answering(mut peer: Peer) -> Self {
        let answering = tokio_util::task::TaskTracker::new().spawn(async move {
            loop {
                let asked = match peer.next_or_closed().await? {
                    Ok(asked) => asked,
                    Err(close) => return Ok(close),
                };
                if asked["type"] == "call.requested" {
                    let answer: Value = serde_json::json!({
                        "requestId": asked["payload"]["requestId"], "output": asked["payload"]["input"],
                    });
                    peer.send("call.responded", "", answer).await?;
                }
            }
        });
        Self { answering }
    }

    /// The code and reason with which the hub closed the connection.
    pub(crate) async fn closed(self) -> Result<(u16, String)> {
        self.answering.await?
    }

    /// Whether the connection is still open.
    pub(crate) fn connected(&self) -> bool {
        !self.answering.is_finished()
    }
}
