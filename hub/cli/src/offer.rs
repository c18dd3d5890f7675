//! `alkhub offer`: commands as operations, offered by a real spoke.

mod check;
mod file;
mod process;
mod yaml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use alkhub_protocol::SpokeName;
use alkhub_protocol::operation::{AccessControl, OperationSpec};
use alkhub_protocol::register::RegisterOutput;
use alkhub_sdk::{Code, Error, OperationKind, OperationName, RawJson, Spoke, Status};
use tokio_util::task::TaskTracker;

use self::process::Command;
use crate::args::OfferArgs;
use crate::failure::{Failure, chain};
use crate::hub::HubAccess;
use crate::output;
use crate::signals::Signals;

/// How many commands run at once by default.
const CONCURRENCY: u32 = 16;

/// What is offered, and as whom.
#[derive(Debug)]
struct Offer {
    spoke: Option<String>,
    labels: BTreeMap<String, String>,
    concurrency: u32,
    operations: Vec<(OperationSpec, Command)>,
    /// Whether calls are not shown.
    quiet: bool,
    /// How many sessions the spoke holds if there are several hubs.
    sessions: u8,
}

/// Offers until a signal; then running commands finish, unless a second signal comes.
pub(crate) async fn offer(mut args: OfferArgs) -> Result<ExitCode, Failure> {
    let access = args.hub.access();
    let quiet = std::mem::take(&mut args.quiet);
    let sessions = args.sessions;
    let mut offer = match &args.file {
        Some(path) => file::read(path, &args)?,
        None => Offer::of_one(args)?,
    };
    (offer.quiet, offer.sessions) = (quiet, sessions);
    let tasks = TaskTracker::new();
    let mut signals = Signals::listen()?;
    // After the offer's own mistakes.
    let access = access?;
    let mut spoke = offer.spawn(&access, None, &tasks)?;
    let result = tokio::select! {
        result = follow(&mut spoke, &offer, &access, &tasks) => result,
        () = signals.next() => {
            if spoke.running() > 0 {
                output::note(&format!("finishing {} running calls; Ctrl-C again ends them", spoke.running()));
            }
            tokio::select! { () = spoke.shutdown() => {}, () = signals.next() => {} }
            Ok(ExitCode::SUCCESS)
        }
    };
    drop(spoke);
    // Commands whose call was aborted are still being ended.
    tasks.close();
    tasks.wait().await;
    result
}

/// Shows connections and losses on standard error; ends with the spoke.
///
/// The key decides which spoke registers. If the key belongs to no spoke (as the admin's), the hub asks for a name,
/// which is then the operations' namespace.
/// operations' namespace.
async fn follow(
    spoke: &mut Spoke,
    offer: &Offer,
    access: &HubAccess,
    tasks: &TaskTracker,
) -> Result<ExitCode, Failure> {
    let result = show(spoke, &offer.names()).await;
    match (result, offer.namespace()) {
        (Err(Error::Call(error)), Some(namespace)) if error.code == Code::BadRequest && offer.spoke.is_none() => {
            *spoke = offer.spawn(access, Some(namespace), tasks)?;
            Ok(show(spoke, &offer.names()).await?)
        }
        (Err(Error::Call(error)), None)
            if error.code == Code::BadRequest && offer.spoke.is_none() && error.message.contains("`name`") =>
        {
            Err(Failure::usage(format!(
                "the key is of no spoke, and the namespace of {} makes no spoke's name: give one with --spoke NAME",
                offer.names()
            )))
        }
        (result, _) => Ok(result?),
    }
}

