//! The link to Postgres: away at start, lost, back; what a statement does meanwhile; what is counted.

use std::time::Duration;

use alkhub_config::StoreConfig;
use alkhub_devdb::Server;
use alkhub_protocol::Scopes;
use alkhub_store::{Error, LinkState, NewKey, Store};
use alkhub_test_support::{until, within};
use prometheus::{Encoder as _, Registry, TextEncoder};
use sqlx::PgConnection;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fixture::{admin_key, config, database, execute, hash, new_key, number, ready};

#[tokio::test]
async fn postgres_may_go_and_come_back() {
    let server = Server::temporary().await.expect("a server of the test's own");
    let store = ready(&config(&server.create_database("hub").await.expect("a database"))).await;
    store.keys().create(&new_key(1)).await.expect("made");
    let mut link = store.link();

    server.stop().await.expect("stops");
    within("the link is down", link.wait_for(|state| !state.is_up()))
        .await
        .expect("the store lives");
    let began = Instant::now();
    let refused = store.keys().find(&hash(1)).await;
    assert!(
        matches!(&refused, Err(error @ Error::Unavailable { .. }) if error.is_transient()),
        "{refused:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "a statement does not wait for a link that is down"
    );

    server.start_again().await.expect("starts");
    within("the link is up", link.wait_for(LinkState::is_up))
        .await
        .expect("the store lives");
    until("the pool has recovered", async || {
        match store.keys().find(&hash(1)).await {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// A managed Postgres without a volume comes back empty.
#[tokio::test]
async fn a_schema_that_is_gone_is_made_anew() {
    let url = database().await;
    let store = ready(&config(&url)).await;
    store.keys().create(&new_key(1)).await.expect("made");
    let mut link = store.link();

    execute(&url, "DROP SCHEMA alkhub CASCADE").await;

    until("it works again", async || match store.keys().find(&hash(1)).await {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    within("the link is up", link.wait_for(LinkState::is_up))
        .await
        .expect("the store lives");
    // One change of the schema follows the other.
    let key = new_key(1);
    until("it takes keys again", || store.keys().create(&key)).await;
}

#[tokio::test]
async fn every_hub_learns_that_the_schema_was_made_anew_by_whichever() {
    let url = database().await;
    let (one, two) = (ready(&config(&url)).await, ready(&config(&url)).await);
    let mut seen = [one.incarnation(), two.incarnation()];
    for incarnation in &mut seen {
        let first = within("the first look", incarnation.wait_for(|number| *number != 0)).await;
        assert!(first.is_ok(), "the store lives");
    }
    let before = *seen[0].borrow();

    execute(&url, "DROP SCHEMA alkhub CASCADE").await;

    for incarnation in &mut seen {
        let after = within(
            "a later look",
            incarnation.wait_for(|number| ![0, before].contains(number)),
        )
        .await;
        assert!(after.is_ok(), "the store lives");
    }
}

/// Else nobody could declare a spoke or make a key until a hub is restarted.
#[tokio::test]
async fn a_schema_that_lost_the_admin_key_gets_it_again_and_none_that_was_revoked() {
    let url = database().await;
    let store = ready(&config(&url)).await;
    store.keys().keep_admin(&admin_key(1, true)).await.expect("entered");
    let found = async || store.keys().find(&hash(1)).await;
    let back = async |what: &str| {
        until(what, async || match found().await {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    };

    execute(&url, "DROP SCHEMA alkhub CASCADE").await;
    back("a schema that was made anew has it").await;
    execute(&url, "DELETE FROM alkhub.keys").await;
    back("a schema that was put back without it has it").await;

    let id = found().await.expect("asked").expect("known").id;
    // The last one is not revoked: another has to be there.
    let other = NewKey {
        scopes: Scopes::new(["admin"]),
        ..new_key(2)
    };
    store.keys().create(&other).await.expect("made");
    store.keys().revoke(&id).await.expect("asked");
    store.keys().keep_admin(&admin_key(1, true)).await.expect("entered");
    assert!(found().await.expect("asked").expect("known").revoked_at.is_some());
}

#[tokio::test]
async fn a_failed_statement_brings_the_link_down_before_the_next_ping() {
    let server = Server::temporary().await.expect("a server of the test's own");
    let url = server.create_database("hub").await.expect("a database");
    let store = ready(&StoreConfig {
        ping_interval: Duration::from_secs(3600),
        ..config(&url)
    })
    .await;

    server.stop().await.expect("stops");
    let failed = within(
        "it fails in time",
        store.keys().list(crate::fixture::hasher().hash_key(), None, 100),
    )
    .await;

    assert!(failed.is_err_and(|error| error.is_transient()));
    let mut link = store.link();
    within("the link is down", link.wait_for(|state| !state.is_up()))
        .await
        .expect("the store lives");
}

#[tokio::test]
async fn a_store_waits_for_a_postgres_that_comes_later() {
    let server = Server::temporary().await.expect("a server of the test's own");
    let url = server.create_database("hub").await.expect("a database");
    server.stop().await.expect("stops");
    let store = Store::open(&config(&url), &Registry::new()).expect("opening needs no server");
    let tasks = TaskTracker::new();
    let starting = tasks.spawn({
        let store = store.clone();
        async move { store.prepare(&CancellationToken::new()).await }
    });

    let mut link = store.link();
    let said = |state: &LinkState| matches!(state, LinkState::Down(reason) if reason != "not connected yet");
    within("it says why", link.wait_for(said))
        .await
        .expect("the store lives");
    assert!(!store.ready());
    server.start_again().await.expect("starts");

    within("it is prepared", starting)
        .await
        .expect("no panic")
        .expect("prepared");
    assert!(store.ready());
}

#[tokio::test]
async fn waiting_for_postgres_ends_when_it_is_told_to() {
    let store = Store::open(&config("postgres://nobody@127.0.0.1:1/none"), &Registry::new()).expect("opens");
    let stop = CancellationToken::new();
    stop.cancel();

    let ended = within("it ends", store.prepare(&stop)).await;

    assert!(matches!(ended, Err(Error::Stopped)), "{ended:?}");
    within("it closes", store.close()).await;
}

/// A connection that holds the table of keys until it commits.
async fn locked_keys(url: &str) -> PgConnection {
    let mut connection = crate::fixture::connection(url).await;
    let lock = sqlx::raw_sql("BEGIN; LOCK TABLE alkhub.keys");
    lock.execute(&mut connection).await.expect("locks");
    connection
}

#[tokio::test]
async fn a_busy_pool_is_an_error_in_time_and_no_lost_link() {
    let url = database().await;
    let store = ready(&StoreConfig {
        max_connections: 1,
        // The statement that holds the pool must get the connection in time, too.
        acquire_timeout: Duration::from_secs(2),
        ..config(&url)
    })
    .await;
    let mut other = locked_keys(&url).await;
    let tasks = TaskTracker::new();
    let stuck = tasks.spawn({
        let store = store.clone();
        async move { store.keys().list(crate::fixture::hasher().hash_key(), None, 100).await }
    });

    until("the one connection is in use", async || {
        let waiting = number(
            &url,
            "SELECT count(*) FROM pg_locks
             WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        .await;
        if waiting > 0 {
            Ok(())
        } else {
            Err("nobody waits for the lock".to_owned())
        }
    })
    .await;
    let refused = within("it is refused in time", store.spokes().after("", 100)).await;

    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    sqlx::raw_sql("COMMIT").execute(&mut other).await.expect("lets go");
    within("the first goes on", stuck)
        .await
        .expect("no panic")
        .expect("listed");
    let mut link = store.link();
    within("the link is up", link.wait_for(LinkState::is_up))
        .await
        .expect("the store lives");
}

#[tokio::test]
async fn a_statement_ends_at_its_limit() {
    let url = database().await;
    let store = ready(&StoreConfig {
        statement_timeout: Duration::from_secs(2),
        ..config(&url)
    })
    .await;
    let mut other = locked_keys(&url).await;

    let ended = within(
        "it ends",
        store.keys().list(crate::fixture::hasher().hash_key(), None, 100),
    )
    .await;

    assert!(
        matches!(
            ended,
            Err(Error::Query {
                statement: "key_list",
                ..
            })
        ),
        "{ended:?}"
    );
    sqlx::raw_sql("COMMIT").execute(&mut other).await.expect("lets go");
    store
        .keys()
        .list(crate::fixture::hasher().hash_key(), None, 100)
        .await
        .expect("the connection is as good as before");
}

#[tokio::test]
async fn a_closed_store_refuses_and_a_dropped_one_leaves_no_connection() {
    let url = database().await;
    let store = ready(&config(&url)).await;
    store
        .keys()
        .list(crate::fixture::hasher().hash_key(), None, 100)
        .await
        .expect("listed");

    within("it closes", store.close()).await;

    assert!(matches!(
        store.keys().list(crate::fixture::hasher().hash_key(), None, 100).await,
        Err(Error::Unavailable { .. })
    ));
    drop(ready(&config(&url)).await);
    until("every connection is gone", async || {
        let left = number(
            &url,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
        if left == 0 { Ok(()) } else { Err(format!("{left} left")) }
    })
    .await;
}

#[tokio::test]
async fn everything_that_is_counted_has_a_value() {
    let registry = Registry::new();
    let store = Store::open(&config(&database().await), &registry).expect("opens");
    let scrape = || {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&registry.gather(), &mut text)
            .expect("encodes");
        String::from_utf8(text).expect("is text")
    };
    assert!(scrape().contains("alkhub_postgres_up 0"), "{}", scrape());
    assert!(
        store
            .keys()
            .list(crate::fixture::hasher().hash_key(), None, 100)
            .await
            .is_err(),
        "the link is not up yet"
    );

    within("it is ready", store.prepare(&CancellationToken::new()))
        .await
        .expect("prepared");
    store
        .keys()
        .list(crate::fixture::hasher().hash_key(), None, 100)
        .await
        .expect("listed");

    let text = scrape();
    for line in [
        "alkhub_postgres_up 1",
        "alkhub_postgres_connections_max 4",
        r#"alkhub_postgres_connections{state="idle"}"#,
        r#"alkhub_postgres_connections{state="in_use"}"#,
        "alkhub_postgres_acquire_seconds_count 2",
        r#"alkhub_postgres_query_seconds_count{statement="key_list"} 1"#,
        r#"alkhub_postgres_query_errors_total{statement="key_list"} 1"#,
        r#"alkhub_postgres_query_errors_total{statement="spoke_put"} 0"#,
    ] {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
    let twice = Store::open(&config("postgres://localhost/other"), &registry);
    assert!(matches!(twice, Err(Error::Metrics(_))), "{twice:?}");
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_named_without_the_url() {
    let open = |config: &StoreConfig| Store::open(config, &Registry::new()).expect_err("refused");

    let missing = open(&StoreConfig::default());
    let wrong = open(&config("postgres://user:secret@host:notaport/db"));
    let mut other = config("postgres://user:secret@host/db");
    other.ca_file = Some("/nowhere/ca.pem".into());
    let no_ca = open(&other);

    assert!(missing.to_string().contains("store.database-url"), "{missing}");
    for error in [wrong, no_ca] {
        assert!(error.to_string().contains("`store."), "{error}");
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}
