//! A hub's admin API that remembers what it was told, and the image whose pods answer the probes.

use std::collections::{HashMap, HashSet};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use alkhub_protocol::ApiKey;
use alkhub_protocol::admin::{
    DrainPut, HubReport, InstanceInfo, InstanceState, LastMinute, PartState, PodReport, SpokeInfo, SpokePut,
    SpokeStatus,
};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::harness::{self, IMAGE, is_ready};

/// Admin APIs of any number of Hubs, by `namespace/name`.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    away: bool,
    refuse: Option<String>,
    spokes: HashMap<String, SpokePut>,
    connected: HashMap<String, usize>,
    /// Spokes whose instances have all lost their connections.
    lost: HashSet<String>,
    left: HashMap<String, bool>,
    puts: Vec<SpokePut>,
    deletes: Vec<(String, String)>,
    /// Requests to end a spoke, including those that got no answer.
    delete_requests: usize,
    /// The Hub that accepts changes of its spokes and never answers; and how many wait now, and how many did at most.
    hanging: Option<String>,
    hang: usize,
    hung: usize,
    keys: Vec<String>,
    /// Open WebSockets by pod; pods that are not listed have none.
    pods: HashMap<String, u64>,
    /// The figures of the last minute, of all pods together.
    minute: LastMinute,
    /// Pods that are left out of the report.
    hidden: HashSet<String>,
    /// Used to find out which pods there are.
    client: Option<Client>,
    drains: Vec<(String, DrainPut)>,
    undrains: Vec<String>,
    /// How many more of these requests fail.
    undrains_fail: usize,
    rebalances: usize,
}

// === impl Fake ===

impl Fake {
    /// Serves on a free loopback port; returns the address without a path.
    pub(crate) async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (client, _) = harness::client().await;
        self.0.lock().client = Some(client);
        let router = Router::new()
            .route("/{namespace}/{hub}/v1/admin/hub", get(report))
            .route("/{namespace}/{hub}/v1/admin/spokes", get(list))
            .route("/{namespace}/{hub}/v1/admin/spokes/{name}", put(declare).delete(delete))
            .route(
                "/{namespace}/{hub}/v1/admin/hubs/{hub_id}/drain",
                put(drain).delete(undrain),
            )
            .route("/{namespace}/{hub}/v1/admin/rebalance", post(rebalance))
            .with_state(self.clone());
        #[expect(clippy::disallowed_methods, reason = "the server ends with the test's runtime")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    /// Answers nothing but 503 from now on, or works again.
    pub(crate) fn away(&self, away: bool) {
        self.0.lock().away = away;
    }

    /// Refuses declarations with this reason.
    pub(crate) fn refuse(&self, reason: Option<&str>) {
        self.0.lock().refuse = reason.map(str::to_owned);
    }

    /// Sets how many instances of a spoke are connected now.
    pub(crate) fn connect(&self, spoke: &str, instances: usize) {
        let mut inner = self.0.lock();
        inner.connected.insert(spoke.to_owned(), instances);
        if instances == 0 {
            inner.left.insert(spoke.to_owned(), true);
        }
    }

    /// Every instance of a spoke has lost its connection, or has it again.
    pub(crate) fn lose(&self, spoke: &str, lost: bool) {
        let mut inner = self.0.lock();
        if lost {
            inner.lost.insert(spoke.to_owned());
        } else {
            inner.lost.remove(spoke);
        }
    }

    /// From now on a Hub does not answer any change of its spokes.
    pub(crate) fn hang(&self, hub: &str) {
        self.0.lock().hanging = Some(hub.to_owned());
    }

    /// The most changes of the hanging Hub that were under way at once.
    pub(crate) fn hung(&self) -> usize {
        self.0.lock().hung
    }

    /// Inserts a spoke that the operator never declared.
    pub(crate) fn plant(&self, spoke: &str, uid: &str) {
        let put = serde_json::from_value(json!({"uid": uid})).expect("a declaration");
        self.0.lock().spokes.insert(spoke.to_owned(), put);
    }

    /// Loses everything, as after a restored backup.
    pub(crate) fn forget(&self) {
        self.0.lock().spokes.clear();
    }

    /// Gives a pod this many WebSockets; its hub is `{pod}-0001`.
    pub(crate) fn pod(&self, pod: &str, connections: u64) {
        self.0.lock().pods.insert(pod.to_owned(), connections);
    }

