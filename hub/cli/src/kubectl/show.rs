//! `kubectl alkhub status`, `top` and `logs`.

use std::cmp::Reverse;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use super::args::{LogsArgs, ShowArgs};
use super::objects::{HUBS, HubObject, List, PodStatus, selector, spread};
use super::process::Kubectl;
use crate::args::Output;
use crate::failure::Failure;
use crate::output;

/// A pod in JSON.
#[derive(Serialize)]
struct PodOfHub<'a> {
    namespace: &'a str,
    hub: &'a str,
    #[serde(flatten)]
    pod: &'a PodStatus,
}

/// How many of a Hub's pods are followed, at most.
const FOLLOWED: &str = "50";

/// Shows the state of Hubs.
pub(crate) async fn status(args: ShowArgs) -> Result<ExitCode, Failure> {
    if args.output == Output::Json {
        return json(&args).await;
    }
    let hubs = hubs(&args).await?;
    if hubs.is_empty() {
        output::note("no Hubs here; --all-namespaces looks everywhere");
        return Ok(ExitCode::SUCCESS);
    }
    let texts: Vec<String> = hubs.iter().map(described).collect();
    output::text(&texts.join("\n\n"))
}

/// Lists pods by their load.
pub(crate) async fn top(args: ShowArgs) -> Result<ExitCode, Failure> {
    let hubs = hubs(&args).await?;
    let mut pods: Vec<(&HubObject, &PodStatus)> = hubs
        .iter()
        .flat_map(|hub| hub.status.hub_pods.iter().map(move |pod| (hub, pod)))
        .collect();
    pods.sort_by_key(|(_, pod)| (Reverse(pod.connections), Reverse(pod.in_flight), &pod.name));
    if args.output == Output::Json {
        let pods: Vec<_> = pods.iter().map(|&(hub, pod)| PodOfHub::new(hub, pod)).collect();
        return output::json(&pods);
    }
    if pods.is_empty() {
        output::note("no pods of Hubs here; --all-namespaces looks everywhere");
        return Ok(ExitCode::SUCCESS);
    }
    let rows = pods.iter().map(|(hub, pod)| {
        let mut cells = vec![hub.metadata.namespace.clone(), hub.metadata.name.clone()];
        cells.extend(row(pod));
        cells
    });
    let columns = [&["NAMESPACE", "HUB"], &COLUMNS[..]].concat();
    output::text(&output::table(&columns, rows))
}

/// Prints what the pods of a Hub log.
pub(crate) async fn logs(args: LogsArgs) -> Result<ExitCode, Failure> {
    let kubectl = Kubectl::new(&args.cluster);
    // This reports a wrong name, which a selector that matches no pods would not.
    HubObject::read(&kubectl, &args.hub).await?;
    let (selector, tail) = (selector(&args.hub), args.tail.to_string());
    let mut words = vec![
        "logs",
        "--selector",
        &selector,
        "--container",
        "hub",
        "--prefix",
        "--tail",
        &tail,
    ];
    if args.follow {
        words.extend(["--follow", "--max-log-requests", FOLLOWED]);
    }
    if let Some(since) = &args.since {
        words.extend(["--since", since]);
    }
    kubectl.hand_over(&words).await
}

/// The columns of a pod.
const COLUMNS: [&str; 6] = ["POD", "STATE", "CONNECTIONS", "CALLS", "RECONNECTING", "REVISION"];

impl<'a> PodOfHub<'a> {
    fn new(hub: &'a HubObject, pod: &'a PodStatus) -> Self {
        Self {
            namespace: &hub.metadata.namespace,
            hub: &hub.metadata.name,
            pod,
        }
    }
}

async fn hubs(args: &ShowArgs) -> Result<Vec<HubObject>, Failure> {
    let kubectl = Kubectl::new(&args.cluster);
    match &args.hub {
        Some(hub) => Ok(vec![HubObject::read(&kubectl, hub).await?]),
        None => Ok(kubectl.get::<List<HubObject>>(&words(args)).await?.items),
    }
}

/// The objects as the cluster has them.
async fn json(args: &ShowArgs) -> Result<ExitCode, Failure> {
    let kubectl = Kubectl::new(&args.cluster);
    output::json(&kubectl.get::<Value>(&words(args)).await?)
}

fn words(args: &ShowArgs) -> Vec<&str> {
    let mut words = vec![HUBS];
    words.extend(args.hub.as_deref());
    if args.all_namespaces {
        words.push("--all-namespaces");
    }
    words
}

/// A Hub for people: its facts, its pods, and those of its conditions that are not as they should be.
fn described(hub: &HubObject) -> String {
    let status = &hub.status;
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "not known".to_owned());
    let ready = hub.condition("Ready").map_or("Unknown", |ready| ready.status.as_str());
    let balance = status.balance.as_ref().map_or_else(|| "not known".to_owned(), spread);
    let spokes = status
        .spokes
        .map_or_else(|| "not known".to_owned(), |spokes| format!("{spokes} connected"));
    let facts = [
        ("hub", format!("{}/{}", hub.metadata.namespace, hub.metadata.name)),
        ("ready", format!("{ready}, {} pods", known(&status.pods))),
        ("version", known(&status.version)),
        ("revision", known(&status.revision)),
        ("url", known(&status.url)),
        ("spokes", spokes),
        ("balance", balance),
    ];
    let mut parts = vec![
        facts
            .map(|(fact, value)| format!("{fact:<10}{}", output::visible(&value)))
            .join("\n"),
    ];
    if !status.hub_pods.is_empty() {
        parts.push(output::table(&COLUMNS, status.hub_pods.iter().map(row)));
    }
    let troubles: Vec<Vec<String>> = status
        .conditions
        .iter()
        .filter(|condition| condition.is_trouble())
        .map(|c| vec![c.kind.clone(), c.status.clone(), c.reason.clone(), c.message.clone()])
        .collect();
    if !troubles.is_empty() {
        parts.push(output::table(
            &["CONDITION", "STATUS", "REASON", "MESSAGE"],
            troubles.into_iter(),
        ));
    }
    parts.join("\n\n")
}

fn row(pod: &PodStatus) -> Vec<String> {
    let number = |held: Option<u64>| held.map_or_else(|| "?".to_owned(), |held| held.to_string());
    vec![
        pod.name.clone(),
        pod.state().to_owned(),
        number(pod.connections),
        number(pod.in_flight),
        number(pod.reconnecting),
        pod.revision.clone(),
    ]
}
