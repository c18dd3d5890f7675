//! What is written, against an API server that takes everything.

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::Client;
use kube::client::Body;
use kube::runtime::watcher::Event;
use tokio::time::Instant;

use super::*;
use crate::gate::Gate;
use crate::metrics::Metrics;

/// Method and body of each request. There is no object but `live`.
#[derive(Clone)]
struct Server {
    live: Option<Value>,
    writes: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    fn new(live: Option<Value>) -> Self {
        Self {
            live,
            writes: Arc::default(),
        }
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let method = request.method().to_string();
        let body = request.into_body().collect_bytes().await.expect("a body");
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        self.writes.lock().push((method.clone(), body.clone()));
        let (status, answer) = match (method.as_str(), self.live) {
            ("GET", None) => (
                404,
                json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"}),
            ),
            ("GET" | "PATCH", Some(live)) => (200, live),
            _ => (200, body),
        };
        let answer = Response::builder()
            .status(status)
            .body(Body::from(answer.to_string().into_bytes()));
        Ok(answer.expect("an answer"))
    }

    fn kubernetes(&self) -> Kubernetes {
        let server = self.clone();
        let service = tower::service_fn(move |request| server.clone().answer(request));
        let gate = Gate::default();
        gate.open_until(Instant::now() + Duration::from_secs(60));
        let metrics = Metrics::new(&prometheus::Registry::new()).expect("registered");
        Kubernetes::new(Client::new(service, "team"), gate, Arc::new(metrics))
    }

    fn methods(&self) -> Vec<String> {
        self.writes.lock().iter().map(|(method, _)| method.clone()).collect()
    }
}

fn set(replicas: Option<i32>) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "demo", "namespace": "team", "ownerReferences": [
            {"apiVersion": "alkhub.dev/v1alpha1", "kind": "Hub", "name": "demo", "uid": "u-hub", "controller": true}
        ]},
        "spec": {"replicas": replicas, "selector": {}, "template": {}},
    })
}

/// Applies a ReplicaSet; without a number of pods, as one that is scaled.
async fn applied(server: &Server, wanted: Option<i32>) -> Result<Arc<ReplicaSet>, Error> {
    let (store, mut writer) = kube::runtime::reflector::store();
    if let Some(live) = &server.live {
        let live: ReplicaSet = serde_json::from_value(live.clone()).expect("a ReplicaSet");
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitApply(live));
        writer.apply_watcher_event(&Event::InitDone);
    }
    let (kubernetes, memory) = (server.kubernetes(), Applied::default());
    let applier = Applier {
        kubernetes: &kubernetes,
        applied: &memory,
        owner: "u-hub",
    };
    let object: ReplicaSet = serde_json::from_value(set(wanted)).expect("a ReplicaSet");
    match wanted {
        None => applier.apply_unscaled(&store, object).await,
        Some(_) => applier.apply(&store, object).await,
    }
}

#[tokio::test]
async fn what_is_not_there_is_created_so_that_what_came_in_between_is_not_taken_over() {
    let server = Server::new(None);

    applied(&server, Some(2)).await.expect("made");

    assert_eq!(server.methods(), ["GET", "POST"]);
}

#[tokio::test]
async fn what_is_scaled_begins_without_pods_and_keeps_those_that_it_asks_for() {
    let mut live = set(Some(5));
    live["metadata"]["uid"] = "u-1".into();
    live["metadata"]["resourceVersion"] = "41".into();
    let (missing, there, free) = (
        Server::new(None),
        Server::new(Some(live.clone())),
        Server::new(Some(live)),
    );

    applied(&missing, None).await.expect("made");
    applied(&there, None).await.expect("written");
    applied(&free, Some(6)).await.expect("written");

    let last = |server: &Server| server.writes.lock().last().expect("a write").clone();
    assert_eq!(last(&missing).1["spec"]["replicas"], 0);
    let (method, body) = last(&there);
    assert_eq!((&*method, &body["spec"]["replicas"]), ("PATCH", &5.into()));
    assert_eq!(
        body["metadata"]["resourceVersion"], "41",
        "only of the version that asks for so many"
    );
    assert_eq!(body["metadata"]["uid"], "u-1");
    assert_eq!(last(&free).1["metadata"]["resourceVersion"], Value::Null);
}
