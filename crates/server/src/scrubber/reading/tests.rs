use std::fs;
use std::path::PathBuf;

use chrono::Utc;
use filepull_core::file_digest::FileDigests;
use filepull_core::id::ClientId;
use filepull_core::name::DownloadName;
use filepull_core::source::Source;
use filepull_core::transfer::{Phase, Published};
use tempfile::TempDir;

use super::*;

const BYTES: &[u8] = &[7; 600_000];

struct ReadingFixture {
    folder: TempDir,
    store: Store,
    transfer: Transfer,
}

impl ReadingFixture {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let client = ClientId::parse("client4").unwrap();
        let source = Source { name: "data.txt".to_owned(), size: 600_000, modified_ns: 0 };
        let name = DownloadName::new(Utc::now(), "data.txt");
        let digests = FileDigests::of(BYTES);
        let download = Download { source, name, size: 600_000, digests, inode: 1 };
        let phase = Phase::Done(Published::from_record(download));
        let transfer =
            Transfer { phase, ..Transfer::new(client, None, "curl".to_owned(), Utc::now()) };
        let fixture = Self { folder, store, transfer };
        fs::create_dir(fixture.path().parent().unwrap()).unwrap();
        fs::write(fixture.path(), BYTES).unwrap();
        fixture
    }

    fn path(&self) -> PathBuf {
        let name = self.transfer.download().unwrap().name.to_string();
        self.folder.path().join("client4").join(name)
    }

    fn inspect(&self, mut on_read: impl FnMut(u64)) -> Reading {
        let download = self.transfer.download().unwrap();
        let mut take = |len_bytes| {
            on_read(len_bytes);
            Ok(())
        };
        inspect(&self.store, &self.transfer, download, &mut take).unwrap()
    }
}

#[test]
fn each_change_of_a_file_is_damage_and_a_missing_file_is_deleted() {
    let fixture = ReadingFixture::new();
    assert_eq!(fixture.inspect(|_| {}), Reading::of(DownloadState::Stored));
    let mut flipped = BYTES.to_vec();
    flipped[599_999] ^= 1;
    for (bytes, reason) in [(&flipped[..], "its SHA-256 is"), (b"short", "5 bytes instead of")] {
        fs::write(fixture.path(), bytes).unwrap();
        let reading = fixture.inspect(|_| {});
        assert_eq!(reading.state, DownloadState::Damaged);
        assert!(reading.reason.starts_with(reason), "{reading:?}");
    }
    fs::remove_file(fixture.path()).unwrap();
    assert_eq!(fixture.inspect(|_| {}), Reading::of(DownloadState::Deleted));
    std::os::unix::fs::symlink("elsewhere", fixture.path()).unwrap();
    assert_eq!(fixture.inspect(|_| {}).state, DownloadState::Damaged, "a link is not followed");
}

#[test]
fn a_file_that_is_deleted_while_it_is_read_is_no_damage() {
    let fixture = ReadingFixture::new();
    let reading = fixture.inspect(|_| {
        let _ = fs::remove_file(fixture.path());
    });
    assert_eq!(reading, Reading::of(DownloadState::Stored), "its bytes were the same to the end");
    // A program may overwrite a file before it removes it.
    fs::write(fixture.path(), BYTES).unwrap();
    let reading = fixture.inspect(|_| {
        if fixture.path().exists() {
            fs::write(fixture.path(), [0; 600_000]).unwrap();
            fs::remove_file(fixture.path()).unwrap();
        }
    });
    assert_eq!(reading, Reading::of(DownloadState::Deleted));
}

#[test]
fn the_rate_is_bounded_and_a_slow_disk_gets_half_of_the_time() {
    let second = Duration::from_secs(1);
    assert_eq!(pause_after(RATE, Duration::ZERO), second);
    assert_eq!(pause_after(RATE, second / 4), second * 3 / 4);
    assert_eq!(pause_after(RATE, second * 3), second * 3);
}

#[tokio::test]
async fn a_reading_that_is_dropped_ends_its_thread() {
    let mut fixture = ReadingFixture::new();
    let read_whole = read(&fixture.store, &fixture.transfer).await.unwrap();
    assert_eq!(read_whole, Reading::of(DownloadState::Stored));
    // To read this file takes hours.
    let size = 1 << 40;
    fs::File::create(fixture.path()).unwrap().set_len(size).unwrap();
    let download = Download { size, ..fixture.transfer.download().unwrap().clone() };
    fixture.transfer.phase = Phase::Done(Published::from_record(download));
    let mut reading = Box::pin(read(&fixture.store, &fixture.transfer));
    assert!(futures::poll!(reading.as_mut()).is_pending());
    while n_threads() == 0 {
        tokio::task::yield_now().await;
    }
    drop(reading);
    while n_threads() != 0 {
        tokio::task::yield_now().await;
    }
}

/// Returns the number of threads that read a download.
fn n_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == THREAD_NAME).count()
}
