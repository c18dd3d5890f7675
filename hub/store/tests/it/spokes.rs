//! Spokes: fencing by uid, rotation, deletion, sweeping.

use std::time::Duration;

use alkhub_protocol::register::SpokeType;
use alkhub_store::{Deleted, Error, KeyHasher, Store};
use alkhub_test_support::within;
use jiff::Timestamp;

use crate::fixture::{api_key, declare, hash, hasher, is_usable, key_by_hand, name, new_key, spoke, spoke_key, store};

async fn works(store: &Store, key: u8) -> bool {
    let found = store.keys().find(&hash(key)).await.expect("asked");
    found.is_some_and(|key| is_usable(&key, Timestamp::now()))
}

#[tokio::test]
async fn a_spoke_is_stored_as_it_was_put() {
    let store = store().await;

    let outcome = store
        .spokes()
        .put(&name("builder"), &spoke("a"), None)
        .await
        .expect("put");

    let record = outcome.record.clone();
    assert!(outcome.created && outcome.changed);
    assert_eq!((record.uid.as_str(), record.spoke_type), ("a", SpokeType::Compute));
    assert_eq!(record.operations, ["text.*"]);
    assert_eq!(record.scopes, spoke("a").scopes);
    assert_eq!(record.labels, spoke("a").labels);
    assert_eq!((record.concurrency, record.suspended), (Some(3), false));
    assert_eq!(record.connected_at, None);
    assert_eq!(store.spokes().get(&name("builder")).await.expect("asked"), Some(record));
    assert_eq!(store.spokes().get(&name("other")).await.expect("asked"), None);
}

#[tokio::test]
async fn the_same_put_again_changes_nothing() {
    let store = store().await;
    let first = declare(&store, &name("builder"), &spoke("a"), 1).await;

    let again = declare(&store, &name("builder"), &spoke("a"), 1).await;

    assert!(first.changed && !again.changed && !again.created);
    assert_eq!(again.revoked_keys, Vec::<String>::new());
    assert_eq!(again.record, first.record);
    assert!(works(&store, 1).await);
    assert_eq!(
        store
            .keys()
            .list(crate::fixture::hasher().hash_key(), None, 100)
            .await
            .expect("asked")
            .len(),
        1
    );
}

#[tokio::test]
async fn a_recreated_spoke_honours_none_of_the_old_keys() {
    let store = store().await;
    let builder = name("builder");
    declare(&store, &builder, &spoke("a"), 1).await;
    key_by_hand(&store, &builder, 2).await;
    store
        .spokes()
        .connected(&builder, Timestamp::now())
        .await
        .expect("noted");

    let outcome = declare(&store, &builder, &spoke("b"), 3).await;

    assert!(outcome.created);
    assert_eq!(outcome.revoked_keys.len(), 2);
    assert_eq!((outcome.record.uid.as_str(), outcome.record.connected_at), ("b", None));
    assert_eq!(
        (works(&store, 1).await, works(&store, 2).await, works(&store, 3).await),
        (false, false, true)
    );
}

#[tokio::test]
async fn an_old_spokes_key_cannot_be_put_for_the_new_one() {
    let store = store().await;
    declare(&store, &name("builder"), &spoke("a"), 1).await;

    let outcome = store
        .spokes()
        .put(&name("builder"), &spoke("b"), Some(&spoke_key(1)))
        .await;

    assert!(matches!(outcome, Err(Error::KeyInUse)), "{outcome:?}");
    let record = store
        .spokes()
        .get(&name("builder"))
        .await
        .expect("asked")
        .expect("known");
    assert_eq!(record.uid, "a", "a refused put changes nothing");
    assert!(works(&store, 1).await);
}

#[tokio::test]
async fn a_late_put_of_the_old_spoke_is_undone_by_the_next_of_the_new_one() {
    let store = store().await;
    let builder = name("builder");
    declare(&store, &builder, &spoke("a"), 1).await;
    declare(&store, &builder, &spoke("b"), 2).await;

    declare(&store, &builder, &spoke("a"), 1).await;
    assert!(!works(&store, 2).await);
    declare(&store, &builder, &spoke("b"), 2).await;

    assert_eq!((works(&store, 1).await, works(&store, 2).await), (false, true));
}

