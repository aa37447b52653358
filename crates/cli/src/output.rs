//! Prints the output of a command.

use std::io::{self, Write as _};

use anyhow::Context as _;
use serde_json::Value;

/// Prints the result of a command to standard output.
///
/// A closed pipe (`| head`) is not an error, because the exit code still reports the outcome.
///
/// # Errors
/// The result cannot be written.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(()),
    }
}

/// Prints one JSON document to standard output.
///
/// # Errors
/// The document cannot be written.
pub(crate) fn print_json(document: &Value) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(document)?)
}

/// Prints progress, such as the address of a listener. Ignores errors, so that the command
/// continues without a reader.
pub(crate) fn print_progress(text: &str) {
    let _ = print(text);
}

/// Prints an error to standard error.
pub(crate) fn print_error(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "filepull: {error:#}");
}

/// Prints a remark to standard error, so that standard output holds only the result.
pub(crate) fn print_note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Formats rows as lines. Columns are as wide as their widest cell and two spaces apart.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths);
        let padded: Vec<String> = cells.map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
