//! Keys.

use std::time::Duration;

use alkhub_protocol::Scopes;
use alkhub_store::{Cursor, Error, KeyHasher, NewKey};
use jiff::Timestamp;

use crate::fixture::{
    admin_key, api_key, config, database, declare, execute, hash, hasher, is_usable, name, new_key, ready, spoke,
    spoke_key, store,
};

fn lasting_admin(number: u8, expires_at: Option<Timestamp>) -> NewKey {
    NewKey {
        scopes: Scopes::new(["admin"]),
        expires_at,
        ..new_key(number)
    }
}

fn now() -> Timestamp {
    Timestamp::from_microsecond(Timestamp::now().as_microsecond()).expect("now")
}

#[tokio::test]
async fn a_key_is_found_by_its_hash_and_listed_without_it() {
    let store = store().await;
    let expires_at = Some(now() + Duration::from_secs(60));

    let made = store
        .keys()
        .create(&NewKey {
            expires_at,
            ..new_key(1)
        })
        .await
        .expect("made");
    let found = store.keys().find(&hash(1)).await.expect("asked").expect("known");
    let listed = store
        .keys()
        .list(crate::fixture::hasher().hash_key(), None, 100)
        .await
        .expect("asked");

    assert_eq!(listed, std::slice::from_ref(&made));
    assert_eq!((found.id.as_str(), found.name.as_str()), (made.id.as_str(), "key 1"));
    assert_eq!(made.hint, api_key(1).hint());
    assert_eq!(found.scopes, Scopes::new(["call:*"]));
    assert_eq!(found.expires_at, expires_at);
    assert_eq!(found.spoke, None);
    assert!(is_usable(&found, now()) && !is_usable(&found, now() + Duration::from_secs(61)));
    assert_eq!(store.keys().find(&hash(2)).await.expect("asked"), None);
}

/// What a hub knows of keys by one statement is what it would know by many.
#[tokio::test]
async fn many_keys_are_found_as_each_of_them_is() {
    let store = store().await;
    store.keys().create(&new_key(1)).await.expect("made");
    let id = store.keys().create(&new_key(2)).await.expect("made").id;
    store.keys().revoke(&id).await.expect("asked");
    let (builder, gone) = (name("builder"), name("gone"));
    for (spoke_name, number) in [(&builder, 3), (&gone, 4)] {
        let (declared, key) = (spoke("a"), spoke_key(number));
        let put = store.spokes().put(spoke_name, &declared, Some(&key)).await;
        put.expect("put");
    }
    store.spokes().delete(&gone, None).await.expect("asked").expect("known");
    store.spokes().put(&gone, &spoke("b"), None).await.expect("put");
    let hashes: Vec<_> = (1..=5).map(hash).collect();

    let found = store.keys().find_many(&hashes).await.expect("asked");

    assert_eq!(found.len(), 3, "{found:?}");
    for hash in hashes {
        let one = store.keys().find(&hash).await.expect("asked");
        let among = found.iter().find(|(found, _)| *found == hash);
        assert_eq!(among.map(|(_, record)| record), one.as_ref());
    }
    assert_eq!(store.keys().find_many(&[]).await.expect("asked"), []);
}

/// Keys of one moment are told apart by their ids, and a key may be gone when its place is asked for.
#[tokio::test]
async fn keys_are_listed_page_by_page_the_newest_first() {
    let url = database().await;
    let store = ready(&config(&url)).await;
    let hasher = hasher();
    for number in 1..=7 {
        store.keys().create(&new_key(number)).await.expect("made");
    }
    let old = "UPDATE alkhub.keys SET created_at = 'epoch' WHERE name IN ('key 2', 'key 4', 'key 6')";
    execute(&url, old).await;
    let whole = store.keys().list(hasher.hash_key(), None, 100).await.expect("asked");

    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = store.keys().list(hasher.hash_key(), after, 2).await.expect("asked");
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 2, "{page:?}");
        let place = Cursor::of_key(last).expect("a place").to_string();
        after = Some(place.parse().expect("a cursor is read"));
        execute(&url, format!("DELETE FROM alkhub.keys WHERE id = '{}'", last.id)).await;
        paged.extend(page);
    }

    assert_eq!(paged, whole);
    let names: Vec<&str> = whole[..4].iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["key 7", "key 5", "key 3", "key 1"]);
    assert_eq!(whole.len(), 7);
}

