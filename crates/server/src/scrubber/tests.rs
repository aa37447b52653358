use std::fs;
use std::path::PathBuf;

use filepull_core::file_digest::FileDigests;
use filepull_core::id::ClientId;
use filepull_core::name::DownloadName;
use filepull_core::source::Source;
use filepull_core::transfer::{Download, Phase, Published};
use tempfile::TempDir;

use super::*;
use crate::data_folder::RECORDS_FOLDER;

struct ScrubberFixture {
    folder: TempDir,
    scrubber: Scrubber,
}

impl ScrubberFixture {
    /// A scrubber that reads each file again after a day.
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = Store::open(folder.path()).unwrap();
        fs::create_dir(folder.path().join("client4")).unwrap();
        let records = Records::open(&folder.path().join(RECORDS_FOLDER)).await.unwrap();
        let scrubber = scrubber(records, store);
        Self { folder, scrubber }
    }

    fn records(&self) -> &Records {
        &self.scrubber.records
    }

    /// Stores a download whose transfer ended this long ago.
    async fn download(&self, age: TimeDelta) -> Transfer {
        let client = ClientId::parse("client4").unwrap();
        let at = Utc::now() - age;
        let source = Source { name: "data.txt".to_owned(), size: 4, modified_ns: 0 };
        let name = DownloadName::new(at, "data.txt");
        let digests = FileDigests::of(b"data");
        let download = Download { source, name, size: 4, digests, inode: 1 };
        let phase = Phase::Done(Published::from_record(download));
        let new = Transfer::new(client, None, "curl".to_owned(), at);
        let transfer = Transfer { phase, finished_at: Some(at), ..new };
        self.records().save(&transfer).await.unwrap();
        fs::write(self.path(&transfer), "data").unwrap();
        transfer
    }

    fn path(&self, transfer: &Transfer) -> PathBuf {
        let name = transfer.download().unwrap().name.to_string();
        self.folder.path().join("client4").join(name)
    }

    async fn states(&self, transfers: &[&Transfer]) -> Vec<DownloadState> {
        let ids: Vec<_> = transfers.iter().map(|transfer| transfer.id).collect();
        let marks = self.records().download_marks(&ids).await.unwrap();
        ids.iter().map(|id| marks.get(id).copied().unwrap_or_default()).collect()
    }

    /// Pretends that every reading so far ended earlier.
    fn age(&self, by: TimeDelta) {
        let file = self.folder.path().join(RECORDS_FOLDER).join("records.db");
        let connection = rusqlite::Connection::open(file).unwrap();
        let sql = "UPDATE scrubs SET read_at = read_at - $1";
        connection.execute(sql, [by.num_milliseconds()]).unwrap();
    }
}

fn scrubber(records: Records, store: Store) -> Scrubber {
    let unread = records.unread_downloads(DateTime::UNIX_EPOCH);
    let scan_began = Instant::now();
    Scrubber {
        records,
        store,
        every: Duration::from_hours(24),
        unread,
        scan_began,
        due: VecDeque::new(),
    }
}

async fn n_read(records: &Records, until: DateTime<Utc>) -> usize {
    records.scrubbed_before(until, 100).await.unwrap().len()
}

#[tokio::test]
async fn a_download_is_read_within_an_hour_and_again_after_the_interval() {
    let mut fixture = ScrubberFixture::new().await;
    let old = fixture.download(TimeDelta::days(9)).await;
    let new = fixture.download(TimeDelta::minutes(11)).await;
    let _too_new = fixture.download(TimeDelta::minutes(9)).await;
    fixture.scrubber.read_due().await.unwrap();
    assert_eq!(n_read(fixture.records(), Utc::now()).await, 2);
    assert_eq!(fixture.states(&[&old, &new]).await, [DownloadState::Stored; 2]);

    // What changes after the reading is found when the interval has passed, by another process too.
    fs::write(fixture.path(&old), "tada").unwrap();
    fs::remove_file(fixture.path(&new)).unwrap();
    fixture.age(TimeDelta::hours(23));
    fixture.scrubber = scrubber(fixture.records().clone(), fixture.scrubber.store.clone());
    fixture.scrubber.read_due().await.unwrap();
    assert_eq!(fixture.states(&[&old, &new]).await, [DownloadState::Stored; 2]);
    fixture.age(TimeDelta::hours(1));
    fixture.scrubber.read_due().await.unwrap();
    let expected = [DownloadState::Damaged, DownloadState::Deleted];
    assert_eq!(fixture.states(&[&old, &new]).await, expected);
}

#[tokio::test]
async fn a_damaged_download_is_read_hourly_and_loses_its_mark_when_it_is_restored() {
    let mut fixture = ScrubberFixture::new().await;
    let transfer = fixture.download(TimeDelta::days(1)).await;
    fs::write(fixture.path(&transfer), "tada").unwrap();
    fixture.scrubber.read_due().await.unwrap();
    assert_eq!(fixture.states(&[&transfer]).await, [DownloadState::Damaged]);
    fs::write(fixture.path(&transfer), "data").unwrap();
    fixture.scrubber.read_due().await.unwrap();
    assert_eq!(fixture.states(&[&transfer]).await, [DownloadState::Damaged], "not due");
    fixture.age(TimeDelta::hours(1));
    fixture.scrubber.read_due().await.unwrap();
    assert_eq!(fixture.states(&[&transfer]).await, [DownloadState::Stored]);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_stops_no_other() {
    let mut fixture = ScrubberFixture::new().await;
    let first = fixture.download(TimeDelta::days(2)).await;
    let gone = fixture.download(TimeDelta::days(3)).await;
    let other = fixture.download(TimeDelta::days(4)).await;
    fixture.scrubber.read_due().await.unwrap();
    fixture.age(TimeDelta::days(2));
    let file = fixture.folder.path().join(RECORDS_FOLDER).join("records.db");
    let connection = rusqlite::Connection::open(file).unwrap();
    connection
        .execute("UPDATE transfers SET stalled = 7 WHERE id = $1", [first.id.to_string()])
        .unwrap();
    connection.execute("DELETE FROM transfers WHERE id = $1", [gone.id.to_string()]).unwrap();
    fs::write(fixture.path(&other), "tada").unwrap();
    fixture.scrubber.read_due().await.unwrap();
    assert_eq!(
        fixture.states(&[&first, &other]).await,
        [DownloadState::Stored, DownloadState::Damaged]
    );
    assert_eq!(n_read(fixture.records(), Utc::now()).await, 2, "no reading without a transfer");
}

#[tokio::test]
async fn a_scrubber_that_is_off_ends_and_a_drain_ends_a_running_one() {
    let fixture = ScrubberFixture::new().await;
    let run = async |interval, drain: &CancellationToken| {
        let store = fixture.scrubber.store.clone();
        run(fixture.records().clone(), store, interval, drain.clone()).await;
    };
    let drain = CancellationToken::new();
    run("off".parse().unwrap(), &drain).await;
    drain.cancel();
    run("30d".parse().unwrap(), &drain).await;
    let error = "never".parse::<ScrubInterval>().unwrap_err();
    assert!(error.contains("Write 90s, 5m, 24h or 7d. Or write off."), "{error}");
}
