//! The figures of pods, as an adapter serves them to HorizontalPodAutoscalers: `custom.metrics.k8s.io`, behind the API
//! server.
//!
//! The API server must be able to reach the loopback of the test's process, as on `alkhub-cluster`.
//!
//! Invariants
//! - While the API is registered, somebody answers, whatever the test is waiting for: without its discovery, no
//!   namespace of the cluster can be deleted.
//! - It is unregistered before its server ends, even if the test fails.
//! - What an autoscaler of the test's namespace is told is recorded before it is sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::routing::get;
use axum::serve::Listener;
use axum::{Json, Router};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::fake::Fake;
use crate::harness::{self, PATIENCE, World, eventually};

/// The one metric that there is: the WebSockets of a pod.
pub(crate) const METRIC: &str = "alkhub_connections";

const GROUP: &str = "custom.metrics.k8s.io";
const API: &str = "custom.metrics.k8s.io/v1beta2";
const NAME: &str = "v1beta2.custom.metrics.k8s.io";

/// What an autoscaler asked for, and the pods that it was told about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) selector: String,
    pub(crate) pods: Vec<String>,
}

/// The API, registered until this is dropped. A cluster can have only one, so no two tests may use it at a time.
pub(crate) struct MetricsApi {
    looks: Arc<Mutex<Vec<Look>>>,
    end: CancellationToken,
    server: Option<JoinHandle<()>>,
}

/// Answers the requests.
#[derive(Clone)]
struct Adapter {
    client: Client,
    fake: Fake,
    namespace: String,
    looks: Arc<Mutex<Vec<Look>>>,
}

/// Accepts TLS with a self-signed certificate.
struct Door {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

type Answer = Result<Json<Value>, (StatusCode, String)>;

// === impl MetricsApi ===

impl MetricsApi {
    /// Serves the load of a fake's pods, and registers this with the API server.
    pub(crate) async fn serve(world: &World, fake: &Fake) -> Self {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = tcp.local_addr().expect("an address").port();
        let api = Self::start(tcp, fake.clone(), world.namespace.clone());
        register(world, port).await;
        eventually("the metrics are served", || async {
            let service = Api::<APIService>::all(world.client.clone()).get(NAME).await;
            let status = service.map_err(|error| error.to_string())?.status;
            let conditions = status.and_then(|status| status.conditions).unwrap_or_default();
            let served = conditions.iter().any(|c| c.type_ == "Available" && c.status == "True");
            served.then_some(()).ok_or_else(|| format!("{conditions:?}"))
        })
        .await;
        api
    }

    /// A separate thread answers: the test's own may be busy, and has ended when this is dropped.
    fn start(tcp: std::net::TcpListener, fake: Fake, namespace: String) -> Self {
        let (looks, end) = (Arc::<Mutex<Vec<Look>>>::default(), CancellationToken::new());
        let (noted, ended) = (looks.clone(), end.clone());
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let (client, _) = harness::client().await;
                let adapter = Adapter {
                    client: client.clone(),
                    fake,
                    namespace,
                    looks: noted,
                };
                let over = async {
                    ended.cancelled().await;
                    withdraw(&client).await;
                };
                tokio::select! {
                    result = axum::serve(Door::new(tcp), adapter.router()) => panic!("{result:?}"),
                    () = over => {}
                }
            });
        });
        Self {
            looks,
            end,
            server: Some(server),
        }
    }

    /// All looks so far.
    pub(crate) fn looks(&self) -> Vec<Look> {
        self.looks.lock().clone()
    }

    /// Waits until this many further looks were answered.
    pub(crate) async fn more_looks(&self, more: usize) {
        let from = self.looks.lock().len();
        eventually("an autoscaler looks again", || async {
            let now = self.looks.lock().len();
            (now >= from + more)
                .then_some(())
                .ok_or_else(|| format!("{now} after {from}"))
        })
        .await;
    }
}

impl Drop for MetricsApi {
    fn drop(&mut self) {
        self.end.cancel();
        if self.server.take().is_some_and(|server| server.join().is_err()) && !std::thread::panicking() {
            panic!("the server of metrics has failed");
        }
    }
}

// === impl Adapter ===

impl Adapter {
    fn router(self) -> Router {
        Router::new()
            .route(&format!("/apis/{API}"), get(resources))
            .route(
                &format!("/apis/{API}/namespaces/{{namespace}}/pods/{{pod}}/{{metric}}"),
                get(values),
            )
            .with_state(self)
    }

