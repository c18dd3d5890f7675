//! Standard output and standard error: a reader that leaves is no error.

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::args::Output;
use crate::failure::Failure;

/// Whether anybody still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Somebody does.
    There,
    /// The pipe is closed: there is no more to do.
    Gone,
}

/// Writes one line to standard output and flushes it.
pub(crate) fn line(text: &str) -> Result<Reader, Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::other(format!("cannot write to standard output: {error}"))),
    }
}

/// Writes one line to standard error, where a failure to write helps nobody.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes a last text and ends well.
pub(crate) fn text(text: &str) -> Result<ExitCode, Failure> {
    line(text).map(|_| ExitCode::SUCCESS)
}

/// Compact JSON.
pub(crate) fn compact<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Failure::chain(&e))
}

/// JSON for people.
pub(crate) fn pretty<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|e| Failure::chain(&e))
}

/// A list: one JSON array, or a table with these columns; an empty table is a note.
pub(crate) fn list<T: Serialize>(
    output: Output,
    items: &[T],
    columns: &[&str],
    row: impl Fn(&T) -> Vec<String>,
) -> Result<ExitCode, Failure> {
    match output {
        Output::Json => text(&compact(items)?),
        Output::Table if items.is_empty() => {
            note("none");
            Ok(ExitCode::SUCCESS)
        }
        Output::Table => {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header(columns.iter().copied());
            let arrangement = match std::io::stdout().is_terminal() {
                true => ContentArrangement::Dynamic,
                false => ContentArrangement::Disabled,
            };
            table.set_content_arrangement(arrangement);
            for item in items {
                table.add_row(row(item));
            }
            for column in table.column_iter_mut() {
                column.set_padding((0, 2));
            }
            text(table.trim_fmt().as_str())
        }
    }
}
