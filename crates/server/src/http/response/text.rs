//! Sentences about transfers that more than one page says.

use std::time::Duration;

use chrono::{DateTime, Utc};
use filepull_core::human;
use filepull_core::transfer::Download;

use crate::transfers::{View, WaitingFor};

/// `42 %, about 12 s left`, as far as it is known.
pub(crate) fn progress(view: &View) -> Option<String> {
    let percent = view.percent()?;
    // "0 s left" would be a promise that is already broken.
    let left = view.eta().map(|eta| eta.max(Duration::from_secs(1)));
    let left = left.map(|left| format!(", about {} left", human::span(left)));
    Some(format!("{percent} %{}", left.unwrap_or_default()))
}

/// `client4 is sending menu.txt (100.0 MiB)`, or less while less is known.
pub(crate) fn sending(view: &View) -> String {
    let client = &view.transfer.client;
    match &view.source {
        None => format!("{client} is sending the file"),
        Some(source) => {
            format!("{client} is sending {} ({})", name(&source.name), human::size(source.size))
        }
    }
}

/// `client4 is number 3 in line`, or what else it waits for.
pub(crate) fn waits(view: &View, waiting_for: WaitingFor, place: Option<usize>) -> String {
    let client = &view.transfer.client;
    match (waiting_for, place) {
        (WaitingFor::Turn, Some(place)) => format!("{client} is number {place} in line"),
        (WaitingFor::Turn, None) => format!("{client} is in line"),
        (WaitingFor::OtherFile, None | Some(1)) => {
            format!("{client} sends another file first; this is next")
        }
        (WaitingFor::OtherFile, Some(place)) => {
            format!("{client} sends other files first; this is number {place} in its line")
        }
        (WaitingFor::Disk, _) => {
            let until = view.expires_at.map(|at| format!(", until {}", minute(at)));
            let reason = view.reason.as_deref().map(|reason| format!(": {}", without_stop(reason)));
            let until = until.unwrap_or_default();
            let reason = reason.unwrap_or_default();
            format!("{client}'s file waits for the server's disk{until}{reason}")
        }
        (WaitingFor::Client, _) => {
            let begun = 0 < view.bytes_done;
            let next = if begun { "the transfer goes on" } else { "the pull starts" };
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

/// A sentence that goes on in another one.
fn without_stop(sentence: &str) -> &str {
    sentence.trim_end_matches('.')
}

/// `Done: client4 sent menu.txt, 100.0 MiB in 19.8 s (5.1 MiB/s).` and where it is.
pub(crate) fn done(view: &View, download: &Download, data_dir: &str) -> String {
    let (sent, saved) = (sent(view, download), saved_path(view, download, data_dir));
    let digest = download.digest;
    format!("Done: {sent}.\n  saved   {saved}\n  sha256  {digest}\n")
}

/// The same of a download that somebody has removed since.
pub(crate) fn done_and_gone(view: &View, download: &Download, data_dir: &str) -> String {
    let (sent, saved) = (sent(view, download), saved_path(view, download, data_dir));
    let digest = download.digest;
    format!("Done: {sent}. The file is no longer stored.\n  was     {saved}\n  sha256  {digest}\n")
}

/// `client4 sent menu.txt, 100.0 MiB in 19.8 s (5.1 MiB/s)`
fn sent(view: &View, download: &Download) -> String {
    let (client, source) = (&view.transfer.client, name(&download.source.name));
    let amount = match download.size {
        0 => "which is empty (0 B)".to_owned(),
        size => format!("{} in {}", human::size(size), took(view, size)),
    };
    format!("{client} sent {source}, {amount}")
}

/// Where a download lies, beginning with the data folder as the operator gave it.
pub(crate) fn saved_path(view: &View, download: &Download, data_dir: &str) -> String {
    let folder = data_dir.trim_start_matches("./").trim_end_matches('/');
    format!("{folder}/{}/{}", view.transfer.client, download.name)
}

fn took(view: &View, size: u64) -> String {
    let transfer = &view.transfer;
    let (started, finished) = (transfer.started_at, transfer.finished_at);
    let time = started.zip(finished).and_then(|(from, to)| (to - from).to_std().ok());
    time.map_or("an unknown time".to_owned(), |time| human::took_for(time, size))
}

/// A file's name as its client has it, fit for a terminal.
pub(crate) fn name(name: &str) -> String {
    human::printable(name, 200)
}

/// The same in a table, where one long name would push all other columns away.
pub(crate) fn short(text: &str) -> String {
    const WIDTH: usize = 40;
    let fits = text.chars().nth(WIDTH).is_none();
    if fits { name(text) } else { format!("{}...", human::printable(text, WIDTH - 3)) }
}

/// `2025-06-13 14:23 UTC`.
pub(crate) fn minute(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M UTC").to_string()
}

/// `2025-06-13 14:23:05 UTC`.
pub(crate) fn second(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `2 min 5 s ago`.
pub(crate) fn ago(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!("{} ago", human::span((now - time).to_std().unwrap_or_default()))
}

/// `1 transfer is`, `2 transfers are`.
pub(crate) fn count(n: usize, one: &str, more: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { more })
}

/// One line a row, each column as wide as its widest cell.
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
    fn a_long_name_is_cut_where_others_stand_beside_it() {
        assert_eq!(short("menu.txt"), "menu.txt");
        assert_eq!(short(&"x".repeat(40)), "x".repeat(40));
        assert_eq!(short(&"x".repeat(208)), format!("{}...", "x".repeat(37)));
    }

    #[test]
    fn columns_are_aligned_and_lines_do_not_end_in_spaces() {
        let rows = [["A", "STATE", "C"], ["client10", "on", "x"], ["é", "offline", ""]];
        let rows = rows.map(|row| row.map(str::to_owned));
        let expected = "A         STATE    C\nclient10  on       x\né         offline\n";
        assert_eq!(table(&rows), expected);
    }
}
