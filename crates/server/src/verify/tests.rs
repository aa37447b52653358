use std::fs;
use std::path::PathBuf;

use chrono::DateTime;
use filepull_core::file_digest::{Blake3, FileDigests};
use filepull_core::name::DownloadName;
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::Prefix;
use filepull_core::source::Source;
use filepull_core::transfer::{Failure, LastProgress, Published, Receiving, Sealed};
use tempfile::TempDir;

use super::*;
use crate::records::Records;

struct VerifyFixture {
    folder: TempDir,
    records: Records,
}

fn client() -> ClientId {
    ClientId::parse("client4").unwrap()
}

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_770_000_000 + seconds, 0).unwrap()
}

fn download(seconds: i64) -> Download {
    let bytes = bytes(seconds);
    Download {
        source: Source { name: "data.txt".to_owned(), size: 9, modified_ns: 0 },
        name: DownloadName::new(time(seconds), "data.txt"),
        size: bytes.len() as u64,
        digests: FileDigests::of(&bytes),
        inode: 1,
    }
}

fn bytes(seconds: i64) -> Vec<u8> {
    format!("the bytes of {seconds}").into_bytes()
}

fn transfer(seconds: i64, phase: Phase) -> Transfer {
    let at = time(seconds);
    let finished_at = matches!(phase, Phase::Done(_) | Phase::Failed(_)).then_some(at);
    Transfer { finished_at, phase, ..Transfer::new(client(), None, "curl".to_owned(), at) }
}

fn receiving() -> Phase {
    let checkpoint = Prefix { len: 0, digest: Blake3::of(b"") };
    Phase::Receiving(Receiving::from_record(download(0).source, checkpoint))
}

fn failed() -> Phase {
    let problem = Problem::new(Code::FileMissing, "There is none.");
    Phase::Failed(Failure { problem, reached: LastProgress::default() })
}

impl VerifyFixture {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let records = Records::open(&folder.path().join(RECORDS_FOLDER)).await.unwrap();
        fs::create_dir(folder.path().join("client4")).unwrap();
        Self { folder, records }
    }

    /// Puts a finished transfer on record, and its download on the disk.
    async fn done(&self, seconds: i64) -> PathBuf {
        self.records
            .save(&transfer(seconds, Phase::Done(Published::from_record(download(seconds)))))
            .await
            .unwrap();
        self.put(&download(seconds).name.to_string(), &bytes(seconds))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("client4").join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    async fn verify(&self) -> Vec<VerifyEvent> {
        verify(self.folder.path()).await
    }

    async fn found(&self) -> Vec<(FindingKind, PathBuf)> {
        found(self.verify().await)
    }
}

/// Returns every event except `Read`.
async fn verify(data_dir: &Path) -> Vec<VerifyEvent> {
    let verification = Verification::open(data_dir).await.unwrap();
    let (sender, mut events) = mpsc::channel(1000);
    verification.run(None, sender).await.unwrap();
    let mut all = Vec::new();
    while let Some(event) = events.recv().await {
        all.push(event);
    }
    all.retain(|event| !matches!(event, VerifyEvent::Read(_)));
    all
}

fn found(events: Vec<VerifyEvent>) -> Vec<(FindingKind, PathBuf)> {
    let found = events.into_iter().filter_map(|event| match event {
        VerifyEvent::Found(finding) => Some((finding.kind, finding.path)),
        VerifyEvent::Read(_) | VerifyEvent::Same => None,
    });
    found.collect()
}

#[tokio::test]
async fn exactly_the_changed_downloads_are_found() {
    let fixture = VerifyFixture::new().await;
    assert_eq!(fixture.verify().await, []);
    let mut paths = Vec::new();
    for seconds in 0..8 {
        paths.push(fixture.done(seconds).await);
    }
    assert_eq!(fixture.verify().await, vec![VerifyEvent::Same; 8]);
    let mut flipped = bytes(1);
    flipped[3] ^= 1;
    fs::write(&paths[1], flipped).unwrap();
    fs::write(&paths[2], "short").unwrap();
    fs::remove_file(&paths[3]).unwrap();
    fs::remove_file(&paths[4]).unwrap();
    fs::create_dir(&paths[4]).unwrap();
    fs::remove_file(&paths[5]).unwrap();
    std::os::unix::fs::symlink(&paths[0], &paths[5]).unwrap();
    fs::remove_file(&paths[6]).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &paths[6],
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    // The same bytes in another file are the same download.
    fs::remove_file(&paths[7]).unwrap();
    fs::write(&paths[7], bytes(7)).unwrap();
    let kinds = [
        FindingKind::Changed,
        FindingKind::Changed,
        FindingKind::Missing,
        FindingKind::Changed,
        FindingKind::Unreadable,
        FindingKind::Changed,
    ];
    let expected: Vec<_> = kinds.into_iter().zip(paths[1..7].to_vec()).collect();
    assert_eq!(fixture.found().await, expected);
}