async fn show(spoke: &Spoke, names: &str) -> Result<ExitCode, Error> {
    let mut status = spoke.status();
    let mut shown = String::new();
    loop {
        let now = status.borrow_and_update().clone();
        let line = match now {
            Status::Registered(output) => registered(&output, &spoke.hubs(), names),
            Status::Connecting(None) => String::new(),
            Status::Connecting(Some(error)) => format!("{}; trying again", chain(&error)),
            Status::Ended(Some(error)) => return Err(error),
            Status::Ended(None) => return Ok(ExitCode::SUCCESS),
        };
        if !line.is_empty() && line != shown {
            output::note(&line);
            shown = line;
        }
        if status.changed().await.is_err() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn registered(output: &RegisterOutput, hubs: &[String], names: &str) -> String {
    use alkhub_protocol::register::Registered;
    let refused = output.operations.iter().filter(|o| o.result == Registered::Rejected);
    let refused: Vec<_> = refused
        .map(|o| {
            format!(
                "; refused {}: {}",
                o.name,
                o.reason.as_deref().unwrap_or("no reason given")
            )
        })
        .collect();
    let over = if hubs.len() > 1 {
        format!(" over two sessions, on {}", hubs.join(" and "))
    } else {
        String::new()
    };
    format!(
        "offering {names} as spoke `{}`{over}{}",
        output.spoke_id,
        refused.concat()
    )
}

// === impl Offer ===

impl Offer {
    fn of_one(args: OfferArgs) -> Result<Self, Failure> {
        let OfferArgs {
            name,
            spoke,
            kind,
            description,
            input_schema,
            output_schema,
            concurrency,
            pass_key,
            command,
            path,
            ..
        } = args;
        let name: OperationName = name.unwrap_or_default().parse().map_err(alkhub_sdk::Error::from)?;
        let input = input_schema.as_deref().map(schema_file).transpose()?;
        let output = output_schema.as_deref().map(schema_file).transpose()?;
        let mut spec = spec(&name, kind.0, input, output);
        spec.description = if description.is_empty() {
            format!("`{}`", command.join(" "))
        } else {
            description
        };
        let mut command = Command::new(command, None, &spec)?;
        if pass_key {
            command = command.with_key();
        }
        let offer = Self {
            spoke,
            labels: BTreeMap::new(),
            concurrency: concurrency.unwrap_or(CONCURRENCY),
            operations: vec![(spec, command)],
            quiet: false,
            sessions: 2,
        };
        offer.check(path.as_deref()).map_err(Failure::usage)?;
        Ok(offer)
    }

    fn names(&self) -> String {
        let names = self
            .operations
            .iter()
            .map(|(spec, _)| format!("{}.{}", spec.namespace, spec.name));
        names.collect::<Vec<_>>().join(", ")
    }

    /// A spoke's name, made from the first operation's namespace.
    fn namespace(&self) -> Option<String> {
        let (spec, _) = self.operations.first()?;
        let name = spec.namespace.to_ascii_lowercase().replace('_', "-");
        name.parse::<SpokeName>().ok().map(|name| name.to_string())
    }

    fn spawn(&self, access: &HubAccess, name: Option<String>, tasks: &TaskTracker) -> Result<Spoke, Failure> {
        let Self {
            spoke,
            labels,
            concurrency,
            operations,
            quiet,
            sessions,
        } = self;
        let mut builder = access.spoke().concurrency(*concurrency).sessions(*sessions);
        if let Some(name) = spoke.clone().or(name) {
            builder = builder.name(name);
        }
        for (key, value) in labels {
            builder = builder.label(key, value);
        }
        for (spec, command) in operations {
            builder = builder.operation(
                command
                    .clone()
                    .at(access, *quiet)
                    .operation(spec.clone(), tasks.clone()),
            );
        }
        Ok(builder.spawn()?)
    }
}

/// The specification from the arguments; by default any input, and a text as output.
fn spec(name: &OperationName, kind: OperationKind, input: Option<RawJson>, output: Option<RawJson>) -> OperationSpec {
    OperationSpec {
        name: name.operation().to_owned(),
        namespace: name.namespace().to_owned(),
        version: "1.0.0".to_owned(),
        kind,
        title: None,
        description: String::new(),
        tags: Vec::new(),
        input_schema: input.unwrap_or_else(|| serde_json::json!(true).into()),
        output_schema: output.unwrap_or_else(|| serde_json::json!({ "type": "string" }).into()),
        error_schemas: Vec::new(),
        access_control: AccessControl::default(),
        idempotent: false,
        meta: None,
    }
}

fn schema_file(path: &Path) -> Result<RawJson, Failure> {
    let path: PathBuf = path.to_owned();
    let text = std::fs::read_to_string(&path)
        .map_err(|e| Failure::usage(format!("cannot read the schema {}: {e}", path.display())))?;
    RawJson::parse(text).map_err(|e| Failure::usage(format!("the schema {} is not JSON: {e}", path.display())))
}