#[tokio::test]
async fn the_same_key_is_not_made_twice() {
    let store = store().await;
    store.keys().create(&new_key(1)).await.expect("made");

    let again = store.keys().create(&new_key(1)).await;

    assert!(matches!(again, Err(Error::KeyInUse)), "{again:?}");
}

#[tokio::test]
async fn a_revoked_key_is_told_from_an_unknown_one() {
    let store = store().await;
    let id = store.keys().create(&new_key(1)).await.expect("made").id;

    let first = store.keys().revoke(&id).await.expect("asked").expect("known");
    let again = store.keys().revoke(&id).await.expect("asked").expect("known");

    assert!(first.revoked_at.is_some());
    assert_eq!(first.revoked_at, again.revoked_at);
    let found = store.keys().find(&hash(1)).await.expect("asked").expect("known");
    assert!(!is_usable(&found, now()));
    for unknown in ["", "no-uuid", "0190b5a0-0000-7000-8000-000000000000"] {
        assert_eq!(store.keys().revoke(unknown).await.expect("asked"), None, "{unknown}");
    }
}

#[tokio::test]
async fn the_admin_key_is_entered_once_and_stays_revoked() {
    let store = store().await;
    let ensure = async || store.keys().keep_admin(&admin_key(1, true)).await.expect("entered");

    ensure().await;
    ensure().await;
    let listed = store
        .keys()
        .list(crate::fixture::hasher().hash_key(), None, 100)
        .await
        .expect("asked");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].scopes, Scopes::new(["admin"]));

    store.keys().create(&lasting_admin(2, None)).await.expect("made");
    store.keys().revoke(&listed[0].id).await.expect("asked");
    ensure().await;
    let found = store.keys().find(&hash(1)).await.expect("asked").expect("known");
    assert!(!is_usable(&found, now()));
}

#[tokio::test]
async fn another_admin_key_ends_those_before_it_where_all_hubs_read_one_file() {
    let store = store().await;
    let keep = async |number, alone| {
        store
            .keys()
            .keep_admin(&admin_key(number, alone))
            .await
            .expect("entered")
    };
    let works = async |number| {
        let found = store.keys().find(&hash(number)).await.expect("asked");
        found.is_some_and(|key| is_usable(&key, now()))
    };
    store.keys().create(&new_key(9)).await.expect("made");

    let first = keep(1, true).await;
    let second = keep(2, false).await;
    assert!(first.created && second.created && second.revoked_keys.is_empty());
    assert!(works(1).await && works(2).await, "hubs with files of their own");
    let beside = store
        .keys()
        .first_keys_beside(&admin_key(2, false))
        .await
        .expect("asked");
    let first_id = store.keys().find(&hash(1)).await.expect("asked").expect("known").id;
    assert_eq!(beside, [first_id], "the one of before is told");
    let third = keep(3, true).await;

    assert_eq!(third.revoked_keys.len(), 2);
    assert_eq!((works(1).await, works(2).await, works(3).await), (false, false, true));
    assert!(works(9).await, "keys that people made stay");
    let back = keep(1, true).await;
    assert!(
        !back.created && !works(1).await && works(3).await,
        "an old one is not brought back"
    );

    // One that people made, for the file.
    let made = NewKey {
        scopes: Scopes::new(["admin"]),
        ..new_key(4)
    };
    store.keys().create(&made).await.expect("made");
    let fourth = keep(4, true).await;
    assert!(!fourth.created && works(4).await && !works(3).await);
    keep(5, true).await;
    assert!(works(5).await && !works(4).await);
}

#[tokio::test]
async fn a_key_of_another_hash_key_is_listed_as_dead_and_one_that_is_used_is_not() {
    let url = database().await;
    let store = ready(&config(&url)).await;
    let other = KeyHasher::new("1", &[8; 32]);
    let id = store.keys().create(&new_key(1)).await.expect("made").id;
    let dead = async |hasher: &KeyHasher| store.keys().list(hasher.hash_key(), None, 100).await.expect("asked")[0].dead;

    assert!(!dead(&hasher()).await && dead(&other).await);

    // One from before the fingerprint was recorded: nobody can tell until it is used.
    execute(&url, "UPDATE alkhub.keys SET hash_key_fingerprint = NULL").await;
    assert!(!dead(&other).await);
    let used = [(id, now())];
    store.keys().touch(&used, hasher().hash_key()).await.expect("noted");
    assert!(!dead(&hasher()).await && dead(&other).await);
}

