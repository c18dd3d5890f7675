//! What is heard of spokes reaches a real Postgres, once.

use alkhub_config::StoreConfig;
use alkhub_devdb::Server;
use prometheus::Registry;

use super::*;
use crate::Limits;
use crate::fixture::budget;
use crate::session::outbox::outbox;

#[tokio::test]
async fn a_spoke_that_was_heard_is_touched_once() {
    let postgres = Server::temporary().await.expect("Postgres is installed");
    let config = StoreConfig {
        database_url: Some(postgres.url().into()),
        ..StoreConfig::default()
    };
    let (store, stop) = (
        Store::open(&config, &Registry::new()).expect("a store"),
        CancellationToken::new(),
    );
    store.prepare(&stop).await.expect("a schema");
    let name: SpokeName = "builder".parse().expect("valid");
    store.spokes().ensure_adhoc(&name).await.expect("made");
    let limits = Limits { items: 10, bytes: 1000 };
    let (outbox, _outgoing) = outbox("c1", limits, &budget());
    let sessions = Arc::<Sessions>::default();
    let session = sessions.session(&name, &"i1".parse().expect("valid"), outbox);
    let presence = Presence::new(store.clone(), sessions, stop);
    let heard_at = async || {
        let spoke = store.spokes().get(&name).await.expect("read");
        spoke.expect("there").last_heartbeat_at
    };

    presence.write_heartbeats().await;
    assert_eq!(heard_at().await, None, "nothing was heard yet");
    session.hear();
    session.hear();
    presence.write_heartbeats().await;
    let first = heard_at().await.expect("heard");
    presence.write_heartbeats().await;
    assert_eq!(heard_at().await, Some(first), "nothing new was heard");

    store.close().await;
    postgres.stop().await.expect("stops");
}
