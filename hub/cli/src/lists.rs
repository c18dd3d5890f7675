//! `alkhub operations`, `alkhub spokes` and `alkhub calls`.

use std::process::ExitCode;

use alkhub_protocol::admin::{SpokeInfo, SpokeStatus};
use alkhub_protocol::call::CallRecord;
use alkhub_protocol::operation::OperationInfo;
use alkhub_protocol::{CallStatus, OperationKind};
use alkhub_sdk::CallFilter;

use crate::args::{CallsArgs, HubArgs, OperationsArgs, Output};
use crate::failure::Failure;
use crate::output::list;

/// Lists what can be called.
pub(crate) async fn operations(args: OperationsArgs, hub: &HubArgs, output: Output) -> Result<ExitCode, Failure> {
    let operations = hub.client()?.operations(args.search.as_deref()).await?;
    list(
        output,
        &operations,
        &["OPERATION", "KIND", "SPOKES", "DESCRIPTION"],
        |o: &OperationInfo| {
            let kind = match o.spec.kind {
                OperationKind::Query => "query",
                OperationKind::Mutation => "mutation",
                OperationKind::Subscription => "subscription",
            };
            vec![
                o.operation.to_string(),
                kind.to_owned(),
                o.spokes.join(","),
                o.spec.description.clone(),
            ]
        },
    )
}

/// Lists spokes, connected or not.
pub(crate) async fn spokes(hub: &HubArgs, output: Output) -> Result<ExitCode, Failure> {
    let spokes = hub.client()?.spokes().await?;
    list(
        output,
        &spokes,
        &["SPOKE", "STATUS", "INSTANCES", "SINCE", "OPERATIONS"],
        |s: &SpokeInfo| {
            let (status, since) = match s.status {
                SpokeStatus::Connected => ("connected", s.connected_at),
                SpokeStatus::Disconnected => ("disconnected", s.disconnected_at),
                SpokeStatus::Suspended => ("suspended", s.disconnected_at),
                SpokeStatus::Other => ("unknown", s.disconnected_at),
            };
            let since = since.map_or_else(String::new, |at| format!("{at:.0}"));
            vec![
                s.name.to_string(),
                status.to_owned(),
                s.instances.len().to_string(),
                since,
                s.operations.join(","),
            ]
        },
    )
}

/// Lists ended calls.
pub(crate) async fn calls(args: CallsArgs, hub: &HubArgs, output: Output) -> Result<ExitCode, Failure> {
    let CallsArgs {
        operation,
        status,
        limit,
    } = args;
    let filter = CallFilter {
        operation,
        status: status.map(Into::into),
        limit: Some(limit),
    };
    let calls = hub.client()?.calls(&filter).await?;
    list(
        output,
        &calls,
        &["STARTED", "OPERATION", "STATUS", "CODE", "SPOKE", "MS"],
        |c: &CallRecord| {
            let status = match c.status {
                CallStatus::Completed => "completed",
                CallStatus::Failed => "failed",
                CallStatus::Aborted => "aborted",
            };
            let (whole, tenth) = (c.duration_us / 1_000, c.duration_us % 1_000 / 100);
            vec![
                format!("{:.3}", c.started_at),
                c.operation.clone(),
                status.to_owned(),
                c.code.clone().unwrap_or_default(),
                c.spoke.clone().unwrap_or_default(),
                format!("{whole}.{tenth}"),
            ]
        },
    )
}