#[tokio::test]
async fn keys_overlap_while_they_are_rotated() {
    let store = store().await;
    let (builder, mut put) = (name("builder"), spoke("a"));
    declare(&store, &builder, &put, 1).await;
    put.overlap_seconds = 60;

    let outcome = declare(&store, &builder, &put, 2).await;

    assert!(outcome.changed && outcome.revoked_keys.is_empty());
    assert_eq!((works(&store, 1).await, works(&store, 2).await), (true, true));
    let old = store.keys().find(&hash(1)).await.expect("asked").expect("known");
    let left = old.expires_at.expect("it ends").duration_since(Timestamp::now());
    assert!((50..=60).contains(&left.as_secs()), "{left:?}");
    let new = store.keys().find(&hash(2)).await.expect("asked").expect("known");
    assert_eq!(new.expires_at, None);
}

/// Who puts a key learns by it whether the key is the one in force.
#[tokio::test]
async fn the_hint_of_a_spokes_key_is_that_of_the_one_in_force() {
    let store = store().await;
    let (builder, mut put) = (name("builder"), spoke("a"));
    let hint = async |hasher: &KeyHasher| {
        let hints = store
            .spokes()
            .key_hints(std::slice::from_ref(&builder), hasher.hash_key())
            .await
            .expect("asked");
        hints.get(&builder).cloned()
    };
    let (ours, of) = (hasher(), |number| Some(api_key(number).hint().to_owned()));

    declare(&store, &builder, &put, 1).await;
    store.spokes().ensure_adhoc(&name("other")).await.expect("made");
    assert_eq!(hint(&ours).await, of(1));
    put.overlap_seconds = 60;
    declare(&store, &builder, &put, 2).await;
    assert_eq!(hint(&ours).await, of(2), "not the one that goes on for a minute");
    declare(&store, &builder, &put, 1).await;
    assert_eq!(hint(&ours).await, of(2), "a superseded key is not brought back");
    assert_eq!(hint(&KeyHasher::new("1", &[8; 32])).await, None, "of another secret");

    let keys = store.keys().list(ours.hash_key(), None, 100).await.expect("asked");
    let id = &keys
        .iter()
        .find(|key| Some(&key.hint) == of(2).as_ref())
        .expect("listed")
        .id;
    store.keys().revoke(id).await.expect("asked");
    assert_eq!(hint(&ours).await, None);
    let named = store.spokes().key_hints(&[name("other")], ours.hash_key()).await;
    assert_eq!(named.expect("asked").len(), 0);
}

#[tokio::test]
async fn keys_of_another_hash_key_are_counted_until_they_are_ended() {
    let store = store().await;
    let id = store.keys().create(&new_key(1)).await.expect("made").id;
    let other = KeyHasher::new("1", &[8; 32]);

    assert_eq!(store.keys().count_dead(hasher().hash_key()).await.expect("asked"), 0);
    assert_eq!(store.keys().count_dead(other.hash_key()).await.expect("asked"), 1);
    store.keys().revoke(&id).await.expect("asked");
    assert_eq!(store.keys().count_dead(other.hash_key()).await.expect("asked"), 0);
}

#[tokio::test]
async fn a_late_put_of_the_old_key_does_not_bring_it_back() {
    let store = store().await;
    let (builder, mut put) = (name("builder"), spoke("a"));
    declare(&store, &builder, &put, 1).await;
    put.overlap_seconds = 60;
    declare(&store, &builder, &put, 2).await;
    let end = store
        .keys()
        .find(&hash(1))
        .await
        .expect("asked")
        .expect("known")
        .expires_at;

    let late = declare(&store, &builder, &put, 1).await;

    assert!(!late.changed);
    assert_eq!(
        store
            .keys()
            .find(&hash(1))
            .await
            .expect("asked")
            .expect("known")
            .expires_at,
        end
    );
    assert_eq!(
        store
            .keys()
            .find(&hash(2))
            .await
            .expect("asked")
            .expect("known")
            .expires_at,
        None
    );
}

