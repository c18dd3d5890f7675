//! The Hub's pods: which there are, according to `kubectl`, and what each holds, from its metrics once a second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use alkhub_tests::kube::Kube;
use alkhub_tests::load::pause;
use anyhow::Result;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::stage::{HUB, NAMESPACE};
use crate::watch::watch;

/// The metrics port in a hub pod.
const MANAGEMENT_PORT: u16 = 7421;
/// A pod that does not answer within this time is not asked again in that second.
const PATIENCE: Duration = Duration::from_millis(900);

/// One line for each change of a pod.
const LINE: &str = r#"jsonpath={.type}{"|"}{.object.metadata.name}{"|"}{.object.metadata.uid}{"|"}{.object.status.podIP}{"|"}{.object.metadata.deletionTimestamp}{"|"}{.object.status.conditions[?(@.type=="Ready")].status}{"|"}{.object.metadata.labels.alkhub\.dev/revision}{"|"}{.object.spec.nodeName}{"|"}{.object.metadata.annotations.alkhub\.dev/drain-since}{"\n"}"#;

/// A pod as Kubernetes knows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    /// Whether it is ready and has not been told to end.
    pub(crate) ready: bool,
    address: String,
    revision: String,
}

/// What a pod held at a given moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    /// Open WebSockets.
    pub(crate) websockets: usize,
    /// How many peers it has told to go to others for balance since it started.
    pub(crate) balanced: u64,
    /// How many CPU seconds it has used since it started.
    pub(crate) cpu: f64,
}

/// What all pods held at a given moment; a pod that did not answer is missing.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// When it was taken.
    pub(crate) at: Instant,
    /// What each pod held, by the pod's name.
    pub(crate) held: BTreeMap<String, Held>,
}

/// The pods of the Hub, watched until this is dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pods(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    pods: BTreeMap<String, Pod>,
    /// The revision of every pod that ever existed.
    revisions: BTreeMap<String, String>,
    /// When each pod was first seen to have been told to go: by the operator's mark, or by its deletion.
    told: BTreeMap<String, Instant>,
    /// The fewest ready pods since somebody last asked.
    least_ready: usize,
    samples: Vec<Sample>,
}

// === impl Pods ===

impl Pods {
    /// Follows the pods for ever.
    pub(crate) async fn watch(self, kube: Kube) {
        loop {
            // The API server ends a watch now and then.
            drop(self.follow(&kube).await);
            pause(Duration::from_millis(500)).await;
        }
    }

    async fn follow(&self, kube: &Kube) -> Result<()> {
        let selector = format!("app.kubernetes.io/component=hub,app.kubernetes.io/instance={HUB}");
        let what = ["pods", "-n", NAMESPACE, "-l", &selector];
        let (begin, each) = (|| self.0.lock().pods.clear(), |line: &str| self.changed(line));
        watch(kube, &what, LINE, begin, each).await
    }

    fn changed(&self, line: &str) {
        let fields: Vec<&str> = line.split('|').collect();
        let [change, name, uid, address, deleted, ready, revision, node, marked] = fields[..] else {
            return;
        };
        let text = str::to_owned;
        let mut seen = self.0.lock();
        if change == "DELETED" {
            seen.pods.remove(name);
        } else {
            let pod = Pod {
                name: text(name),
                uid: text(uid),
                node: text(node),
                ready: ready == "True" && deleted.is_empty(),
                address: text(address),
                revision: text(revision),
            };
            seen.revisions.insert(text(name), text(revision));
            if deleted.is_empty() && marked.is_empty() {
                // A drain was called off.
                seen.told.remove(name);
            } else {
                seen.told.entry(text(name)).or_insert_with(Instant::now);
            }
            seen.pods.insert(text(name), pod);
        }
        let ready = seen.pods.values().filter(|pod| pod.ready).count();
        seen.least_ready = seen.least_ready.min(ready);
    }

    /// Reads what each pod holds once a second, for ever.
    pub(crate) async fn sample(self) {
        let client = reqwest::Client::builder().timeout(PATIENCE).build().expect("a client");
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            second.tick().await;
            let at = Instant::now();
            let asked = self.now().into_iter().filter(|pod| !pod.address.is_empty()).map(|pod| {
                let request = client
                    .get(format!("http://{}:{MANAGEMENT_PORT}/metrics", pod.address))
                    .send();
                async move { Some((pod.name, held(&request.await.ok()?.text().await.ok()?))) }
            });
            let held = join_all(asked).await.into_iter().flatten().collect();
            self.0.lock().samples.push(Sample { at, held });
        }
    }

    /// The pods that currently exist.
    pub(crate) fn now(&self) -> Vec<Pod> {
        self.0.lock().pods.values().cloned().collect()
    }

    /// Those that serve.
    pub(crate) fn ready(&self) -> Vec<Pod> {
        self.now().into_iter().filter(|pod| pod.ready).collect()
    }

    /// Whether there are exactly `count` pods, all ready and of one revision.
    pub(crate) fn are(&self, count: usize) -> bool {
        let pods = self.now();
        let revisions: BTreeSet<&str> = pods.iter().map(|pod| pod.revision.as_str()).collect();
        pods.len() == count && pods.iter().all(|pod| pod.ready) && revisions.len() == 1
    }

    /// The newest look at all pods.
    pub(crate) fn last(&self) -> Option<Sample> {
        self.0.lock().samples.last().cloned()
    }

    /// The looks from a moment on.
    pub(crate) fn since(&self, from: Instant) -> Vec<Sample> {
        let seen = self.0.lock();
        let first = seen.samples.partition_point(|sample| sample.at < from);
        seen.samples[first..].to_vec()
    }

    /// The pod that holds most connections.
    pub(crate) fn fullest(&self) -> Option<Pod> {
        let last = self.last()?;
        let held = |pod: &Pod| last.held.get(&pod.name).map_or(0, |held| held.websockets);
        self.ready().into_iter().max_by_key(held)
    }

    /// When a pod was told to go, if it was.
    pub(crate) fn told_to_go(&self, pod: &str) -> Option<Instant> {
        self.0.lock().told.get(pod).copied()
    }

    /// The fewest pods that were ready since this was last asked.
    pub(crate) fn least_ready(&self) -> usize {
        let mut seen = self.0.lock();
        let ready = seen.pods.values().filter(|pod| pod.ready).count();
        std::mem::replace(&mut seen.least_ready, ready)
    }

    /// The revision of a hub's pod, found by the hub's id, which begins with the pod's name.
    pub(crate) fn revision(&self, hub: &str) -> Option<String> {
        let seen = self.0.lock();
        let mut pods = seen.revisions.iter();
        pods.find(|(name, _)| hub.starts_with(name.as_str()))
            .map(|(_, revision)| revision.clone())
    }
}

// === impl Sample ===

impl Sample {
    /// The connections of the fullest of these pods relative to their mean; `None` if one of them is missing.
    pub(crate) fn ratio(&self, pods: &[String]) -> Option<f64> {
        let held: Option<Vec<usize>> = pods.iter().map(|pod| Some(self.held.get(pod)?.websockets)).collect();
        let held = held?;
        let (most, all) = (*held.iter().max()?, held.iter().sum::<usize>());
        (all > 0).then(|| (most * held.len()) as f64 / all as f64)
    }
}

fn held(metrics: &str) -> Held {
    let sample = |name: &str| -> f64 {
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or(0.0)
    };
    Held {
        websockets: sample("alkhub_connections{kind=\"websocket\"}") as usize,
        balanced: sample("alkhub_balance_moves_total{reason=\"balance\"}") as u64,
        cpu: sample("process_cpu_seconds_total"),
    }
}
