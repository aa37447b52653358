//! `filepull-agent log`: prints the log as a table or as lines of JSON.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use chrono::SecondsFormat;
use filepull_core::human;

use super::file::LogFolder;
use super::record::{TransferEvent, TransferRecord};

/// The records of the agents on this machine.
#[derive(Debug, Default)]
pub(crate) struct LogReport {
    /// One for each transfer, oldest first: its end, or its start if it has not ended.
    records: Vec<TransferRecord>,
    /// One sentence for each log that cannot be read.
    unreadable: Vec<String>,
    dirs: Vec<PathBuf>,
}

impl LogReport {
    /// Reads the log in each of `dirs`; with a `client` only its records. Keeps the newest `limit`.
    pub(crate) fn read(dirs: &[PathBuf], client: Option<&str>, limit: usize) -> Self {
        let mut report = Self { dirs: dirs.to_owned(), ..Self::default() };
        for dir in dirs {
            match LogFolder::new(dir).read() {
                Ok(records) => report.records.extend(without_starts(records)),
                Err(error) => report.unreadable.push(cannot_read(dir, &error)),
            }
        }
        report.records.retain(|record| client.is_none_or(|client| client == record.client));
        report.records.sort_by_key(|record| record.time);
        let n_older = report.records.len().saturating_sub(limit);
        report.records.drain(..n_older);
        report
    }

    /// Returns whether every log could be read.
    pub(crate) fn is_complete(&self) -> bool {
        self.unreadable.is_empty()
    }

    /// Returns one JSON object for each transfer, in a line of its own. The event `started` means that the
    /// end is not on record: the transfer runs, or the agent was killed.
    ///
    /// # Errors
    /// A record cannot be serialized: a bug.
    pub(crate) fn as_json(&self) -> serde_json::Result<String> {
        let mut text = String::new();
        for record in &self.records {
            let _ = writeln!(text, "{}", serde_json::to_string(record)?);
        }
        Ok(text)
    }

    /// Returns a sentence, with a newline, for each log that cannot be read.
    pub(crate) fn problems(&self) -> String {
        self.unreadable.iter().map(|text| format!("{text}\n")).collect()
    }

    /// Returns a table, or a sentence if there is no record.
    pub(crate) fn as_text(&self) -> String {
        if self.records.is_empty() && self.is_complete() {
            let dirs: Vec<String> = self.dirs.iter().map(|dir| dir.display().to_string()).collect();
            return format!("No file is on record in {}.\n", dirs.join(" or "));
        }
        if self.records.is_empty() {
            return String::new();
        }
        let titles = ["TIME", "CLIENT", "OUTCOME", "SIZE", "SENT", "REQUESTED BY", "PATH"]
            .map(str::to_owned);
        let rows: Vec<[String; 7]> =
            [titles].into_iter().chain(self.records.iter().map(row)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<usize> = (0..7).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

/// Removes each start whose end is there, too.
fn without_starts(records: Vec<TransferRecord>) -> Vec<TransferRecord> {
    let mut kept: Vec<TransferRecord> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for record in records {
        let start = open.iter().rposition(|&index| kept[index].is_start_of(&record));
        match start {
            Some(place) if record.event != TransferEvent::Started => {
                kept[open.swap_remove(place)] = record;
            }
            _ => {
                if record.event == TransferEvent::Started {
                    open.push(kept.len());
                }
                kept.push(record);
            }
        }
    }
    kept
}

fn row(record: &TransferRecord) -> [String; 7] {
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), human::size);
    let outcome = match record.event {
        TransferEvent::Started => "unfinished",
        TransferEvent::Sent => "sent",
        TransferEvent::Unchanged => "unchanged",
        TransferEvent::Failed => "failed",
        TransferEvent::Stopped => "stopped",
        TransferEvent::Refused => "refused",
    };
    let reason = match record.reason.as_str() {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    let requested_by = if record.requested_by.is_empty() { "-" } else { &record.requested_by };
    [
        record.time.to_rfc3339_opts(SecondsFormat::Secs, true),
        record.client.clone(),
        outcome.to_owned(),
        size(record.size),
        size(record.sent_bytes),
        requested_by.to_owned(),
        format!("{}{reason}", record.path),
    ]
}

fn cannot_read(dir: &Path, error: &io::Error) -> String {
    let dir = dir.display();
    if error.kind() == io::ErrorKind::PermissionDenied {
        return format!(
            "The log in {dir} cannot be read by this user. Run this as the user of the agent, or \
             as root."
        );
    }
    format!("The log in {dir} cannot be read: {error}.")
}