#[tokio::test]
async fn without_overlap_the_old_key_ends_at_once_and_keys_made_by_people_stay() {
    let store = store().await;
    let builder = name("builder");
    declare(&store, &builder, &spoke("a"), 1).await;
    key_by_hand(&store, &builder, 2).await;

    let outcome = declare(&store, &builder, &spoke("a"), 3).await;

    assert_eq!(outcome.revoked_keys.len(), 1);
    assert_eq!(
        (works(&store, 1).await, works(&store, 2).await, works(&store, 3).await),
        (false, true, true)
    );
}

#[tokio::test]
async fn a_key_revoked_by_hand_stays_revoked_whoever_puts_it() {
    let store = store().await;
    let builder = name("builder");
    declare(&store, &builder, &spoke("a"), 1).await;
    let id = store
        .keys()
        .list(crate::fixture::hasher().hash_key(), None, 100)
        .await
        .expect("asked")[0]
        .id
        .clone();
    store.keys().revoke(&id).await.expect("asked");

    let again = declare(&store, &builder, &spoke("a"), 1).await;
    assert!(!again.changed);
    assert!(!works(&store, 1).await);

    // Not by a way round either.
    store.spokes().delete(&builder, Some("a")).await.expect("asked");
    declare(&store, &builder, &spoke("a"), 1).await;
    assert!(!works(&store, 1).await);
}

#[tokio::test]
async fn the_end_of_the_current_key_can_be_moved() {
    let store = store().await;
    let (builder, mut put) = (name("builder"), spoke("a"));
    declare(&store, &builder, &put, 1).await;
    put.key_expires_at = Some(Timestamp::now() - Duration::from_secs(1));

    let outcome = declare(&store, &builder, &put, 1).await;

    assert!(outcome.changed);
    assert!(!works(&store, 1).await);
}

#[tokio::test]
async fn a_delete_that_names_another_uid_does_nothing() {
    let store = store().await;
    let builder = name("builder");
    declare(&store, &builder, &spoke("b"), 1).await;

    assert_eq!(store.spokes().delete(&builder, Some("a")).await.expect("asked"), None);
    assert!(works(&store, 1).await);

    let id = store
        .keys()
        .list(crate::fixture::hasher().hash_key(), None, 100)
        .await
        .expect("asked")[0]
        .id
        .clone();
    let deleted = store.spokes().delete(&builder, Some("b")).await.expect("asked");
    assert_eq!(deleted, Some(Deleted { revoked_keys: vec![id] }));
    assert!(!works(&store, 1).await);
    assert_eq!(store.spokes().delete(&builder, None).await.expect("asked"), None);
}

#[tokio::test]
async fn a_spoke_that_is_put_again_after_a_delete_gets_its_key_back() {
    let store = store().await;
    let builder = name("builder");
    let first = declare(&store, &builder, &spoke("a"), 1).await;
    store
        .spokes()
        .delete(&builder, None)
        .await
        .expect("asked")
        .expect("was there");

    let again = declare(&store, &builder, &spoke("a"), 1).await;

    assert!(works(&store, 1).await);
    assert_eq!((first.key_restored, again.key_restored), (false, true));
}

#[tokio::test]
async fn a_sweep_takes_what_no_resource_declares_any_more() {
    let store = store().await;
    declare(&store, &name("stays"), &spoke("a"), 1).await;
    declare(&store, &name("goes"), &spoke("b"), 2).await;
    store.spokes().ensure_adhoc(&name("by-hand")).await.expect("made");
    store
        .spokes()
        .put(&name("by-command"), &spoke("cli-17"), Some(&spoke_key(3)))
        .await
        .expect("put");

    let revoked = store.spokes().sweep_except(&["a".to_owned()]).await.expect("swept");

    assert_eq!(revoked.len(), 1);
    assert_eq!((works(&store, 1).await, works(&store, 2).await), (true, false));
    assert!(works(&store, 3).await, "no resource declared it");
    let left = store.spokes().after("", 100).await.expect("asked");
    assert_eq!(
        left.iter().map(|spoke| spoke.name.as_str()).collect::<Vec<_>>(),
        ["by-command", "by-hand", "stays"]
    );
}

