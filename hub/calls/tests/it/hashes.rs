//! Registrations that name specifications by their hash.

use std::sync::Arc;

use alkhub_calls::{Caller, Outbox, Outgoing};
use alkhub_config::CallsConfig;
use alkhub_devdb::Server;
use alkhub_protocol::register::{RefusedDetails, Registered};
use alkhub_protocol::{CallError, Code, OperationSpec, SpecHash};
use alkhub_test_support::within;
use serde_json::{Value, json};

use crate::fixture::{Hub, HubOptions, Spoke, admin, operation, peer, query, registration, spoke_key};

/// The session of a peer that names specifications by their hashes.
pub(crate) fn peer_by_hash() -> (Outbox, Outgoing) {
    let (outbox, outgoing) = peer();
    outbox.names_by_hash(true);
    (outbox, outgoing)
}

async fn register(hub: &Hub, caller: &Arc<Caller>, operations: &[Value]) -> Result<Spoke, CallError> {
    Spoke::register(hub, caller, registration("text", operations), peer_by_hash()).await
}

/// The hash that the hub has returned for each operation.
pub(crate) fn hashes(spoke: &Spoke) -> Vec<Option<String>> {
    spoke.output.operations.iter().map(|told| told.hash.clone()).collect()
}

/// The hash of a specification, as a peer may compute it on its own.
pub(crate) fn hash_of(spec: &Value) -> String {
    let spec: OperationSpec = serde_json::from_value(spec.clone()).expect("a specification");
    SpecHash::of(&spec).to_wire()
}

/// The hashes that a refusal reports as unknown.
fn unknown(error: &CallError) -> Vec<String> {
    let details = error.details.as_ref().expect("it says what");
    details.to::<RefusedDetails>().expect("its details").unknown
}

/// Calls `text.upper`, which the spoke answers.
async fn answers(hub: &Hub, spoke: &mut Spoke, name: &str) {
    let calling = hub.call(name, json!(1));
    let answering = async {
        let call = spoke.next_call().await;
        spoke.respond(&call.request_id, json!("done"));
    };
    let (output, ()) = tokio::join!(calling, answering);
    assert_eq!(output.expect("answered")["data"], "done");
}

#[tokio::test]
async fn a_hash_that_the_hub_has_told_stands_in_place_of_its_specification() {
    let hub = Hub::local().await;
    let upper = query("text.upper");
    let first = register(&hub, &admin(), std::slice::from_ref(&upper))
        .await
        .expect("registers");
    let told = hashes(&first);
    assert_eq!(told, [Some(hash_of(&upper))]);
    first.registration.close("its hub is gone").await;

    let mut again = register(&hub, &admin(), &[json!(told[0])]).await.expect("registers");

    let result = &again.output.operations[0];
    assert_eq!(
        (result.name.as_str(), result.result),
        ("text.upper", Registered::Registered)
    );
    assert_eq!(result.hash, None, "it was named so");
    assert!(again.output.generation > first.output.generation);
    answers(&hub, &mut again, "text.upper").await;
    let info = hub.calls.operation(&admin(), &"text.upper".parse().expect("valid"));
    assert_eq!(info.expect("offered").spec.description, "for a test");
}

#[tokio::test]
async fn a_peer_that_has_not_asked_for_hashes_sees_none_and_can_name_none() {
    let hub = Hub::local().await;
    let upper = query("text.upper");
    let input = registration("text", &[upper.clone(), json!(hash_of(&upper))]);

    let spoke = Spoke::register(&hub, &admin(), input, peer()).await.expect("an answer");

    let [whole, named] = &spoke.output.operations[..] else {
        panic!("{:?}", spoke.output)
    };
    assert_eq!((whole.result, &whole.hash), (Registered::Registered, &None));
    assert_eq!(named.result, Registered::Rejected);
    let reason = named.reason.as_deref().expect("a reason");
    assert!(
        reason.contains("not an OperationSpec") && reason.contains("`features`"),
        "{reason}"
    );
    let written = serde_json::to_string(&spoke.output).expect("plain");
    assert!(!written.contains("\"hash\""), "{written}");
}

