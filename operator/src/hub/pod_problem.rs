//! Why hub pods do not become ready, from the pods themselves; asked only while some are missing.
//!
//! A container that ended left its last error as its termination message. One that runs and is not ready says why at
//! its `/readyz`; no key is sent there. What a pod says in its first seconds is not repeated.

use std::net::IpAddr;
use std::time::Duration;

use alkhub_config::MANAGEMENT_PORT;
use alkhub_crds::Hub;
use alkhub_protocol::admin::{PartState, ReadyCheck, Readyz};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use crate::admin;
use crate::context::Context;
use crate::hub::elapsed::elapsed;
use crate::hub::generated::DATABASE;
use crate::hub::status::Pods;
use crate::names::{ObjectNames, Part};

/// A pod may take this long to find Postgres and Redis before its message is repeated.
const STARTING: Duration = Duration::from_secs(10);

/// How many pods are asked, newest first.
const ASKED: usize = 3;

/// How long one pod may take to answer.
const LIMIT: Duration = Duration::from_secs(2);

/// The longest message that is repeated.
const CHARS: usize = 500;

/// What is wrong with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodProblem {
    /// The pod and its message.
    pub(crate) message: String,
    /// Set when another Hub has the channel prefix: what Redis says about that.
    pub(crate) prefix: Option<String>,
}

// === impl PodProblem ===

impl PodProblem {
    /// Adds what to do if the data of a managed Postgres are tied to another password than its Secret has.
    fn with_remedy(mut self, hub: &Hub) -> Self {
        if hub.spec.postgres.is_managed() && self.message.contains("password authentication failed") {
            let (names, database) = (ObjectNames::of(hub), DATABASE);
            let server = names.server(Part::Postgres);
            self.message.push_str(&format!(
                ". The data of the managed Postgres know another password than Secret `{server}`: put the old one back \
                 there, or set the new one in the server: kubectl -n {} exec {server}-0 -- psql -U {database} -c \"ALTER \
                 USER {database} PASSWORD 'NEW'\"",
                names.namespace
            ));
        }
        self
    }
}

/// What keeps pods from being ready; `None`: they are ready, or it is unknown.
pub(crate) async fn find(ctx: &Context, hub: &Hub, pods: Option<&Pods>) -> Option<PodProblem> {
    let missing = pods.is_some_and(|pods| pods.observed && pods.wanted > 0 && !pods.is_settled());
    if !missing {
        return None;
    }
    let names = ObjectNames::of(hub);
    let mut there = ctx.stores.pods_of(&names, Part::Hub);
    there.retain(|pod| pod.metadata.deletion_timestamp.is_none() && !is_ready(pod));
    there.sort_by_key(|pod| std::cmp::Reverse(pod.creation_timestamp().map(|time| time.0)));
    for pod in there.iter().take(ASKED) {
        if let Some(words) = ended(pod) {
            let message = format!("pod {} ended: {words}", pod.name_any());
            return Some(PodProblem { message, prefix: None });
        }
        if let Some(address) = waiting(pod, Timestamp::now())
            && let Some(answer) = ask(ctx, address).await
            && let Some(problem) = from_readiness(&pod.name_any(), &answer)
        {
            return Some(problem.with_remedy(hub));
        }
    }
    None
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The last message of a hub container that ended by itself.
fn ended(pod: &Pod) -> Option<String> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let hub = containers.iter().find(|container| container.name == "hub")?;
    let words = terminated(hub)?;
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    (!words.is_empty()).then(|| shortened(&words))
}

/// Only of a container that is not running again.
fn terminated(container: &ContainerStatus) -> Option<&String> {
    let state = container.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) {
        return None;
    }
    let last = container.last_state.as_ref();
    let ended = state
        .and_then(|state| state.terminated.as_ref())
        .or_else(|| last.and_then(|last| last.terminated.as_ref()))?;
    ended.message.as_ref().filter(|_| ended.exit_code != 0)
}

/// The address of a pod that has run for a while and is not ready.
fn waiting(pod: &Pod, now: Timestamp) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.as_ref()?;
    let hub = containers.iter().find(|container| container.name == "hub")?;
    let since = hub.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0;
    (elapsed(since, now) >= STARTING)
        .then(|| status.pod_ip.as_ref()?.parse().ok())
        .flatten()
}

