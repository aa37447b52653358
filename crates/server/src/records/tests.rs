//! Tests of the database file, its folder and its writer. The modules below test the tables.

mod audit;
mod bases;
mod clients;
mod damaged;
mod enrolment;
mod keys;
mod old;
mod scrubs;
mod transfers;

use std::collections::HashMap;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use filepull_core::base_offer::BaseUse;
use filepull_core::digest::Digest;
use filepull_core::extent::ExtentKinds;
use filepull_core::file_digest::{Blake3, FileDigests};
use filepull_core::id::{ClientId, TransferId};
use filepull_core::name::DownloadName;
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};
use filepull_core::pull_mode::PullMode;
use filepull_core::receive::Prefix;
use filepull_core::source::Source;
use filepull_core::transfer::{
    Download, Failure, LastProgress, Phase, PhaseName, Published, Receiving, Sealed, Setbacks,
    Transfer, UnchangedFile,
};
use futures::future::{join, join_all, try_join_all};
use tempfile::TempDir;
use uuid::Uuid;

use super::statement::Statement;
use super::*;
use crate::client::{AgentInfo, ClientRecord, Disconnect, Greeting};

/// A data folder that does not exist yet, inside a temporary folder.
struct RecordsFixture(TempDir);

impl RecordsFixture {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("server-data/.filepull")
    }

    async fn open(&self) -> Records {
        Records::open(&self.folder()).await.unwrap()
    }

    /// Changes the database as an operator with `sqlite3` or another version of filepull may.
    fn run(&self, sql: &str) {
        let connection = rusqlite::Connection::open(self.folder().join("records.db")).unwrap();
        connection.execute_batch(sql).unwrap();
        connection.close().unwrap();
    }
}

impl RecordedTransfer {
    /// Returns the transfer, if the row is readable.
    pub(crate) fn readable(self) -> Option<Transfer> {
        match self {
            Self::Readable(transfer) => Some(*transfer),
            Self::Damaged(_) => None,
        }
    }
}

async fn saved(records: &Records, id: TransferId) -> Option<Transfer> {
    records.transfer(id).await.unwrap().map(|item| item.readable().unwrap())
}

async fn unfinished(records: &Records) -> Vec<Transfer> {
    let UnfinishedRecords { transfers, damaged } = records.unfinished().await.unwrap();
    assert!(damaged.is_empty(), "{damaged:?}");
    transfers
}

fn readable(items: Vec<RecordedTransfer>) -> Vec<Transfer> {
    items.into_iter().map(|item| item.readable().unwrap()).collect()
}

fn client(text: &str) -> ClientId {
    ClientId::parse(text).unwrap()
}

fn time(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_770_000_000_000 + millis).unwrap()
}

fn queued(client_id: &str) -> Transfer {
    Transfer::new(client(client_id), None, "curl from 127.0.0.1".to_owned(), time(0))
}

fn in_phase(phase: Phase) -> Transfer {
    Transfer { phase, ..queued("client4") }
}

fn done_at(millis: i64) -> Transfer {
    Transfer {
        finished_at: Some(time(millis)),
        ..in_phase(Phase::Done(Published::from_record(download())))
    }
}

fn source() -> Source {
    Source { name: "Kasse 1 – ’täglich’.txt".to_owned(), size: u64::MAX, modified_ns: -1 }
}

fn download() -> Download {
    Download {
        source: source(),
        name: DownloadName::new(time(0), "data.txt").next(),
        size: 104_857_600,
        digests: FileDigests::of(b"abc"),
        inode: u64::MAX - 1,
    }
}

fn phases() -> [Phase; 7] {
    let checkpoint = Prefix { len: 3, digest: Blake3::of(b"abc") };
    let missing = Problem::new(Code::FileMissing, "There is no \"data.txt\".").hint("Try again.");
    [
        Phase::Queued,
        Phase::Receiving(Receiving::from_record(source(), checkpoint)),
        Phase::Sealed(Sealed::from_record(download())),
        Phase::Done(Published::from_record(download())),
        Phase::Failed(Failure { problem: missing, reached: LastProgress::default() }),
        Phase::Cancelled(Failure {
            problem: Problem::new(Code::Cancelled, "Cancelled by 127.0.0.1."),
            reached: LastProgress { source: Some(source()), received: u64::MAX - 1 },
        }),
        Phase::Unchanged(UnchangedFile { source: source(), since: download().name }),
    ]
}

