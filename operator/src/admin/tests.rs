//! What answers in a hub's place, and how much of it is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::response::IntoResponse as _;
use axum::routing::get;
use futures::StreamExt as _;
use tokio::time::Instant;

use super::*;
use crate::gate::Gate;

const BLANKS: usize = 256 << 10;

/// What a tenant's program did.
#[derive(Clone, Default)]
struct Tenant {
    /// How often its redirect was followed.
    followed: Arc<AtomicUsize>,
    /// Blanks that were read from it.
    taken: Arc<AtomicUsize>,
}

impl Tenant {
    /// Serves: a redirect for the report, blanks without end for the list, and the door to it.
    async fn door(&self) -> Door {
        let elsewhere = |State(tenant): State<Self>| async move {
            tenant.followed.fetch_add(1, Ordering::Relaxed);
            "{}"
        };
        let blanks = |State(tenant): State<Self>| async move {
            let chunk = Bytes::from(vec![b' '; BLANKS]);
            let taken = Arc::clone(&tenant.taken);
            let endless = futures::stream::repeat_with(move || chunk.clone()).map(move |chunk| {
                taken.fetch_add(chunk.len(), Ordering::Relaxed);
                Ok::<_, std::io::Error>(chunk)
            });
            Body::from_stream(endless)
        };
        let led = || async { (StatusCode::FOUND, [(LOCATION, "/elsewhere")]).into_response() };
        let router = Router::new()
            .route("/v1/admin/hub", get(led))
            .route("/v1/admin/spokes", get(blanks))
            .route("/elsewhere", get(elsewhere))
            .with_state(self.clone());
        serve(router).await
    }
}

/// The door to whatever this router answers.
async fn serve(router: Router) -> Door {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    #[expect(clippy::disallowed_methods, reason = "the server ends with the test's runtime")]
    tokio::spawn(async move { axum::serve(listener, router).await });
    let names = ObjectNames {
        namespace: "team".to_owned(),
        hub: "demo".to_owned(),
        uid: "u".to_owned(),
    };
    let admin = Admin::new(&format!("http://{address}")).expect("a client");
    admin.door(&names, "alk_key".into())
}

/// The door to a hub that answers every request with this.
async fn answering(data: serde_json::Value) -> Door {
    let body = serde_json::json!({ "data": data }).to_string();
    serve(Router::new().fallback(move || std::future::ready(body.clone()))).await
}

#[tokio::test]
async fn nobody_leads_the_operator_to_another_place() {
    let tenant = Tenant::default();
    let door = tenant.door().await;

    let error = door.report().await.expect_err("no hub");

    assert!(
        matches!(&error, Error::NoHub { why, .. } if why.contains("302")),
        "{error}"
    );
    assert_eq!(tenant.followed.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_answer_without_end_is_given_up_at_its_limit() {
    let tenant = Tenant::default();
    let door = tenant.door().await;

    let error = door.spokes(0).await.expect_err("no hub");

    assert!(error.to_string().contains(&LIST.to_string()), "{error}");
    let taken = tenant.taken.load(Ordering::Relaxed);
    // This includes what lay in buffers on the way.
    assert!(taken <= LIST + (16 << 20), "{taken} bytes were taken");
}

#[tokio::test]
async fn a_list_of_more_spokes_than_a_hub_could_have_is_given_up() {
    let spoke = |index: usize| serde_json::json!({ "name": format!("s{index}"), "uid": "u" });
    let spokes = |count: usize| (0..count).map(spoke).collect::<serde_json::Value>();

    let as_many = answering(spokes(SPOKES)).await.spokes(0).await.expect("a list");
    let error = answering(spokes(SPOKES + 1)).await.spokes(0).await.expect_err("no hub");
    let declared = answering(spokes(SPOKES + 1)).await.spokes(1).await.expect("a list");

    assert_eq!((as_many.len(), declared.len()), (SPOKES, SPOKES + 1));
    assert!(matches!(&error, Error::NoHub { .. }), "{error}");
    assert!(error.to_string().contains("10000 spokes"), "{error}");
}

#[tokio::test]
async fn a_report_of_more_pods_than_a_hub_could_have_is_given_up() {
    let report = |pods: usize| {
        let pod = serde_json::json!({ "hubId": "h-1" });
        serde_json::json!({ "hubId": "h-1", "version": "1", "channelPrefix": "alk:", "pods": vec![pod; pods] })
    };

    answering(report(reported::PODS))
        .await
        .report()
        .await
        .expect("a report");
    let error = answering(report(reported::PODS + 1))
        .await
        .report()
        .await
        .expect_err("no hub");

    assert!(matches!(&error, Error::NoHub { .. }), "{error}");
}

#[tokio::test]
async fn what_changes_a_hub_is_given_up_when_another_operator_may_lead() {
    let door = serve(Router::new().fallback(std::future::pending::<StatusCode>)).await;
    let spoke: SpokePut = serde_json::from_value(serde_json::json!({ "uid": "u" })).expect("a declaration");
    let hub_id: HubId = "h-1".parse().expect("valid");
    let order = DrainPut {
        seconds: 20,
        revision: None,
    };
    let gate = Gate::default();
    let pass = || {
        gate.open_until(Instant::now() + Duration::from_millis(100));
        gate.pass().expect("it is open")
    };
    let begun = Instant::now();

    let ends = [
        door.put(pass(), "builder", &spoke).await.map(drop),
        door.delete(pass(), "builder", "u").await,
        door.drain(pass(), &hub_id, &order).await,
        door.undrain(pass(), &hub_id).await,
        door.rebalance(pass()).await,
    ];

    for end in ends {
        assert!(matches!(end, Err(Error::Late)), "{end:?}");
    }
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    let idle = tokio::time::timeout(Duration::from_secs(1), gate.idle());
    assert!(idle.await.is_ok(), "no write is under way");
}