    /// How many WebSockets a pod has.
    pub(crate) fn connections(&self, pod: &str) -> u64 {
        self.0.lock().pods.get(pod).copied().unwrap_or_default()
    }

    /// From now on leaves a pod out of the report.
    pub(crate) fn hide(&self, pod: &str) {
        self.0.lock().hidden.insert(pod.to_owned());
    }

    /// Reports a pod again.
    pub(crate) fn show(&self, pod: &str) {
        self.0.lock().hidden.remove(pod);
    }

    /// From now on this many calls end in each minute, and this many of them fail.
    pub(crate) fn calls(&self, calls: u64, calls_failed: u64) {
        self.0.lock().minute = LastMinute {
            calls,
            calls_failed,
            ..LastMinute::default()
        };
    }

    /// The ready pods of a Hub, as its hubs would report them.
    async fn reports(&self, namespace: &str, hub: &str) -> Vec<PodReport> {
        let client = self.0.lock().client.clone().expect("it serves");
        let ours = format!("app.kubernetes.io/instance={hub},app.kubernetes.io/component=hub");
        let pods = Api::<Pod>::namespaced(client, namespace);
        let pods = pods.list(&ListParams::default().labels(&ours)).await.expect("pods");
        let inner = self.0.lock();
        let is_shown = |pod: &&Pod| is_ready(pod) && !inner.hidden.contains(&pod.name_any());
        let report = |pod: &Pod| {
            let name = pod.name_any();
            PodReport {
                connections: inner.pods.get(&name).copied().unwrap_or_default(),
                in_flight: Some(0),
                last_minute: Some(inner.minute),
                ..unknown(&name)
            }
        };
        pods.iter().filter(is_shown).map(report).collect()
    }

    /// Which hubs were told to give their connections away, and how.
    pub(crate) fn drains(&self) -> Vec<(String, DrainPut)> {
        self.0.lock().drains.clone()
    }

    /// Which hubs were told to keep their connections.
    pub(crate) fn undrains(&self) -> Vec<String> {
        self.0.lock().undrains.clone()
    }

    /// Fails the next requests to keep connections.
    pub(crate) fn fail_undrains(&self, count: usize) {
        self.0.lock().undrains_fail = count;
    }

    /// How often the hubs were told to even out their connections.
    pub(crate) fn rebalances(&self) -> usize {
        self.0.lock().rebalances
    }

    pub(crate) fn puts(&self) -> Vec<SpokePut> {
        self.0.lock().puts.clone()
    }

    pub(crate) fn deletes(&self) -> Vec<(String, String)> {
        self.0.lock().deletes.clone()
    }

    /// How often somebody asked to end a spoke, with or without an answer.
    pub(crate) fn delete_requests(&self) -> usize {
        self.0.lock().delete_requests
    }

    /// The bearer keys that were presented, each once.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.0.lock().keys.clone()
    }

    fn admit(&self, headers: &HeaderMap) -> Result<(), (StatusCode, Json<Value>)> {
        let mut inner = self.0.lock();
        if inner.away {
            return Err(problem(StatusCode::SERVICE_UNAVAILABLE, "away"));
        }
        let bearer = headers
            .get("authorization")
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let Some(key) = bearer.filter(|key| ApiKey::parse(key).is_ok()) else {
            return Err(problem(StatusCode::UNAUTHORIZED, "no key"));
        };
        if !inner.keys.iter().any(|known| known == key) {
            inner.keys.push(key.to_owned());
        }
        Ok(())
    }
}

/// A request that gets no answer; dropped when its sender gives it up.
struct Hanging(Fake);

// === impl Hanging ===

impl Hanging {
    /// Never ends if the Hub hangs.
    async fn of(fake: &Fake, hub: &str) {
        let hanging = {
            let mut inner = fake.0.lock();
            if inner.hanging.as_deref() != Some(hub) {
                return;
            }
            inner.hang += 1;
            inner.hung = inner.hung.max(inner.hang);
            Self(fake.clone())
        };
        std::future::pending::<()>().await;
        drop(hanging);
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.0.lock().hang -= 1;
    }
}

type Answer<T> = Result<Json<T>, (StatusCode, Json<Value>)>;

/// A pod of which nothing is known.
fn unknown(pod: &str) -> PodReport {
    let report = json!({ "hubId": format!("{pod}-0001"), "pod": pod, "version": "9.9.9" });
    serde_json::from_value(report).expect("a pod")
}

