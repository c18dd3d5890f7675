//! Operations by hash.

use alkhub_protocol::OperationSpec;
use alkhub_store::SpecHash;

use crate::fixture::store;

fn spec(name: &str) -> OperationSpec {
    serde_json::from_value(serde_json::json!({
        "namespace": "text", "name": name, "type": "query", "description": "a\u{0}b",
        "inputSchema": { "type": "string", "maxLength": 10 }, "outputSchema": true,
        "errorSchemas": [{ "code": "TOO_LONG", "httpStatus": 422 }],
    }))
    .expect("a specification")
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
    let mut got = store.operations().get(&hashes).await.expect("asked");

    assert_eq!(got.len(), 250);
    assert!(got.iter().all(|(hash, spec)| SpecHash::of(spec) == *hash));
    got.sort_by_key(|(hash, _)| *hash);
    let one = got.iter().find(|(hash, _)| *hash == all[7].0).expect("there");
    assert_eq!((one.1.name.as_str(), one.1.description.as_str()), ("op7", "a\0b"));
    assert_eq!(one.1.error_schemas, all[7].1.error_schemas);
}

#[tokio::test]
async fn nothing_is_asked_for_nothing() {
    let store = store().await;

    store.operations().put(&[]).await.expect("put");

    assert_eq!(store.operations().get(&[]).await.expect("asked"), []);
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
