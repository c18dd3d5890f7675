//! What the events happen to: the charts, one Hub, its pods, and the load.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use alkhub_tests::kube::{Kube, condition};
use alkhub_tests::load::{Load, Scale, pause};
use alkhub_tests::process;
use alkhub_tests::reach::Reach;
use anyhow::{Context as _, Result, bail};
use futures::future::BoxFuture;
use nix::sys::signal::Signal;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::leaders::Leaders;
use crate::pods::Pods;
use crate::say;

/// The operator's namespace.
pub(crate) const SYSTEM: &str = "alkhub-system";
/// The selector of its pods.
pub(crate) const OPERATOR: &str = "app.kubernetes.io/name=alkhub-operator";
/// How many operators there are: one leads, and another takes over when that one stands still.
const OPERATORS: &str = "replicas=2";
/// What a hub logs about another one that is gone (`hub/calls/src/leg/departure.rs`).
const GONE: &str = "another hub is gone";
/// The Hub's namespace.
pub(crate) const NAMESPACE: &str = "load";
/// Its name.
pub(crate) const HUB: &str = "load";
/// How often a condition is checked.
const LOOK: Duration = Duration::from_millis(200);

const MANIFEST: &str = "
apiVersion: alkhub.dev/v1alpha1
kind: Hub
metadata: {name: load}
spec:
  replicas: 2
  redis: {managed: true, storage: {ephemeral: true}}
  postgres: {managed: true, storage: {ephemeral: true}}
";

/// A Hub under load.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) kube: Kube,
    pub(crate) pods: Pods,
    pub(crate) leaders: Leaders,
    pub(crate) load: Load,
    changes: AtomicU32,
    _end: DropGuard,
}

/// The process of the operator that leads.
#[derive(Debug)]
pub(crate) struct Leader {
    pod: String,
}

// === impl Leader ===

impl Leader {
    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        process::signal(&self.pod, "alkhub-operator", signal)
    }
}

// === impl Stage ===

impl Stage {
    /// Installs the charts, creates the Hub, connects the spokes and starts calling.
    pub(crate) async fn build(kubeconfig: PathBuf, scale: &Scale) -> Result<Self> {
        let kube = Kube::new(kubeconfig);
        install(&kube).await?;
        let (pods, leaders) = (Pods::default(), Leaders::default());
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        let looking: [BoxFuture<'static, ()>; 5] = [
            Box::pin(pods.clone().watch(kube.clone())),
            Box::pin(pods.clone().sample()),
            Box::pin(leaders.clone().watch_pods(kube.clone())),
            Box::pin(leaders.clone().watch_lease(kube.clone())),
            Box::pin(leaders.clone().sample()),
        ];
        for looking in looking {
            let end = end.clone();
            tasks.spawn(async move { end.run_until_cancelled(looking).await });
        }
        let hub = Reach::service(&kube, NAMESPACE, HUB).await?;
        let admin = kube.secret(NAMESPACE, &format!("{HUB}-auth"), "admin-key").await?;
        let began = Instant::now();
        let load = Load::connect(&hub.url, &admin, scale).await?;
        say(&format!(
            "{} spokes came in {:.0} s",
            scale.spokes,
            began.elapsed().as_secs_f64()
        ));
        let stage = Self {
            kube,
            pods,
            leaders,
            load,
            changes: AtomicU32::new(0),
            _end: end.drop_guard(),
        };
        // Second sessions come after the first ones.
        let all = scale.spokes / 2 * (1 + usize::from(scale.sessions));
        let within = Duration::from_secs(60);
        drop(
            stage
                .until("all sessions", within, |stage| stage.load.connections() >= all)
                .await,
        );
        stage.load.call(&hub.url, &admin, scale)?;
        let connections = stage.load.connections();
        say(&format!(
            "{connections} connections; calling {} times a second",
            scale.rate
        ));
        Ok(stage)
    }

    /// Waits until a condition holds.
    ///
    /// # Errors
    /// It does not hold within this time.
    pub(crate) async fn until(&self, what: &str, within: Duration, mut is: impl FnMut(&Self) -> bool) -> Result<()> {
        let end = Instant::now() + within;
        while !is(self) {
            if Instant::now() > end {
                bail!("{what}: not within {within:?}; pods: {:?}", self.pods.now());
            }
            pause(LOOK).await;
        }
        Ok(())
    }

