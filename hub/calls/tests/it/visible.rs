//! A spoke whose registration is acknowledged can be called through every hub, and a call that comes too early waits.

use std::time::Duration;

use alkhub_calls::CallAnswer;
use alkhub_config::CallsConfig;
use alkhub_devdb::Server;
use alkhub_protocol::{CallError, CallRequest, Code, OperationKind};
use alkhub_test_support::{Proxy, RedisServer, until, within};
use futures::future::join_all;
use futures::{FutureExt as _, StreamExt as _, stream};
use serde_json::json;
use tokio::time::Instant;

use crate::fixture::{Hub, HubOptions, Spoke, admin, client, peer, query, registration, request, subscription};
use crate::pair::Pair;
use crate::postgres::LockedOperations;

/// How many registrations a test makes, each of which is called through two other hubs.
const REGISTRATIONS: usize = 250;

/// How many registrations are under way at once.
const AT_ONCE: usize = 8;

/// Three hubs of one Hub; the last of them reaches Redis through a proxy.
struct Trio {
    hubs: Vec<Hub>,
    proxy: Proxy,
    redis: RedisServer,
    postgres: Server,
}

/// A registration that was acknowledged, and what came of the calls through the other hubs.
#[derive(Debug)]
struct Seen {
    /// The hubs that were named in the acknowledgement.
    lagging: Vec<String>,
    /// How many hubs its own hub knew to be alive at that time.
    living: usize,
    /// How each call ended, by the hub that it went through.
    calls: Vec<(String, Result<(), CallError>)>,
}

// === impl Trio ===

impl Trio {
    async fn start() -> Self {
        let redis = RedisServer::start().await;
        let postgres = Server::temporary().await.expect("Postgres is installed");
        let (proxy, through) = redis.proxied().await.expect("a port");
        let mut hubs = Vec::new();
        for name in ["pod-a-a1", "pod-b-b1", "pod-c-c1"] {
            let url = match name {
                "pod-c-c1" => through.clone(),
                _ => redis.url(),
            };
            let options = HubOptions {
                name,
                redis: Some(url),
                postgres: Some(postgres.url()),
                ..HubOptions::default()
            };
            hubs.push(Hub::start(options).await);
        }
        let trio = Self {
            hubs,
            proxy,
            redis,
            postgres,
        };
        trio.know_each_other(3).await;
        trio
    }

    async fn know_each_other(&self, count: usize) {
        until("the hubs know each other", async || {
            let known: Vec<usize> = self.hubs.iter().map(|hub| hub.cluster.pods().len()).collect();
            if known.iter().all(|known| *known == count) {
                Ok(())
            } else {
                Err(format!("{known:?}"))
            }
        })
        .await;
    }

    /// Registers a spoke at one hub and calls it through all others as soon as that is acknowledged.
    async fn register_and_call(&self, number: usize) -> Seen {
        let (home, name) = (number % self.hubs.len(), format!("visible-{number}"));
        let operation = format!("{name}.echo");
        let mut spoke = Spoke::connect(&self.hubs[home], &name, &[query(&operation)]).await;
        let lagging = spoke.output.lagging_hubs.iter().map(ToString::to_string).collect();
        let living = self.hubs[home].cluster.pods().len();
        let others = self.hubs.iter().enumerate().filter(|(hub, _)| *hub != home);
        let calling = others.map(async |(hub, through)| {
            let answer = through.call(&operation, json!(number)).await;
            (["pod-a-a1", "pod-b-b1", "pod-c-c1"][hub].to_owned(), answer.map(drop))
        });
        let answering = async {
            loop {
                let call = spoke.next_call().await;
                spoke.respond(&call.request_id, json!(number));
            }
        };
        let calls = tokio::select! {
            calls = join_all(calling) => calls,
            () = answering => unreachable!("it answers for ever"),
        };
        spoke.registration.close("the test has seen it").await;
        Seen { lagging, living, calls }
    }

    async fn register_and_call_each(&self, numbers: std::ops::Range<usize>) -> Vec<Seen> {
        let all = stream::iter(numbers).map(|number| self.register_and_call(number));
        all.buffer_unordered(AT_ONCE).collect().await
    }

    async fn end(self) {
        for hub in self.hubs {
            hub.stop().await;
        }
        self.postgres.stop().await.expect("stops");
    }
}

/// The calls that failed through hubs that were not named, for a reason that `counts`.
fn failures(seen: &[Seen], counts: impl Fn(&CallError) -> bool) -> Vec<&CallError> {
    let of = |seen: &Seen, hub: &String| !seen.lagging.contains(hub);
    let calls = seen
        .iter()
        .flat_map(|one| one.calls.iter().filter(move |(hub, _)| of(one, hub)));
    calls
        .filter_map(|(_, ended)| ended.as_ref().err())
        .filter(|error| counts(error))
        .collect()
}