#[tokio::test]
async fn the_last_admin_key_is_not_revoked_and_one_that_will_end_does_not_stand_in_for_it() {
    let store = store().await;
    let revoke = async |id: &str| store.keys().revoke(id).await;
    let first = store.keys().create(&lasting_admin(1, None)).await.expect("made").id;
    let client = store.keys().create(&new_key(2)).await.expect("made").id;
    let tomorrow = Some(now() + Duration::from_secs(86_400));
    let brief = store.keys().create(&lasting_admin(3, tomorrow)).await.expect("made").id;

    let alone = revoke(&first).await;

    assert!(matches!(alone, Err(Error::LastAdmin)), "{alone:?}");
    assert!(revoke(&client).await.expect("asked").is_some());
    let second = store.keys().create(&lasting_admin(4, None)).await.expect("made").id;
    assert!(revoke(&first).await.expect("asked").is_some());
    assert!(revoke(&first).await.expect("again is the same").is_some());
    assert!(matches!(revoke(&second).await, Err(Error::LastAdmin)));
    assert!(revoke(&brief).await.expect("asked").is_some());
}

#[tokio::test]
async fn two_admins_cannot_revoke_each_other_at_the_same_time() {
    let store = store().await;
    let mut last = store.keys().create(&lasting_admin(100, None)).await.expect("made").id;
    for number in 101..110 {
        let other = store
            .keys()
            .create(&lasting_admin(number, None))
            .await
            .expect("made")
            .id;

        let (first, second) = tokio::join!(store.keys().revoke(&last), store.keys().revoke(&other));

        match (first, second) {
            (Ok(Some(_)), Err(Error::LastAdmin)) => last = other,
            (Err(Error::LastAdmin), Ok(Some(_))) => {}
            both => panic!("not exactly one stays: {both:?}"),
        }
    }
}

#[tokio::test]
async fn last_use_only_moves_forward() {
    let store = store().await;
    let id = store.keys().create(&new_key(1)).await.expect("made").id;
    let (early, late) = (now() - Duration::from_secs(60), now());
    let last_use = async || {
        store
            .keys()
            .list(crate::fixture::hasher().hash_key(), None, 100)
            .await
            .expect("asked")[0]
            .last_used_at
    };

    store
        .keys()
        .touch(&[], hasher().hash_key())
        .await
        .expect("nothing to do");
    store
        .keys()
        .touch(
            &[(id.clone(), late), (id.clone(), early), ("no-uuid".to_owned(), late)],
            hasher().hash_key(),
        )
        .await
        .expect("noted");
    assert_eq!(last_use().await, Some(late));
    store
        .keys()
        .touch(&[(id, early)], hasher().hash_key())
        .await
        .expect("noted");
    assert_eq!(last_use().await, Some(late));
}

#[tokio::test]
async fn a_key_for_an_undeclared_spoke_makes_it() {
    let store = store().await;
    let key = NewKey {
        spoke: Some(name("builder")),
        ..new_key(1)
    };

    let made = store.keys().create(&key).await.expect("made");
    let found = store.keys().find(&hash(1)).await.expect("asked").expect("known");

    assert_eq!(made.scopes, Scopes::new(["call:*", "spoke"]));
    let spoke = found.spoke.expect("has a spoke");
    assert_eq!((spoke.name.as_str(), spoke.uid.as_str()), ("builder", ""));
    assert_eq!(store.spokes().after("", 100).await.expect("asked"), [spoke]);
}

