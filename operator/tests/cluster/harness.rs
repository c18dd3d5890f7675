//! A namespace of a test's own, the operator as a process, and waiting for conditions.

use std::fmt::Debug;
use std::future::{Future, ready};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::time::Duration;

use alkhub_crds::condition;
use alkhub_crds::{Hub, Spoke, SpokePhase};
use alkhub_test_support::{Port, until_within};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::fake::{Fake, image};

/// How long anything may take; a loaded machine is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Image whose pods answer the probes and nothing else.
pub(crate) const IMAGE: &str = "alkhub/fake-hub:test";

/// A namespace that ends with the test.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    kubeconfig: PathBuf,
}

/// The operator as a process; killed when dropped.
pub(crate) struct Operator {
    child: Child,
    pub(crate) management: String,
}

/// A client of the cluster, and the file that describes it.
pub(crate) async fn client() -> (Client, PathBuf) {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| drop(rustls::crypto::aws_lc_rs::default_provider().install_default()));
    let kubeconfig = std::env::var_os("ALKHUB_TEST_KUBECONFIG").map(PathBuf::from);
    let kubeconfig = kubeconfig.expect("ALKHUB_TEST_KUBECONFIG names the cluster: `make harness` boots one");
    let file = kube::config::Kubeconfig::read_from(&kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await;
    let client = Client::try_from(config.expect("a usable kubeconfig")).expect("a client");
    (client, kubeconfig)
}

/// Whether a pod is ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// A world for one test.
pub(crate) async fn world(test: &str) -> World {
    let (client, kubeconfig) = client().await;
    install_crds(&client).await;
    let namespace = format!("{test}-{:04x}", fastrand::u16(..));
    let object = Namespace {
        metadata: kube::api::ObjectMeta {
            name: Some(namespace.clone()),
            ..Default::default()
        },
        ..Namespace::default()
    };
    Api::<Namespace>::all(client.clone())
        .create(&PostParams::default(), &object)
        .await
        .expect("a namespace");
    World {
        client,
        namespace,
        kubeconfig,
    }
}

/// Waits until a Spoke is in a phase, for its present spec.
pub(crate) async fn phase(world: &World, name: &str, phase: SpokePhase) -> Spoke {
    let is = |spoke: &Spoke| {
        let status = spoke.status.as_ref();
        status.and_then(|status| status.phase) == Some(phase)
            && status.and_then(|status| status.observed_generation) == spoke.metadata.generation
    };
    world.until::<Spoke>(name, &format!("{name} is {phase:?}"), is).await
}

/// A spec of one pod, with servers given by Secret.
pub(crate) fn given() -> Value {
    json!({"replicas": 1, "redis": {"secretRef": {"name": "redis"}}, "postgres": {"secretRef": {"name": "postgres"}}})
}

// === impl World ===

impl World {
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The Hub `demo` with one pod, with servers given by Secret.
    pub(crate) async fn demo(&self) {
        image();
        self.servers().await;
        self.hub("demo", given()).await;
    }

    /// An operator for this namespace alone, whose hubs' admin APIs are at `fake`.
    pub(crate) async fn operator(&self, fake: &str, more: &[&str]) -> Operator {
        self.operator_at(&format!("{fake}/{{namespace}}/{{hub}}"), more).await
    }

    /// An operator for this namespace alone, whose hubs' admin APIs are where `template` says.
    pub(crate) async fn operator_at(&self, template: &str, more: &[&str]) -> Operator {
        let port = Port::free();
        let management = format!("127.0.0.1:{port}");
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{port}.log", self.namespace));
        let log = std::fs::File::create(log).expect("a log file");
        let child = Command::new(env!("CARGO_BIN_EXE_alkhub-operator"))
            .args(["--namespace", &self.namespace, "--watch-namespace", &self.namespace])
            .args(["--management-listen", &management, "--hub-url-template", template])
            .args(unless_given(
                more,
                &[("--hub-image", IMAGE), ("--postgres-image", "postgres:15")],
            ))
            .args(["--poll-interval", "1s"])
            .args(["--log-filter", "info,alkhub_operator=debug", "--kubeconfig"])
            .arg(self.restricted().await)
            .args(more)
            .stderr(Stdio::from(log))
            .spawn()
            .expect("the operator starts");
        let operator = Operator { child, management };
        eventually("the operator serves its probes", || async {
            operator.get("/livez").await.map(drop)
        })
        .await;
        operator
    }

