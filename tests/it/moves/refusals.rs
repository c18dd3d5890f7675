//! Claims that cannot be met get a named error, and harm nobody else; neither does a hub that dies.

use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_test_support::{RedisServer, until, within};
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::wire::{Closing, Peer, operation};
use anyhow::{Context as _, Error, Result, ensure};
use serde_json::{Value, json};

use super::counting::{Carrier, Counting, Seen, hubs, is_known_at};

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_cannot_be_met_is_answered_by_name_and_disturbs_nobody() -> Result<()> {
    let cluster = hubs(3, Carrier::Link).await?;
    let mut spoke = Counting::spoke(&cluster, 0).await?;
    let http = Http::new(cluster.url(0), cluster.admin());
    let (_, foreign) = http.new_key(&json!({ "name": "other", "scopes": ["call:*"] })).await?;
    let wrong = |change: fn(&mut Seen)| {
        let mut seen = spoke.seen.clone();
        change(&mut seen);
        seen
    };
    let mut of_another = spoke.seen.clone();
    of_another.key = foreign;

    let (code, message, mut peer) = of_another.refused(&cluster, 1).await?;
    ensure!(code == "NOT_FOUND", "of another key: {code}: {message}");
    // The refused peer may begin a new session there.
    peer.send("__hello", "", json!({ "features": ["resume"] })).await?;
    peer.next_of("__welcome").await?;
    let (code, message, _) = wrong(|seen| seen.id = "5f".repeat(16)).refused(&cluster, 1).await?;
    ensure!(code == "NOT_FOUND", "never was: {code}: {message}");
    let (code, message, _) = wrong(|seen| seen.received += 1).refused(&cluster, 2).await?;
    ensure!(
        code == "BAD_REQUEST" && message.contains("resume.received"),
        "{code}: {message}"
    );

    for hub in 0..3 {
        spoke.answers_at(&cluster, hub, "A").await?;
    }
    cluster.shows(0, "\nalkhub_sessions_total{event=\"left\"} 0\n").await;
    cluster.shutdown().await;
    Ok(())
}

