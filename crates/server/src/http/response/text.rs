//! Sentences about transfers, and tables, for more than one page.

use std::time::Duration;

use chrono::{DateTime, Utc};
use filepull_core::base_offer::BaseUse;
use filepull_core::file_digest::FileDigests;
use filepull_core::human;
use filepull_core::name::DownloadName;
use filepull_core::transfer::{Download, UnchangedFile};

use crate::http::request::pull::path_param;
use crate::records::DownloadState;
use crate::transfers::{View, WaitingFor};

/// Returns `42 %, about 12 s left`. `None` if the size is unknown.
pub(crate) fn progress(view: &View) -> Option<String> {
    let percent = view.percent()?;
    // At least 1 s: the transfer is not finished.
    let eta = view.eta().map(|eta| eta.max(Duration::from_secs(1)));
    let left = eta.map(|eta| format!(", about {} left", human::span(eta)));
    Some(format!("{percent} %{}", left.unwrap_or_default()))
}

/// Returns `client4 is sending menu.txt (100.0 MiB)`, without the name before it is known.
pub(crate) fn sending(view: &View) -> String {
    let client = &view.transfer.client;
    match &view.source {
        None => format!("{client} is sending the file"),
        Some(source) => {
            format!("{client} is sending {} ({})", name(&source.name), human::size(source.size))
        }
    }
}

/// Returns what a transfer waits for, such as `client4 is number 3 in line`.
pub(crate) fn waits(view: &View, waiting_for: WaitingFor, place: Option<usize>) -> String {
    let client = &view.transfer.client;
    match (waiting_for, place) {
        (WaitingFor::Permit, Some(place)) => format!("{client} is number {place} in line"),
        (WaitingFor::Permit, None) => format!("{client} is in line"),
        (WaitingFor::OtherFile, None | Some(1)) => {
            format!("{client} sends another file first; this is next")
        }
        (WaitingFor::OtherFile, Some(place)) => {
            format!("{client} sends other files first; this is number {place} in its line")
        }
        (WaitingFor::Disk, _) => {
            let until = view.expires_at.map(|at| format!(", until {}", minute(at)));
            let reason = view.reason.as_deref().map(|reason| format!(": {}", without_stop(reason)));
            format!(
                "{client}'s file waits for the server's disk{}{}",
                until.unwrap_or_default(),
                reason.unwrap_or_default()
            )
        }
        (WaitingFor::Client, _) => {
            let has_started = 0 < view.bytes_done;
            let next = if has_started { "the transfer continues" } else { "the pull starts" };
            match (&view.reason, view.expires_at) {
                (Some(reason), Some(at)) => {
                    format!("{reason}; {next} when it returns, until {}", second(at))
                }
                (None, Some(at)) => {
                    format!("{client} is offline; {next} when it returns, until {}", minute(at))
                }
                (_, None) => format!("{client} is offline; {next} when it returns"),
            }
        }
    }
}

/// Removes the full stop, so that the sentence can be a part of another one.
fn without_stop(sentence: &str) -> &str {
    sentence.trim_end_matches('.')
}

/// Returns `Done: client4 sent menu.txt, 100.0 MiB in 19.8 s (5.1 MiB/s).`, the path and the digests.
pub(crate) fn done(view: &View, download: &Download, data_dir: &str) -> String {
    let summary = summary(view, download);
    let path = saved_path(view, download, data_dir);
    let digests = digest_lines(download);
    format!("Done: {summary}.\n  saved   {path}\n{digests}")
}

/// Like [`done`], for a download that is damaged or was removed from the disk.
pub(crate) fn done_and_lost(
    view: &View,
    download: &Download,
    data_dir: &str,
    host: &str,
) -> String {
    let fate = match view.download_state {
        DownloadState::Damaged => "damaged: it has changed since it arrived",
        DownloadState::Stored | DownloadState::Deleted => "no longer stored",
    };
    let summary = summary(view, download);
    let path = saved_path(view, download, data_dir);
    let digests = digest_lines(download);
    let again = pull_again(view, host);
    format!("Done: {summary}. The file is {fate}.\n  was     {path}\n{digests}  again   {again}\n")
}

/// Returns `Unchanged: menu.txt of client4 (100.0 MiB) is unchanged since download-….txt.`, and the
/// path of that download.
pub(crate) fn unchanged(view: &View, unchanged: &UnchangedFile, data_dir: &str) -> String {
    let UnchangedFile { source, since } = unchanged;
    let client = &view.transfer.client;
    let name = name(&source.name);
    let size = human::size(source.size);
    let path = file_path(view, since, data_dir);
    format!(
        "Unchanged: {name} of {client} ({size}) is unchanged since {since}.\n  saved   {path}\n"
    )
}