    /// A kubeconfig with exactly the rights that docs/OPERATOR.md lists, in this namespace only.
    async fn restricted(&self) -> PathBuf {
        let user = format!("operator-of-{}", self.namespace);
        let role: Role =
            serde_json::from_value(json!({"metadata": {"name": "operator"}, "rules": rules()})).expect("a Role");
        let binding: RoleBinding = serde_json::from_value(json!({
            "metadata": {"name": "operator"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        }))
        .expect("a RoleBinding");
        let apply = PatchParams::apply("alkhub-tests");
        self.api::<Role>()
            .patch("operator", &apply, &Patch::Apply(&role))
            .await
            .expect("a Role");
        self.api::<RoleBinding>()
            .patch("operator", &apply, &Patch::Apply(&binding))
            .await
            .expect("a RoleBinding");
        let mut file = kube::config::Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig");
        for named in &mut file.auth_infos {
            named.auth_info.get_or_insert_default().impersonate = Some(user.clone());
        }
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.kubeconfig", self.namespace));
        // The keys are the administrator's, so nobody else may read them.
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create(true).truncate(true), 0o600);
        let mut to = options.open(&path).expect("a file");
        serde_json::to_writer(&mut to, &file).expect("written");
        path
    }

    /// Creates a Hub from a spec.
    pub(crate) async fn hub(&self, name: &str, spec: Value) -> Hub {
        self.try_create(name, "Hub", spec).await.expect("a Hub")
    }

    /// Creates a Spoke from a spec.
    pub(crate) async fn spoke(&self, name: &str, spec: Value) -> Spoke {
        self.try_create(name, "Spoke", spec).await.expect("a Spoke")
    }

