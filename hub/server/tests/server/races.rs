//! Registrations that race: two connections of one instance, and a connection that ends before its registration is
//! made.
//!
//! A proxy holds back what a hub sends to Redis, so that the test determines the order in which registrations are made.

use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_test_support::{Proxy, RedisServer, until, within};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::cluster::{answers, pair_with};
use crate::harness::TestHub;
use crate::wire::{Dialect, Wire, operation};

/// Two hubs, each behind a proxy of its own to the Redis that they share.
struct Raced {
    hubs: [TestHub; 2],
    proxies: [Proxy; 2],
    key: String,
    redis: RedisServer,
}

// === impl Raced ===

impl Raced {
    async fn start() -> Self {
        let redis = RedisServer::start().await;
        let server = redis.address();
        let server = server.trim_end_matches('/').to_owned();
        let proxy = async || Proxy::start(server.clone()).await.expect("a port");
        let proxies = [proxy().await, proxy().await];
        let through = |proxy: &Proxy| {
            let url = format!("redis://{}", proxy.address());
            move |config: &mut HubConfig| {
                config.events.redis_url = Some(url.into());
                // Messages that are held back arrive late, but no link may be given up because of that.
                config.events.timeout = Duration::from_secs(120);
                config.events.probe_interval = Duration::from_secs(60);
            }
        };
        let (one, two) = pair_with([through(&proxies[0]), through(&proxies[1])]).await;
        let (key, _) = one.spoke_key("text").await;
        Self {
            hubs: [one, two],
            proxies,
            key,
            redis,
        }
    }

    /// Opens a connection to a hub, and asks for registration as an instance of the spoke.
    async fn registers(&self, hub: usize, instance: &str) -> Wire {
        let mut spoke = Wire::connect(&self.hubs[hub], &self.key).await;
        request(&mut spoke, instance).await;
        spoke
    }

    /// The same, but returns when the hub has read the request; Redis is held back and does not answer.
    async fn asks(&self, hub: usize, instance: &str) -> Wire {
        let mut spoke = self.registers(hub, instance).await;
        is_read(&mut spoke).await;
        spoke
    }

    /// Waits until each hub knows these instances of the spoke and no others.
    async fn know(&self, instances: &[&str]) {
        for hub in &self.hubs {
            until("the hub knows the instances", || async {
                let spokes = hub.get("/v1/spokes").await;
                let all = spokes.body["data"].as_array().into_iter().flatten();
                let of_all = all.filter_map(|spoke| spoke["instances"].as_array()).flatten();
                let known: Vec<&str> = of_all.filter_map(|known| known["instanceId"].as_str()).collect();
                if known == instances { Ok(()) } else { Err(spokes.text) }
            })
            .await;
        }
    }
}

/// Sends a request for registration as an instance of the spoke.
async fn request(spoke: &mut Wire, instance: &str) {
    let input = json!({ "instanceId": instance, "operations": [operation("text", "upper", "query")] });
    spoke.call(Dialect::Origin, "register", "hub.register", input).await;
}

/// Waits until the hub has read what was sent: messages are read in order, and a ping is answered when it is read.
async fn is_read(spoke: &mut Wire) {
    spoke.0.send(Message::Ping("read".into())).await.expect("sent");
    loop {
        match within("the pong", spoke.0.next()).await.expect("open").expect("read") {
            Message::Pong(_) => return,
            Message::Ping(_) => {}
            other => panic!("{other:?} before the pong"),
        }
    }
}

/// The generation that a registration was given.
async fn generation(spoke: &mut Wire) -> u64 {
    let answer = spoke.expect("call.responded").await;
    let generation = &answer["payload"]["output"]["data"]["generation"];
    generation.as_u64().unwrap_or_else(|| panic!("{answer}"))
}

/// Expects that a connection gives way to a newer one of its instance: it is told that it may try again or, if it was
/// registered for a moment, it is closed.
async fn gives_way(spoke: &mut Wire) {
    let answer = spoke.recv().await;
    if answer["type"] == "call.responded" {
        assert_eq!(spoke.closed().await.0, 4409);
    } else {
        let refused = &answer["payload"];
        assert_eq!(
            (&refused["requestId"], &refused["code"], &refused["retryable"]),
            (&json!("register"), &json!("ABORTED"), &json!(true)),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn of_two_hubs_that_register_an_instance_at_once_the_one_that_comes_to_redis_last_has_it() {
    let raced = Raced::start().await;
    for (instance, [first, last]) in [("one", [0, 1]), ("two", [1, 0])] {
        raced.proxies.iter().for_each(Proxy::hold);
        let mut earlier = raced.asks(first, instance).await;
        let mut later = raced.asks(last, instance).await;

        raced.proxies[first].heal();
        let of_earlier = generation(&mut earlier).await;
        raced.proxies[last].heal();
        let of_later = generation(&mut later).await;

        assert!(of_later > of_earlier, "{of_later} after {of_earlier}");
        assert_eq!(earlier.closed().await.0, 4409);
        raced.know(&[instance]).await;
        for hub in &raced.hubs {
            answers(hub, &mut later).await;
        }
        drop(later);
        raced.know(&[]).await;
    }
}

/// Both wait for Redis. What decides is the order in which they asked, whichever of them was opened first.
#[tokio::test]
async fn of_two_connections_to_one_hub_that_register_an_instance_at_once_the_one_that_asked_last_has_it() {
    let raced = Raced::start().await;
    for (instance, opens_last) in [("one", 1), ("two", 0)] {
        let mut both = [
            Wire::connect(&raced.hubs[0], &raced.key).await,
            Wire::connect(&raced.hubs[0], &raced.key).await,
        ];
        if opens_last == 0 {
            both.reverse();
        }
        let [mut earlier, mut later] = both;
        raced.proxies[0].hold();
        for spoke in [&mut earlier, &mut later] {
            request(spoke, instance).await;
            is_read(spoke).await;
        }

        raced.proxies[0].heal();

        generation(&mut later).await;
        gives_way(&mut earlier).await;
        raced.know(&[instance]).await;
        for hub in &raced.hubs {
            answers(hub, &mut later).await;
        }
        drop((earlier, later));
        raced.know(&[]).await;
    }
}

#[tokio::test]
async fn a_connection_that_ends_while_its_registration_waits_for_redis_leaves_no_instance() {
    let raced = Raced::start().await;
    raced.proxies[0].hold();
    let spoke = raced.asks(0, "one").await;

    drop(spoke);
    raced.proxies[0].heal();

    until("no socket and no record is left", || async {
        let records: usize = raced.redis.query(&["HLEN", "alk:directory"]).await;
        match (raced.hubs[0].hub.websockets(), records) {
            (0, 0) => Ok(()),
            left => Err(format!("{left:?} sockets and records")),
        }
    })
    .await;
    raced.know(&[]).await;
    // Nothing keeps the instance from registering at the other hub.
    let mut again = raced.registers(1, "one").await;
    generation(&mut again).await;
    raced.know(&["one"]).await;
    for hub in &raced.hubs {
        answers(hub, &mut again).await;
    }
}