#[tokio::test]
async fn what_is_registered_can_be_called_through_every_hub_at_once() {
    let trio = Trio::start().await;

    let seen = trio.register_and_call_each(0..REGISTRATIONS).await;

    let failed = failures(&seen, |_| true);
    assert!(
        failed.is_empty(),
        "{} of {}: {:?}",
        failed.len(),
        2 * REGISTRATIONS,
        failed.first()
    );
    // A busy machine may now and then need a second.
    let lagging = seen.iter().filter(|one| !one.lagging.is_empty()).count();
    assert!(
        lagging <= REGISTRATIONS / 10,
        "{lagging} were not answered for by all hubs in time"
    );
    trio.end().await;
}

/// Its lease remains for a while, and it answers nobody.
#[tokio::test]
async fn a_hub_that_dies_is_named_until_it_is_gone_and_holds_nobody_up_for_long() {
    let mut trio = Trio::start().await;

    trio.proxy.cut();
    let dead = trio.hubs.pop().expect("the third");
    let dying = trio.register_and_call_each(0..10).await;
    dead.stop().await;
    trio.know_each_other(2).await;
    let after = trio.register_and_call_each(10..30).await;

    let failed = failures(&dying, |_| true);
    assert!(failed.is_empty(), "while it dies: {failed:?}");
    let failed = failures(&after, |_| true);
    assert!(failed.is_empty(), "after: {failed:?}");
    for one in &dying {
        let is_named = one.lagging.iter().any(|hub| hub == "pod-c-c1");
        assert!(is_named || one.living == 2, "it cannot have answered: {one:?}");
    }
    assert!(after.iter().all(|one| one.lagging.iter().all(|hub| hub != "pod-c-c1")));
    trio.end().await;
}

/// What the other hubs held is gone from Redis until they have written it again.
#[tokio::test]
async fn nobody_is_unknown_after_a_restart_of_redis_that_was_visible_before() {
    let mut trio = Trio::start().await;
    trio.redis.kill().await;
    trio.redis.launch().await;

    let seen = trio.register_and_call_each(0..40).await;

    let failed = failures(&seen, |error| {
        matches!(error.code, Code::OperationNotFound | Code::NoProvider)
    });
    assert!(failed.is_empty(), "{failed:?}");
    for hub in &trio.hubs {
        hub.is_up().await;
    }
    let settled = trio.register_and_call_each(40..60).await;
    let failed = failures(&settled, |_| true);
    assert!(failed.is_empty(), "{failed:?}");
    trio.end().await;
}

#[tokio::test]
async fn a_hub_without_the_specification_is_named_and_who_calls_through_it_waits_for_that() {
    let pair = Pair::start().await;
    // Makes sure that the store has it and no hub of the pair does.
    let stranger = Hub::on(&pair.postgres, "pod-x1").await;
    drop(Spoke::connect(&stranger, "text", &[query("text.upper")]).await);
    let locked = LockedOperations::lock(&pair.postgres).await;

    let mut spoke = Spoke::connect(&pair.b, "text", &[query("text.upper")]).await;
    let (ticket, mut answers) = pair.a.dispatch(request("text.upper", json!(1)));
    assert!(!ticket.expect("it is looked for").is_done());
    locked.unlock().await;
    let call = spoke.next_call().await;
    spoke.respond(&call.request_id, json!("A"));

    let named: Vec<_> = spoke.output.lagging_hubs.iter().map(ToString::to_string).collect();
    assert_eq!(named, ["pod-a-a1"]);
    let answer = within("the answer", answers.recv()).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
    stranger.stop().await;
    pair.end().await;
}

#[tokio::test]
async fn a_call_waits_for_a_registration_of_which_its_hub_has_not_heard_yet() {
    let (pair, proxy) = Pair::with_b_behind_a_proxy().await;
    let offered = serde_json::from_value(registration("text", &[query("text.upper")])).expect("valid");
    let (outbox, outgoing) = peer();
    // Makes sure that hub B has compiled it.
    let known = Spoke::connect(&pair.b, "text", &[query("text.upper")]).await;
    proxy.hold();
    let registered = pair.a.calls.register(&admin(), offered, outbox.clone()).await;
    let (output, registration) = registered.expect("registers");
    let mut spoke = Spoke {
        output,
        registration,
        outgoing,
        outbox,
    };
    known.registration.close("hub B knows nobody now").await;

    let (ticket, mut answers) = pair.b.dispatch(request("text.upper", json!(1)));
    assert!(!ticket.expect("it is looked for").is_done());
    proxy.heal();

    let call = spoke.next_call().await;
    spoke.respond(&call.request_id, json!("A"));
    let answer = within("the answer", answers.recv()).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
    pair.end().await;
}

/// How many looks at the directory in Redis all hubs have made so far.
async fn looks(pair: &Pair) -> u64 {
    let info: String = pair.redis.query(&["INFO", "commandstats"]).await;
    let hmget = info.lines().find_map(|line| line.strip_prefix("cmdstat_hmget:calls="));
    let calls = hmget.and_then(|stats| stats.split(',').next());
    calls.map_or(0, |calls| calls.parse().expect("a number"))
}