    /// Creates an object as it is, so that the API server validates it.
    pub(crate) async fn try_create<K>(&self, name: &str, kind: &str, spec: Value) -> kube::Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
        K::DynamicType: Default,
    {
        let object = json!({"apiVersion": "alkhub.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": self.namespace}, "spec": spec});
        let plural = format!("{}s", kind.to_lowercase());
        let url = format!("/apis/alkhub.dev/v1alpha1/namespaces/{}/{plural}", self.namespace);
        let request = http::Request::post(url).header("content-type", "application/json");
        self.client
            .request(request.body(object.to_string().into_bytes()).expect("a request"))
            .await
    }

    /// Creates a Secret with one key.
    pub(crate) async fn secret(&self, name: &str, key: &str, text: &str) {
        let secret: Secret =
            serde_json::from_value(json!({"metadata": {"name": name}, "stringData": {key: text}})).expect("a Secret");
        self.api::<Secret>()
            .create(&PostParams::default(), &secret)
            .await
            .expect("a Secret");
    }

    /// Secrets `redis` and `postgres` with URLs.
    pub(crate) async fn servers(&self) {
        self.secret("redis", "url", &format!("redis://cache.{}", self.namespace))
            .await;
        self.secret("postgres", "url", "postgres://u:p@db/x").await;
    }

    /// Changes fields of an object as a user does.
    pub(crate) async fn patch<K>(&self, name: &str, fields: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
        K::DynamicType: Default,
    {
        self.api::<K>()
            .patch(name, &PatchParams::default(), &Patch::Merge(fields))
            .await
            .expect("patched")
    }

    pub(crate) async fn delete<K>(&self, name: &str)
    where
        K: Resource<Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
        K::DynamicType: Default,
    {
        self.api::<K>()
            .delete(name, &DeleteParams::default())
            .await
            .expect("deleted");
    }

    /// Waits until an object is as `check` wants.
    pub(crate) async fn until<K>(&self, name: &str, what: &str, check: impl Fn(&K) -> bool) -> K
    where
        K: Resource<Scope = NamespaceResourceScope> + DeserializeOwned + Serialize + Clone + Debug,
        K::DynamicType: Default,
    {
        let api = self.api::<K>();
        eventually(what, || async {
            let object = api.get(name).await.map_err(|e| e.to_string())?;
            if check(&object) {
                Ok(object)
            } else {
                Err(shown(&object))
            }
        })
        .await
    }

    /// The ReplicaSets of the Hub `demo`.
    pub(crate) async fn sets(&self) -> Result<Vec<ReplicaSet>, String> {
        self.of_demo().await
    }

    /// Its pods that are not being deleted.
    pub(crate) async fn pods(&self) -> Result<Vec<Pod>, String> {
        let mut pods = self.of_demo::<Pod>().await?;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods)
    }

    /// What the Hub `demo` has of a kind, by its labels.
    pub(crate) async fn of_demo<K>(&self) -> Result<Vec<K>, String>
    where
        K: Resource<Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
        K::DynamicType: Default,
    {
        let ours = ListParams::default().labels("app.kubernetes.io/instance=demo,app.kubernetes.io/component=hub");
        let list = self.api::<K>().list(&ours).await;
        Ok(list.map_err(|error| error.to_string())?.items)
    }

    /// Waits until a ReplicaSet of the Hub `demo` that asks for pods is as `check` wants.
    pub(crate) async fn until_set(&self, what: &str, check: impl Fn(&ReplicaSet) -> bool) -> ReplicaSet {
        let asks = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.replicas) > Some(0);
        eventually(what, || async {
            let sets = self.sets().await?;
            let found = sets.iter().find(|set| asks(set) && check(set));
            found
                .cloned()
                .ok_or_else(|| sets.iter().map(shown).collect::<Vec<_>>().join("\n"))
        })
        .await
    }

    /// Waits until the Hub `demo` has a revision other than `before`; returns it.
    pub(crate) async fn another_revision(&self, before: Option<&str>) -> String {
        let other = |hub: &Hub| revision(hub).is_some_and(|now| Some(now) != before);
        let hub = self.until::<Hub>("demo", "another revision", other).await;
        revision(&hub).unwrap_or_default().to_owned()
    }

    /// Waits until an object is gone.
    pub(crate) async fn gone<K>(&self, name: &str)
    where
        K: Resource<Scope = NamespaceResourceScope> + DeserializeOwned + Serialize + Clone + Debug,
        K::DynamicType: Default,
    {
        let api = self.api::<K>();
        eventually(&format!("{name} is gone"), || async {
            match api.get_opt(name).await.map_err(|e| e.to_string())? {
                None => Ok(()),
                Some(object) => Err(shown(&object)),
            }
        })
        .await;
    }

    /// Waits until a Hub's condition has a status and a reason.
    pub(crate) async fn hub_says(&self, name: &str, kind: &str, status: &str, reason: &str) -> Hub {
        let says = |hub: &Hub| {
            has(hub.status.as_ref().map(|s| &s.conditions), kind, |c| {
                c.status == status && c.reason == reason
            })
        };
        self.until(name, &format!("{name} says {kind}={status}/{reason}"), says)
            .await
    }

    /// Waits until a Spoke's condition has a status and a reason.
    pub(crate) async fn spoke_says(&self, name: &str, kind: &str, status: &str, reason: &str) -> Spoke {
        let says = |spoke: &Spoke| {
            has(spoke.status.as_ref().map(|s| &s.conditions), kind, |c| {
                c.status == status && c.reason == reason
            })
        };
        self.until(name, &format!("{name} says {kind}={status}/{reason}"), says)
            .await
    }

    /// Waits until a Spoke says why it is not connected, with these words.
    pub(crate) async fn spoke_tells(&self, name: &str, words: &str) {
        let tells = |spoke: &Spoke| {
            has(
                spoke.status.as_ref().map(|s| &s.conditions),
                condition::CONNECTED,
                |c| c.message.contains(words),
            )
        };
        self.until(name, &format!("{name} says `{words}`"), tells).await;
    }

    /// Spokes of the Hub `demo` that are declared, the first of them with an instance at `fake`.
    pub(crate) async fn one_and_two(&self, fake: &Fake) {
        for name in ["one", "two"] {
            self.spoke(name, json!({"hubRef": {"name": "demo"}})).await;
            phase(self, name, SpokePhase::Ready).await;
        }
        fake.connect("one", 1);
        phase(self, "one", SpokePhase::Connected).await;
    }

    /// Fails if any Hub has reported that it was not ready.
    pub(crate) async fn was_ready_all_the_time(&self) {
        let events = self.api::<Event>().list(&ListParams::default()).await.expect("events");
        let notes = events.iter().filter_map(|event| event.note.as_deref());
        let flaps: Vec<_> = notes.filter(|note| note.starts_with("Ready=False")).collect();
        assert!(flaps.is_empty(), "{flaps:?}");
    }

    /// Ends the namespace; a test that failed leaves it for the dump.
    pub(crate) async fn end(self) {
        drop(
            Api::<Namespace>::all(self.client.clone())
                .delete(&self.namespace, &DeleteParams::background())
                .await,
        );
    }
}

