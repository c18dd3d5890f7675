//! `alkhub call`: one call, or one subscription, from the shell.

use std::process::ExitCode;

use alkhub_sdk::{CallOptions, Client, Items, OperationKind, OperationName, RawJson};
use futures::StreamExt as _;

use crate::args::{CallArgs, Output};
use crate::failure::{Failure, INTERRUPTED};
use crate::json;
use crate::output::{self, Form, Reader};
use crate::signals::Signals;

/// Calls and prints; a signal aborts the call at the spoke.
pub(crate) async fn call(args: CallArgs) -> Result<ExitCode, Failure> {
    let operation: OperationName = args.operation.parse().map_err(alkhub_sdk::Error::from)?;
    let target = args
        .target
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(alkhub_sdk::Error::from)?;
    let input = read_json(args.input.as_deref())?;
    let options = CallOptions {
        timeout: args.timeout.map(|time| time.0),
        target,
        ..CallOptions::default()
    };
    let client = args.client.hub.client()?;
    let mut signals = Signals::listen()?;
    let result = tokio::select! {
        result = run(&client, &operation, &input, options, args.client.output) => result,
        () = signals.next() => Ok(ExitCode::from(INTERRUPTED)),
    };
    // An abort that is queued must leave before the process ends.
    client.close().await;
    result
}

async fn run(
    client: &Client,
    operation: &OperationName,
    input: &RawJson,
    options: CallOptions,
    output: Output,
) -> Result<ExitCode, Failure> {
    // Who may call and not list gets an answer all the same: the first item.
    let known = client.operation(operation).await.ok().flatten();
    if known.is_some_and(|known| known.spec.kind == OperationKind::Subscription) {
        let mut items: Items<RawJson> = client.subscribe_with(operation.as_str(), input, options).await?;
        while let Some(item) = items.next().await {
            if output::data(&shown(&item?, output, false), form(output, Form::Item))? == Reader::Gone {
                break;
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let data = client.call_raw(operation, input, &options).await?;
    let text = shown(&data, output, true);
    output::data(&text, form(output, whole(&data))).map(|_| ExitCode::SUCCESS)
}

/// What one answer is, where it is not asked for as JSON.
fn whole(data: &RawJson) -> Form {
    match data.as_str().starts_with('"') {
        true => Form::Text,
        false => Form::Json,
    }
}

fn form(output: Output, otherwise: Form) -> Form {
    match output {
        Output::Json => Form::Json,
        Output::Table => otherwise,
    }
}

/// A text as it is, anything else as JSON: indented where it may take many lines, else on one. Nothing is parsed: what the
/// operation answered is shown to the digit.
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
