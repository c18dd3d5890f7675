//! A spoke that uses the SDK, and which hubs it is on.

use std::sync::Arc;

use alkhub_sdk::{Failure, Operation, Spoke};
use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Kind, Member, SDK_OPERATION, Tally, work};

/// Connects it and waits until it is registered.
pub(super) async fn start(url: String, member: Member, sessions: u8, tally: Arc<Tally>) -> Result<Spoke> {
    let at_work = Arc::clone(&tally);
    let operation = Operation::mutation(SDK_OPERATION, move |input: Value| {
        let tally = Arc::clone(&at_work);
        async move { Ok::<_, Failure>(work(&tally, &input).await) }
    });
    let spoke = Spoke::builder(url).token(&member.key).name(member.name.as_str());
    let started = spoke.sessions(sessions).operation(operation).start().await;
    let spoke = started.with_context(|| format!("starting {}", member.name))?;
    tally.here(member.number, Kind::Sdk);
    Ok(spoke)
}

/// Tells the tally where the spoke goes, for as long as it lives.
pub(super) async fn watch(spoke: Arc<Spoke>, number: usize, tally: Arc<Tally>) {
    let mut status = spoke.status();
    let mut known = spoke.hubs();
    while status.changed().await.is_ok() {
        let now = spoke.hubs();
        if now.is_empty() {
            tally.gone(number);
        } else {
            tally.here(number, Kind::Sdk);
        }
        for hub in &now {
            if known.contains(hub) {
                continue;
            }
            tally.arrived(number, Kind::Sdk, hub);
            // It takes the place of a hub that the spoke has left.
            if let Some(left) = known.iter().position(|known| !now.contains(known)) {
                known.remove(left);
            }
            known.push(hub.clone());
        }
    }
}
