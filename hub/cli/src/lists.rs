//! `alkhub operations` and `alkhub calls`.

mod describe;

use std::process::ExitCode;

use alkhub_protocol::OperationName;
use alkhub_protocol::operation::OperationInfo;
use alkhub_sdk::CallFilter;

use crate::args::{CallsArgs, OperationsArgs, OperationsCommand};
use crate::failure::{Failure, INTERRUPTED};
use crate::follow::{self, Follow};
use crate::output::{self, list};
use crate::patience::patient;
use crate::signals::Signals;

/// Lists what can be called, or describes one operation.
pub(crate) async fn operations(args: OperationsArgs) -> Result<ExitCode, Failure> {
    if let Some(OperationsCommand::Describe(args)) = args.command {
        return describe::describe(&args).await;
    }
    let client = args.client.hub.client()?;
    let operations = patient(async || client.operations(args.search.as_deref()).await).await?;
    list(
        args.client.output,
        &operations,
        &["OPERATION", "KIND", "SPOKES", "DESCRIPTION"],
        |o: &OperationInfo| {
            vec![
                o.operation.to_string(),
                o.spec.kind.to_string(),
                o.spokes.join(","),
                o.spec.description.clone(),
            ]
        },
    )
}

/// Lists ended calls; with `--follow` continues until a signal or until the reader leaves.
pub(crate) async fn calls(args: CallsArgs) -> Result<ExitCode, Failure> {
    let output = args.client.output;
    let operation = args.operation.map(|name| name.parse::<OperationName>()).transpose();
    let operation = operation.map_err(alkhub_sdk::Error::from)?;
    let client = args.client.hub.client()?;
    let filter = CallFilter {
        operation: operation.map(|name| name.to_string()),
        status: args.status.map(|status| status.0),
        limit: Some(args.limit),
        ..CallFilter::default()
    };
    if !args.follow {
        let calls = patient(async || client.calls(&filter).await).await?;
        return list(output, &calls, &follow::COLUMNS, follow::row);
    }
    let mut signals = Signals::listen()?;
    tokio::select! {
        result = Follow::new(client, filter).print(output) => result,
        () = signals.next() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

/// Makes an operation's text about itself fit on one line.
fn one_line(text: &str) -> String {
    output::visible(text)
}
