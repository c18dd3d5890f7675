//! The file of `alkhub offer --file`: several operations of one spoke, YAML.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use alkhub_sdk::{OperationKind, OperationName, RawJson};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{CONCURRENCY, Offer, spec, yaml};
use crate::args::OfferArgs;
use crate::failure::Failure;
use crate::offer::process::Command;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SpokeFile {
    /// The spoke's name; if absent, that of the key.
    #[serde(default)]
    spoke: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    concurrency: Option<NonZeroU32>,
    operations: Vec<OperationEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct OperationEntry {
    name: String,
    #[serde(default)]
    kind: Option<OperationKind>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    required_scopes: Vec<String>,
    /// Read from [`Schemas`].
    #[serde(default, rename = "inputSchema")]
    _input_schema: Option<IgnoredAny>,
    #[serde(default, rename = "outputSchema")]
    _output_schema: Option<IgnoredAny>,
    command: Vec<String>,
    /// Whether the command gets the hub's address and the offer's key in its environment.
    #[serde(default)]
    pass_key: bool,
    /// Where the command runs, relative to the file.
    #[serde(default)]
    folder: Option<PathBuf>,
}

/// The schemas of the same file, with each number as it is written.
#[derive(Debug, Deserialize)]
struct SpokeSchemas {
    operations: Vec<Schemas>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Schemas {
    #[serde(default)]
    input_schema: Option<RawJson>,
    #[serde(default)]
    output_schema: Option<RawJson>,
}

/// Reads the file; `--spoke` and `--concurrency` override it. Commands run in the file's folder unless they name
/// another.
pub(super) fn read(path: &Path, args: &OfferArgs) -> Result<Offer, Failure> {
    let text =
        std::fs::read_to_string(path).map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display())))?;
    let base = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let wrong = |reason| Failure::usage(format!("{}: {reason}", path.display()));
    let mut offer = parse(&text, base).map_err(wrong)?;
    offer.check(args.path.as_deref()).map_err(wrong)?;
    offer.spoke = args.spoke.clone().or(offer.spoke);
    offer.concurrency = args.concurrency.unwrap_or(offer.concurrency);
    Ok(offer)
}

fn parse(text: &str, base: &Path) -> Result<Offer, String> {
    let file: SpokeFile = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
    let SpokeFile {
        spoke,
        labels,
        concurrency,
        operations,
    } = file;
    if operations.is_empty() {
        return Err("`operations` is empty: offer at least one".to_owned());
    }
    let json = yaml::json(text).map_err(|e| format!("it cannot be written as JSON: {e}"))?;
    let schemas: SpokeSchemas = serde_json::from_str(&json).map_err(|e| e.to_string())?;
    let operations = operations
        .into_iter()
        .zip(schemas.operations)
        .map(|(entry, schemas)| entry.read(schemas, base))
        .collect::<Result<_, _>>()?;
    Ok(Offer {
        spoke,
        labels,
        concurrency: concurrency.map_or(CONCURRENCY, NonZeroU32::get),
        operations,
        quiet: false,
        sessions: 2,
    })
}

// === impl OperationEntry ===

impl OperationEntry {
    fn read(self, schemas: Schemas, base: &Path) -> Result<(alkhub_protocol::OperationSpec, Command), String> {
        let name: OperationName = self
            .name
            .parse()
            .map_err(|e: alkhub_protocol::id::InvalidId| e.to_string())?;
        let kind = self.kind.unwrap_or(OperationKind::Mutation);
        let mut spec = spec(&name, kind, schemas.input_schema, schemas.output_schema);
        spec.description = self.description;
        spec.tags = self.tags;
        spec.access_control.required_scopes = self.required_scopes;
        let folder = self.folder.map_or_else(|| base.to_owned(), |folder| base.join(folder));
        let mut command = Command::new(self.command, Some(folder), &spec).map_err(|e| format!("`{name}`: {e}"))?;
        if self.pass_key {
            command = command.with_key();
        }
        Ok((spec, command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_offers_several_operations() {
        let offer = parse(
            "
            spoke: repo
            operations:
              - name: git.log
                kind: query
                description: The last commits
                command: [git, log, --oneline]
              - {name: files.watch, kind: subscription, command: [inotifywait, -m, .], outputSchema: {type: object}}
            ",
            Path::new("/r"),
        )
        .expect("valid");

        assert_eq!(offer.spoke.as_deref(), Some("repo"));
        let kinds: Vec<_> = offer
            .operations
            .iter()
            .map(|(spec, _)| (spec.name.as_str(), spec.kind))
            .collect();
        assert_eq!(
            kinds,
            [("log", OperationKind::Query), ("watch", OperationKind::Subscription)]
        );
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, named) in [
            ("operations: []", "operations"),
            ("operations: [{name: nodot, command: [a]}]", "namespace.operation"),
            ("operations: [{name: a.b, command: []}]", "command"),
            ("operations: [{name: a.b, comand: [a]}]", "comand"),
            ("operations: [{name: a.b, kind: stream, command: [a]}]", "stream"),
        ] {
            let error = parse(text, Path::new(".")).expect_err(text);
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