#[tokio::test]
async fn a_registration_with_a_hash_that_is_not_known_changes_nothing_and_names_it() {
    let hub = Hub::local().await;
    let (upper, lower, never) = (query("text.upper"), query("text.lower"), query("text.never"));
    let input = registration("text", &[upper.clone(), lower.clone()]);
    let (outbox, outgoing) = peer_by_hash();
    let mut standing = Spoke::register(&hub, &admin(), input, (outbox.clone(), outgoing))
        .await
        .expect("registers");
    let mixed = registration(
        "text",
        &[json!(hash_of(&lower)), query("text.new"), json!(hash_of(&never))],
    );

    let input = serde_json::from_value(mixed).expect("a registration");
    let refused = hub.calls.register(&admin(), input, outbox.clone()).await;

    let refused = refused.expect_err("one is not known");
    assert_eq!(refused.code, Code::NotFound);
    assert_eq!(unknown(&refused), [hash_of(&never)]);
    assert!(standing.registration.is_current(), "what was registered before stands");
    answers(&hub, &mut standing, "text.upper").await;
    let whole = registration("text", &[json!(hash_of(&lower)), query("text.new"), never]);
    let input = serde_json::from_value(whole).expect("a registration");
    let (output, _registration) = hub.calls.register(&admin(), input, outbox).await.expect("registers");
    let names: Vec<&str> = output.operations.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["text.lower", "text.new", "text.never"]);
    hub.call("text.upper", json!(1))
        .await
        .expect_err("nobody offers it now");
}

#[tokio::test]
async fn a_hash_of_another_namespace_is_as_unknown_as_one_that_nobody_made() {
    let postgres = Server::temporary().await.expect("Postgres is installed");
    let hub = Hub::on(&postgres, "hub-a1").await;
    let secret = query("other.secret");
    let input = registration("other", std::slice::from_ref(&secret));
    let other = spoke_key("other", &[], None, false);
    let _other = Spoke::register(&hub, &other, input, peer()).await.expect("registers");
    let own = spoke_key("text", &[], None, false);
    let made_up = query("text.never");

    let foreign = register(&hub, &own, &[json!(hash_of(&secret))])
        .await
        .expect_err("not its own");
    let nobody = register(&hub, &own, &[json!(hash_of(&made_up))])
        .await
        .expect_err("nobody's");

    assert_eq!(
        (unknown(&foreign), unknown(&nobody)),
        (vec![hash_of(&secret)], vec![hash_of(&made_up)])
    );
    let without_details = |mut error: CallError| {
        error.details = None;
        error
    };
    assert_eq!(without_details(foreign), without_details(nobody));
    // Nor does it learn what the store has: this is another hub, whose memory is empty.
    let second = Hub::on(&postgres, "hub-b1").await;
    let foreign = register(&second, &own, &[json!(hash_of(&secret))])
        .await
        .expect_err("not its own");
    assert_eq!(unknown(&foreign), [hash_of(&secret)]);
    hub.stop().await;
    second.stop().await;
    postgres.stop().await.expect("stops");
}

#[tokio::test]
async fn a_text_that_is_no_hash_is_no_specification_and_a_wrong_hash_is_unknown() {
    let hub = Hub::local().await;
    let upper = query("text.upper");
    let _known = register(&hub, &admin(), std::slice::from_ref(&upper))
        .await
        .expect("registers");
    let right = hash_of(&upper);
    let mut wrong = SpecHash::from_wire(&right).expect("a hash");
    wrong.0[31] ^= 1;

    let texts = [
        json!(right[1..]),
        json!(format!("{right}=")),
        json!(""),
        json!("hash"),
        json!(7),
    ];
    let answered = register(&hub, &admin(), &texts).await.expect("an answer");
    let refused = register(&hub, &admin(), &[json!(wrong.to_wire())])
        .await
        .expect_err("unknown");

    for result in &answered.output.operations {
        let reason = result.reason.as_deref().expect("a reason");
        assert!(reason.contains("not an OperationSpec"), "{result:?}");
    }
    assert_eq!(answered.output.operations.len(), texts.len());
    assert_eq!(unknown(&refused), [wrong.to_wire()]);
}

