//! A private Redis server, hubs on it, and waiting on conditions.

use std::future::Future;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use alkhub_config::EventsConfig;
use alkhub_events::{Deliveries, Fabric, Item, Lag, Limits, LinkState, Mailbox, Scope, mailbox};
use alkhub_protocol::{HubId, RawJson, Topic, TopicFilter};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prometheus::Registry;
use redis::aio::MultiplexedConnection;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longer than anything takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A port of loopback that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// A Redis server on loopback that ends with this value.
pub(crate) struct Server {
    process: Option<Child>,
    port: u16,
    folder: tempfile::TempDir,
}

/// One hub's fabric, on tasks of its own.
pub(crate) struct Pod {
    pub(crate) fabric: Fabric,
    pub(crate) hub: HubId,
    pub(crate) registry: Registry,
    tasks: TaskTracker,
    stop: CancellationToken,
}

// === impl Server ===

impl Server {
    pub(crate) async fn start() -> Self {
        let mut server = Self::reserve();
        server.launch().await;
        server
    }

    /// A server that does not run yet.
    pub(crate) fn reserve() -> Self {
        Self {
            process: None,
            port: free_port(),
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// Starts it on its port, with nothing in it.
    pub(crate) async fn launch(&mut self) {
        self.launch_with(&[]).await;
    }

    /// [`Server::launch`] with settings of its own.
    pub(crate) async fn launch_with(&mut self, settings: &[&str]) {
        let process = Command::new("redis-server")
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(["--dir", &self.folder.path().to_string_lossy()])
            .args(settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server is installed (Debian: redis-server)");
        self.process = Some(process);
        until("Redis answers", || async {
            match redis::Client::open(self.url())
                .expect("a URL")
                .get_multiplexed_async_connection()
                .await
            {
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Kills it without a word.
    pub(crate) async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.expect("the server is ours");
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.process.as_ref().and_then(Child::id).expect("the server runs");
        kill(Pid::from_raw(id.try_into().expect("a process id")), signal).expect("the server is ours");
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection of the test's own.
    pub(crate) async fn client(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("a URL");
        let settings = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        client
            .get_multiplexed_async_connection_with_config(&settings)
            .await
            .expect("the server runs")
    }

    /// A connection that only listens, like a process of the origin.
    pub(crate) async fn listener(&self) -> redis::aio::PubSub {
        redis::Client::open(self.url())
            .expect("a URL")
            .get_async_pubsub()
            .await
            .expect("the server runs")
    }

    pub(crate) async fn query<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.client().await).await.expect("a command")
    }

    /// Settings with times that suit a test.
    pub(crate) fn config(&self) -> EventsConfig {
        EventsConfig {
            redis_url: Some(self.url().into()),
            timeout: Duration::from_secs(5),
            probe_interval: Duration::from_millis(250),
            unsubscribe_grace: Duration::from_millis(50),
            lease_ttl: Duration::from_millis(1_500),
            lease_interval: Duration::from_millis(300),
            ..EventsConfig::default()
        }
    }
}

// === impl Pod ===

impl Pod {
    /// A hub whose link is up.
    pub(crate) async fn up(server: &Server, name: &str) -> Self {
        let pod = Self::start(&server.config(), name);
        pod.is_up().await;
        pod
    }

    pub(crate) fn start(config: &EventsConfig, name: &str) -> Self {
        let (tasks, stop, registry) = (TaskTracker::new(), CancellationToken::new(), Registry::new());
        let hub: HubId = name.parse().expect("a hub id");
        let scope = Scope {
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let fabric = Fabric::start(config, &hub, scope, &registry).expect("settings");
        Self {
            fabric,
            hub,
            registry,
            tasks,
            stop,
        }
    }

    pub(crate) async fn is_up(&self) {
        self.link("up", |state| *state == LinkState::Up).await;
    }

    pub(crate) async fn is_down(&self) {
        self.link("down", |state| matches!(state, LinkState::Down(_))).await;
    }

    async fn link(&self, what: &str, wanted: impl Fn(&LinkState) -> bool) {
        let mut link = self.fabric.link();
        let came = timeout(PATIENCE, link.wait_for(|state| wanted(state))).await.is_ok();
        assert!(
            came,
            "the link of {} did not go {what}: {:?}",
            self.hub,
            *self.fabric.link().borrow()
        );
    }

    /// Ends it in good order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        timeout(PATIENCE, self.tasks.wait()).await.expect("every task ends");
    }

    pub(crate) async fn publish(&self, topic: &str, payload: u64) {
        self.fabric
            .bus()
            .publish(&self::topic(topic), number(payload))
            .await
            .expect("Redis is up");
    }

    /// The value of a metric, summed over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == name)
            .expect("a metric of this crate");
        let value =
            |metric: &prometheus::proto::Metric| metric.get_counter().get_value() + metric.get_gauge().get_value();
        family.get_metric().iter().map(value).sum()
    }
}

// === waiting and reading ===

/// Looks until a condition holds; panics with the last status.
pub(crate) async fn until<T, F, Fut>(what: &str, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let end = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(status) => assert!(Instant::now() < end, "{what} did not happen; last: {status}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// The next item of a receiver.
pub(crate) async fn receive<T>(what: &str, receiver: &mut tokio::sync::mpsc::Receiver<T>) -> T {
    timeout(PATIENCE, receiver.recv())
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"))
        .expect("open")
}

pub(crate) async fn next(deliveries: &mut Deliveries) -> Item {
    timeout(PATIENCE, deliveries.next())
        .await
        .expect("an item comes")
        .expect("the mailbox is open")
}

/// The topic and number of the next item, which is an event.
pub(crate) async fn event(deliveries: &mut Deliveries) -> (String, u64) {
    match next(deliveries).await {
        Item::Event(event) => {
            let payload = event.payload.as_ref().expect("a payload");
            (event.topic.to_string(), payload.to().expect("a number"))
        }
        other => panic!("an event was expected: {other:?}"),
    }
}

/// Topic, reason and count of the next item, which is a gap.
pub(crate) async fn gap(deliveries: &mut Deliveries) -> (String, String, Option<u64>) {
    match next(deliveries).await {
        Item::Gap(gap) => (gap.topic, gap.reason, gap.missed),
        other => panic!("a gap was expected: {other:?}"),
    }
}

pub(crate) fn large_mailbox() -> (Mailbox, Deliveries) {
    mailbox(
        Limits {
            items: 100_000,
            bytes: 256 * 1024 * 1024,
        },
        Lag::DropOldest,
    )
}

pub(crate) fn topic(text: &str) -> Topic {
    text.parse().expect("a topic")
}

pub(crate) fn filter(text: &str) -> TopicFilter {
    text.parse().expect("a filter")
}

pub(crate) fn number(value: u64) -> Option<RawJson> {
    Some(RawJson::from_value(&value).expect("a number"))
}
