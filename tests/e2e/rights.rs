//! What the operator may do compared with what it did: the chart's rules, and the API server's own log of the whole
//! run.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::say;
use crate::world::World;

/// The account that the chart gives the operator.
const ACCOUNT: &str = ":alkhub-operator";

/// Rights that no step uses. The first two are needed in clusters that enforce permission for owner references that
/// block deletion; the rest is for removing a server that is no longer managed, which the operator's own tests cover
/// (operator/tests/cluster/managed.rs).
const UNUSED: [(&str, &str, &str); 5] = [
    ("alkhub.dev", "hubs/finalizers", "update"),
    ("alkhub.dev", "spokes/finalizers", "update"),
    ("apps", "statefulsets", "delete"),
    ("", "services", "delete"),
    ("", "secrets", "delete"),
];

/// Group, resource with its subresource, verb.
type Right = (String, String, String);

/// Each right that the chart grants was used by an earlier step, and nothing was asked for that it does not grant.
pub(crate) async fn the_operator_used_each_of_its_rights_and_asked_for_no_other(world: &mut World) -> Result<()> {
    let Some(work) = std::env::var_os("ALKHUB_CLUSTER_WORK") else {
        say("no log of the API server: this cluster is another's, so that nothing is compared");
        return Ok(());
    };
    let granted = granted(world).await?;
    let (used, refused) = asked(&Path::new(&work).join("log/audit.log"))?;
    // A granted right that was refused was asked for while helm was removing the rules.
    let foreign: Vec<_> = refused.difference(&granted).collect();
    ensure!(
        foreign.is_empty(),
        "the operator asked for what it may not: {foreign:?}"
    );
    let spare = UNUSED.map(|(group, resource, verb)| (group.to_owned(), resource.to_owned(), verb.to_owned()));
    let spare = BTreeSet::from(spare);
    let unused: Vec<_> = granted
        .difference(&used)
        .filter(|right| !spare.contains(*right))
        .collect();
    ensure!(unused.is_empty(), "rights that no step used: {unused:?}");
    let stale: Vec<_> = spare.intersection(&used).collect();
    ensure!(stale.is_empty(), "used after all: {stale:?}");
    say(&format!(
        "{} rights are given, {} of them were used",
        granted.len(),
        granted.intersection(&used).count()
    ));
    Ok(())
}

/// What the installed rules grant, in the cluster and in the operator's namespace.
async fn granted(world: &World) -> Result<BTreeSet<Right>> {
    let labelled = [
        "get",
        "clusterroles,roles",
        "-A",
        "-l",
        "app.kubernetes.io/part-of=alkhub",
        "-o",
        "json",
    ];
    let roles: Value = serde_json::from_str(&world.kube.kubectl(&labelled).await?)?;
    let rules = roles["items"].as_array().context("roles")?;
    let rules = rules.iter().filter_map(|role| role["rules"].as_array()).flatten();
    let mut granted = BTreeSet::new();
    for rule in rules {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let verbs = texts(&rule["verbs"]).map(|verb| (group.to_owned(), resource.to_owned(), verb.to_owned()));
                granted.extend(verbs);
            }
        }
    }
    ensure!(!granted.is_empty(), "no role has the chart's label: {roles}");
    Ok(granted)
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// What the operators of this run asked for: what they were granted, and what they were refused.
fn asked(log: &Path) -> Result<(BTreeSet<Right>, BTreeSet<Right>)> {
    let text = std::fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    // The last line may be only half written.
    let (whole, _) = text.rsplit_once('\n').context("a line")?;
    let (mut used, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for line in whole.lines() {
        let event: Value = serde_json::from_str(line)?;
        let user = event["user"]["username"].as_str().unwrap_or_default();
        let object = &event["objectRef"];
        let Some(resource) = object["resource"].as_str().filter(|_| user.ends_with(ACCOUNT)) else {
            continue;
        };
        let resource = match object["subresource"].as_str() {
            Some(part) => format!("{resource}/{part}"),
            None => resource.to_owned(),
        };
        let group = object["apiGroup"].as_str().unwrap_or_default().to_owned();
        let right = (group, resource, event["verb"].as_str().unwrap_or_default().to_owned());
        match event["annotations"]["authorization.k8s.io/decision"].as_str() {
            Some("forbid") => refused.insert(right),
            _ => used.insert(right),
        };
    }
    Ok((used, refused))
}
