//! Standard output and standard error: a reader that leaves is no error, and nobody's text controls a terminal.
//!
//! Invariants
//! - Other people's text in a table, a row or a line on standard error is on one line and without control characters,
//!   wherever it goes.
//! - What an operation answered is written byte for byte into a pipe or a file. On a terminal, its control characters
//!   are made visible instead of being executed.
//! - Colours appear only on a terminal, and never with `NO_COLOR`.

mod terminal;

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

pub(crate) use self::terminal::visible;
use self::terminal::{is_coloured, visible_json, visible_lines};
use crate::args::Output;
use crate::failure::Failure;

/// Terminals with fewer columns than this get tables that are not fitted to them.
const NARROWEST: u16 = 20;

/// Whether anybody still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Somebody does.
    There,
    /// The pipe is closed: there is nothing more to do.
    Gone,
}

/// The kind of a text on standard output, which decides how a terminal shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputKind {
    /// An answer, with any number of lines.
    Text,
    /// One of many answers, each on a line.
    Item,
    /// JSON.
    Json,
}

/// Writes somebody else's text to standard output, and flushes it: unchanged into a pipe or a file, in readable form on
/// a terminal.
pub(crate) fn data(text: &str, kind: OutputKind) -> Result<Reader, Failure> {
    match (std::io::stdout().is_terminal(), kind) {
        (false, _) => line(text),
        (true, OutputKind::Text) => line(&visible_lines(text)),
        (true, OutputKind::Item) => line(&visible(text)),
        (true, OutputKind::Json) => line(&visible_json(text)),
    }
}

/// Writes a text of our own to standard output and flushes it.
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
    let _ = writeln!(std::io::stderr().lock(), "{}", visible(text));
}

/// Reports why the command failed; returns its exit code.
pub(crate) fn failed(failure: &Failure) -> ExitCode {
    let (line, code) = failure.report();
    marked("alkhub:", AnsiColor::Red, &line);
    code
}

/// Reports something that may not be as it was meant.
pub(crate) fn warning(text: &str) {
    marked("warning:", AnsiColor::Yellow, text);
}

fn marked(mark: &str, colour: AnsiColor, text: &str) {
    let style = match is_coloured(&std::io::stderr()) {
        true => Style::new().bold().fg_color(Some(colour.into())),
        false => Style::new(),
    };
    let text = visible(text);
    let _ = writeln!(std::io::stderr().lock(), "{style}{mark}{style:#} {text}");
}

/// Writes a final text of our own and ends successfully.
pub(crate) fn text(text: &str) -> Result<ExitCode, Failure> {
    line(text).map(|_| ExitCode::SUCCESS)
}

/// Writes a final value as compact JSON and ends successfully.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<ExitCode, Failure> {
    data(&compact(value)?, OutputKind::Json).map(|_| ExitCode::SUCCESS)
}

/// Compact JSON.
pub(crate) fn compact<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Failure::chain(&e))
}

/// JSON for people.
pub(crate) fn pretty<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|e| Failure::chain(&e))
}

/// A list: one JSON array, or a table with these columns; for an empty table, a note.
pub(crate) fn list<T: Serialize>(
    output: Output,
    items: &[T],
    columns: &[&str],
    row: impl Fn(&T) -> Vec<String>,
) -> Result<ExitCode, Failure> {
    match output {
        Output::Json => json(items),
        Output::Table if items.is_empty() => {
            note("none");
            Ok(ExitCode::SUCCESS)
        }
        Output::Table => text(&table(columns, items.iter().map(row))),
    }
}

/// A table without lines; each of its rows is on one line unless a terminal is too narrow.
pub(crate) fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let coloured = is_coloured(&std::io::stdout());
    let mut table = Table::new();
    let header = columns.iter().map(|column| match coloured {
        true => Cell::new(column).add_attribute(Attribute::Bold),
        false => Cell::new(column),
    });
    table.load_style(presets::NOTHING).set_header(header);
    // On a terminal that is too narrow for a row, or whose width is unknown, rows are not fitted.
    let arrangement = match table.width() {
        Some(NARROWEST..) => ContentArrangement::Dynamic,
        _ => ContentArrangement::Disabled,
    };
    table.set_content_arrangement(arrangement);
    for row in rows {
        table.add_row(row.iter().map(|text| {
            let cell = Cell::new(visible(text));
            match colour(text).filter(|_| coloured) {
                Some(colour) => cell.fg(colour),
                None => cell,
            }
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// The colour of a cell that shows a state.
fn colour(cell: &str) -> Option<Color> {
    match cell.split(' ').next()? {
        "connected" | "completed" | "valid" | "up" => Some(Color::Green),
        "failed" | "revoked" | "expired" | "suspended" | "down" => Some(Color::Red),
        "aborted" | "disconnected" | "draining" => Some(Color::Yellow),
        _ => None,
    }
}