#[tokio::test]
async fn a_spokes_own_key_may_do_what_the_spoke_may_now() {
    let store = store().await;
    let (builder, mut put) = (name("builder"), spoke("a"));
    declare(&store, &builder, &put, 1).await;
    put.scopes = Scopes::new(["call:git.log"]);
    put.suspended = true;

    let outcome = store.spokes().put(&builder, &put, None).await.expect("put");

    assert!(outcome.changed && !outcome.created && outcome.revoked_keys.is_empty());
    let found = store.keys().find(&hash(1)).await.expect("asked").expect("known");
    assert_eq!(found.scopes, Scopes::new(["call:git.log", "spoke"]));
    assert!(found.spoke.expect("has a spoke").suspended);
    assert_eq!(
        store
            .keys()
            .list(crate::fixture::hasher().hash_key(), None, 100)
            .await
            .expect("asked")[0]
            .scopes,
        found.scopes
    );
}

#[tokio::test]
async fn a_text_that_postgres_cannot_keep_is_the_callers_mistake() {
    let store = store().await;
    let key = NewKey {
        name: "a\0b".to_owned(),
        ..new_key(1)
    };

    let refused = store.keys().create(&key).await;

    assert!(matches!(refused, Err(Error::Text)), "{refused:?}");
    assert!(store.ready(), "a mistake of a caller says nothing about the link");
}

/// A row that keeps a key dead stays: of an admin key, which a file names at each start, and of a declared spoke's.
#[tokio::test]
async fn keys_that_ended_longer_ago_than_their_retention_are_deleted_unless_they_could_come_back() {
    let url = database().await;
    let store = ready(&config(&url)).await;
    let admin = admin_key(1, false);
    store.keys().keep_admin(&admin).await.expect("entered");
    for number in 2..=4 {
        store.keys().create(&new_key(number)).await.expect("made");
    }
    for (spoke_name, uid, number) in [("builder", "a", 5), ("gone", "b", 6)] {
        let (spoke_name, declared, key) = (name(spoke_name), spoke(uid), spoke_key(number));
        let put = store.spokes().put(&spoke_name, &declared, Some(&key)).await;
        put.expect("put");
    }
    let works = store.keys().find(&hash(2)).await.expect("asked").expect("known").id;
    execute(
        &url,
        format!(
            "UPDATE alkhub.keys SET revoked_at = now() - interval '2 days' WHERE id <> '{works}';
             UPDATE alkhub.keys SET revoked_at = NULL, expires_at = now() - interval '2 days' WHERE name = 'key 3';
             DELETE FROM alkhub.spokes WHERE name = 'gone'"
        ),
    )
    .await;
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(store.keys().prune(3 * day).await.expect("pruned"), 0);

    let pruned = store.keys().prune(day).await.expect("pruned");

    assert_eq!(pruned, 3, "one revoked, one expired, one of a spoke that is gone");
    let left = store.keys().list(hasher().hash_key(), None, 100).await.expect("asked");
    let mut left: Vec<String> = left.into_iter().map(|key| key.hint).collect();
    left.sort_unstable();
    let mut wanted = [admin.hint, api_key(2).hint().to_owned(), api_key(5).hint().to_owned()];
    wanted.sort_unstable();
    assert_eq!(left, wanted);
}

#[tokio::test]
async fn nothing_is_written_with_a_key_that_has_ended() {
    let store = store().await;
    let admins = [1, 2].map(|number| lasting_admin(number, None));
    let ended = store.keys().create(&admins[0]).await.expect("made").id;
    let good = store.keys().create(&admins[1]).await.expect("made").id;
    store.keys().by(&good).revoke(&ended).await.expect("revoked");
    store
        .spokes()
        .by(&good)
        .put(&name("builder"), &spoke("u-1"), None)
        .await
        .expect("declared");
    let (keys, spokes) = (store.keys().by(&ended), store.spokes().by(&ended));

    let refused = [
        keys.create(&new_key(3)).await.err(),
        keys.revoke(&good).await.err(),
        spokes.put(&name("builder"), &spoke("u-2"), None).await.err(),
        spokes.delete(&name("builder"), None).await.err(),
        spokes.sweep_except(&[]).await.err(),
    ];

    assert!(
        refused.iter().all(|error| matches!(error, Some(Error::ActorEnded))),
        "{refused:?}"
    );
    assert_eq!(store.keys().find(&hash(3)).await.expect("asked"), None);
    let left = store.spokes().after("", 100).await.expect("asked");
    assert_eq!(left.iter().map(|spoke| spoke.uid.as_str()).collect::<Vec<_>>(), ["u-1"]);
}