#[tokio::test]
async fn each_digest_that_differs_is_named() {
    let fixture = VerifyFixture::new().await;
    let right = download(1).digests;
    let other = FileDigests::of(b"other bytes");
    let cases = [
        (FileDigests { sha256: other.sha256, ..right }, [false, true]),
        (FileDigests { blake3: other.blake3, ..right }, [true, false]),
        (other, [true, true]),
    ];
    let mut transfer = transfer(1, Phase::Queued);
    fixture.put(&download(1).name.to_string(), &bytes(1));
    for (digests, expected) in cases {
        transfer.id = TransferId::generate();
        let recorded = Download { digests, ..download(1) };
        transfer.phase = Phase::Done(Published::from_record(recorded));
        fixture.records.save(&transfer).await.unwrap();
        let events = fixture.verify().await;
        let [VerifyEvent::Found(finding)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(finding.kind, FindingKind::Changed);
        let named = ["its BLAKE3 is ", "its SHA-256 is "].map(|name| finding.detail.contains(name));
        assert_eq!(named, expected, "{}", finding.detail);
        fixture.records.forget(&[transfer.id]).await.unwrap();
    }
}

#[tokio::test]
async fn an_entry_without_a_record_is_foreign() {
    let fixture = VerifyFixture::new().await;
    fixture.done(1).await;
    let orphan = fixture.put(&format!("{}-1.tmp", TransferId::generate()), b"");
    let notes = fixture.put("notes.txt", b"");
    let ended = transfer(2, failed());
    fixture.records.save(&ended).await.unwrap();
    let left = fixture.put(&format!("{}-1.tmp", ended.id), b"");
    let stranger = fixture.folder.path().join("client9");
    fs::create_dir(&stranger).unwrap();
    fs::write(stranger.join("x"), "").unwrap();
    fs::write(fixture.folder.path().join(".gitkeep"), "").unwrap();
    let mut expected = vec![orphan, notes, left];
    expected.sort();
    expected.push(stranger.join("x"));
    let expected: Vec<_> = expected.into_iter().map(|path| (FindingKind::Foreign, path)).collect();
    assert_eq!(fixture.found().await, expected);
}

#[tokio::test]
async fn a_file_of_an_unfinished_transfer_is_not_foreign() {
    let fixture = VerifyFixture::new().await;
    let running = transfer(1, receiving());
    let sealed = transfer(2, Phase::Sealed(Sealed::from_record(download(2))));
    let just_ended = Transfer { finished_at: Some(Utc::now()), ..transfer(3, failed()) };
    for transfer in [&running, &sealed, &just_ended] {
        fixture.records.save(transfer).await.unwrap();
        fixture.put(&format!("{}-1.tmp", transfer.id), b"");
    }
    // The name may exist before the record says that the transfer is done.
    fixture.put(&download(2).name.to_string(), &bytes(2));
    assert_eq!(fixture.verify().await, []);
}

#[tokio::test]
async fn a_verification_needs_no_server_and_changes_no_file() {
    let fixture = VerifyFixture::new().await;
    fixture.done(1).await;
    fixture.records.close().await.unwrap();
    let records = fixture.folder.path().join(RECORDS_FOLDER);
    let before = fs::read(records.join("records.db")).unwrap();
    assert_eq!(fixture.verify().await, [VerifyEvent::Same]);
    assert_eq!(fs::read(records.join("records.db")).unwrap(), before);
    Records::open(&records).await.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_found() {
    let fixture = VerifyFixture::new().await;
    let path = fixture.done(1).await;
    fixture.done(2).await;
    fixture.records.close().await.unwrap();
    let database = fixture.folder.path().join(RECORDS_FOLDER).join("records.db");
    let connection = rusqlite::Connection::open(&database).unwrap();
    let damage = "UPDATE transfers SET download_sha256 = 'x' WHERE download_name = $1";
    assert_eq!(connection.execute(damage, [download(1).name.to_string()]).unwrap(), 1);
    connection.close().unwrap();
    // Without its record the file belongs to no transfer.
    assert_eq!(
        fixture.found().await,
        [(FindingKind::Record, database), (FindingKind::Foreign, path)]
    );
}

#[tokio::test]
async fn a_folder_without_records_is_rejected_and_unchanged() {
    let folder = TempDir::new().unwrap();
    let error = Verification::open(folder.path()).await.unwrap_err();
    let is_folder = matches!(error, VerifyError::Records(RecordsError::Folder { .. }));
    assert!(is_folder, "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
