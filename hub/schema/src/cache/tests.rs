//! The capacity of the cache, and the order of builds.

use futures::FutureExt as _;

use super::*;

const KIB: usize = 1024;

fn spoke(name: &str) -> SpokeName {
    name.parse().expect("valid")
}

fn key(id: &str) -> Arc<str> {
    id.into()
}

fn cache(total: usize, per_spoke: usize) -> Cache<u32, u32> {
    Cache::new(Capacity { total, per_spoke }, &Registry::new()).expect("a fresh registry")
}

/// Builds a value of this size as a compiler does: not if it is over the limit.
fn sized(bytes: usize) -> impl Fn(usize) -> Result<Built<u32>, Unbuilt> + Clone + Send + 'static {
    move |limit| match bytes <= limit {
        true => Ok(Built { value: 0, bytes }),
        false => Err(Unbuilt::Over { bytes }),
    }
}

fn faulty(_: usize) -> Result<Built<u32>, Unbuilt> {
    Err(Unbuilt::Fault("it is no schema".to_owned()))
}

/// What `a` gets with its own key.
async fn get(cache: &Cache<u32, u32>, hash: u32, bytes: usize) -> Result<Arc<u32>, Error> {
    cache.get_or_build(&spoke("a"), &key("a"), hash, sized(bytes)).await
}

#[tokio::test]
async fn a_spoke_over_its_capacity_is_refused_and_others_are_not() {
    let cache = cache(64 * KIB, 9 * KIB);
    let _in_use = [
        get(&cache, 0, 4 * KIB).await.expect("fits"),
        get(&cache, 1, 4 * KIB).await.expect("fits"),
    ];

    let refused = get(&cache, 2, 4 * KIB).await.expect_err("over the capacity");
    let known = get(&cache, 1, 4 * KIB).await;
    let other = cache.get_or_build(&spoke("b"), &key("b"), 2, sized(4 * KIB)).await;

    assert!(
        matches!(
            refused,
            Error::SpokeFull {
                bytes: 4096,
                limit: 9216
            }
        ),
        "{refused}"
    );
    assert!(known.is_ok() && other.is_ok());
    assert_eq!(cache.owner(&2), Some(spoke("b")));
}

#[tokio::test]
async fn what_nobody_uses_makes_room() {
    let cache = cache(9 * KIB, 9 * KIB);
    let first = get(&cache, 0, 4 * KIB).await.expect("fits");
    for hash in 1..20 {
        get(&cache, hash, 4 * KIB).await.expect("the one before it is not used");
    }

    let kept = cache.get(&0).expect("it is in use");

    assert!(Arc::ptr_eq(&kept, &first));
    assert_eq!(cache.metrics.bytes.get(), 8 * 1024);
    assert_eq!(cache.kept.lock().bytes, 8 * KIB);
}

#[tokio::test]
async fn a_full_cache_refuses_every_spoke() {
    let cache = cache(5 * KIB, 64 * KIB);
    let _in_use = get(&cache, 0, 4 * KIB).await.expect("fits");

    let refused = cache.get_or_build(&spoke("b"), &key("b"), 1, sized(4 * KIB)).await;

    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    assert_eq!(cache.metrics.refused.get(), 1);
}

#[tokio::test]
async fn what_made_room_in_vain_is_reported_as_gone() {
    let cache = cache(9 * KIB, 5 * KIB);
    drop(get(&cache, 0, 4 * KIB).await.expect("fits"));

    let refused = get(&cache, 1, 16 * KIB).await;

    assert!(matches!(refused, Err(Error::SpokeFull { .. })), "{refused:?}");
    assert_eq!(cache.metrics.bytes.get(), 0);
}

#[tokio::test]
async fn a_value_larger_than_its_builder_foresaw_is_not_kept() {
    let cache = cache(9 * KIB, 9 * KIB);
    let build = |_: usize| {
        Ok(Built {
            value: 0,
            bytes: 10 * KIB,
        })
    };

    let refused = cache.get_or_build(&spoke("a"), &key("a"), 0, build).await;

    assert!(matches!(refused, Err(Error::SpokeFull { .. })), "{refused:?}");
    assert!(cache.get(&0).is_none());
}

#[tokio::test]
async fn what_was_refused_is_refused_again_without_a_turn() {
    let cache = cache(1 << 30, 1 << 20);
    let (a, key_a) = (spoke("a"), key("a"));
    let heavy = || cache.get_or_build(&a, &key_a, 1, sized(2 << 20)).boxed();
    let wrong = || cache.get_or_build(&a, &key_a, 2, faulty).boxed();
    let first = [heavy().await, wrong().await];
    let _taken = (
        cache.light.turn(&key("other")).await,
        cache.heavy.turn(&key("other")).await,
    );

    let again = [heavy(), wrong()].map(|refused| refused.now_or_never().expect("at once"));

    assert!(matches!(again[0], Err(Error::SpokeFull { .. })), "{again:?}");
    assert!(matches!(again[1], Err(Error::Fault(_))), "{again:?}");
    let text = |refused: &Result<Arc<u32>, Error>| refused.as_ref().expect_err("refused").to_string();
    assert_eq!(first.each_ref().map(text), again.each_ref().map(text));
}

#[tokio::test]
async fn what_was_too_large_is_built_once_there_is_room() {
    let cache = cache(9 * KIB, 9 * KIB);
    let in_use = get(&cache, 0, 6 * KIB).await.expect("fits");
    get(&cache, 1, 6 * KIB).await.expect_err("no room");

    drop(in_use);

    get(&cache, 1, 6 * KIB).await.expect("there is room now");
}

#[tokio::test]
async fn a_light_value_does_not_wait_for_a_heavy_one() {
    let cache = cache(1 << 30, 1 << 30);
    let taken = cache.heavy.turn(&key("greedy")).await;
    let (b, key_b) = (spoke("b"), key("b"));
    let mut waits = Box::pin(cache.get_or_build(&b, &key_b, 1, sized(2 << 20)));

    let light = tokio::select! {
        light = get(&cache, 2, KIB) => light,
        _ = &mut waits => panic!("the turn is taken"),
    };

    assert!(light.is_ok());
    drop(taken);
    assert!(waits.await.is_ok());
}

#[tokio::test]
async fn a_value_that_many_want_is_kept_once() {
    let cache = cache(1 << 30, 1 << 30);
    let (spoke, keys) = (spoke("a"), ["a", "b", "c"].map(key));

    let wanted = keys.iter().map(|key| cache.get_or_build(&spoke, key, 0, sized(KIB)));
    let values = futures::future::try_join_all(wanted).await.expect("fits");

    assert!(values.iter().all(|value| Arc::ptr_eq(value, &values[0])));
    assert_eq!(cache.kept.lock().bytes, KIB);
}
