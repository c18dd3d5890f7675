//! Operations by hash.

use std::time::Duration;

use alkhub_protocol::{OperationName, OperationSpec, SpecHash, SpokeName};
use alkhub_store::Store;

use crate::fixture::{config, database, execute, ready, store};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn spec(name: &str) -> OperationSpec {
    serde_json::from_value(serde_json::json!({
        "namespace": "text", "name": name, "type": "query", "description": "a\u{0}b",
        "inputSchema": { "type": "string", "maxLength": 10 }, "outputSchema": true,
        "errorSchemas": [{ "code": "TOO_LONG", "httpStatus": 422 }],
    }))
    .expect("a specification")
}

/// What is known of these, however much it is.
async fn all_of(store: &Store, hashes: &[SpecHash]) -> Vec<(SpecHash, OperationSpec)> {
    let got = store.operations().get(hashes, usize::MAX).await.expect("asked");
    let read = |(hash, spec): (SpecHash, Option<OperationSpec>)| (hash, spec.expect("it was read"));
    got.into_iter().map(read).collect()
}

#[tokio::test]
async fn what_was_put_is_got_by_its_hash() {
    let store = store().await;
    let all: Vec<_> = (0..250)
        .map(|number| spec(&format!("op{number}")))
        .map(|spec| (SpecHash::of(&spec), spec))
        .collect();

    store.operations().put(&all).await.expect("put");
    store.operations().put(&all[..10]).await.expect("put again");
    let hashes: Vec<_> = all.iter().map(|(hash, _)| *hash).chain([SpecHash([9; 32])]).collect();
    let mut got = all_of(&store, &hashes).await;

    assert_eq!(got.len(), 250);
    assert!(got.iter().all(|(hash, spec)| SpecHash::of(spec) == *hash));
    got.sort_by_key(|(hash, _)| *hash);
    let one = got.iter().find(|(hash, _)| *hash == all[7].0).expect("there");
    assert_eq!((one.1.name.as_str(), one.1.description.as_str()), ("op7", "a\0b"));
    assert_eq!(one.1.error_schemas, all[7].1.error_schemas);
}

#[tokio::test]
async fn no_more_is_read_at_once_than_asked_for_and_the_rest_is_named() {
    let store = store().await;
    let all: Vec<_> = (0..10)
        .map(|number| spec(&format!("op{number}")))
        .map(|spec| (SpecHash::of(&spec), spec))
        .collect();
    store.operations().put(&all).await.expect("put");
    let one = all[0].1.canonical().len();
    let unknown = SpecHash([9; 32]);
    let mut left: Vec<_> = all.iter().map(|(hash, _)| *hash).chain([unknown]).collect();

    let mut read = Vec::new();
    for _ in 0..4 {
        let got = store.operations().get(&left, 2 * one + 1).await.expect("asked");
        left = got
            .iter()
            .filter(|(_, spec)| spec.is_none())
            .map(|(hash, _)| *hash)
            .collect();
        let got: Vec<_> = got.into_iter().filter_map(|(hash, spec)| Some((hash, spec?))).collect();
        assert!(got.len() <= 3, "{got:?}");
        read.extend(got);
    }

    assert_eq!(left, []);
    assert_eq!(read.len(), 10);
    assert!(read.iter().all(|(hash, spec)| SpecHash::of(spec) == *hash));
    let first = store.operations().get(&[all[0].0], 1).await.expect("asked");
    assert!(first[0].1.is_some(), "one at least");
}

#[tokio::test]
async fn nothing_is_asked_for_nothing() {
    let store = store().await;

    store.operations().put(&[]).await.expect("put");

    assert_eq!(store.operations().get(&[], 1).await.expect("asked"), []);
}

#[tokio::test]
async fn hubs_that_put_the_same_at_once_do_not_block_each_other() {
    let store = store().await;
    let all: Vec<_> = (0..50)
        .map(|number| spec(&format!("op{number}")))
        .map(|spec| (SpecHash::of(&spec), spec))
        .collect();
    let mut backwards = all.clone();
    backwards.reverse();

    let (one, two) = tokio::join!(store.operations().put(&all), store.operations().put(&backwards));

    assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
}

