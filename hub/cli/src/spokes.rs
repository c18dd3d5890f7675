//! `alkhub spokes`: lists, declares, suspends, deletes.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use alkhub_protocol::admin::{BY_HAND, InstanceInfo, KeyInfo, SpokeInfo, SpokePut, SpokeStatus};
use alkhub_protocol::{ApiKey, Scopes, SpokeName};
use alkhub_sdk::{CallError, Client, Code};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::args::{ClientArgs, DeclareArgs, Output, SpokesArgs, SpokesCommand};
use crate::failure::Failure;
use crate::keys::lasts;
use crate::output::{self, list};
use crate::patience::patient;

/// How long connections whose keys have ended may take to disappear from the list.
const LEAVING: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

/// Lists, declares, suspends, resumes or deletes.
pub(crate) async fn spokes(args: SpokesArgs) -> Result<ExitCode, Failure> {
    match args.command {
        None => show(&args).await,
        Some(SpokesCommand::Declare(args)) => declare(args).await,
        Some(SpokesCommand::Suspend(args)) => suspend(&args.name, true, &args.client).await,
        Some(SpokesCommand::Resume(args)) => suspend(&args.name, false, &args.client).await,
        Some(SpokesCommand::Delete(args)) => delete(&args.name, &args.client).await,
    }
}

async fn show(args: &SpokesArgs) -> Result<ExitCode, Failure> {
    let client = args.client.hub.client()?;
    let mut spokes = patient(async || client.spokes().await).await?;
    spokes.retain(|spoke| args.labels.iter().all(|label| has(&labels_of(spoke), label)));
    list(
        args.client.output,
        &spokes,
        &["SPOKE", "STATUS", "INSTANCES", "SINCE", "LABELS", "OPERATIONS"],
        |s: &SpokeInfo| {
            let (status, since) = match s.status {
                SpokeStatus::Connected => ("connected", s.connected_at),
                SpokeStatus::Reconnecting => ("reconnecting", s.connected_at),
                SpokeStatus::Disconnected => ("disconnected", s.disconnected_at),
                SpokeStatus::Suspended => ("suspended", s.disconnected_at),
                SpokeStatus::Other => ("unknown", s.disconnected_at),
            };
            let since = since.map_or_else(String::new, |at| format!("{at:.0}"));
            let labels: Vec<_> = labels_of(s)
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            vec![
                s.name.to_string(),
                status.to_owned(),
                s.instances.len().to_string(),
                since,
                labels.join(","),
                s.operations.join(","),
            ]
        },
    )
}

/// The labels of the declaration and of the instances' registrations. If both have a key, the declaration's counts.
fn labels_of(spoke: &SpokeInfo) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for instance in &spoke.instances {
        labels.extend(instance.labels.clone());
    }
    labels.extend(spoke.labels.clone());
    labels
}