    /// The load of the pods that a selector selects.
    async fn values(&self, namespace: &str, selector: String) -> kube::Result<Value> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let pods = pods.list(&ListParams::default().labels(&selector)).await?;
        let now = Timestamp::now().to_string();
        let value = |pod: &Pod| {
            json!({
                "describedObject": {"apiVersion": "/v1", "kind": "Pod", "namespace": namespace, "name": pod.name_any()},
                "metric": {"name": METRIC},
                "timestamp": now,
                "value": self.fake.connections(&pod.name_any()).to_string(),
            })
        };
        let items: Vec<_> = pods.iter().map(value).collect();
        let mut pods: Vec<_> = pods.iter().map(ResourceExt::name_any).collect();
        pods.sort();
        // A failed test leaves its namespace behind, and the autoscaler in it goes on looking.
        if namespace == self.namespace {
            self.looks.lock().push(Look { selector, pods });
        }
        Ok(json!({"apiVersion": API, "kind": "MetricValueList", "metadata": {}, "items": items}))
    }
}

// === impl Door ===

impl Door {
    fn new(tcp: std::net::TcpListener) -> Self {
        tcp.set_nonblocking(true).expect("a socket");
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::from(key));
        Self {
            tcp: TcpListener::from_std(tcp).expect("a listener"),
            tls: TlsAcceptor::from(Arc::new(config.expect("a certificate and its key"))),
        }
    }
}

impl Listener for Door {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((socket, from)) = self.tcp.accept().await else {
                continue;
            };
            // A slow client would keep the others waiting here.
            let greeted = tokio::time::timeout(Duration::from_secs(2), self.tls.accept(socket)).await;
            if let Ok(Ok(stream)) = greeted {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// Tells the API server where the metrics are: a Service that is a name for the test's process.
async fn register(world: &World, port: u16) {
    let service: Service = object(json!({
        "metadata": {"name": "metrics"}, "spec": {"type": "ExternalName", "externalName": "127.0.0.1"},
    }));
    world
        .api::<Service>()
        .create(&PostParams::default(), &service)
        .await
        .expect("a Service");
    let api: APIService = object(json!({
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP, "version": "v1beta2", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true,
            "service": {"name": "metrics", "namespace": world.namespace, "port": port},
        },
    }));
    // One that was left behind by a killed run is taken over.
    Api::<APIService>::all(world.client.clone())
        .patch(NAME, &PatchParams::apply("alkhub-tests").force(), &Patch::Apply(&api))
        .await
        .expect("an APIService");
}

/// Makes the API server forget the metrics, while they are still served.
async fn withdraw(client: &Client) {
    let services = Api::<APIService>::all(client.clone());
    let forgotten = alkhub_test_support::try_until_within("the metrics are forgotten", PATIENCE, || async {
        drop(services.delete(NAME, &DeleteParams::default()).await);
        let groups = client.list_api_groups().await.map_err(|error| error.to_string())?;
        let known = groups.groups.iter().any(|group| group.name == GROUP);
        (!known)
            .then_some(())
            .ok_or("the API server knows them")
            .map_err(str::to_owned)
    });
    if let Err(late) = forgotten.await {
        println!("{NAME} must be deleted by hand: {late}");
    }
}

async fn resources() -> Json<Value> {
    let name = format!("pods/{METRIC}");
    let resource =
        json!({"name": name, "singularName": "", "namespaced": true, "kind": "MetricValueList", "verbs": ["get"]});
    Json(json!({"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": API, "resources": [resource]}))
}

async fn values(
    State(adapter): State<Adapter>,
    Path((namespace, pod, metric)): Path<(String, String, String)>,
    uri: Uri,
) -> Answer {
    if pod != "*" || metric != METRIC {
        return Err((StatusCode::NOT_FOUND, format!("{metric} of {pod}")));
    }
    let url = reqwest::Url::parse("https://metrics").and_then(|base| base.join(&uri.to_string()));
    let url = url.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let mut query = url.query_pairs();
    // Without one, it would select all pods of the namespace.
    let selector = query.find(|(name, _)| name == "labelSelector");
    let selector = selector.map(|(_, selector)| selector.into_owned()).unwrap_or_default();
    let values = adapter.values(&namespace, selector).await;
    values
        .map(Json)
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object")
}