#[tokio::test]
async fn connecting_and_leaving_are_noted_in_their_order() {
    let store = store().await;
    let builder = name("builder");
    store.spokes().ensure_adhoc(&builder).await.expect("made");
    let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).expect("a time");
    let get = async || store.spokes().get(&builder).await.expect("asked").expect("known");

    store.spokes().connected(&builder, at(0)).await.expect("noted");
    store.spokes().connected(&builder, at(5)).await.expect("noted");
    assert_eq!(
        get().await.connected_at,
        Some(at(0)),
        "a second instance is no new connection"
    );

    store.spokes().disconnected(&builder, at(10)).await.expect("noted");
    store.spokes().connected(&builder, at(20)).await.expect("noted");
    store
        .spokes()
        .touch(&[(builder.clone(), at(30)), (builder.clone(), at(25))])
        .await
        .expect("noted");
    store.spokes().touch(&[(builder.clone(), at(1))]).await.expect("noted");

    let spoke = get().await;
    assert_eq!(
        (spoke.first_connected_at, spoke.connected_at),
        (Some(at(0)), Some(at(20)))
    );
    assert_eq!(
        (spoke.disconnected_at, spoke.last_heartbeat_at),
        (Some(at(10)), Some(at(30)))
    );
}

#[tokio::test]
async fn hubs_that_note_the_same_heartbeats_do_not_block_each_other() {
    let store = store().await;
    let names: Vec<_> = (0..50).map(|number| name(&format!("spoke-{number}"))).collect();
    for name in &names {
        store.spokes().ensure_adhoc(name).await.expect("made");
    }
    let forth: Vec<_> = names.iter().map(|name| (name.clone(), Timestamp::now())).collect();
    let back: Vec<_> = forth.iter().rev().cloned().collect();

    for _ in 0..50 {
        let (one, two) = tokio::join!(store.spokes().touch(&forth), store.spokes().touch(&back));
        assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
    }

    let spokes = store.spokes().after("", 100).await.expect("asked");
    assert!(spokes.iter().all(|spoke| spoke.last_heartbeat_at.is_some()));
}

#[tokio::test]
async fn puts_at_the_same_time_end_as_one() {
    let store = store().await;
    let builder = name("builder");

    let puts = (0..16).map(|number| {
        let (store, builder) = (store.clone(), builder.clone());
        async move {
            store
                .spokes()
                .put(&builder, &spoke("a"), Some(&spoke_key(number % 2)))
                .await
                .expect("put")
        }
    });
    let mut tasks: tokio::task::JoinSet<_> = puts.collect();
    let mut created = 0;
    while let Some(outcome) = within("every put ends", tasks.join_next()).await {
        created += usize::from(outcome.expect("no panic").created);
    }

    assert_eq!(created, 1);
    assert_eq!(
        store
            .keys()
            .list(crate::fixture::hasher().hash_key(), None, 100)
            .await
            .expect("asked")
            .len(),
        2
    );
    assert_ne!(
        works(&store, 0).await,
        works(&store, 1).await,
        "one of the two keys is the last"
    );
}

#[tokio::test]
async fn undeclared_spokes_that_stayed_away_are_forgotten_and_no_others() {
    let store = store().await;
    let day = Duration::from_secs(24 * 3600);
    for undeclared in ["never-came", "is-heard"] {
        store.spokes().ensure_adhoc(&name(undeclared)).await.expect("made");
    }
    store
        .spokes()
        .put(&name("declared"), &spoke("a"), None)
        .await
        .expect("put");
    assert_eq!(store.spokes().prune_undeclared(day).await.expect("pruned"), 0);

    let later = Timestamp::now() + 2 * day;
    store.spokes().touch(&[(name("is-heard"), later)]).await.expect("noted");
    assert_eq!(
        store.spokes().prune_undeclared(Duration::ZERO).await.expect("pruned"),
        1
    );

    let left = store.spokes().after("", 100).await.expect("asked");
    assert_eq!(
        left.iter().map(|spoke| spoke.name.as_str()).collect::<Vec<_>>(),
        ["declared", "is-heard"]
    );
}
