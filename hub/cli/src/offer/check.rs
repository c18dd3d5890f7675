//! Mistakes in an offer that can be seen here: refused before a hub is asked, naming the operation and the field.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use alkhub_protocol::scope;
use alkhub_sdk::RawJson;

use super::Offer;
use crate::output;

/// The namespace of the hub's own operations.
const RESERVED: &str = "hub";

// === impl Offer ===

impl Offer {
    /// Checks every operation; `path` is where programs given without a folder are searched.
    pub(super) fn check(&self, path: Option<&OsStr>) -> Result<(), String> {
        let mut names = BTreeSet::new();
        for (spec, command) in &self.operations {
            let name = format!("{}.{}", spec.namespace, spec.name);
            let named = |reason: String| format!("`{name}`: {reason}");
            if spec.namespace == RESERVED {
                return Err(named(
                    "the namespace `hub` is reserved for the hub's own operations".to_owned(),
                ));
            }
            if !names.insert(name.clone()) {
                return Err(named("the name is there twice".to_owned()));
            }
            for (field, text) in [
                ("inputSchema", &spec.input_schema),
                ("outputSchema", &spec.output_schema),
            ] {
                for warning in schema(field, text).map_err(named)? {
                    output::warning(&named(warning));
                }
            }
            let scopes = &spec.access_control.required_scopes;
            let scopes = scopes.iter().try_for_each(|scope| scope::check(scope));
            scopes.map_err(|error| named(format!("`requiredScopes`: {error}")))?;
            if let Some(folder) = command.folder().filter(|folder| !folder.is_dir()) {
                return Err(named(format!("`folder`: there is no folder {}", folder.display())));
            }
            program(command.program(), command.folder(), path).map_err(named)?;
        }
        Ok(())
    }
}

/// Checks a schema as the hub will; the parts that the hub does not check are returned as warnings.
fn schema(field: &str, schema: &RawJson) -> Result<Vec<String>, String> {
    let warnings = alkhub_schema::check_schema(schema).map_err(|error| format!("`{field}` {error}"))?;
    let named = |warning| format!("`{field}`: {warning}");
    Ok(warnings.into_iter().map(named).collect())
}

/// A name with a `/` is resolved from the folder in which the command runs; any other is searched in `PATH`.
fn program(program: &str, folder: Option<&Path>, path: Option<&OsStr>) -> Result<(), String> {
    let base = folder.unwrap_or_else(|| Path::new("."));
    let found = if program.contains('/') {
        is_program(&base.join(program))
    } else {
        let folders = path.into_iter().flat_map(std::env::split_paths);
        folders
            .map(|folder| base.join(folder).join(program))
            .any(|file| is_program(&file))
    };
    if found {
        return Ok(());
    }
    let place = if program.contains('/') { "" } else { " in PATH" };
    Err(format!("`command`: there is no program `{program}`{place}"))
}

fn is_program(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
