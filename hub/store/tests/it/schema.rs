//! The schema: made once, met newer, met twice in one database.

use alkhub_store::{Error, LinkState, Store};
use alkhub_test_support::within;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::fixture::{config, database, execute, hash, name, new_key, number, ready, spoke, spoke_key};

const NEWER: &str = "INSERT INTO alkhub._sqlx_migrations (version, description, success, checksum, execution_time)
                     VALUES (9999, 'of newer software', true, '', 0)";

#[tokio::test]
async fn hubs_that_start_together_migrate_once() {
    let url = database().await;
    let stores: Vec<_> = (0..6)
        .map(|_| Store::open(&config(&url), &Registry::new()).expect("the settings are right"))
        .collect();

    let mut starts: tokio::task::JoinSet<_> = stores
        .iter()
        .cloned()
        .map(|store| async move { store.prepare(&CancellationToken::new()).await })
        .collect();
    while let Some(prepared) = within("every hub is ready", starts.join_next()).await {
        prepared.expect("no panic").expect("prepared");
    }

    let applied = number(&url, "SELECT count(*) FROM alkhub._sqlx_migrations WHERE success").await;
    let distinct = number(&url, "SELECT count(DISTINCT version) FROM alkhub._sqlx_migrations").await;
    assert_eq!(applied, distinct);
    assert!(stores.iter().all(Store::ready));
}

#[tokio::test]
async fn an_older_hub_goes_on_next_to_a_newer_schema() {
    let url = database().await;
    ready(&config(&url)).await.close().await;
    execute(&url, NEWER).await;

    let store = ready(&config(&url)).await;

    store.keys().create(&new_key(1)).await.expect("it works");
}

#[tokio::test]
async fn a_hub_below_the_schemas_min_reader_stops_with_one_clear_line() {
    let url = database().await;
    ready(&config(&url)).await.close().await;
    execute(
        &url,
        format!("{NEWER}; UPDATE alkhub.schema_info SET min_reader = 9999"),
    )
    .await;
    let store = Store::open(&config(&url), &Registry::new()).expect("the settings are right");

    let error = within("it ends", store.prepare(&CancellationToken::new()))
        .await
        .expect_err("refused");

    assert!(
        matches!(
            error,
            Error::SchemaTooNew {
                version: 9999,
                min_reader: 9999,
                ..
            }
        ),
        "{error:?}"
    );
    let line = error.to_string();
    assert!(
        line.contains("schema `alkhub`") && line.contains("use a newer alkhub") && !line.contains('\n'),
        "{line}"
    );
    assert!(matches!(&*store.link().borrow(), LinkState::Down(reason) if *reason == line));
}

#[tokio::test]
async fn a_running_hub_notices_that_its_schema_moved_on() {
    let url = database().await;
    let store = ready(&config(&url)).await;

    execute(&url, "UPDATE alkhub.schema_info SET min_reader = 9999").await;

    let mut link = store.link();
    let down = within("the link is down", link.wait_for(|state| !state.is_up()))
        .await
        .expect("the store lives");
    assert!(
        matches!(&*down, LinkState::Down(reason) if reason.contains("use a newer alkhub")),
        "{down:?}"
    );
}

#[tokio::test]
async fn a_migration_that_was_changed_afterwards_is_refused() {
    let url = database().await;
    ready(&config(&url)).await.close().await;
    execute(
        &url,
        "UPDATE alkhub._sqlx_migrations SET checksum = 'other' WHERE version = 1",
    )
    .await;
    let store = Store::open(&config(&url), &Registry::new()).expect("the settings are right");

    let error = within("it ends", store.prepare(&CancellationToken::new()))
        .await
        .expect_err("refused");

    assert!(matches!(error, Error::Migration { .. }), "{error:?}");
}

#[tokio::test]
async fn two_schemas_in_one_database_do_not_see_each_other() {
    let url = database().await;
    let mut other = config(&url);
    other.schema = "alk_team_b_hub".parse().expect("a schema's name");
    let (one, two) = (ready(&config(&url)).await, ready(&other).await);

    one.keys().create(&new_key(1)).await.expect("made");
    one.spokes()
        .put(&name("builder"), &spoke("a"), Some(&spoke_key(2)))
        .await
        .expect("put");

    assert_eq!(two.keys().find(&hash(1)).await.expect("asked"), None);
    assert_eq!(
        two.keys()
            .list(crate::fixture::hasher().hash_key(), None, 100)
            .await
            .expect("asked"),
        []
    );
    assert_eq!(two.spokes().after("", 100).await.expect("asked"), []);
    two.keys().create(&new_key(1)).await.expect("its own");
}

#[tokio::test]
async fn a_schema_that_was_made_for_the_hub_is_enough() {
    let url = database().await;
    execute(
        &url,
        "CREATE ROLE hub_of_little_right LOGIN; CREATE SCHEMA alkhub AUTHORIZATION hub_of_little_right",
    )
    .await;

    let store = ready(&config(&url.replace("//alkhub@", "//hub_of_little_right@"))).await;

    store.keys().create(&new_key(1)).await.expect("it works");
}
