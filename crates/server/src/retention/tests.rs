use std::fs;

use chrono::{DateTime, TimeDelta};
use filepull_core::file_digest::FileDigests;
use filepull_core::id::ClientId;
use filepull_core::name::DownloadName;
use filepull_core::problem::{Code, Problem};
use filepull_core::source::Source;
use filepull_core::transfer::{Download, Failure, LastProgress, Phase, Published, Transfer};
use tempfile::TempDir;

use super::*;
use crate::data_folder::RECORDS_FOLDER;
use crate::records::TransferFilter;

const DAYS: TimeDelta = TimeDelta::days(30);

/// Returns a transfer that was created and ended at this time.
fn transfer(at: DateTime<Utc>, phase: Phase) -> Transfer {
    let client = ClientId::parse("client4").unwrap();
    let new = Transfer::new(client, None, "curl".to_owned(), at);
    Transfer { id: TransferId::first_at(at), finished_at: Some(at), phase, ..new }
}

fn done(at: DateTime<Utc>) -> Transfer {
    let source = Source { name: "menu.txt".to_owned(), size: 3, modified_ns: 0 };
    let name = DownloadName::new(at, "menu.txt");
    let download = Download { source, name, size: 3, digests: FileDigests::of(b"abc"), inode: 1 };
    transfer(at, Phase::Done(Published::from_record(download)))
}

fn failed(at: DateTime<Utc>) -> Transfer {
    let problem = Problem::new(Code::FileMissing, "There is none.");
    transfer(at, Phase::Failed(Failure { problem, reached: LastProgress::default() }))
}

struct RetentionFixture {
    folder: TempDir,
    records: Records,
    store: Store,
}

impl RetentionFixture {
    async fn new(transfers: &[&Transfer]) -> Self {
        let folder = TempDir::new().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let records = Records::open(&folder.path().join(RECORDS_FOLDER)).await.unwrap();
        for transfer in transfers {
            records.save(transfer).await.unwrap();
        }
        Self { folder, records, store }
    }

    fn put_download(&self, transfer: &Transfer) {
        let name = transfer.download().unwrap().name.to_string();
        let client = self.folder.path().join(transfer.client.as_str());
        fs::create_dir_all(&client).unwrap();
        fs::write(client.join(name), "abc").unwrap();
    }

    async fn pass(&self, keep: Keep) -> RetentionPass {
        self.pass_of(&mut ScanPosition::new(&self.records), keep).await
    }

    async fn pass_of(&self, scan: &mut ScanPosition, keep: Keep) -> RetentionPass {
        pass(&self.records, &self.store, keep, scan).await.unwrap()
    }

    async fn left(&self) -> Vec<TransferId> {
        let page = self.records.transfers(&TransferFilter::default()).await.unwrap();
        page.items.into_iter().map(|item| item.readable().unwrap().id).collect()
    }
}

#[tokio::test]
async fn old_records_go_unless_their_download_is_there() {
    let now = Utc::now();
    let long_ago = |n| now - DAYS - TimeDelta::seconds(n);
    let [kept, gone, missing] = [done(long_ago(3)), done(long_ago(2)), failed(long_ago(1))];
    let young = failed(now - DAYS + TimeDelta::hours(1));
    let fixture = RetentionFixture::new(&[&kept, &gone, &missing, &young]).await;
    fixture.put_download(&kept);
    let keep = Keep::For(DAYS.to_std().unwrap());
    assert_eq!(fixture.pass(keep).await, RetentionPass { forgotten: 2, kept: 1 });
    assert_eq!(fixture.left().await, [young.id, kept.id]);
    // Once the file is deleted, its record is removed.
    fs::remove_dir_all(fixture.folder.path().join("client4")).unwrap();
    assert_eq!(fixture.pass(keep).await, RetentionPass { forgotten: 1, kept: 0 });
    assert_eq!(fixture.left().await, [young.id]);
}

#[tokio::test]
async fn a_download_that_cannot_be_checked_counts_as_existing() {
    let kept = done(Utc::now() - DAYS - TimeDelta::seconds(1));
    let fixture = RetentionFixture::new(&[&kept]).await;
    // Not a folder, so the server cannot check whether the download exists.
    fs::write(fixture.folder.path().join("client4"), "").unwrap();
    let keep = Keep::For(DAYS.to_std().unwrap());
    assert_eq!(fixture.pass(keep).await, RetentionPass { forgotten: 0, kept: 1 });
}

#[tokio::test]
async fn a_very_long_time_is_forever() {
    let old = failed(DateTime::from_timestamp_millis(1).unwrap());
    let fixture = RetentionFixture::new(&[&old]).await;
    for keep in [Keep::Forever, Keep::For(Duration::MAX)] {
        assert_eq!(fixture.pass(keep).await, RetentionPass::default());
    }
    assert_eq!(fixture.left().await, [old.id]);
}

#[tokio::test]
async fn one_pass_removes_more_than_one_batch() {
    let ago = |n| Utc::now() - DAYS - TimeDelta::seconds(n);
    let transfers: Vec<_> = (1..=i64::from(BATCH_LEN) * 2 + 1).map(|n| failed(ago(n))).collect();
    let fixture = RetentionFixture::new(&transfers.iter().collect::<Vec<_>>()).await;
    let pass = fixture.pass(Keep::For(DAYS.to_std().unwrap())).await;
    assert_eq!(pass, RetentionPass { forgotten: transfers.len(), kept: 0 });
    assert!(fixture.left().await.is_empty());
}

#[test]
fn a_time_or_forever_is_parsed() {
    assert_eq!("30d".parse(), Ok(Keep::For(Duration::from_hours(30 * 24))));
    assert_eq!("forever".parse(), Ok(Keep::Forever));
    assert!("never".parse::<Keep>().is_err_and(|error| error.ends_with("Or write forever.")));
}

#[tokio::test]
async fn a_kept_record_is_not_checked_in_each_pass() {
    let ago = |n| Utc::now() - DAYS - TimeDelta::seconds(n);
    let kept = done(ago(100));
    let fixture = RetentionFixture::new(&[&kept]).await;
    fixture.put_download(&kept);
    let keep = Keep::For(DAYS.to_std().unwrap());
    let mut scan = ScanPosition::new(&fixture.records);
    assert_eq!(fixture.pass_of(&mut scan, keep).await, RetentionPass { forgotten: 0, kept: 1 });
    fs::remove_dir_all(fixture.folder.path().join("client4")).unwrap();
    let next = failed(ago(50));
    fixture.records.save(&next).await.unwrap();
    assert_eq!(fixture.pass_of(&mut scan, keep).await, RetentionPass { forgotten: 1, kept: 0 });
    assert_eq!(fixture.left().await, [kept.id]);
    for _ in 2..PASSES_PER_SCAN {
        assert_eq!(fixture.pass_of(&mut scan, keep).await, RetentionPass::default());
    }
    assert_eq!(fixture.pass_of(&mut scan, keep).await, RetentionPass { forgotten: 1, kept: 0 });
    assert!(fixture.left().await.is_empty());
}