/// A heartbeat would wake the connection too, but none comes while the test waits.
#[tokio::test(flavor = "multi_thread")]
async fn claims_that_come_in_one_write_are_refused_one_after_the_other_at_once() -> Result<()> {
    let mut cluster = Cluster::empty(Some(RedisServer::start().await)).await?;
    for _ in 0..2 {
        let change = |config: &mut HubConfig| {
            config.server.ping_interval = Duration::from_secs(600);
            config.server.dead_after = 2 * config.server.ping_interval;
        };
        cluster.add(change).await?;
    }
    cluster.know_each_other(false).await;
    let mut peer = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    let hello = json!({ "features": ["resume"], "resume": { "sessionId": "5f", "received": 0 } });

    peer.send_at_once(4, "__hello", &hello).await?;

    for refused in 1..=4 {
        let answer = peer.next().await.with_context(|| format!("answer {refused}"))?;
        ensure!(answer["payload"]["code"] == "NOT_FOUND", "{refused}: {answer}");
    }
    // The hub's clock ticks too slowly for the peer to be cut off.
    drop(peer);
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_are_refused_are_bounded_like_other_hellos() -> Result<()> {
    let cluster = hubs(2, Carrier::Link).await?;
    let mut peer = Peer::connect(&cluster.url(0), cluster.admin()).await?;
    let hello = json!({ "features": ["resume"], "resume": { "sessionId": "5f", "received": 0 } });

    let mut codes = Vec::new();
    for _ in 0..6 {
        peer.send("__hello", "", hello.clone()).await?;
        codes.push(peer.next_of("__error").await?["payload"]["code"].clone());
    }

    ensure!(codes[..4].iter().all(|code| code == "NOT_FOUND"), "{codes:?}");
    ensure!(
        codes[4..].iter().all(|code| code == "BAD_REQUEST"),
        "it is a plain one: {codes:?}"
    );
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_lacks_what_is_not_kept_begins_anew_on_another_hub() -> Result<()> {
    let cluster = hubs(2, Carrier::Link).await?;
    let http = Http::new(cluster.url(0), cluster.admin());
    let mut client = Counting::begin(&cluster, 0, cluster.admin()).await?;
    client.send("__subscribe", "", json!({ "topic": "job:1" })).await?;
    client.expect("__subscribed").await?;
    for n in 0..300 {
        let answer = http.send("POST", "/v1/events/job/1", Some(&json!(n))).await?;
        ensure!(answer.status < 300, "{answer:?}");
    }
    let before = client.seen.clone();
    for _ in 0..300 {
        client.expect("job").await?;
    }

    let (code, message, _) = before.refused(&cluster, 1).await?;

    ensure!(code == "CONFLICT" && message.contains("not kept"), "{code}: {message}");
    let (code, message, _) = client.cut().refused(&cluster, 1).await?;
    ensure!(code == "NOT_FOUND", "it has ended: {code}: {message}");
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_of_the_future_is_refused_on_the_hub_that_a_session_has_moved_to() -> Result<()> {
    let cluster = hubs(2, Carrier::Link).await?;
    let spoke = Counting::spoke(&cluster, 0).await?;
    let (mut spoke, _) = spoke.cut().resume(&cluster, 1).await?;

    spoke.peer.send("__ack", "", json!({ "count": 99 })).await?;
    let error = spoke.expect("__error").await?;

    ensure!(error["payload"]["code"] == "BAD_REQUEST", "{error}");
    spoke
        .peer
        .send("__ack", "", json!({ "count": spoke.seen.received }))
        .await?;
    is_known_at(&cluster, 0, "text", 1).await;
    spoke.answers_at(&cluster, 0, "A").await?;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hubs_that_ask_at_once_one_gets_the_session_and_calls_go_on() -> Result<()> {
    let cluster = hubs(3, Carrier::Redis).await?;
    let spoke = Counting::spoke(&cluster, 0).await?;
    let seen = spoke.seen.clone();
    let claim = async |hub: usize| -> Result<(Peer, Closing<Value>)> {
        let mut peer = Peer::connect(&cluster.url(hub), &seen.key).await?;
        peer.send("__hello", "", seen.hello()).await?;
        let answer = within("an answer, or the end", peer.next_or_closed()).await?;
        Ok((peer, answer))
    };

    let (one, two) = tokio::join!(claim(1), claim(2));

    let (one, two) = (one?, two?);
    // Either hub may have got the session and passed it on to the other; exactly one has it now.
    let mut holders = Vec::new();
    for (hub, (mut peer, answer)) in [(1, one), (2, two)] {
        match answer {
            Ok(welcome) if welcome["type"] == "__welcome" => {
                peer.next_of("__resume").await?;
                holders.push((hub, peer));
            }
            Ok(refused) => ensure!(refused["payload"]["code"] == "UNAVAILABLE", "{refused}"),
            // The later claim came while the session was on its way to this one.
            Err((code, _)) => ensure!(code == 4001, "{code}"),
        }
    }
    ensure!(!holders.is_empty(), "nobody has it");
    let input = json!("a");
    let http = Http::new(cluster.url(0), cluster.admin());
    let calling = http.call("text.upper", &input);
    let answering = async {
        let mut asked = None;
        for (_, peer) in &mut holders {
            match within("a call, or the end", peer.next_or_closed()).await? {
                Ok(call) if call["type"] == "call.requested" => {
                    let payload = json!({ "output": "A" });
                    peer.send("call.responded", call["id"].as_str().context("an id")?, payload)
                        .await?;
                    asked = Some(call);
                    break;
                }
                Ok(other) => anyhow::bail!("{other}"),
                Err((code, _)) => ensure!(code == 4001, "{code}"),
            }
        }
        asked.context("nobody was asked")
    };
    let (answer, asked) = tokio::join!(calling, answering);
    asked?;
    let answer = answer?;
    ensure!(answer.status == 200 && answer.body["data"] == "A", "{answer:?}");
    cluster.shutdown().await;
    Ok(())
}

/// How many messages of other hubs a hub has processed.
async fn taken(cluster: &Cluster, hub: usize) -> Result<f64, String> {
    let metrics = cluster.managed(hub, "/metrics").await?;
    let begin = "alkhub_relay_messages_total{direction=\"received\"} ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(begin));
    line.ok_or("no such metric")?
        .parse()
        .map_err(|_| "no number".to_owned())
}

/// A request of the peer is under way, so that its first claim waits, and the second one behind it.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_claims_that_wait_the_later_one_gets_the_session() -> Result<()> {
    let (cluster, redis) = Cluster::joined_behind_a_proxy(3, true, 0).await?;
    let mut spoke = Counting::spoke(&cluster, 0).await?;
    let mut first = Peer::connect(&cluster.url(1), cluster.admin()).await?;
    let mut second = Peer::connect(&cluster.url(2), cluster.admin()).await?;
    redis.hold();
    let input = json!({ "name": "text", "instanceId": "one", "operations": [operation("text", "upper", "mutation")] });
    spoke.ask("again", "hub.register", input).await?;
    let seen = spoke.cut();

    for peer in [&mut first, &mut second] {
        let before = taken(&cluster, 0).await.map_err(Error::msg)?;
        peer.send("__hello", "", seen.hello()).await?;
        until("hub 0 is asked for the session", || async {
            let more = taken(&cluster, 0).await? > before;
            more.then_some(()).ok_or_else(|| "not yet".to_owned())
        })
        .await;
    }
    redis.heal();

    let welcome = second.next_of("__welcome").await?;
    ensure!(welcome["payload"]["sessionId"] == seen.id.as_str(), "{welcome}");
    second.next_of("__resume").await?;
    is_known_at(&cluster, 1, "text", 2).await;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_hub_is_dead_begins_anew_and_its_calls_end_once() -> Result<()> {
    let cluster = hubs(3, Carrier::Link).await?;
    let mut spoke = Counting::spoke(&cluster, 0).await?;
    let http = Http::new(cluster.url(2), cluster.admin());
    let input = json!("a");

    let dying = async {
        spoke.expect("call.requested").await?;
        cluster.hubs[0].kill().await;
        spoke.cut().refused(&cluster, 1).await
    };
    let (answer, refused) = within(
        "both end",
        Box::pin(async { tokio::join!(http.call("text.upper", &input), dying) }),
    )
    .await;

    let (code, message, _peer) = refused?;
    ensure!(code == "NOT_FOUND", "{code}: {message}");
    let answer = answer?;
    ensure!(answer.body["delivered"] == "maybe", "{answer:?}");
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_dies_while_it_is_asked_leaves_its_peer_to_begin_anew() -> Result<()> {
    let redis = RedisServer::start().await;
    let (proxy, through) = redis.proxied().await?;
    let mut cluster = Cluster::empty(Some(redis)).await?;
    cluster
        .add(|config| config.events.redis_url = Some(through.as_str().into()))
        .await?;
    cluster.add(|_| {}).await?;
    for hub in 0..2 {
        cluster.shows(hub, "\nalkhub_events_hubs 2\n").await;
    }
    let mut spoke = Counting::spoke(&cluster, 0).await?;
    let http = Http::new(cluster.url(1), cluster.admin());
    let input = json!("a");

    let dying = async {
        spoke.expect("call.requested").await?;
        // From here on, requests no longer reach the hub.
        proxy.hold();
        let seen = spoke.cut();
        let asked = async {
            // Until the hub is known to be dead.
            loop {
                let refused = seen.refused(&cluster, 1).await?;
                if refused.0 != "UNAVAILABLE" {
                    return anyhow::Ok(refused);
                }
            }
        };
        let killed = cluster.hubs[0].kill();
        tokio::join!(asked, killed).0
    };
    let (answer, refused) = within(
        "both end",
        Box::pin(async { tokio::join!(http.call("text.upper", &input), dying) }),
    )
    .await;

    let (code, message, mut peer) = refused?;
    ensure!(code == "NOT_FOUND", "{code}: {message}");
    let answer = answer?;
    ensure!(answer.body["delivered"] == "maybe", "{answer:?}");
    // The same connection can begin a new session.
    peer.send("__hello", "", json!({ "features": ["resume"] })).await?;
    peer.next_of("__welcome").await?;
    proxy.heal();
    cluster.shutdown().await;
    Ok(())
}
