//! The directory between hubs: fencing, leases, the change feed.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use alkhub_config::EventsConfig;
use alkhub_hub_cluster::{DirectoryChange, DirectoryChanges, DirectoryEntry, Fence, OfferedOperation};
use alkhub_protocol::admin::InstanceState;
use alkhub_test_support::{PATIENCE, Proxy, RedisServer, until, within};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{Pod, config};

fn entry(pod: &Pod, instance: &str) -> DirectoryEntry {
    DirectoryEntry {
        spoke: "builder".parse().expect("a spoke"),
        instance: instance.parse().expect("an instance"),
        hub: pod.hub.clone(),
        connection: "c-1".to_owned(),
        generation: 0,
        state: InstanceState::Connected,
        spoke_type: alkhub_protocol::register::SpokeType::Compute,
        labels: [("zone".to_owned(), "a b".to_owned())].into(),
        concurrency: Some(4),
        connected_at: jiff_now(),
        host_info: Some(alkhub_protocol::RawJson::parse(r#"{"os":"a b"}"#).expect("JSON")),
        operations: vec![OfferedOperation {
            name: "builder.run".parse().expect("a name"),
            hash: "00ff".to_owned(),
        }],
    }
}

fn jiff_now() -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_800_000_000).expect("in range")
}

/// A reader's view of the directory, and what it has heard.
struct View {
    changes: DirectoryChanges,
    entries: Vec<DirectoryEntry>,
    snapshots: usize,
    gone: Vec<String>,
}

// === impl View ===

impl View {
    async fn of(pod: &Pod) -> Self {
        let mut changes = pod.cluster.directory();
        let first = timeout(PATIENCE, changes.recv()).await;
        let Ok(Some(DirectoryChange::Snapshot(entries))) = first else {
            panic!("a snapshot comes first: {first:?}")
        };
        Self {
            changes,
            entries,
            snapshots: 1,
            gone: Vec::new(),
        }
    }

    fn apply(&mut self, change: DirectoryChange) {
        match change {
            DirectoryChange::Snapshot(entries) => {
                self.entries = entries;
                self.snapshots += 1;
            }
            DirectoryChange::Put(entry) => {
                self.entries
                    .retain(|known| known.spoke != entry.spoke || known.instance != entry.instance);
                self.entries.push(entry);
            }
            DirectoryChange::Remove {
                spoke,
                instance,
                generation,
                hub: _,
            } => self
                .entries
                .retain(|known| known.spoke != spoke || known.instance != instance || known.generation > generation),
            DirectoryChange::HubGone(hub) => {
                self.entries.retain(|known| known.hub != hub);
                self.gone.push(hub.to_string());
            }
            DirectoryChange::Mark(mark) => mark.pass(),
        }
    }

    /// Reads changes until the view is as wanted.
    async fn comes_to(&mut self, what: &str, wanted: impl Fn(&Self) -> bool) {
        while !wanted(self) {
            match timeout(PATIENCE, self.changes.recv()).await {
                Ok(Some(change)) => self.apply(change),
                other => panic!(
                    "{what} did not come ({other:?}): {:?}, gone {:?}",
                    self.entries, self.gone
                ),
            }
        }
    }

    fn holder(&self, instance: &str) -> Option<(&str, u64)> {
        let entry = self.entries.iter().find(|entry| entry.instance.as_str() == instance)?;
        Some((entry.hub.as_str(), entry.generation))
    }

