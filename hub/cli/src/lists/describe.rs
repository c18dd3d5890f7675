//! `alkhub operations describe`: everything that is known about one operation.

use std::process::ExitCode;

use alkhub_protocol::operation::OperationInfo;
use alkhub_sdk::{CallError, Code, OperationName, RawJson};

use super::one_line;
use crate::args::{DescribeArgs, Output};
use crate::failure::Failure;
use crate::json;
use crate::output::{self, OutputKind};
use crate::patience::patient;

/// Describes an operation, whether or not it is offered now.
pub(super) async fn describe(args: &DescribeArgs) -> Result<ExitCode, Failure> {
    let name: OperationName = args.operation.parse().map_err(alkhub_sdk::Error::from)?;
    let client = args.client.hub.client()?;
    let found = patient(async || client.operation(&name).await).await?;
    let unknown = || CallError::new(Code::OperationNotFound, format!("there is no operation `{name}`"));
    let operation = found.ok_or_else(|| Failure::from(alkhub_sdk::Error::from(unknown())))?;
    match args.client.output {
        Output::Json => output::json(&operation),
        Output::Table => output::data(&page(&operation), OutputKind::Text).map(|_| ExitCode::SUCCESS),
    }
}

/// A page for people: a line for each fact, then the schemas.
fn page(operation: &OperationInfo) -> String {
    let OperationInfo {
        operation: name,
        spec,
        spokes,
    } = operation;
    let scopes = &spec.access_control;
    let facts = [
        ("operation", name.to_string()),
        ("kind", spec.kind.to_string()),
        ("version", spec.version.clone()),
        ("title", spec.title.clone().unwrap_or_default()),
        ("description", spec.description.clone()),
        ("tags", spec.tags.join(", ")),
        ("spokes", spokes.join(", ")),
        ("scopes", format!("call:{name}")),
        ("  and all of", scopes.required_scopes.join(", ")),
        ("  and one of", scopes.required_scopes_any.join(", ")),
    ];
    let mut page = String::new();
    for (fact, value) in facts {
        if !value.is_empty() {
            page.push_str(&format!("{fact:<14}{}\n", one_line(&value)));
        }
    }
    page.push_str(&schema("input", &spec.input_schema));
    page.push_str(&schema("output", &spec.output_schema));
    for error in &spec.error_schemas {
        let status = error
            .http_status
            .map_or_else(String::new, |status| format!(" ({status})"));
        let title = format!("error {}{status}: {}", error.code, error.description);
        page.push_str(&schema(&one_line(&title), &error.schema));
    }
    page.truncate(page.trim_end().len());
    page
}

fn schema(title: &str, schema: &RawJson) -> String {
    format!("\n{title}\n{}\n", json::indented(schema))
}