async fn ask(ctx: &Context, address: IpAddr) -> Option<Readyz> {
    let place = std::net::SocketAddr::new(address, MANAGEMENT_PORT);
    let request = ctx.admin.http().get(format!("http://{place}/readyz")).timeout(LIMIT);
    let answer = request.send().await.ok()?;
    let body = admin::body(answer, admin::SHORT).await.ok()?;
    serde_json::from_slice(&body).ok()
}

/// What `/readyz` reports as missing.
fn from_readiness(pod: &str, answer: &Readyz) -> Option<PodProblem> {
    let reason = |check: &ReadyCheck| check.reason.clone().filter(|reason| !reason.is_empty());
    let mut words = Vec::new();
    for (check, name) in [(&answer.postgres, "Postgres"), (&answer.redis, "Redis")] {
        words.extend(reason(check).map(|reason| format!("{name}: {reason}")));
    }
    let taken = answer.prefix.state == PartState::Taken;
    let prefix = reason(&answer.prefix).filter(|_| taken).map(|why| shortened(&why));
    words.extend(prefix.iter().map(|why| format!("channel prefix: {why}")));
    (!words.is_empty()).then(|| PodProblem {
        message: format!("pod {pod} is not ready: {}", shortened(&words.join("; "))),
        prefix,
    })
}

fn shortened(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(CHARS).collect()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize as _;
    use serde_json::{Value, json};

    use super::*;

    fn problem(answer: &Value) -> Option<PodProblem> {
        from_readiness("demo-1", &Readyz::deserialize(answer).expect("a body"))
    }

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "demo-1" }, "status": status })).expect("a Pod")
    }

    #[test]
    fn the_last_words_of_a_container_are_repeated_until_it_runs_again() {
        let ended_with = json!({ "terminated": { "exitCode": 1, "message": "alkhub: no\nhash key\n" } });
        let container = |state: Value| {
            pod(&json!({ "containerStatuses": [{
                "name": "hub", "image": "i", "imageID": "", "ready": false, "restartCount": 1, "state": state, "lastState": ended_with,
            }] }))
        };

        let waits = container(json!({ "waiting": { "reason": "CrashLoopBackOff" } }));
        let runs = container(json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } }));

        assert_eq!(ended(&waits).as_deref(), Some("alkhub: no hash key"));
        assert_eq!(ended(&runs), None);
    }

    #[test]
    fn a_pod_that_has_just_begun_is_not_asked_why_it_is_not_ready() {
        let runs = pod(&json!({ "podIP": "10.0.0.1", "containerStatuses": [{
            "name": "hub", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } },
        }] }));
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");

        assert_eq!(waiting(&runs, at("2026-01-01T00:00:05Z")), None);
        assert_eq!(waiting(&runs, at("2026-01-01T00:00:10Z")), "10.0.0.1".parse().ok());
    }

    #[test]
    fn what_a_pod_misses_is_named_and_a_taken_prefix_is_told_apart() {
        let denied = json!({
            "status": "starting", "redis": { "state": "up" }, "prefix": { "state": "unclaimed", "reason": "not yet" },
            "postgres": { "state": "down", "reason": "permission denied for database shop" },
        });
        let taken = json!({
            "status": "starting", "redis": { "state": "up" }, "postgres": { "state": "up" },
            "prefix": { "state": "taken", "reason": "Hub u-1 has it" },
        });

        let denied = problem(&denied).expect("a problem");
        let taken = problem(&taken).expect("a problem");

        assert_eq!(
            denied.message,
            "pod demo-1 is not ready: Postgres: permission denied for database shop"
        );
        assert_eq!((denied.prefix, taken.prefix.as_deref()), (None, Some("Hub u-1 has it")));
        assert_eq!(problem(&json!({ "status": "ok" })), None);
    }

    #[test]
    fn another_password_than_a_managed_postgres_knows_is_reported_with_the_remedy() {
        let refused =
            json!({ "postgres": { "state": "down", "reason": "password authentication failed for user \"alkhub\"" } });
        let hub = |spec: Value| crate::hub::testing::hub(spec);
        let managed = hub(json!({ "redis": { "managed": true }, "postgres": { "managed": true } }));
        let message = |hub: &Hub| problem(&refused).expect("a problem").with_remedy(hub).message;

        assert!(
            message(&managed).contains("kubectl -n team exec demo-postgres-0 -- psql"),
            "{}",
            message(&managed)
        );
        assert!(!message(&hub(crate::hub::testing::given())).contains("kubectl"));
    }
}
