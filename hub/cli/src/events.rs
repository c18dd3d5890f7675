//! `alkhub publish` and `alkhub subscribe`.

use std::process::ExitCode;

use alkhub_sdk::{Client, Delivery, RawJson, Topic};
use futures::StreamExt as _;
use serde::Serialize;

use crate::args::{ClientArgs, Output, PublishArgs, SubscribeArgs};
use crate::call::{read_json, shown};
use crate::failure::{Failure, INTERRUPTED};
use crate::json;
use crate::output::{self, OutputKind, Reader};
use crate::patience::patient;
use crate::signals::Signals;

/// An event as a line of JSON: the envelope of the wire.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    event_type: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawJson>,
}

/// Publishes one event and waits until the hub has taken it.
pub(crate) async fn publish(args: PublishArgs) -> Result<ExitCode, Failure> {
    let ClientArgs { hub, output } = &args.client;
    let topic = Topic::new(&args.event_type, &args.id).map_err(alkhub_sdk::Error::from)?;
    hub.leaves_standard_input_to(args.payload.as_deref(), "JSON")?;
    let payload = args
        .payload
        .as_deref()
        .map(|payload| read_json(Some(payload)))
        .transpose()?;
    let client = hub.client()?;
    patient(async || client.publish_raw(topic.as_str(), payload.as_ref()).await).await?;
    match output {
        Output::Json => output::json(&serde_json::json!({ "topic": topic.as_str() })),
        Output::Table => {
            output::note(&format!("published to {topic}"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Prints events until a signal, until the wanted number of them, or until the reader leaves.
pub(crate) async fn subscribe(args: SubscribeArgs) -> Result<ExitCode, Failure> {
    let topic = filter(&args.topic)?;
    let client = args.client.hub.client()?;
    let mut signals = Signals::listen()?;
    let result = tokio::select! {
        result = follow(&client, &topic, args.count, args.client.output) => result,
        () = signals.next() => Ok(ExitCode::from(INTERRUPTED)),
    };
    client.close().await;
    result
}

/// A topic as the hub reads it: a type alone means all its ids.
fn filter(topic: &str) -> Result<String, Failure> {
    let (event_type, id) = topic.split_once(':').unwrap_or((topic, "*"));
    if event_type.contains('*') {
        return Err(Failure::usage(format!(
            "`{topic}`: there is no wildcard over types: name TYPE for all its ids, or TYPE:ID"
        )));
    }
    Ok(format!("{event_type}:{id}"))
}

async fn follow(client: &Client, topic: &str, count: Option<u64>, output: Output) -> Result<ExitCode, Failure> {
    let mut events = patient(async || client.events(topic).await).await?;
    output::note(&format!("listening on {topic}"));
    let mut left = count;
    while left != Some(0) {
        let Some(delivery) = events.next().await else { break };
        let delivery = delivery?;
        if let (Delivery::Event(_), Some(left)) = (&delivery, &mut left) {
            *left -= 1;
        }
        if print(&delivery, output)? == Reader::Gone {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(delivery: &Delivery, output: Output) -> Result<Reader, Failure> {
    match (delivery, output) {
        (Delivery::Event(event), Output::Json) => {
            let (event_type, id) = (event.topic.event_type(), event.topic.id());
            let line = Line {
                event_type,
                id,
                payload: event.payload.as_ref(),
            };
            let line = RawJson::from_value(&line).map_err(|e| Failure::chain(&e))?;
            output::data(&json::compact(&line), OutputKind::Json)
        }
        (Delivery::Event(event), Output::Table) => {
            let payload = event.payload.as_ref().map(|payload| shown(payload, output, false));
            // One line per event: characters that would begin another line, or control the terminal, are made visible.
            let line = format!("{}  {}", event.topic, payload.unwrap_or_default());
            output::line(output::visible(&line).trim_end())
        }
        (Delivery::Gap(gap), Output::Json) => {
            let line = serde_json::json!({ "type": "__gap", "payload": gap });
            output::data(&output::compact(&line)?, OutputKind::Json)
        }
        (Delivery::Gap(gap), Output::Table) => {
            let missed = gap
                .missed
                .map_or_else(String::new, |missed| format!("{missed} events of "));
            output::warning(&format!("gap: {missed}{} were lost ({})", gap.topic, gap.reason));
            Ok(Reader::There)
        }
    }
}