    pub(crate) async fn scale(&self, pods: usize) -> Result<()> {
        let (hub, replicas) = (format!("hub/{HUB}"), format!("--replicas={pods}"));
        self.kube.kubectl(&["scale", "-n", NAMESPACE, &hub, &replicas]).await?;
        Ok(())
    }

    /// Changes a setting, which leads to pods of another revision.
    pub(crate) async fn change(&self) -> Result<()> {
        let timeout = format!("{}s", 40 + self.changes.fetch_add(1, Ordering::Relaxed));
        let patch = serde_json::json!({ "spec": { "config": { "calls": { "default-timeout": timeout } } } });
        let hub = format!("hub/{HUB}");
        let patch = ["patch", "-n", NAMESPACE, &hub, "--type=merge", "-p", &patch.to_string()];
        self.kube.kubectl(&patch).await?;
        Ok(())
    }

    /// Sends a signal to the process of Redis.
    pub(crate) async fn redis(&self, signal: Signal) -> Result<()> {
        let selector = format!("app.kubernetes.io/component=redis,app.kubernetes.io/instance={HUB}");
        signalled(&self.kube, (NAMESPACE, &selector), "redis-server", signal).await
    }

    /// The operator that leads now.
    pub(crate) fn leader(&self) -> Result<Leader> {
        let pod = self.leaders.leader()?;
        Ok(Leader { pod })
    }

    /// Replaces the running operators by others.
    pub(crate) async fn replace_operator(&self) -> Result<()> {
        let operator = chart("alkhub")?;
        // A different value each time.
        let value = format!("podAnnotations.replaced=at-{}", jiff::Timestamp::now().as_second());
        let upgrade = ["upgrade", "alkhub", &operator, "-n", SYSTEM];
        let set = ["--set", OPERATORS, "--set", &value];
        self.kube.helm(&[&upgrade[..], &set].concat()).await?;
        Ok(())
    }

    /// When the last hub logged, after `began`, that the hub of this pod is gone.
    pub(crate) async fn known_gone(&self, pod: &str, began: Instant) -> Option<Instant> {
        let selector = format!("app.kubernetes.io/component=hub,app.kubernetes.io/instance={HUB}");
        let since = format!("--since={}s", began.elapsed().as_secs() + 1);
        let logs = ["logs", "-n", NAMESPACE, "-l", &selector, "--timestamps", "--tail=-1"];
        let logs = [&logs[..], &[&since, "--max-log-requests=20"]].concat();
        let logs = self.kube.kubectl(&logs).await;
        let logs = logs
            .inspect_err(|error| say(&format!("the hubs' logs: {error:#}")))
            .ok()?;
        // The hubs' clock is this machine's.
        let (now, wall) = (Instant::now(), jiff::Timestamp::now());
        let said = logs
            .lines()
            .filter(|line| line.contains(GONE) && line.contains(pod))
            .filter_map(|line| {
                let at: jiff::Timestamp = line.split(' ').next()?.parse().ok()?;
                now.checked_sub(wall.duration_since(at).try_into().ok()?)
            });
        said.filter(|at| *at >= began).max()
    }

    pub(crate) async fn end(self) {
        self.load.end().await;
    }
}

async fn signalled(kube: &Kube, (namespace, selector): (&str, &str), name: &str, signal: Signal) -> Result<()> {
    let pods = kube.get(namespace, &["pods", "-l", selector]).await?;
    let uid = pods["items"][0]["metadata"]["uid"].as_str().context("a pod")?;
    process::signal(uid, name, signal)?;
    Ok(())
}

/// The charts, as `make e2e` installs them, and the Hub.
async fn install(kube: &Kube) -> Result<()> {
    kube.helm(&["install", "alkhub-crds", &chart("alkhub-crds")?]).await?;
    let operator = chart("alkhub")?;
    let install = ["install", "alkhub", &operator, "-n", SYSTEM, "--create-namespace"];
    kube.helm(&[&install[..], &["--set", OPERATORS]].concat()).await?;
    kube.kubectl(&["create", "namespace", NAMESPACE]).await?;
    kube.apply(NAMESPACE, MANIFEST).await?;
    let ready = |hub: &serde_json::Value| {
        condition(hub, "Ready")
            .filter(|(status, _)| *status == "True")
            .map(drop)
    };
    let hub = (NAMESPACE, &["hub", HUB][..]);
    kube.wait("the Hub is ready", hub, Duration::from_secs(180), ready)
        .await;
    Ok(())
}

fn chart(name: &str) -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("in the workspace")?;
    Ok(root.join("charts").join(name).to_string_lossy().into_owned())
}