#[tokio::test]
async fn a_hub_that_has_just_begun_takes_hashes_from_the_store_and_asks_where_that_is_away() {
    let postgres = Server::temporary().await.expect("Postgres is installed");
    let hub = Hub::on(&postgres, "hub-a1").await;
    let operations: Vec<Value> = (0..70).map(|i| query(&format!("text.op{i}"))).collect();
    let first = register(&hub, &admin(), &operations).await.expect("registers");
    let told: Vec<Value> = hashes(&first)
        .into_iter()
        .map(|hash| json!(hash.expect("told")))
        .collect();
    drop(first);
    hub.stop().await;

    let second = Hub::on(&postgres, "hub-a2").await;
    let mut spoke = register(&second, &admin(), &told).await.expect("registers");
    assert!(
        spoke
            .output
            .operations
            .iter()
            .all(|result| result.result == Registered::Registered)
    );
    answers(&second, &mut spoke, "text.op69").await;
    second.stop().await;
    postgres.stop().await.expect("stops");

    let third = Hub::start(HubOptions::default()).await;
    let asked = within("the hub asks", register(&third, &admin(), &told)).await;
    let asked = asked.expect_err("it knows none");
    assert_eq!(unknown(&asked).len(), 70);
    register(&third, &admin(), &operations).await.expect("registers");
}

#[tokio::test]
async fn what_is_not_kept_whole_has_no_hash_and_a_known_one_is_looked_at_again() {
    let hub = Hub::local().await;
    let more = operation("text.more", "query", &json!({ "rateLimit": 5 }));
    let custom = operation(
        "text.custom",
        "query",
        &json!({ "accessControl": { "customAuth": "ownsIt" } }),
    );
    let nobody = operation(
        "text.nobody",
        "query",
        &json!({ "accessControl": { "requiredScopes": ["*"] } }),
    );
    let plain = query("text.plain");
    let operations = [more, custom.clone(), nobody.clone(), plain.clone()];

    let sent = register(&hub, &admin(), &operations).await.expect("an answer");
    let named = [&custom, &nobody, &plain, &plain].map(|spec| json!(hash_of(spec)));
    let again = register(&hub, &admin(), &named).await.expect("an answer");

    assert_eq!(
        hashes(&sent),
        [None, Some(hash_of(&custom)), None, Some(hash_of(&plain))]
    );
    let [custom, nobody, plain, twice] = &again.output.operations[..] else {
        panic!("{:?}", again.output)
    };
    assert!(custom.warnings[0].contains("customAuth"), "{custom:?}");
    assert!(
        nobody
            .reason
            .as_deref()
            .is_some_and(|reason| reason.contains("requiredScopes")),
        "{nobody:?}"
    );
    assert_eq!(plain.result, Registered::Pooled);
    assert_eq!(
        (twice.name.as_str(), twice.result),
        ("text.plain", Registered::Rejected)
    );
}

#[tokio::test]
async fn no_more_hashes_are_looked_for_than_operations_may_be_offered() {
    let hub = Hub::with(CallsConfig {
        max_operations: 2,
        ..CallsConfig::default()
    })
    .await;
    let operations = [query("text.one"), query("text.two")];
    let _known = register(&hub, &admin(), &operations).await.expect("registers");
    let never = hash_of(&query("text.never"));
    let mut named: Vec<Value> = operations.iter().map(|spec| json!(hash_of(spec))).collect();
    named.extend(vec![json!(never); 9_998]);

    let answered = register(&hub, &admin(), &named).await.expect("an answer");

    let results: Vec<Registered> = answered.output.operations.iter().map(|o| o.result).collect();
    assert_eq!(results[..2], [Registered::Pooled; 2]);
    assert_eq!(results[2..], vec![Registered::Rejected; 9_998]);
}
