//! Migrations that wait: for a lock, and for a Postgres that is not heard any more.

use std::time::Duration;

use alkhub_config::StoreConfig;
use alkhub_devdb::testing::server_in;
use alkhub_store::{LinkState, Store};
use alkhub_test_support::{Port, Proxy, until, within};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fixture::{config, connection, database, execute, number};

/// A store that is being made ready.
fn preparing(config: &StoreConfig) -> Store {
    let store = Store::open(config, &Registry::new()).expect("the settings are right");
    let preparing = store.clone();
    TaskTracker::new().spawn(async move { preparing.prepare(&CancellationToken::new()).await });
    store
}

async fn is_down_for(store: &Store, why: &str) {
    let mut link = store.link();
    let down = link.wait_for(|state| matches!(state, LinkState::Down(reason) if reason.contains(why)));
    within(why, down).await.expect("the store lives");
}

async fn is_up(store: &Store) {
    let mut link = store.link();
    within("the link is up", link.wait_for(LinkState::is_up))
        .await
        .expect("the store lives");
}

/// The settings of a store that waits a second for a connection, a lock and a sign of life.
fn impatient(url: &str) -> StoreConfig {
    StoreConfig {
        acquire_timeout: Duration::from_secs(1),
        ..config(url)
    }
}

#[tokio::test]
async fn a_schema_that_stays_locked_is_named_as_the_reason() {
    let url = database().await;
    let mut other = connection(&url).await;
    let lock = "SELECT pg_advisory_lock(hashtextextended('alkhub.migrate.alkhub', 0))";
    sqlx::query(lock).execute(&mut other).await.expect("free");

    let store = preparing(&impatient(&url));

    is_down_for(&store, "the schema is locked").await;
    drop(other);
    is_up(&store).await;
}

/// Another hub's statements wait behind a migration that waits for a lock.
#[tokio::test]
async fn a_migration_that_waits_for_a_table_is_begun_again() {
    let url = database().await;
    let store = preparing(&config(&url));
    is_up(&store).await;
    store.close().await;
    let mut other = connection(&url).await;
    let lock = "BEGIN; LOCK TABLE alkhub._sqlx_migrations";
    sqlx::raw_sql(lock).execute(&mut other).await.expect("free");

    let store = preparing(&impatient(&url));

    is_down_for(&store, "the schema is locked").await;
    drop(other);
    is_up(&store).await;
}

#[tokio::test]
async fn a_migration_whose_connection_fell_silent_is_given_up_and_one_that_is_slow_is_not() {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), Port::free());
    let server = server_in(folder.path(), port.number()).await;
    let url = server.create_database("hub").await.expect("a database");
    let slow =
        "CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); END $$;
                CREATE EVENT TRIGGER slow ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION slow()";
    execute(&url, slow).await;
    let proxy = Proxy::start(format!("127.0.0.1:{}", port.number()))
        .await
        .expect("a port");
    let store = preparing(&impatient(&format!("postgres://alkhub:secret@{}/hub", proxy.address())));
    until("the migration is older than a silence may be", async || {
        let sleeping = "SELECT count(*) FROM pg_stat_activity
                        WHERE wait_event = 'PgSleep' AND backend_start < now() - interval '5 s'";
        let count = number(&url, sleeping).await;
        if count == 1 { Ok(()) } else { Err(count) }
    })
    .await;
    assert_eq!(*store.link().borrow(), LinkState::Down("not connected yet".to_owned()));

    proxy.hold();

    is_down_for(&store, "no ").await;
    let end =
        "DROP EVENT TRIGGER slow; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    execute(&url, end).await;
    proxy.cut();
    proxy.heal();
    is_up(&store).await;
}
