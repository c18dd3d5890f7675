//! Puts the parts of the link together, and starts them.

use std::fmt;
use std::sync::Arc;

use alkhub_config::EventsConfig;
use alkhub_protocol::HubId;
use alkhub_retry::LinkState;
use alkhub_tasks::Supervisor;
use prometheus::Registry;
use secrecy::SecretString;
use tokio::sync::watch;

use crate::channel::Names;
use crate::error::SetupError;
use crate::handle::Redis;
use crate::keeper::{Keeper, LinkSettings};
use crate::link::Link;
use crate::metrics::Metrics;
use crate::probe::Probe;
use crate::publisher::{self, Publishing};
use crate::reader::Receivers;
use crate::receive::{HubReceiver, Nobody, TopicTable};
use crate::subscriber::{self, SubscribeQueue, Subscribing};
use crate::topology::Topology;

/// One hub's link before it starts: the receivers are set here. If it is dropped, nothing starts.
#[must_use = "the link starts with `Connector::start`"]
pub struct Connector {
    hub: HubId,
    remote: Option<Remote>,
    topics: Arc<dyn TopicTable>,
    hubs: Arc<dyn HubReceiver>,
}

/// The parts that exist only with a URL.
struct Remote {
    redis: Redis,
    topology: Topology,
    settings: LinkSettings,
    metrics: Metrics,
    publishing: Publishing,
    subscribe_queue: SubscribeQueue,
}

// === impl Connector ===

impl Connector {
    /// The link of a hub with its settings; it does not connect yet.
    ///
    /// # Errors
    /// The URL or the file of authorities cannot be used, or a metric is registered already.
    pub fn new(config: &EventsConfig, hub: &HubId, registry: &Registry) -> Result<Self, SetupError> {
        let remote = match config.redis()? {
            Some(url) => Some(Remote::new(&url, config, hub, registry)?),
            None => None,
        };
        Ok(Self {
            hub: hub.clone(),
            remote,
            topics: Arc::new(Nobody),
            hubs: Arc::new(Nobody),
        })
    }

    /// The hub whose link it is.
    pub fn hub(&self) -> &HubId {
        &self.hub
    }

    /// The handle; `None` without a URL.
    pub fn redis(&self) -> Option<Redis> {
        self.remote.as_ref().map(|remote| remote.redis.clone())
    }

    /// The state of the link, now and later; `None` without a URL, since there is no link then.
    pub fn state(&self) -> Option<watch::Receiver<LinkState>> {
        self.remote.as_ref().map(|remote| remote.redis.state())
    }

    /// Sets what wants topics and gets their events.
    pub fn set_topics(&mut self, topics: Arc<dyn TopicTable>) {
        self.topics = topics;
    }

    /// Sets what receives the messages that hubs send each other.
    pub fn set_hub_receiver(&mut self, hubs: Arc<dyn HubReceiver>) {
        self.hubs = hubs;
    }

    /// Starts the link and returns at once; it comes up in the background and keeps trying. The supervisor watches over
    /// its loops; when they are asked to stop, everything accepted is still sent, and the connections close once nobody
    /// holds them.
    pub fn start(self, supervisor: &Supervisor) {
        let Self {
            hub: _,
            remote,
            topics,
            hubs,
        } = self;
        let Some(remote) = remote else { return };
        let Remote {
            redis: Redis { link, names, .. },
            topology,
            settings,
            metrics,
            publishing,
            subscribe_queue,
        } = remote;
        let (stop, hold) = (supervisor.stop(), link.hold());
        supervisor.keep("redis.publisher", publishing.run(hubs.clone(), stop.clone(), hold));
        let probe = Probe::new(settings.probe_interval, metrics.probe_seconds.clone());
        let keeper = Keeper {
            topology,
            settings,
            link,
            metrics,
            subscribing: Subscribing::new(subscribe_queue, topics.clone(), names.clone()),
            receivers: Arc::new(Receivers {
                names: names.clone(),
                table: topics,
                hubs,
                probe: probe.clone(),
            }),
            names,
            probe,
            tasks: supervisor.tasks().clone(),
            incarnations: 0,
            was_up: false,
        };
        supervisor.keep("redis.link", keeper.run(stop.clone()));
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the topology, which may contain a password.
        f.debug_struct("Connector")
            .field("hub", &self.hub)
            .finish_non_exhaustive()
    }
}

// === impl Remote ===

impl Remote {
    fn new(url: &SecretString, config: &EventsConfig, hub: &HubId, registry: &Registry) -> Result<Self, SetupError> {
        let metrics = Metrics::register(registry)?;
        let topology = Topology::new(url, config.redis_ca_file.as_deref())?;
        let link = Link::new();
        let names = Arc::new(Names::new(&config.prefix, hub));
        let (publisher, publishing) = publisher::new(link.clone(), names.clone());
        let (subscriber, subscribe_queue) = subscriber::new(config.unsubscribe_grace);
        Ok(Self {
            redis: Redis {
                link,
                names,
                publisher,
                subscriber,
                timeout: config.timeout,
            },
            topology,
            settings: LinkSettings {
                timeout: config.timeout,
                probe_interval: config.probe_interval,
                queue: config.link_queue,
            },
            metrics,
            publishing,
            subscribe_queue,
        })
    }
}
