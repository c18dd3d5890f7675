//! `alkhub status`, `alkhub version` and `alkhub completions`.

use std::process::ExitCode;

use alkhub_protocol::admin::HubReport;
use clap::CommandFactory as _;

use crate::args::{Cli, CompletionsArgs, Output, StatusArgs};
use crate::failure::Failure;
use crate::output;
use crate::patience::patient;

/// Shows the state of a hub.
pub(crate) async fn status(args: StatusArgs) -> Result<ExitCode, Failure> {
    let access = args.client.hub.access()?;
    let client = access.client()?;
    let report = patient(async || client.report().await).await?;
    if args.client.output == Output::Json {
        return output::json(&report);
    }
    let spokes = spokes(&report);
    let facts = [
        ("hub", access.url),
        ("version", report.version),
        ("postgres", report.postgres.to_string()),
        ("redis", report.redis.to_string()),
        ("prefix", report.channel_prefix),
        ("spokes", spokes),
    ];
    let facts = facts.map(|(fact, value)| format!("{fact:<10}{}", output::visible(&value)));
    let pods = report.pods.iter().map(|pod| {
        let state = if pod.draining { "draining" } else { "up" };
        let here = if pod.hub_id == report.hub_id { "answers" } else { "" };
        vec![
            pod.hub_id.to_string(),
            pod.pod.clone(),
            state.to_owned(),
            pod.version.clone(),
            pod.connections.to_string(),
            pod.in_flight.map_or_else(String::new, |calls| calls.to_string()),
            here.to_owned(),
        ]
    });
    let pods = output::table(&["HUB", "POD", "STATE", "VERSION", "CONNECTIONS", "CALLS", ""], pods);
    output::text(&format!("{}\n\n{pods}", facts.join("\n")))
}

/// How many spokes there are, by state; the hub does not count those that are connected nowhere.
fn spokes(report: &HubReport) -> String {
    let connected = format!("{} connected", report.spokes_connected);
    match report.spokes_reconnecting {
        0 => connected,
        reconnecting => format!("{connected}, {reconnecting} reconnecting"),
    }
}

/// Prints the version of this program.
pub(crate) fn version() -> Result<ExitCode, Failure> {
    output::text(&format!("alkhub {}", env!("CARGO_PKG_VERSION")))
}

/// Prints the completion script of a shell.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "alkhub", &mut script);
    output::text(String::from_utf8_lossy(&script).trim_end())
}