/// There is no second look within the same second, however many calls come.
#[tokio::test]
async fn a_name_is_looked_at_once_in_a_second() {
    let pair = Pair::start().await;
    let before = looks(&pair).await;

    let calls = join_all((0..200).map(|_| pair.a.call("text.nobody", json!(1)))).await;
    let again = pair.a.dispatch(request("text.nobody", json!(1))).0;

    let codes = calls.into_iter().map(|ended| ended.expect_err("nobody offers it").code);
    assert!(codes.into_iter().all(|code| code == Code::OperationNotFound));
    assert_eq!(again.expect_err("it was looked for").code, Code::OperationNotFound);
    assert_eq!(looks(&pair).await - before, 1);
    pair.end().await;
}

/// Prepares a call of a name that nobody offers while the store does not answer; returns the refusal, and how long it
/// took.
async fn prepared_in_vain(pair: &Pair, timeout: Option<Duration>) -> (Code, Duration) {
    let locked = LockedOperations::lock(&pair.postgres).await;
    let request = CallRequest {
        timeout,
        ..request("text.nobody", json!(1))
    };
    let began = Instant::now();
    let refused = within("the refusal", pair.a.calls.prepare(&admin(), request)).await;
    let took = began.elapsed();
    locked.unlock().await;
    assert_eq!(pair.a.calls.in_flight(), 0);
    (refused.expect_err("nobody offers it").code, took)
}

/// A look takes at most a second, and there is no second look.
#[tokio::test]
async fn a_call_that_is_prepared_waits_for_one_look_until_its_deadline() {
    let limits = CallsConfig {
        default_timeout: Duration::from_millis(400),
        ..CallsConfig::default()
    };
    for (pair, timeout, code, most) in [
        (Pair::start().await, None, Code::OperationNotFound, 1_900),
        (
            Pair::start().await,
            Some(Duration::from_millis(300)),
            Code::Timeout,
            900,
        ),
        (Pair::with(limits).await, None, Code::Timeout, 900),
        (Pair::start().await, Some(Duration::ZERO), Code::OperationNotFound, 900),
    ] {
        let (refused, took) = prepared_in_vain(&pair, timeout).await;

        assert_eq!(refused, code);
        assert!(took < Duration::from_millis(most), "{took:?}");
        pair.end().await;
    }
}

#[tokio::test]
async fn a_call_that_its_caller_may_not_make_is_looked_for_nowhere() {
    let pair = Pair::start().await;
    let caller = client(&["call:other.*"]);
    let before = looks(&pair).await;

    let prepared = pair.a.calls.prepare(&caller, request("text.nobody", json!(1))).await;
    let called = pair.a.calls.call(&caller, request("text.nobody", json!(1))).await;

    let codes = [prepared.map(drop), called.map(drop)].map(|ended| ended.expect_err("not allowed").code);
    assert_eq!(codes, [Code::AccessDenied, Code::AccessDenied]);
    assert_eq!(looks(&pair).await, before);
    pair.end().await;
}

/// What a hub remembers about an operation that nobody offers now is enough to know how a call of it is answered.
#[tokio::test]
async fn a_call_whose_operation_is_remembered_is_prepared_without_a_look() {
    let hub = Hub::local().await;
    let spoke = Spoke::connect(&hub, "text", &[subscription("text.lines")]).await;
    spoke.registration.close("it leaves").await;
    let input = json!({"operation": "text.lines", "input": 1});

    for call in [request("text.lines", json!(1)), request("hub.call", input)] {
        let prepared = hub.calls.prepare(&admin(), call).now_or_never();

        let prepared = prepared.expect("at once").expect("it may be called");
        assert_eq!(prepared.kind(), Some(OperationKind::Subscription));
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_call_that_waits_to_be_prepared_ends_with_its_caller_and_with_the_hub() {
    let pair = Pair::start().await;
    let locked = LockedOperations::lock(&pair.postgres).await;
    let caller = admin();
    let mut leaves = Box::pin(pair.a.calls.prepare(&caller, request("text.nobody", json!(1))));
    let mut stays = Box::pin(pair.a.calls.prepare(&caller, request("text.nobody", json!(2))));
    assert!(futures::poll!(&mut leaves).is_pending() && futures::poll!(&mut stays).is_pending());
    assert_eq!(pair.a.calls.in_flight(), 2);

    drop(leaves);
    assert_eq!(pair.a.calls.in_flight(), 1);
    pair.a
        .calls
        .end_all(&CallError::new(Code::Unavailable, "it goes away"), "it goes away");

    let ended = stays.now_or_never().expect("at once");
    assert_eq!(ended.expect_err("it has ended").code, Code::Unavailable);
    locked.unlock().await;
    pair.end().await;
}

#[tokio::test]
async fn where_many_names_are_unknown_each_is_answered_and_none_waits_for_long() {
    let hub = Hub::local().await;
    let names = (0..3_000).map(|number| format!("text.nobody{number}"));
    let calling = join_all(names.map(|name| async {
        let name = name;
        hub.call(&name, json!(1)).await
    }));

    let ended = tokio::time::timeout(Duration::from_secs(20), calling).await;

    let ended = ended.expect("nobody waits for ever");
    assert!(
        ended
            .into_iter()
            .all(|one| one.expect_err("nobody").code == Code::OperationNotFound)
    );
    hub.stop().await;
}
