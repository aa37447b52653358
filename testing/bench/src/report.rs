//! Output: the header, aligned tables, and the raw figures as JSON.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::machine::Machine;

/// The header of every report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ReportHead {
    pub(crate) machine: Machine,
    pub(crate) versions: Vec<String>,
    /// The command that repeats the measurement.
    pub(crate) command: String,
}

/// A complete measurement, as written to the JSON file.
#[derive(Debug, Serialize)]
pub(crate) struct BenchReport<'a, T> {
    pub(crate) mode: &'static str,
    pub(crate) head: &'a ReportHead,
    pub(crate) results: T,
}

/// Rows under headings. The first column and columns whose heading starts with a space contain
/// text, aligned left.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        let headings = headings.iter().map(|&heading| heading.to_owned()).collect();
        Self { rows: vec![headings] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(headings) = self.rows.first() else { return Ok(()) };
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        let is_text: Vec<bool> = headings
            .iter()
            .enumerate()
            .map(|(column, heading)| column == 0 || heading.starts_with(' '))
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, &width), &is_text) in row.iter().zip(&widths).zip(&is_text) {
                let cell =
                    if is_text { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
                line.push_str(&cell);
                line.push_str("  ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl fmt::Display for ReportHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "machine   {}", self.machine.description())?;
        write!(f, "versions  {}", self.versions.join("; "))
    }
}

/// Writes the raw figures if `--json` was given.
pub(crate) fn write_json(file: Option<&Path>, report: &impl Serialize) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(report)? + "\n";
    fs::write(file, text).with_context(|| file.display().to_string())
}

/// Prints figures to standard output. If the reader is gone, the JSON file is still written.
pub(crate) fn print(text: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints progress to standard error.
pub(crate) fn log_progress(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

pub(crate) fn mib(bytes: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "one digit after the point is printed")]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_aligned_right_and_text_left() {
        let mut table = Table::new(&["what", "MB/s", " guarantees"]);
        table.row(["filepull".into(), "1050".into(), "all".into()]);
        table.row(["scp".into(), "9".into(), "nothing".into()]);
        let expected =
            "what      MB/s   guarantees\nfilepull  1050  all\nscp          9  nothing\n";
        assert_eq!(table.to_string(), expected);
    }
}