/// Returns one line for each digest, as `sha256sum` and `b3sum` print it.
fn digest_lines(download: &Download) -> String {
    let FileDigests { blake3, sha256 } = download.digests;
    format!("  sha256  {sha256}\n  blake3  {blake3}\n")
}

/// Returns the command that pulls the file of a transfer again.
pub(crate) fn pull_again(view: &View, host: &str) -> String {
    let client = &view.transfer.client;
    let path_param = path_param(view.transfer.path.as_ref());
    format!("curl \"{host}/trigger?id={client}{path_param}&wait\"")
}

/// Returns `client4 sent menu.txt, 100.0 MiB in 19.8 s (5.1 MiB/s)`, or with other bytes on the wire
/// than in the file `client4 sent menu.txt, 100.0 MiB file, 3.1 MiB sent in 0.9 s (111.1 MiB/s)`. The
/// speed is the speed of the file.
fn summary(view: &View, download: &Download) -> String {
    let transfer = &view.transfer;
    let client = &transfer.client;
    let source = name(&download.source.name);
    let sent = transfer.sent;
    let amount = match download.size {
        0 => "which is empty (0 B)".to_owned(),
        size if sent == size => format!("{} in {}", human::size(size), took(view, size)),
        size => {
            let file = human::size(size);
            format!("{file} file, {} sent in {}", human::size(sent), took(view, size))
        }
    };
    let base = match transfer.base_use {
        BaseUse::Unused | BaseUse::Copied => "",
        BaseUse::Failed => "; the earlier download could not be used, so all bytes were sent",
    };
    format!("{client} sent {source}, {amount}{base}")
}

/// Returns the path of a download. It starts with the data folder as the operator wrote it.
pub(crate) fn saved_path(view: &View, download: &Download, data_dir: &str) -> String {
    file_path(view, &download.name, data_dir)
}

fn file_path(view: &View, name: &DownloadName, data_dir: &str) -> String {
    let folder = data_dir.trim_start_matches("./").trim_end_matches('/');
    format!("{folder}/{}/{name}", view.transfer.client)
}

fn took(view: &View, size: u64) -> String {
    let interval = view.transfer.started_at.zip(view.transfer.finished_at);
    let time = interval.and_then(|(from, to)| (to - from).to_std().ok());
    time.map_or("an unknown time".to_owned(), |time| human::took_for(time, size))
}

/// Returns the name of a file on its client, safe for a terminal.
pub(crate) fn name(name: &str) -> String {
    human::printable(name, 200)
}

/// Like [`name`], limited to 40 characters for a column of a table.
pub(crate) fn short(text: &str) -> String {
    const WIDTH: usize = 40;
    let fits = text.chars().nth(WIDTH).is_none();
    if fits { name(text) } else { format!("{}...", human::printable(text, WIDTH - 3)) }
}

/// Formats a time as `2025-06-13 14:23 UTC`.
pub(crate) fn minute(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M UTC").to_string()
}

/// Formats a time as `2025-06-13 14:23:05 UTC`.
pub(crate) fn second(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Formats a time before `now` as `2 min 5 s ago`.
pub(crate) fn ago(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!("{} ago", human::span((now - time).to_std().unwrap_or_default()))
}

/// Formats a count with a singular or plural noun: `1 transfer is`, `2 transfers are`.
pub(crate) fn count(n: usize, one: &str, more: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { more })
}

/// Formats rows as lines. Columns are as wide as their widest cell and two spaces apart.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    rows.iter().map(|row| line(row, &widths)).collect()
}

fn line<const N: usize>(row: &[String; N], widths: &[usize; N]) -> String {
    let cells = row.iter().zip(widths);
    let padded: Vec<String> = cells.map(|(cell, &width)| format!("{cell:<width$}")).collect();
    format!("{}\n", padded.join("  ").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_shortened_in_a_table() {
        assert_eq!(short("menu.txt"), "menu.txt");
        assert_eq!(short(&"x".repeat(40)), "x".repeat(40));
        assert_eq!(short(&"x".repeat(208)), format!("{}...", "x".repeat(37)));
    }

    #[test]
    fn columns_are_aligned_and_lines_do_not_end_in_spaces() {
        let cells = [["A", "STATE", "C"], ["client10", "on", "x"], ["é", "offline", ""]];
        let rows = cells.map(|row| row.map(str::to_owned));
        let expected = "A         STATE    C\nclient10  on       x\né         offline\n";
        assert_eq!(table(&rows), expected);
    }
}