async fn report(
    State(fake): State<Fake>,
    Path((namespace, hub)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer<Value> {
    fake.admit(&headers)?;
    let mut pods = fake.reports(&namespace, &hub).await;
    let connected = fake.0.lock().connected.values().sum::<usize>();
    // The pod whose hub the spokes are connected to.
    pods.push(PodReport {
        connections: connected as u64,
        ..unknown("pod-a")
    });
    let report = HubReport {
        hub_id: "pod-a-0001".parse().expect("valid"),
        version: "9.9.9".to_owned(),
        channel_prefix: "alk:".to_owned(),
        pods,
        balance: None,
        spokes_connected: connected as u64,
        spokes_reconnecting: 0,
        redis: PartState::Up,
        postgres: PartState::Up,
        dead_keys: Some(0),
    };
    Ok(data(&report))
}

async fn drain(
    State(fake): State<Fake>,
    Path((_, _, hub_id)): Path<(String, String, String)>,
    headers: HeaderMap,
    Json(drain): Json<DrainPut>,
) -> Result<StatusCode, (StatusCode, Json<Value>)> {
    fake.admit(&headers)?;
    fake.0.lock().drains.push((hub_id, drain));
    Ok(StatusCode::NO_CONTENT)
}

async fn undrain(
    State(fake): State<Fake>,
    Path((_, _, hub_id)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, (StatusCode, Json<Value>)> {
    fake.admit(&headers)?;
    let mut inner = fake.0.lock();
    if inner.undrains_fail > 0 {
        inner.undrains_fail -= 1;
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, "not now"));
    }
    inner.undrains.push(hub_id);
    Ok(StatusCode::NO_CONTENT)
}

async fn rebalance(State(fake): State<Fake>, headers: HeaderMap) -> Result<StatusCode, (StatusCode, Json<Value>)> {
    fake.admit(&headers)?;
    fake.0.lock().rebalances += 1;
    Ok(StatusCode::NO_CONTENT)
}

async fn list(State(fake): State<Fake>, headers: HeaderMap) -> Answer<Value> {
    fake.admit(&headers)?;
    let inner = fake.0.lock();
    let spokes: Vec<_> = inner.spokes.iter().map(|(name, put)| info(&inner, name, put)).collect();
    Ok(data(&spokes))
}

async fn declare(
    State(fake): State<Fake>,
    Path((_, hub, name)): Path<(String, String, String)>,
    headers: HeaderMap,
    Json(put): Json<SpokePut>,
) -> Answer<Value> {
    fake.admit(&headers)?;
    Hanging::of(&fake, &hub).await;
    let mut inner = fake.0.lock();
    if let Some(reason) = &inner.refuse {
        return Err(problem(StatusCode::BAD_REQUEST, reason));
    }
    inner.puts.push(put.clone());
    inner.spokes.insert(name.clone(), put.clone());
    Ok(data(&info(&inner, &name, &put)))
}

async fn delete(
    State(fake): State<Fake>,
    Path((_, hub, name)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<StatusCode, (StatusCode, Json<Value>)> {
    fake.0.lock().delete_requests += 1;
    fake.admit(&headers)?;
    Hanging::of(&fake, &hub).await;
    let mut inner = fake.0.lock();
    let uid = query
        .as_deref()
        .and_then(|query| query.strip_prefix("uid="))
        .unwrap_or_default()
        .to_owned();
    inner.deletes.push((name.clone(), uid.clone()));
    match inner.spokes.get(&name) {
        Some(put) if put.uid == uid => {
            inner.spokes.remove(&name);
            Ok(StatusCode::NO_CONTENT)
        }
        _ => Err(problem(StatusCode::NOT_FOUND, "no such spoke")),
    }
}

fn info(inner: &Inner, name: &str, put: &SpokePut) -> SpokeInfo {
    let at: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
    let count = inner.connected.get(name).copied().unwrap_or_default();
    let (state, present) = if inner.lost.contains(name) {
        (InstanceState::Reconnecting, SpokeStatus::Reconnecting)
    } else {
        (InstanceState::Connected, SpokeStatus::Connected)
    };
    let instances = (0..count).map(|index| InstanceInfo {
        instance_id: format!("i{index}").parse().expect("valid"),
        hub_id: "pod-a-0001".parse().expect("valid"),
        state,
        generation: 1,
        connected_at: at,
        labels: Default::default(),
        host_info: None,
    });
    SpokeInfo {
        name: name.parse().expect("valid"),
        uid: put.uid.clone(),
        spoke_type: put.spoke_type,
        status: if count > 0 { present } else { SpokeStatus::Disconnected },
        instances: instances.collect(),
        operations: if count > 0 {
            vec!["text.upper".to_owned()]
        } else {
            Vec::new()
        },
        labels: put.labels.clone(),
        declaration_digest: (!put.uid.is_empty()).then(|| put.digest()),
        key_hint: put
            .key
            .as_deref()
            .and_then(|key| Some(ApiKey::parse(key).ok()?.hint().to_owned())),
        connected_at: (count > 0).then_some(at),
        disconnected_at: inner.left.contains_key(name).then_some(at),
        // A different one each time: a heartbeat must change nothing.
        last_heartbeat_at: Some(jiff::Timestamp::now()),
    }
}

fn data<T: serde::Serialize>(value: &T) -> Json<Value> {
    Json(json!({ "data": value, "meta": { "source": "local", "timestamp": 0 } }))
}

fn problem(status: StatusCode, detail: &str) -> (StatusCode, Json<Value>) {
    (
        status,
        Json(json!({ "title": "refused", "detail": detail, "status": status.as_u16() })),
    )
}

/// Brings [`IMAGE`] to the nodes, once for all tests. On clusters other than `alkhub-cluster` it must be there already.
pub(crate) fn image() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| load(IMAGE, "/busybox httpd -f -p 7421 -h /www &\nwait\n"));
}

/// Brings an image to the nodes whose pods leave a last message and end.
pub(crate) fn ending_image() -> &'static str {
    const NAME: &str = "alkhub/fake-hub:ending";
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        load(
            NAME,
            "echo 'alkhub: the hash key is no key' > /dev/termination-log\nexit 1\n",
        )
    });
    NAME
}