fn full(phase: Phase) -> Transfer {
    Transfer {
        path: Some(SharedPath::parse("logs/pos.log").unwrap()),
        queue_until: Some(time(1)),
        started_at: Some(time(2)),
        finished_at: Some(time(3)),
        attempt: u32::MAX,
        generation: 2,
        setbacks: Setbacks { changed: 1, damaged: 2, stalled: 3 },
        mode: PullMode::IfChanged,
        sent: u64::MAX - 2,
        base_use: BaseUse::Failed,
        ..in_phase(phase)
    }
}

fn greeting() -> Greeting {
    Greeting {
        client: client("client4"),
        instance: Uuid::new_v4(),
        agent: AgentInfo {
            version: "0.1.0".to_owned(),
            os: "linux".to_owned(),
            ..AgentInfo::default()
        },
        shares: vec!["menu.txt".to_owned(), "logs/*.log".to_owned()],
        default_file: Ok(source()),
        extents: ExtentKinds::default(),
        active_transfers: Vec::new(),
        remote_addr: "[2001:db8::1]:4711".parse().unwrap(),
        key: None,
    }
}

#[tokio::test]
async fn a_thousand_saves_share_a_few_commits() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let transfers: Vec<Transfer> = (0..1000).map(|_| queued("client4")).collect();
    try_join_all(transfers.iter().map(|transfer| records.save(transfer))).await.unwrap();
    assert_eq!(unfinished(&records).await, transfers);
    assert!(records.writer.commits() < 20, "{} commits", records.writer.commits());
}

#[tokio::test]
async fn a_failed_statement_does_not_fail_the_others_of_its_batch() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let transfers = [queued("a"), queued("b")];
    let saves = || join_all(transfers.iter().map(|transfer| records.save(transfer)));
    let invalid = Statement::new("INSERT INTO clients (id) VALUES ($1)").bind("x".to_owned());
    let write = records.writer.write(invalid);
    let (before, (written, after)) = join(saves(), join(write, saves())).await;
    assert!(matches!(written, Err(RecordsError::Database(_))), "{written:?}");
    assert!(before.iter().chain(&after).all(Result::is_ok), "{before:?} {after:?}");
    assert_eq!(unfinished(&records).await, transfers);
}

#[tokio::test]
async fn closing_commits_queued_writes_and_rejects_later_ones() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let transfers: Vec<Transfer> = (0..500).map(|_| queued("client4")).collect();
    let saves = try_join_all(transfers.iter().map(|transfer| records.save(transfer)));
    let (saved, closed) = join(saves, records.close()).await;
    saved.unwrap();
    closed.unwrap();
    let closed = records.save(&transfers[0]).await;
    assert!(matches!(closed, Err(SaveError::Records(RecordsError::Closed))), "{closed:?}");
    assert!(matches!(records.unfinished().await, Err(RecordsError::Closed)));
    assert!(!fixture.folder().join("records.db-wal").exists());
    assert_eq!(unfinished(&fixture.open().await).await, transfers);
}

#[tokio::test]
async fn a_second_server_gets_the_process_id_of_the_first() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let error = Records::open(&fixture.folder()).await.unwrap_err().to_string();
    let data_folder = fixture.0.path().join("server-data");
    let pid = std::process::id();
    assert!(error.starts_with(&format!("{} is in use by process {pid}", data_folder.display())));
    records.close().await.unwrap();
    fixture.open().await;
}

