//! Records that are written, lost, replaced and printed.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::pin::pin;

use tempfile::TempDir;

use super::*;
use crate::config::Config;
use crate::sandbox::SandboxState;
use crate::share::Shares;

const ORDER: OrderText<'_> =
    OrderText { transfer: "0190", attempt: 1, path: "logs/a.log", requested_by: "ops" };

fn record(event: TransferEvent) -> TransferRecord {
    TransferRecord::new("client4", "server:50051", ORDER, event)
}

fn log(dir: &Path) -> (TransferLog, LogWriter, StatusLog) {
    let client = filepull_core::id::ClientId::parse("client4").unwrap();
    let server = crate::dial::ServerAddr::parse("server").unwrap();
    let config = Config::new(client, server, Shares::new(Path::new("data.txt"), []).unwrap());
    let status_log = StatusLog::new(&config, SandboxState::off("test"));
    let (log, writer) =
        TransferLog::new(Some(dir), "client4".into(), "server:50051".into(), status_log.clone());
    (log, writer, status_log)
}

/// Starts a transfer while the writer runs.
async fn start(log: &TransferLog, writer: &mut LogWriter, sent: SentBytes) -> StartedRecord {
    tokio::select! {
        started = log.start(ORDER, 7, sent) => started,
        () = writer.run() => unreachable!(),
    }
}

fn read(dir: &Path) -> Vec<TransferRecord> {
    LogFolder::new(dir).read().unwrap()
}

fn events(dir: &Path) -> Vec<TransferEvent> {
    read(dir).iter().map(|record| record.event).collect()
}

#[tokio::test]
async fn a_start_is_on_the_disk_before_the_transfer_continues() {
    let dir = TempDir::new().unwrap();
    let (log, mut writer, _) = log(dir.path());
    let sent = SentBytes::default();
    let started = start(&log, &mut writer, Arc::clone(&sent)).await;
    assert_eq!(events(dir.path()), [TransferEvent::Started]);
    let path = dir.path().join("transfers.jsonl");
    let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "another user could read it");
    sent.fetch_add(5, Ordering::Relaxed);
    started.end(TransferEvent::Failed, "no network");
    writer.finish().await;
    let records = read(dir.path());
    assert_eq!(records.len(), 2);
    let end = &records[1];
    assert_eq!((end.event, end.size, end.sent_bytes), (TransferEvent::Failed, Some(7), Some(5)));
    assert_eq!((end.requested_by.as_str(), end.reason.as_str()), ("ops", "no network"));
}

#[tokio::test]
async fn an_upload_that_is_dropped_is_recorded_as_stopped() {
    let dir = TempDir::new().unwrap();
    let (log, mut writer, _) = log(dir.path());
    drop(start(&log, &mut writer, SentBytes::default()).await);
    writer.finish().await;
    assert_eq!(events(dir.path()), [TransferEvent::Started, TransferEvent::Stopped]);
}

#[tokio::test]
async fn a_disk_that_rejects_a_record_stops_no_transfer_and_is_logged_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (log, mut writer, status_log) = log(file.path());
    for _ in 0..3 {
        start(&log, &mut writer, SentBytes::default()).await.end(TransferEvent::Sent, "");
    }
    writer.finish().await;
    let lines = status_log.status().lines;
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("cannot be written: Not a directory. Files are sent"), "{lines:?}");
}

#[tokio::test]
async fn a_disk_that_hangs_stops_no_transfer() {
    let dir = TempDir::new().unwrap();
    // A writer that does not run is like one whose disk hangs.
    let (log, _writer, status_log) = log(dir.path());
    for _ in 0..QUEUE_LEN {
        log.refuse(ORDER, "not shared");
    }
    let started = log.start(ORDER, 7, SentBytes::default()).await;
    log.refuse(ORDER, "not shared");
    let lines = status_log.status().lines;
    let text = "lacks a record: the disk does not respond";
    assert_eq!(lines.iter().filter(|line| line.ends_with(text)).count(), 2, "{lines:?}");
    started.end(TransferEvent::Sent, "");
}