/// Brings an image to the nodes whose pods run, are not ready, and report at `/readyz` what Postgres answers.
pub(crate) fn waiting_image() -> &'static str {
    const NAME: &str = "alkhub/fake-hub:waiting";
    const SAYS: &str = r#"{"status":"starting","redis":{"state":"up"},"prefix":{"state":"ours"},"postgres":{"state":"down","reason":"permission denied for database shop"}}"#;
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let answer = format!(
            r#"if [ "$1" = answer ]; then
read -r first; while read -r line && [ "${{#line}}" -gt 1 ]; do :; done
case "$first" in *readyz*) code=503; body='{SAYS}' ;; *) code=200; body=ok ;; esac
printf 'HTTP/1.1 %s X\r\ncontent-type: application/json\r\ncontent-length: %s\r\nconnection: close\r\n\r\n%s' "$code" "${{#body}}" "$body"
exit 0
fi
/busybox nc -ll -p 7421 -e /alkhub answer &
wait
"#
        );
        load(NAME, &answer);
    });
    NAME
}

/// Makes an image of a shell script, with the answers to the probes in `/www`, and brings it to the nodes.
fn load(name: &str, script: &str) {
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name.replace(['/', ':'], "-"));
    let (program, ok, archive) = (folder.join("alkhub.sh"), folder.join("ok"), folder.join("image.tar"));
    let text = format!("#!/busybox sh\ntrap 'exit 0' TERM\n{script}");
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&program, text))
        .and_then(|()| std::fs::write(&ok, "ok\n"))
        .expect("files");
    let file = |from: &std::path::Path, to: &str| format!("{}:{to}", from.display());
    let made = Command::new("alkhub-cluster")
        .args(["image", "--name", name, "--entrypoint", "/alkhub", "--out"])
        .arg(&archive)
        .args([
            "--file",
            "/bin/busybox:/busybox:755",
            "--file",
            &file(&program, "/alkhub:755"),
        ])
        .args(["--file", &file(&ok, "/www/livez"), "--file", &file(&ok, "/www/readyz")])
        .status();
    match made {
        Ok(status) => assert!(status.success(), "the image could not be made"),
        Err(error) => return println!("no alkhub-cluster ({error}): {name} must be on the nodes already"),
    }
    let loaded = Command::new("alkhub-cluster")
        .arg("load")
        .arg(&archive)
        .status()
        .expect("alkhub-cluster");
    assert!(loaded.success(), "the image could not be loaded");
}
