//! What is heard of spokes reaches a real Postgres, once.

use alkhub_config::{CallsConfig, EventsConfig, StoreConfig};
use alkhub_hub_cluster::Cluster;
use alkhub_protocol::Dialect;
use alkhub_redis::Connector;
use alkhub_store::{Store, private::Server};
use alkhub_tasks::Supervisor;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::fixture::budget;
use crate::{Caller, Connection, Limits, Parts, outbox};

async fn core(url: String) -> Arc<Core> {
    let (stop, registry) = (CancellationToken::new(), Registry::new());
    let hub = "hub-a1".parse().expect("valid");
    let supervisor = Supervisor::new(TaskTracker::new(), stop.clone());
    let events = EventsConfig::default();
    let mut connector = Connector::new(&events, &hub, &registry).expect("no settings");
    let cluster = Cluster::start(&events, &mut connector, &supervisor, &registry).expect("fresh metrics");
    let config = StoreConfig {
        database_url: Some(url.into()),
        ..StoreConfig::default()
    };
    let store = Store::open(&config, &registry).expect("a store");
    store.prepare(&stop).await.expect("a schema");
    let parts = Parts {
        budgets: alkhub_budget::Budgets::new(&alkhub_config::BudgetConfig::default(), &Registry::new()).expect("fresh"),
        config: CallsConfig::default(),
        heartbeat: Duration::from_secs(10),
        lease_ttl: Duration::from_secs(10),
        hub,
        cluster,
        store,
        supervisor,
        registry,
    };
    Core::start(parts).expect("fresh metrics")
}

#[tokio::test]
async fn a_spoke_that_was_heard_is_touched_once() {
    let postgres = Server::temporary().await.expect("Postgres is installed");
    let core = core(postgres.url()).await;
    let name: SpokeName = "builder".parse().expect("valid");
    core.store.spokes().ensure_adhoc(&name).await.expect("made");
    let (outbox, _outgoing) = outbox(
        Limits {
            messages: 10,
            bytes: 1000,
        },
        &budget(),
    );
    let connection = Connection {
        id: "c1".to_owned(),
        outbox,
        dialect: Dialect::Payload,
    };
    let caller = Arc::new(Caller {
        key_id: "k".into(),
        scopes: Arc::new(alkhub_protocol::Scopes::new(["admin"])),
        spoke: None,
    });
    let input = serde_json::from_str(r#"{"name":"builder","operations":[]}"#).expect("valid");
    let (_, session) = core.register(&caller, input, connection).await.expect("registers");
    let heard_at = async || {
        core.store
            .spokes()
            .get(&name)
            .await
            .expect("read")
            .expect("there")
            .last_heartbeat_at
    };

    core.write_heartbeats().await;
    assert_eq!(heard_at().await, None, "nothing was heard yet");
    session.heartbeat();
    session.heartbeat();
    core.write_heartbeats().await;
    let first = heard_at().await.expect("heard");
    core.write_heartbeats().await;
    assert_eq!(heard_at().await, Some(first), "nothing new was heard");

    drop(session);
    core.stop.cancel();
    core.tasks.close();
    core.tasks.wait().await;
    core.store.close().await;
    postgres.stop().await.expect("stops");
}
