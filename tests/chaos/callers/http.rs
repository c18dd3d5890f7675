//! Callers over HTTP, at whichever hub is there, and publishers.

use std::collections::HashMap;
use std::time::Duration;

use alkhub_test_support::pause;
use alkhub_tests::http::Http;
use alkhub_tests::promise::delivered;
use serde_json::json;
use tokio::time::timeout;

use super::{TIMEOUT, rest};
use crate::ledger::{End, Kind};
use crate::run::Run;
use crate::schedule::HUBS;
use crate::world::PATIENCE;

/// The time between two events.
const BETWEEN: Duration = Duration::from_millis(50);

/// Makes one call after another.
pub(crate) async fn call(run: Run) {
    let (mut chance, mut clients) = (run.chance(400), HashMap::<String, Http>::new());
    while !run.stop.is_cancelled() {
        let hub = chance.usize(..HUBS);
        let kind = if chance.bool() { Kind::Query } else { Kind::Mutation };
        let operation = run.operation(&mut chance, kind);
        if let Some(url) = run.places.url(hub) {
            let http = clients.entry(url.clone()).or_insert_with(|| Http::new(url, &*run.key));
            let call = run.begins(&operation, kind);
            // `None` means that the connection broke; a call that is not answered in time counts as one that never
            // ended.
            let answer = timeout(PATIENCE, send(http, &operation, call.number)).await;
            match answer {
                Ok(Some(end)) => call.ends(end),
                Ok(None) => drop(call),
                Err(_) => run
                    .ledger
                    .broken(format!("call {} of {operation} is not answered", call.number)),
            }
        }
        pause(rest(&mut chance)).await;
    }
}

async fn send(http: &Http, operation: &str, number: u64) -> Option<End> {
    let path = format!("/v1/call/{operation}");
    let limit = TIMEOUT.as_millis().to_string();
    let headers = [("Alkhub-Timeout", limit.as_str())];
    let answer = http
        .send_with("POST", &path, Some(&json!(number)), &headers)
        .await
        .ok()?;
    Some(if answer.status == 200 {
        End::Output(answer.body["data"].clone())
    } else {
        let code = answer.body["code"].as_str().unwrap_or("none");
        End::Failed(code.to_owned(), delivered(answer.body["delivered"].as_str()))
    })
}

/// Publishes through one hub, whichever process serves it, until the run stops.
pub(crate) async fn publish(run: Run, hub: usize) {
    let mut client: Option<(String, Http)> = None;
    let (mut publisher, mut number) = (0, 0);
    while !run.stop.is_cancelled() {
        pause(BETWEEN).await;
        let Some(url) = run.places.url(hub) else {
            continue;
        };
        if client.as_ref().is_none_or(|(at, _)| *at != url) {
            client = Some((url.clone(), Http::new(url, &*run.key)));
            (publisher, number) = (publisher + 1, 0);
        }
        let http = client.as_ref().map(|(_, http)| http);
        let event = json!({ "from": format!("{hub}.{publisher}"), "number": number });
        if let Some(http) = http
            && is_taken(http, &run.topic(), &event).await
        {
            run.ledger.count("events taken");
            number += 1;
        } else {
            run.ledger.count("events not taken");
            (publisher, number) = (publisher + 1, 0);
        }
    }
}

/// Publishes one event; returns whether the hub accepted it.
pub(crate) async fn is_taken(http: &Http, topic: &str, event: &serde_json::Value) -> bool {
    let path = format!("/v1/events/{}", topic.replacen(':', "/", 1));
    let answer = timeout(TIMEOUT, http.send("POST", &path, Some(event))).await;
    matches!(answer, Ok(Ok(answer)) if answer.status == 202)
}