// === impl Operator ===

impl Operator {
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String), String> {
        let answer = reqwest::get(format!("http://{}{path}", self.management))
            .await
            .map_err(|e| e.to_string())?;
        Ok((
            answer.status().as_u16(),
            answer.text().await.map_err(|e| e.to_string())?,
        ))
    }

    /// The sum of a metric's samples.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await.expect("metrics");
        let samples = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        samples
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until this many further reconciles have ended.
    pub(crate) async fn reconciles(&self, more: f64) {
        let from = self.metric("alkhub_operator_reconciles_total").await;
        eventually("more reconciles", || async {
            let now = self.metric("alkhub_operator_reconciles_total").await;
            if now >= from + more {
                Ok(())
            } else {
                Err(format!("{now} after {from}"))
            }
        })
        .await;
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status()
            .expect("kill");
        assert!(status.success());
    }

    /// Waits until the process has ended.
    pub(crate) async fn until_ended(&mut self) -> ExitStatus {
        let mut look = || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        };
        let limit = Duration::from_secs(5);
        until_within("the operator ends after SIGTERM", limit, || ready(look())).await
    }

    pub(crate) async fn leads(&self) {
        eventually("the operator leads", || async {
            match self.get("/readyz").await? {
                (200, text) if text.starts_with("leader") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Resident memory, and how much of it is not the program itself.
    pub(crate) fn memory(&self) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let lines = status
            .lines()
            .filter(|line| line.starts_with("VmRSS") || line.starts_with("RssAnon"));
        lines
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The revision that a Hub's pods shall run.
pub(crate) fn revision(hub: &Hub) -> Option<&str> {
    hub.status.as_ref()?.revision.as_deref()
}

/// Flags with their values, without those that `more` has.
fn unless_given<'a>(more: &[&str], flags: &[(&'a str, &'a str)]) -> Vec<&'a str> {
    let missing = flags.iter().filter(|(flag, _)| !more.contains(flag));
    missing.flat_map(|(flag, value)| [*flag, *value]).collect()
}

/// Waits until `check` succeeds; if it does not, the message has its last result.
pub(crate) async fn eventually<T, F: Future<Output = Result<T, String>>>(what: &str, check: impl FnMut() -> F) -> T {
    until_within(what, PATIENCE, check).await
}

/// Whether a condition of a kind is as wanted.
fn has(conditions: Option<&Vec<Condition>>, kind: &str, wanted: impl Fn(&Condition) -> bool) -> bool {
    condition::find(conditions.map_or(&[][..], Vec::as_slice), kind).is_some_and(wanted)
}

fn shown<K: Serialize>(object: &K) -> String {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(meta) = value["metadata"].as_object_mut() {
        meta.remove("managedFields");
    }
    value.to_string()
}

async fn install_crds(client: &Client) {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    for (_, crd) in alkhub_crds::manifest::all() {
        let name = crd.name_any();
        api.patch(&name, &PatchParams::apply("alkhub-tests").force(), &Patch::Apply(&crd))
            .await
            .expect("a CRD");
        eventually(&format!("{name} is established"), || async {
            let crd = api.get(&name).await.map_err(|e| e.to_string())?;
            let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
            let established = conditions
                .iter()
                .any(|c| c.type_ == "Established" && c.status == "True");
            if established {
                Ok(())
            } else {
                Err(format!("{conditions:?}"))
            }
        })
        .await;
    }
}

/// The rules as in docs/OPERATOR.md, with the name of the Lease: every test shows that they are enough.
fn rules() -> Value {
    let page = include_str!("../../../docs/OPERATOR.md");
    let section = page
        .split("\n## ")
        .find(|section| section.starts_with("What it may do"))
        .expect("the section");
    let rows = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rules: Vec<_> = rows
        .map(|row| row.split(" | ").collect::<Vec<_>>())
        .filter(|cells| cells[0] != "group")
        .map(|cells| {
            let list = |cell: &str| cell.split(", ").map(str::to_owned).collect::<Vec<_>>();
            let mut rule = json!({
                "apiGroups": [cells[0].trim_matches('"')], "resources": list(cells[1]), "verbs": list(cells[2]),
            });
            if cells[3].contains("resourceNames") {
                rule["resourceNames"] = json!(["alkhub-operator", "second"]);
            }
            rule
        })
        .collect();
    assert!(rules.len() >= 10, "{rules:?}");
    Value::Array(rules)
}