/// Whether labels have a `KEY`, or a `KEY=VALUE`.
fn has(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

async fn declare(args: DeclareArgs) -> Result<ExitCode, Failure> {
    let name = parse(&args.name)?;
    let client = args.client.hub.client()?;
    // A spoke that has only connected, or only has keys, is declared for the first time.
    let before = patient(async || client.declaration(&name).await).await?;
    let before = before.filter(|before| !before.uid.is_empty());
    if before.is_none() && !args.end_keys {
        refuse_to_end(&name, &keys_of(&client, &name).await?)?;
    }
    let uid = match &before {
        Some(before) => ours(&name, before)?.uid.clone(),
        None => format!("{BY_HAND}{}", rand::random::<u64>()),
    };
    let key = (before.is_none() || args.new_key).then(|| ApiKey::from_entropy(rand::random()));
    let spoke = SpokePut {
        uid,
        key: key.as_ref().map(|key| key.expose().to_owned()),
        overlap_seconds: 0,
        key_expires_at: None,
        spoke_type: before.as_ref().map(|before| before.spoke_type).unwrap_or_default(),
        operations: args.operations,
        scopes: Scopes::new(args.scopes),
        labels: args.labels.iter().map(|label| pair(label)).collect::<Result<_, _>>()?,
        concurrency: args.concurrency,
        suspended: before.is_some_and(|before| before.suspended),
    };
    patient(async || client.declare_spoke(&name, &spoke).await).await?;
    match (args.client.output, spoke.key) {
        (Output::Json, key) => output::json(&json!({ "declared": name, "key": key })),
        (Output::Table, Some(key)) => {
            output::note(&format!("declared {name}; its key is shown this once:"));
            output::text(&key)
        }
        (Output::Table, None) => done(&format!("declared {name}; its key stays")),
    }
}

async fn suspend(name: &str, suspended: bool, args: &ClientArgs) -> Result<ExitCode, Failure> {
    let name = parse(name)?;
    let client = args.hub.client()?;
    let before = patient(async || client.declaration(&name).await).await?;
    let before = before.ok_or_else(|| unknown(&name))?;
    let mut spoke = ours(&name, &before)?.clone();
    spoke.suspended = suspended;
    patient(async || client.declare_spoke(&name, &spoke).await).await?;
    let did = if suspended { "suspended" } else { "resumed" };
    match args.output {
        Output::Json => output::json(&json!({ did: name })),
        Output::Table => done(&format!("{did} {name}")),
    }
}

/// The keys of a spoke that have not ended.
async fn keys_of(client: &Client, name: &SpokeName) -> Result<Vec<KeyInfo>, Failure> {
    let (mut keys, now) = (patient(async || client.keys().await).await?, Timestamp::now());
    keys.retain(|key| key.spoke.as_ref() == Some(name) && lasts(key, now));
    Ok(keys)
}

/// A first declaration replaces the spoke of that name: the keys that were made for it end, and so do their
/// connections.
fn refuse_to_end(name: &SpokeName, keys: &[KeyInfo]) -> Result<(), Failure> {
    if keys.is_empty() {
        return Ok(());
    }
    let keys: Vec<_> = keys.iter().map(|key| format!("{} ({})", key.name, key.id)).collect();
    Err(Failure::usage(format!(
        "declaring `{name}` ends the keys that were made for it, and the programs that are connected by them: {}; give \
         --end-keys to do so, and the key that is shown to those programs",
        keys.join(", ")
    )))
}

/// The instances connected as a spoke.
async fn instances(client: &Client, name: &SpokeName) -> Result<Vec<InstanceInfo>, Failure> {
    let spokes = patient(async || client.spokes().await).await?;
    let spoke = spokes.into_iter().find(|spoke| spoke.name == *name);
    Ok(spoke.map_or_else(Vec::new, |spoke| spoke.instances))
}

/// Warns that a spoke stays connected with a key that this end cannot reach.
fn stays(did: &str, name: &SpokeName, instances: &[InstanceInfo]) -> Failure {
    let instances: Vec<_> = instances
        .iter()
        .map(|instance| format!("{} on {}", instance.instance_id, instance.hub_id))
        .collect();
    Failure::other(format!(
        "{did}: it is connected by a key that is not the spoke's own (an admin's), as {}; end that program, or revoke its \
         key, and delete `{name}` then",
        instances.join(", ")
    ))
}

async fn delete(name: &str, args: &ClientArgs) -> Result<ExitCode, Failure> {
    let name = parse(name)?;
    let client = args.hub.client()?;
    let before = patient(async || client.declaration(&name).await).await?;
    match &before {
        Some(declared) if !declared.uid.is_empty() => {
            ours(&name, declared)?;
        }
        // One that has just connected is not in any list of the database yet.
        _ if keys_of(&client, &name).await?.is_empty() => {
            let there = instances(&client, &name).await?;
            if !there.is_empty() {
                return Err(stays(&format!("`{name}` is not deleted"), &name, &there));
            }
        }
        _ => {}
    }
    let before = before.ok_or_else(|| unknown(&name))?;
    patient(async || client.delete_spoke(&name, &before.uid).await).await?;
    leaves(&client, &name).await?;
    match args.output {
        Output::Json => output::json(&json!({ "deleted": name })),
        Output::Table => done(&format!("deleted {name}")),
    }
}

/// Waits until nothing is connected any more as a spoke that was deleted.
async fn leaves(client: &Client, name: &SpokeName) -> Result<(), Failure> {
    let end = Instant::now() + LEAVING;
    loop {
        let there = instances(client, name).await?;
        if there.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            let did = format!("deleted `{name}` and ended its keys, and it is still there");
            return Err(stays(&did, name, &there));
        }
        sleep(LOOK).await;
    }
}

/// A declaration that may be changed here: no Kubernetes resource would change it back.
fn ours<'a>(name: &SpokeName, declared: &'a SpokePut) -> Result<&'a SpokePut, Failure> {
    if declared.uid.starts_with(BY_HAND) {
        return Ok(declared);
    }
    if declared.uid.is_empty() {
        return Err(Failure::usage(format!(
            "`{name}` is connected and not declared: `alkhub spokes declare {name}` first (--end-keys, where keys \
             were made for it)"
        )));
    }
    Err(Failure::usage(format!(
        "`{name}` is declared elsewhere (uid {}): change the Spoke of Kubernetes, or whatever declares it, instead",
        declared.uid
    )))
}

fn pair(label: &str) -> Result<(String, String), Failure> {
    let pair = label.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or_else(|| Failure::usage(format!("label `{label}`: write KEY=VALUE")))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse(name: &str) -> Result<SpokeName, Failure> {
    name.parse().map_err(|e| Failure::from(alkhub_sdk::Error::Name(e)))
}

fn unknown(name: &SpokeName) -> Failure {
    let error = CallError::new(Code::NotFound, format!("no spoke `{name}` is declared"));
    alkhub_sdk::Error::from(error).into()
}

fn done(text: &str) -> Result<ExitCode, Failure> {
    output::note(text);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_found_by_its_key_or_by_its_value() {
        let labels = BTreeMap::from([("team".to_owned(), "a=b".to_owned())]);

        assert!(has(&labels, "team") && has(&labels, "team=a=b"));
        assert!(!has(&labels, "team=a") && !has(&labels, "tea") && !has(&labels, "team="));
        assert_eq!(pair("team=a=b").expect("a pair"), ("team".to_owned(), "a=b".to_owned()));
        assert!(pair("team").is_err() && pair("=x").is_err());
    }
}