    fn state(&self, instance: &str) -> Option<InstanceState> {
        let entry = self.entries.iter().find(|entry| entry.instance.as_str() == instance)?;
        Some(entry.state)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_belongs_to_the_hub_that_registered_it_last() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (mut seen_a, mut seen_b) = (View::of(&a).await, View::of(&b).await);

    let first = a.register(entry(&a, "i/1")).await;
    seen_b
        .comes_to("the entry of a", |view| view.holder("i/1") == Some(("a", first)))
        .await;
    let second = b.register(entry(&b, "i/1")).await;
    assert!(second > first, "{first} {second}");
    seen_a
        .comes_to("the entry of b", |view| view.holder("i/1") == Some(("b", second)))
        .await;

    let (spoke, instance) = ("builder".parse().expect("valid"), "i/1".parse().expect("valid"));
    a.cluster.unregister(&spoke, &instance, first).await.expect("runs");
    b.cluster.unregister(&spoke, &instance, first).await.expect("runs");
    let third = a.register(entry(&a, "i/2")).await;
    for view in [&mut seen_a, &mut seen_b] {
        view.comes_to("both entries", |view| view.holder("i/2") == Some(("a", third)))
            .await;
        assert_eq!(
            view.holder("i/1"),
            Some(("b", second)),
            "the older generation removed nothing"
        );
        let whole = DirectoryEntry {
            generation: second,
            ..entry(&b, "i/1")
        };
        assert!(view.entries.contains(&whole), "{:?}", view.entries);
    }

    b.cluster.unregister(&spoke, &instance, second).await.expect("runs");
    for view in [&mut seen_a, &mut seen_b] {
        view.comes_to("the end of the entry", |view| view.holder("i/1").is_none())
            .await;
    }
}

/// Tells whether the connection of an instance is away.
async fn tell(pod: &Pod, instance: &str, generation: u64, is_reconnecting: bool) {
    let named = ("builder".parse().expect("valid"), instance.parse().expect("valid"));
    let is_reconnecting = Arc::new(AtomicBool::new(is_reconnecting));
    let told = pod.cluster.state_changed(named, generation, is_reconnecting).await;
    told.expect("the hub runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_a_connection_is_lost_reaches_every_hub_and_brings_no_registration_back() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let mut seen = View::of(&b).await;
    let first = a.register(entry(&a, "i/1")).await;

    for (is_reconnecting, state) in [(true, InstanceState::Reconnecting), (false, InstanceState::Connected)] {
        tell(&a, "i/1", first, is_reconnecting).await;
        seen.comes_to("the state of the entry", |view| {
            view.state("i/1") == Some(state) && view.holder("i/1") == Some(("a", first))
        })
        .await;
    }
    let second = b.register(entry(&b, "i/1")).await;
    let gone = a.register(entry(&a, "i/2")).await;
    let (spoke, instance) = ("builder".parse().expect("valid"), "i/2".parse().expect("valid"));
    a.cluster.unregister(&spoke, &instance, gone).await.expect("runs");
    tell(&a, "i/1", first, true).await;
    tell(&a, "i/2", gone, true).await;
    let last = a.register(entry(&a, "i/3")).await;
    tell(&a, "i/3", last, true).await;

    seen.comes_to("the last word", |view| {
        view.state("i/3") == Some(InstanceState::Reconnecting)
    })
    .await;
    assert_eq!(seen.holder("i/1"), Some(("b", second)));
    assert_eq!(seen.state("i/1"), Some(InstanceState::Connected));
    assert_eq!(seen.holder("i/2"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_lease_of_a_hub_its_entries_end() {
    let server = RedisServer::start().await;
    let a = Pod::up(&server, "a").await;
    let config = config(&server);
    let mut view = View::of(&a).await;
    // A hub that dies without a word: its tasks stop where they are.
    let crash = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let b = Pod::start(&config, "b");
            b.is_up().await;
            b.register(entry(&b, "i/1")).await;
        });
        runtime.shutdown_background();
    });

    view.comes_to("the entry", |view| view.holder("i/1").is_some()).await;
    view.comes_to("the end of the hub", |view| view.gone == ["b"]).await;

    crash.join().expect("the other hub ran");
    assert!(view.entries.is_empty());
    let fields: i64 = server.query(&["HLEN", "alk:directory"]).await;
    assert_eq!(fields, 0);
    until("the hub leaves the list", || async {
        let pods = a.cluster.pods();
        if pods.len() == 1 {
            Ok(())
        } else {
            Err(format!("{pods:?}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_ends_in_good_order_is_gone_at_once() {
    let server = RedisServer::start().await;
    let config = EventsConfig {
        lease_ttl: Duration::from_secs(3_600),
        lease_interval: Duration::from_secs(1_200),
        ..config(&server)
    };
    let (a, b) = (Pod::start(&config, "a"), Pod::start(&config, "b"));
    a.is_up().await;
    b.is_up().await;
    let mut view = View::of(&a).await;
    b.register(entry(&b, "i/1")).await;
    view.comes_to("the entry", |view| view.holder("i/1").is_some()).await;

    b.host.end().await;

    view.comes_to("the end of the hub", |view| view.gone == ["b"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_in_the_feed_brings_a_snapshot() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let mut view = View::of(&a).await;
    b.register(entry(&b, "i/1")).await;
    view.comes_to("the entry", |view| view.holder("i/1").is_some()).await;
    let before = view.snapshots;

    server
        .query::<i64>(&["HINCRBY", "alk:directory:version", "change", "5"])
        .await;
    b.register(entry(&b, "i/2")).await;

    view.comes_to("a snapshot with both", |view| {
        view.snapshots > before && view.holder("i/1").is_some() && view.holder("i/2").is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_empty_is_filled_again_and_no_generation_runs_back() {
    let mut server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (mut seen_a, mut seen_b) = (View::of(&a).await, View::of(&b).await);
    let held = a.register(entry(&a, "held")).await;
    let moved = a.register(entry(&a, "moved")).await;
    seen_b.comes_to("the entries", |view| view.entries.len() == 2).await;

    server.kill().await;
    a.is_down().await;
    b.is_down().await;
    // While Redis is away: an instance moves to b, another leaves a and comes back.
    let (spoke, instance) = ("builder".parse().expect("valid"), "held".parse().expect("valid"));
    a.cluster.unregister(&spoke, &instance, held).await.expect("runs");
    let again = a.register(entry(&a, "held")).await;
    let there = b.register(entry(&b, "moved")).await;
    assert!(again > held && there > moved, "{held} {again} {moved} {there}");
    seen_a
        .comes_to("its own entry, Redis or not", |view| {
            view.holder("held") == Some(("a", again))
        })
        .await;
    server.launch().await;
    a.is_up().await;
    b.is_up().await;

    for view in [&mut seen_a, &mut seen_b] {
        view.comes_to("the later entries", |view| {
            view.holder("held") == Some(("a", again)) && view.holder("moved") == Some(("b", there))
        })
        .await;
    }
    let next = b.register(entry(&b, "held")).await;
    assert!(next > again, "{again} {next}");
    seen_a
        .comes_to("the move", |view| view.holder("held") == Some(("b", next)))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_flushed_while_it_runs_is_filled_again() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let mut view = View::of(&b).await;
    let generation = a.register(entry(&a, "i/1")).await;
    view.comes_to("the entry", |view| view.holder("i/1").is_some()).await;

    server.query::<String>(&["FLUSHALL"]).await;

    until("the entry is in Redis again", || async {
        let stored: Option<String> = server.query(&["HGET", "alk:directory", "builder/i/1"]).await;
        match stored {
            Some(stored) if stored.starts_with(&format!("{generation} a ")) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let next = b.register(entry(&b, "i/1")).await;
    assert!(next > generation);
    view.comes_to("the move", |view| view.holder("i/1") == Some(("b", next)))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_was_taken_for_dead_comes_back_by_itself() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let mut view = View::of(&a).await;
    b.register(entry(&b, "i/1")).await;
    view.comes_to("the entry", |view| view.holder("i/1").is_some()).await;

    // Another hub finds that b has no lease before b renews it.
    within("hub b is taken for dead", async {
        while view.gone.is_empty() {
            server.query::<i64>(&["DEL", "alk:hub:b"]).await;
            if let Ok(Some(change)) = timeout(Duration::from_millis(20), view.changes.recv()).await {
                view.apply(change);
            }
        }
    })
    .await;

    view.comes_to("the entry again", |view| {
        view.holder("i/1").is_some_and(|(hub, _)| hub == "b")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_falls_behind_gets_a_snapshot_and_misses_nothing() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let mut view = View::of(&a).await;
    let registrations = (0..6_000).map(|index| b.register(entry(&b, &format!("i/{index}"))));
    let start = tokio::time::Instant::now();

    futures::future::join_all(registrations).await;
    println!("6,000 registrations took {:?}", start.elapsed());

    view.comes_to("all entries", |view| view.entries.len() == 6_000).await;
    assert!(view.snapshots > 1, "the queue is shorter than the changes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_the_directory_serves_the_one_hub() {
    let pod = Pod::start(&EventsConfig::default(), "alone");
    let mut view = View::of(&pod).await;

    let first = pod.register(entry(&pod, "i/1")).await;
    let second = pod.register(entry(&pod, "i/1")).await;
    assert!(second > first);
    view.comes_to("the entry", |view| view.holder("i/1") == Some(("alone", second)))
        .await;
    let (spoke, instance) = ("builder".parse().expect("valid"), "i/1".parse().expect("valid"));
    pod.cluster.unregister(&spoke, &instance, first).await.expect("runs");
    pod.cluster.unregister(&spoke, &instance, second).await.expect("runs");
    view.comes_to("its end", |view| view.entries.is_empty()).await;
    pod.host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_that_was_given_up_before_its_turn_is_not_made() {
    let pod = Pod::start(&EventsConfig::default(), "alone");
    let mut view = View::of(&pod).await;
    let gone = tokio_util::sync::CancellationToken::new();
    gone.cancel();

    let standing = pod.register(entry(&pod, "i/1")).await;
    pod.cluster
        .register_unless(&gone, entry(&pod, "i/1"))
        .await
        .expect_err("given up");
    pod.register(entry(&pod, "i/2")).await;

    view.comes_to("the one after it", |view| view.holder("i/2").is_some())
        .await;
    assert_eq!(view.holder("i/1"), Some(("alone", standing)));
    pod.host.end().await;
}

/// On a single thread, so that the test decides how far the directory gets.
#[tokio::test]
async fn a_registration_that_is_given_up_while_redis_is_asked_leaves_the_one_before_it() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    let (mut seen_a, mut seen_b) = (View::of(&a).await, View::of(&b).await);
    let standing = a.register(entry(&a, "i/1")).await;
    server.freeze();
    let gone = tokio_util::sync::CancellationToken::new();
    let mut taking = Box::pin(a.cluster.register_unless(&gone, entry(&a, "i/1")));
    let mut new = Box::pin(a.cluster.register_unless(&gone, entry(&a, "i/2")));
    for registering in [&mut taking, &mut new] {
        assert!(futures::poll!(registering).is_pending());
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }

    gone.cancel();
    server.thaw();

    for registering in [taking, new] {
        within("the end of it", registering).await.expect_err("it is given up");
    }
    let later = a.register(entry(&a, "i/3")).await;
    for view in [&mut seen_a, &mut seen_b] {
        view.comes_to("the one after it", |view| view.holder("i/3") == Some(("a", later)))
            .await;
        assert_eq!(view.holder("i/1"), Some(("a", standing)));
        assert_eq!(view.holder("i/2"), None);
    }
    let stored: String = server.query(&["HGET", "alk:directory", "builder/i/1"]).await;
    assert!(stored.starts_with(&format!("{standing} a ")), "{stored}");
    assert_eq!(server.query::<i64>(&["HLEN", "alk:directory"]).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_generation_is_given_twice_and_each_is_higher_than_the_one_before() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "a").await, Pod::up(&server, "b").await);
    // A hub whose clock is an hour ahead was here, and its record is already gone.
    let ahead = u64::try_from(jiff::Timestamp::now().as_millisecond()).expect("after 1970") + 3_600_000;
    server
        .query::<i64>(&["HSET", "alk:directory:version", "generation", &ahead.to_string()])
        .await;
    let spoke = "builder".parse().expect("valid");

    let mut last = ahead;
    for number in 0..20 {
        for pod in [&a, &b] {
            let instance = format!("i/{}", number % 3);
            let generation = pod.register(entry(pod, &instance)).await;
            assert!(generation > last, "{generation} after {last}");
            last = generation;
            let instance = instance.parse().expect("valid");
            let ended = pod.cluster.unregister(&spoke, &instance, generation);
            ended.await.expect("runs");
        }
    }
}

/// Two hubs that were cut off from Redis, with clocks that disagree, can give an instance the same generation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_equal_generations_the_hub_with_the_higher_id_counts_for_everybody() {
    let server = RedisServer::start().await;
    let (b, watcher) = (Pod::up(&server, "b").await, Pod::up(&server, "w").await);
    let (mut seen_b, mut seen) = (View::of(&b).await, View::of(&watcher).await);
    let kept = b.register(entry(&b, "kept")).await;
    let lost = b.register(entry(&b, "lost")).await;
    seen.comes_to("both entries", |view| view.entries.len() == 2).await;
    // What the other hubs would have asserted before this one is back.
    for (instance, generation, hub) in [("kept", kept, "a"), ("lost", lost, "c")] {
        let json = serde_json::to_string(&entry(&b, instance)).expect("JSON");
        let record = format!("{generation} {hub} {json}");
        let field = format!("builder/{instance}");
        server.query::<i64>(&["HSET", "alk:directory", &field, &record]).await;
    }

    server
        .query::<i64>(&["HINCRBY", "alk:directory:version", "change", "5"])
        .await;
    b.register(entry(&b, "other")).await;

    for view in [&mut seen_b, &mut seen] {
        view.comes_to("one holder of each", |view| {
            view.holder("kept") == Some(("b", kept)) && view.holder("lost") == Some(("c", lost))
        })
        .await;
    }
}

/// Two hubs with a link; the second holds an instance and reaches Redis through a proxy. Returns the hubs, what the
/// first one knows, the link's proxy and that of Redis.
async fn linked(server: &RedisServer) -> (Pod, Pod, View, [Proxy; 2]) {
    let (redis, through) = server.proxied().await.expect("a port");
    let behind = EventsConfig {
        redis_url: Some(through.into()),
        ..config(server)
    };
    let (a, _) = Pod::linked(&config(server), "a").await;
    let (b, link) = Pod::linked(&behind, "b").await;
    let mut view = View::of(&a).await;
    b.register(entry(&b, "i/1")).await;
    view.comes_to("the entry", |view| view.holder("i/1").is_some()).await;
    a.has_links(1.0).await;
    (a, b, view, [link, redis])
}

/// Waits until Redis has nothing of the second hub.
async fn lapses(server: &RedisServer) {
    until("the lease lapses, and the entries with it", || async {
        let lease: Option<String> = server.query(&["GET", "alk:hub:b"]).await;
        let entries: i64 = server.query(&["HLEN", "alk:directory"]).await;
        if lease.is_none() && entries == 0 {
            Ok(())
        } else {
            Err(format!("{lease:?}, {entries} entries"))
        }
    })
    .await;
}

fn knows(pod: &Pod, hub: &str) -> bool {
    pod.cluster.pods().iter().any(|pod| pod.hub_id.as_str() == hub)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_without_a_lease_is_gone_when_the_link_to_it_is() {
    let server = RedisServer::start().await;
    let (a, _b, mut view, [link, redis]) = linked(&server).await;
    let c = Pod::up(&server, "c").await;
    let mut view_of_c = View::of(&c).await;
    redis.cut();
    lapses(&server).await;
    // Hub c has no link to that hub.
    view_of_c
        .comes_to("the end of the hub", |view| view.gone == ["b"])
        .await;
    c.register(entry(&c, "i/2")).await;
    view.comes_to("a later change", |view| view.holder("i/2").is_some())
        .await;
    assert!(knows(&a, "b") && view.gone.is_empty() && view.holder("i/1").is_some());

    link.cut();

    view.comes_to("the end of the hub", |view| view.gone == ["b"]).await;
    assert!(!knows(&a, "b") && view.holder("i/1").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_whose_lease_comes_back_was_never_gone() {
    let server = RedisServer::start().await;
    let (a, b, mut view, [_link, redis]) = linked(&server).await;
    let held = view.holder("i/1").expect("registered").1;
    redis.cut();
    b.is_down().await;
    lapses(&server).await;
    // This happens while nobody hears of it.
    let (spoke, instance) = ("builder".parse().expect("valid"), "i/1".parse().expect("valid"));
    b.register(entry(&b, "i/3")).await;
    b.cluster.unregister(&spoke, &instance, held).await.expect("runs");
    assert!(knows(&a, "b"));

    redis.heal();

    view.comes_to("what it holds now", |view| {
        view.holder("i/3").is_some() && view.holder("i/1").is_none()
    })
    .await;
    assert_eq!(view.gone, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_empty_takes_no_entry_of_a_hub_that_answers() {
    let mut server = RedisServer::start().await;
    let (a, b) = (
        Pod::linked(&config(&server), "a").await,
        Pod::linked(&config(&server), "b").await,
    );
    let mut view = View::of(&a.0).await;
    b.0.register(entry(&b.0, "i/1")).await;
    view.comes_to("the entry", |view| view.holder("i/1").is_some()).await;
    a.0.has_links(1.0).await;
    let snapshots = view.snapshots;

    server.kill().await;
    a.0.is_down().await;
    server.launch().await;

    while view.snapshots < snapshots + 2 {
        let change = within("a change", view.changes.recv()).await.expect("open");
        view.apply(change);
        assert!(view.holder("i/1").is_some(), "{:?}", view.entries);
    }
}

#[tokio::test]
async fn who_catches_up_has_what_redis_had_before() {
    let server = RedisServer::start().await;
    let (one, other) = (Pod::up(&server, "one").await, Pod::up(&server, "other").await);
    let mut view = View::of(&one).await;
    for number in 0..20 {
        let instance = format!("i{number}");
        other.register(entry(&other, &instance)).await;

        let reading = async {
            loop {
                let change = view.changes.recv().await.expect("the hub lives");
                view.apply(change);
            }
        };
        let caught = within("the reader to catch up", async {
            tokio::select! {
                caught = one.cluster.catch_up() => caught,
                () = reading => unreachable!("it reads for ever"),
            }
        });

        assert!(caught.await.expect("Redis is there"), "nothing was lost before");
        assert!(view.entries.iter().any(|entry| entry.instance.as_str() == instance));
    }
    one.host.end().await;
    other.host.end().await;
}

/// A hub gives up a record that it could not write: what Redis has is older, and no reason to refuse the hub that takes
/// over.
#[tokio::test]
async fn a_take_over_passes_what_is_older_than_what_was_given_up_and_nothing_else() {
    let server = RedisServer::start().await;
    let (a, b) = (Pod::up(&server, "hub-a").await, Pod::up(&server, "hub-b").await);
    let stored = a.register(entry(&a, "1")).await;
    let gone = CancellationToken::new();
    let take = async |hub: &str, generation: u64| {
        let hub = hub.parse().expect("a hub");
        let of = Fence { generation, hub: &hub };
        b.cluster.take_over_unless(&gone, entry(&b, "1"), of).await
    };

    let before = take("hub-a", stored - 1).await;
    let rival = take("hub-0", stored).await;
    let taken = take("hub-a", stored + 1_000_000).await.expect("what is there is older");
    let again = take("hub-c", taken + 5_000_000)
        .await
        .expect("another hub's was older too");

    for refused in [before, rival] {
        assert!(matches!(refused, Err(alkhub_hub_cluster::Error::Taken)), "{refused:?}");
    }
    assert!(taken > stored + 1_000_000, "{taken}: nothing given before is above it");
    assert!(again > taken + 5_000_000, "{again}");
}