#[tokio::test]
async fn specifications_that_nobody_offered_for_their_retention_are_deleted_and_no_others() {
    let url = database().await;
    let store = ready(&config(&url)).await;
    let all: Vec<_> = ["never", "noted", "again"]
        .map(|name| (SpecHash::of(&spec(name)), spec(name)))
        .into();
    let [(never, _), (noted, _), (again, _)] = &all[..] else {
        panic!("three")
    };
    store.operations().put(&all).await.expect("put");
    assert_eq!(store.operations().prune(DAY).await.expect("pruned"), 0);
    execute(
        &url,
        "UPDATE alkhub.operations SET last_offered_at = now() - interval '2 days'",
    )
    .await;

    store.operations().touch(&[*noted]).await.expect("noted");
    store.operations().put(&all[2..]).await.expect("put again");
    let pruned = store.operations().prune(DAY).await.expect("pruned");

    assert_eq!(pruned, 1);
    let mut left = all_of(&store, &[*never, *noted, *again]).await;
    left.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
    let left: Vec<&str> = left.iter().map(|(_, spec)| spec.name.as_str()).collect();
    assert_eq!(left, ["again", "noted"]);
}

#[tokio::test]
async fn a_name_is_known_as_long_as_its_specification_is_kept() {
    let url = database().await;
    let store = ready(&config(&url)).await;
    let upper = spec("upper");
    let names: Vec<OperationName> = ["text.upper", "text.lower"]
        .map(|name| name.parse().expect("valid"))
        .into();
    store
        .operations()
        .put(&[(SpecHash::of(&upper), upper)])
        .await
        .expect("put");

    let known = store.operations().known(&names).await.expect("asked");
    execute(
        &url,
        "UPDATE alkhub.operations SET last_offered_at = now() - interval '2 days'",
    )
    .await;
    store.operations().prune(DAY).await.expect("pruned");

    assert_eq!(known, names[..1]);
    assert_eq!(store.operations().known(&names).await.expect("asked"), []);
}

#[tokio::test]
async fn what_a_spoke_offered_longest_ago_goes_beyond_its_bytes_and_nothing_of_others() {
    let url = database().await;
    let store = ready(&config(&url)).await;
    let all: Vec<_> = (0..10)
        .map(|number| spec(&format!("op{number}")))
        .map(|spec| (SpecHash::of(&spec), spec))
        .collect();
    let hashes: Vec<_> = all.iter().map(|(hash, _)| *hash).collect();
    let (greedy, other) = ("greedy".parse().expect("valid"), "other".parse().expect("valid"));
    let owned = |from: usize, to: usize, spoke: &SpokeName| -> Vec<_> {
        hashes[from..to].iter().map(|hash| (*hash, spoke.clone())).collect()
    };
    let one = serde_json::to_string(&all[0].1).expect("JSON").len() as u64;
    store.operations().put(&all[..8]).await.expect("put");
    store
        .operations()
        .charge(&owned(0, 5, &greedy), 100 * one)
        .await
        .expect("noted");
    // Who brought it first keeps it.
    store
        .operations()
        .charge(&owned(4, 8, &other), 100 * one)
        .await
        .expect("noted");
    let order =
        "UPDATE alkhub.operations SET last_offered_at = now() - interval '1 minute' * (10 - right(name, 1)::int)";
    execute(&url, order).await;
    assert_eq!(all_of(&store, &hashes).await.len(), 8);

    store.operations().put(&all[8..]).await.expect("put");
    store
        .operations()
        .charge(&owned(8, 10, &greedy), 4 * one)
        .await
        .expect("trimmed");

    let mut left = all_of(&store, &hashes).await;
    left.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
    let left: Vec<&str> = left.iter().map(|(_, spec)| spec.name.as_str()).collect();
    assert_eq!(left, ["op3", "op4", "op5", "op6", "op7", "op8", "op9"]);
}