#[tokio::test]
async fn only_the_user_of_the_server_can_read_the_folder() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = RecordsFixture::new();
    fixture.open().await;
    let mode = std::fs::metadata(fixture.folder()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn records_of_a_newer_version_are_rejected() {
    let fixture = RecordsFixture::new();
    fixture.open().await.close().await.unwrap();
    fixture.run("PRAGMA user_version = 99");
    let error = Records::open(&fixture.folder()).await.unwrap_err();
    assert!(matches!(error, RecordsError::TooNew { found: 99, .. }), "{error}");
}

#[tokio::test]
async fn a_download_of_a_build_without_blake3_is_unreadable_and_the_rest_is_kept() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let [waiting, receiving, _, done, ..] = phases().map(in_phase);
    for transfer in [&waiting, &receiving, &done] {
        records.save(transfer).await.unwrap();
    }
    records.close().await.unwrap();
    fixture.run(
        "ALTER TABLE transfers DROP COLUMN download_blake3;
         ALTER TABLE transfers RENAME COLUMN download_sha256 TO download_digest;
         ALTER TABLE transfers DROP COLUMN mode;
         ALTER TABLE transfers DROP COLUMN sent;
         ALTER TABLE transfers DROP COLUMN base_use;
         ALTER TABLE transfers DROP COLUMN unchanged_since;
         DROP TABLE scrubs;
         DROP INDEX transfers_by_end;
         PRAGMA user_version = 2",
    );
    let records = fixture.open().await;
    for transfer in [waiting, receiving] {
        assert_eq!(saved(&records, transfer.id).await, Some(transfer));
    }
    let found = records.transfer(done.id).await.unwrap();
    let Some(RecordedTransfer::Damaged(damaged)) = found else { panic!("{found:?}") };
    assert_eq!(damaged.reason, "download_blake3 is missing");
}

#[tokio::test]
async fn a_flipped_bit_in_a_definition_is_detected_before_a_row_is_read() {
    let fixture = RecordsFixture::new();
    fixture.open().await.close().await.unwrap();
    let file = fixture.folder().join("records.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let type_names = bytes.windows(6).enumerate().filter(|(_, text)| text == b"BIGINT");
    for at in type_names.map(|(at, _)| at).collect::<Vec<_>>() {
        // The result is not valid UTF-8.
        bytes[at] ^= 1 << 7;
    }
    std::fs::write(&file, bytes).unwrap();
    let server = Records::open(&fixture.folder()).await.map(drop).unwrap_err();
    let reader = RecordsReader::open(&fixture.folder()).await.map(drop).unwrap_err();
    for error in [server, reader] {
        assert!(matches!(error, RecordsError::Schema { .. }), "{error}");
    }
}

#[tokio::test]
async fn records_that_disappear_take_nothing_until_they_are_back() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let [before, meanwhile, after] = [queued("a"), queued("b"), queued("c")];
    records.save(&before).await.unwrap();
    let aside = fixture.folder().with_extension("aside");
    for file in ["", "records.db", "records.db-wal"] {
        let from = fixture.folder().join(file);
        let to = aside.join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::rename(&from, &to).unwrap();
        let gone = records.save(&meanwhile).await;
        assert!(matches!(gone, Err(SaveError::Records(RecordsError::Gone { .. }))), "{gone:?}");
        std::fs::rename(&to, &from).unwrap();
    }
    records.save(&after).await.unwrap();
    std::fs::copy(fixture.folder().join("records.db"), fixture.folder().join("copy")).unwrap();
    std::fs::rename(fixture.folder().join("copy"), fixture.folder().join("records.db")).unwrap();
    let replaced = records.save(&meanwhile).await;
    assert!(matches!(replaced, Err(SaveError::Records(RecordsError::Gone { .. }))), "{replaced:?}");
    assert_eq!(unfinished(&records).await, [before, after]);
}

#[tokio::test]
async fn every_statement_at_the_start_reads_an_index_and_no_table() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    records.close().await.unwrap();
    let connection = rusqlite::Connection::open(fixture.folder().join("records.db")).unwrap();
    for sql in [super::transfers::UNFINISHED, super::clients::MARK_DISCONNECTED] {
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let mut rows = plan.raw_query();
        let mut steps = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            steps.push(row.get::<_, String>(3).unwrap());
        }
        let of_index = |step: &String| {
            ["transfers_unfinished", "clients_connected"].iter().any(|i| step.contains(i))
        };
        assert!(steps.iter().all(of_index), "{sql}: {steps:?}");
    }
}