#[test]
fn the_end_of_the_agent_waits_for_the_records_that_are_being_written() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().max_blocking_threads(1).build().unwrap();
    let dir = TempDir::new().unwrap();
    runtime.block_on(async {
        // The disk is busy: the only thread that writes waits.
        let (release, released) = std::sync::mpsc::channel();
        let busy = spawn_blocking(move || released.recv());
        let (log, mut writer, _) = log(dir.path());
        log.refuse(ORDER, "not shared");
        assert!(futures::poll!(pin!(writer.run())).is_pending());
        let mut end = pin!(writer.finish());
        assert!(futures::poll!(end.as_mut()).is_pending(), "a record is not on the disk");
        release.send(()).unwrap();
        end.await;
        busy.await.unwrap().unwrap();
    });
    assert_eq!(events(dir.path()), [TransferEvent::Refused]);
}

#[test]
fn refused_orders_do_not_displace_the_records_of_transfers() {
    let dir = TempDir::new().unwrap();
    let folder = LogFolder::new(dir.path());
    folder.append(&[record(TransferEvent::Sent)]).unwrap();
    let refusals = vec![record(TransferEvent::Refused).because(&"x".repeat(1000)); 1000];
    for _ in 0..12 {
        folder.append(&refusals).unwrap();
    }
    let len: u64 = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(len < 12 * 1024 * 1024, "{len} bytes");
    assert!(events(dir.path()).contains(&TransferEvent::Sent));
}

#[test]
fn a_line_that_a_full_disk_has_cut_costs_only_itself() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("transfers.jsonl");
    fs::write(&path, "{\"time\":\"2026-").unwrap();
    let folder = LogFolder::new(dir.path());
    folder.append(&[record(TransferEvent::Started)]).unwrap();
    assert_eq!(events(dir.path()), [TransferEvent::Started]);
}

#[test]
fn a_link_in_the_place_of_the_log_is_not_followed() {
    let dir = TempDir::new().unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "keep").unwrap();
    symlink(&victim, dir.path().join("transfers.jsonl")).unwrap();
    let folder = LogFolder::new(dir.path());
    assert!(folder.append(&[record(TransferEvent::Sent)]).is_err());
    assert_eq!(fs::read(&victim).unwrap(), b"keep");
}

#[test]
fn the_report_has_one_line_for_each_transfer() {
    let dir = TempDir::new().unwrap();
    let folder = LogFolder::new(dir.path());
    let start = record(TransferEvent::Started);
    let other = TransferRecord { transfer: "0191".into(), size: Some(5), ..start.clone() };
    let end = start.clone().ended(TransferEvent::Sent, 2048);
    let refused = record(TransferEvent::Refused).because("not shared");
    folder.append(&[start, other, end, refused]).unwrap();
    let dirs = [dir.path().to_owned(), dir.path().join("none")];
    let text = LogReport::read(&dirs, None, 50).as_text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].starts_with("TIME "), "{text}");
    for (line, parts) in [
        (lines[1], ["client4  unfinished", " 5 B ", "ops", "logs/a.log"]),
        (lines[2], ["client4  sent ", " 2.0 KiB ", "ops", "logs/a.log"]),
        (lines[3], ["client4  refused ", " - ", "ops", "logs/a.log (not shared)"]),
    ] {
        assert!(parts.iter().all(|part| line.contains(part)), "{text}");
    }
    let newest = LogReport::read(&dirs, Some("client4"), 1).as_json().unwrap();
    assert_eq!(newest.lines().count(), 1, "{newest}");
    assert!(newest.contains("\"event\":\"refused\""), "{newest}");
    let empty = LogReport::read(&dirs, Some("client5"), 50).as_text();
    assert!(empty.starts_with("No file is on record in "), "{empty}");
}
