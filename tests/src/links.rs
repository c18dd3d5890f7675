//! How a hub reaches Redis, and how others reach it: through proxies, for tests that make either fail.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use alkhub_config::HubConfig;
use alkhub_test_support::{Port, Proxy, RedisServer};
use anyhow::Result;

use crate::cluster::Cluster;

/// Where hubs dial each other: a loopback address on which none of them listens.
const BETWEEN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The proxies of the hub at one place, whichever hub that is.
#[derive(Debug)]
pub struct Links {
    place: usize,
    /// Between it and Redis.
    pub redis: Proxy,
    /// Between it and the hubs that have dialled it, those at earlier places; `None` without links from pod to pod.
    pub peer: Option<Proxy>,
    /// Where it takes links of others.
    port: Option<Port>,
}

// === impl Links ===

impl Links {
    async fn start(place: usize, redis: &RedisServer, linked: bool) -> io::Result<Self> {
        let port = linked.then(Port::free);
        let peer = match &port {
            Some(port) => Some(Proxy::at((BETWEEN, port.number()).into(), format!("127.0.0.1:{port}")).await?),
            None => None,
        };
        Ok(Self {
            place,
            redis: Proxy::start(redis.address()).await?,
            peer,
            port,
        })
    }

    /// Makes a hub use them.
    pub fn lead(&self, config: &mut HubConfig) {
        config.pod.name = format!("hub-{}", self.place);
        config.events.redis_url = Some(format!("redis://{}", self.redis.address()).into());
        if let Some(port) = &self.port {
            config.pod.ip = BETWEEN.to_string();
            config.server.peer_listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.number())));
        }
    }

    /// Cuts all of them.
    pub fn cut(&self) {
        self.all().for_each(Proxy::cut);
    }

    /// Holds back everything that passes through them.
    pub fn hold(&self) {
        self.all().for_each(Proxy::hold);
    }

    /// Lets everything pass again.
    pub fn heal(&self) {
        self.all().for_each(Proxy::heal);
    }

    fn all(&self) -> impl Iterator<Item = &Proxy> {
        [&self.redis].into_iter().chain(&self.peer)
    }
}

// === impl Cluster ===

impl Cluster {
    /// `count` hubs behind links that can be made to fail, with or without links from pod to pod; also returns the
    /// links of each.
    ///
    /// # Errors
    /// As [`Cluster::start`], or a port cannot be bound.
    pub async fn behind_links(
        count: usize,
        linked: bool,
        change: impl Fn(&mut HubConfig),
    ) -> Result<(Self, Vec<Links>)> {
        let redis = RedisServer::start().await;
        let mut links = Vec::new();
        for place in 0..count {
            links.push(Links::start(place, &redis, linked).await?);
        }
        let mut cluster = Self::empty(Some(redis)).await?;
        for of in &links {
            let lead = |config: &mut HubConfig| {
                of.lead(config);
                change(config);
            };
            cluster.add(lead).await?;
        }
        if linked {
            cluster.know_each_other(true).await;
        }
        Ok((cluster, links))
    }
}
