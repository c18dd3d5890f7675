//! `alkhub call`: one call, or one subscription, from the shell.
//!
//! Promises
//! - It needs no right but that to call the operation: the answer shows whether items come.
//! - `--timeout` is over everything, including a hub that does not answer and attempts to reach one.

use std::process::ExitCode;

use alkhub_sdk::{CallOptions, Client, OperationName, Outcome, RawJson, Streamed};

use crate::args::{CallArgs, Output};
use crate::failure::{Failure, INTERRUPTED};
use crate::json;
use crate::output::{self, OutputKind, Reader};
use crate::patience;
use crate::signals::Signals;

/// Makes the call and prints the result; a signal aborts the call at the spoke.
pub(crate) async fn call(args: CallArgs) -> Result<ExitCode, Failure> {
    let operation: OperationName = args.operation.parse().map_err(alkhub_sdk::Error::from)?;
    let target = args
        .target
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(alkhub_sdk::Error::from)?;
    args.client
        .hub
        .leaves_standard_input_to(args.input.as_deref(), "INPUT")?;
    let input = read_json(args.input.as_deref())?;
    let options = CallOptions {
        timeout: args.timeout.map(|time| time.0),
        target,
        without_input: args.input.is_none(),
        ..CallOptions::default()
    };
    let client = args.client.hub.client()?;
    let mut signals = Signals::listen()?;
    // Leaving closes the connection, on which the hub aborts the call.
    tokio::select! {
        result = run(&client, &operation, &input, &options, args.client.output) => result,
        () = signals.next() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

async fn run(
    client: &Client,
    operation: &OperationName,
    input: &RawJson,
    options: &CallOptions,
    output: Output,
) -> Result<ExitCode, Failure> {
    let outcome = patience::within(options.timeout, async |timeout| {
        let options = CallOptions {
            timeout,
            ..options.clone()
        };
        client.outcome(operation, input, &options).await
    });
    match outcome.await.map_err(Failure::of_call)? {
        Outcome::Value(data) => {
            let text = shown(&data, output, true);
            output::data(&text, kind(output, whole(&data))).map(|_| ExitCode::SUCCESS)
        }
        Outcome::Items(items) => print(items, output).await,
    }
}

/// Prints items until the subscription ends or the reader leaves.
async fn print(mut items: Box<Streamed>, output: Output) -> Result<ExitCode, Failure> {
    while let Some(item) = items.next().await {
        let item = item.map_err(Failure::of_call)?;
        if output::data(&shown(&item, output, false), kind(output, OutputKind::Item))? == Reader::Gone {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How a single answer is shown, unless JSON is asked for.
fn whole(data: &RawJson) -> OutputKind {
    match data.as_str().starts_with('"') {
        true => OutputKind::Text,
        false => OutputKind::Json,
    }
}

fn kind(output: Output, otherwise: OutputKind) -> OutputKind {
    match output {
        Output::Json => OutputKind::Json,
        Output::Table => otherwise,
    }
}

/// A text as it is, anything else as JSON: indented if it may take several lines, otherwise on one. Nothing is parsed,
/// so what the operation answered is shown to the last digit.
pub(crate) fn shown(data: &RawJson, output: Output, many_lines: bool) -> String {
    match (output, json::text(data)) {
        (Output::Table, Some(text)) => text,
        (Output::Table, None) if many_lines => json::indented(data),
        (Output::Table | Output::Json, _) => json::compact(data),
    }
}

/// JSON from an argument, from `@file` or, for `-`, from standard input; `null` without an argument.
pub(crate) fn read_json(argument: Option<&str>) -> Result<RawJson, Failure> {
    let (text, origin) = match argument {
        None => return Ok(RawJson::null()),
        Some("-") => (std::io::read_to_string(std::io::stdin())?, "standard input".to_owned()),
        Some(text) => match text.strip_prefix('@') {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                (
                    text.map_err(|e| Failure::usage(format!("cannot read {path}: {e}")))?,
                    path.to_owned(),
                )
            }
            None => (text.to_owned(), "the argument".to_owned()),
        },
    };
    let hint = if origin == "the argument" {
        " (a text needs quotes: '\"hello\"')"
    } else {
        ""
    };
    RawJson::parse(text).map_err(|e| Failure::input(format!("{origin} is not JSON{hint}: {e}")))
}
