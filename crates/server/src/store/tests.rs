mod direct_writes;

use filepull_core::disk::{CommitResult, Disk as _, Extent, PartialKey};
use filepull_core::file_digest::{Blake3, FileDigests};
use filepull_core::id::TransferId;
use filepull_core::source::Source;
use filepull_core::transfer::Download;

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

fn client() -> ClientId {
    ClientId::parse("client4").unwrap()
}

fn name() -> DownloadName {
    DownloadName::new(chrono::DateTime::UNIX_EPOCH, "data.txt")
}

fn key(transfer: TransferId, generation: u32) -> PartialKey {
    PartialKey { client: client(), transfer, generation }
}

/// Creates a partial with these bytes.
fn partial(store: &mut Store, bytes: &'static [u8]) -> Partial {
    let (mut partial, _begun) =
        store.begin(&key(TransferId::generate(), 1), bytes.len() as u64).unwrap();
    store.append(&mut partial, &[bytes]).unwrap();
    partial
}

#[test]
fn a_published_partial_has_its_name_and_no_other() {
    let (folder, mut store) = store();
    let partial = partial(&mut store, b"whole");
    let _synced = store.sync(&partial, Extent::Whole).unwrap();
    assert!(matches!(store.commit(&partial, &name()), Ok(CommitResult::Named(_))));
    let names: Vec<_> = std::fs::read_dir(folder.path().join("client4"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["download-19700101-000000.txt"]);
    let file = store.find_download(&client(), &name()).unwrap().unwrap();
    assert_eq!(digest_of(&file).unwrap(), (5, Blake3::of(b"whole")));
    assert!(file.metadata().unwrap().permissions().readonly());
}

#[test]
fn a_taken_name_is_never_overwritten() {
    let (_folder, mut store) = store();
    let first = partial(&mut store, b"first");
    assert!(matches!(store.commit(&first, &name()), Ok(CommitResult::Named(_))));
    let second = partial(&mut store, b"second");
    assert!(matches!(store.commit(&second, &name()), Ok(CommitResult::Taken)));
    let first = store.find_download(&client(), &name()).unwrap().unwrap();
    assert_eq!(digest_of(&first).unwrap().1, Blake3::of(b"first"));
}

#[test]
fn a_partial_is_cut_to_its_valid_prefix() {
    let (_folder, mut store) = store();
    let transfer = TransferId::generate();
    let (mut partial, _begun) = store.begin(&key(transfer, 1), 9).unwrap();
    store.append(&mut partial, &[b"0123".as_slice(), b"45678"]).unwrap();
    let mut reopened = store.resume(&key(transfer, 1), 4, |_| ()).unwrap().unwrap();
    store.append(&mut reopened, &[b"xy"]).unwrap();
    let mut bytes = Vec::new();
    reopened.read_back(|part| bytes.extend_from_slice(part)).unwrap();
    assert_eq!(bytes, b"0123xy");
    assert!(store.resume(&key(transfer, 1), 7, |_| ()).unwrap().is_none(), "it is too short");
    assert!(store.resume(&key(transfer, 2), 0, |_| ()).unwrap().is_none(), "it is missing");
}

#[test]
fn a_leftover_partial_is_replaced_and_never_shared() {
    let (_folder, mut store) = store();
    let transfer = TransferId::generate();
    let (mut leftover, _begun) = store.begin(&key(transfer, 1), 4).unwrap();
    let (partial, _begun) = store.begin(&key(transfer, 1), 4).unwrap();
    store.append(&mut leftover, &[b"late"]).unwrap();
    let mut bytes = Vec::new();
    store.resume(&key(transfer, 1), 0, |part| bytes.extend_from_slice(part)).unwrap().unwrap();
    assert!(bytes.is_empty(), "{bytes:?}");
    assert_ne!(leftover.inode().unwrap(), partial.inode().unwrap());
}

#[test]
fn another_entry_with_the_name_of_a_download_is_not_found() {
    use std::os::unix::fs::symlink;
    let (folder, mut store) = store();
    let partial = partial(&mut store, b"whole");
    let source = Source { name: "data.txt".to_owned(), size: 5, modified_ns: 0 };
    let digests = FileDigests::of(b"whole");
    let inode = partial.inode().unwrap();
    let download = Download { source, name: name(), size: 5, digests, inode };
    let path = folder.path().join("client4").join(name().to_string());
    assert!(store.find(&client(), &download).unwrap().is_none(), "nothing is there");
    symlink("elsewhere", &path).unwrap();
    assert!(store.find(&client(), &download).unwrap().is_none(), "a link is not followed");
    assert!(matches!(store.commit(&partial, &name()), Ok(CommitResult::Taken)));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(store.find(&client(), &download).unwrap().is_none(), "a folder is not a download");
    assert!(matches!(store.commit(&partial, &name()), Ok(CommitResult::Taken)));
    std::fs::remove_dir(&path).unwrap();
    assert!(matches!(store.commit(&partial, &name()), Ok(CommitResult::Named(_))));
    assert!(store.find(&client(), &download).unwrap().is_some());
}

#[test]
fn only_partials_are_swept_and_none_that_was_begun_since_the_start() {
    let (folder, mut store) = store();
    let [leftover, begun] = [1, 2].map(|generation| key(TransferId::generate(), generation));
    let path = |key: &PartialKey| {
        folder.path().join("client4").join(partial_name(key.transfer, key.generation))
    };
    let _begun = store.begin(&begun, 0).unwrap();
    std::fs::write(path(&leftover), "").unwrap();
    std::fs::write(folder.path().join("client4/notes.tmp"), "not ours").unwrap();
    let mut found = store.partials(&client()).unwrap();
    found.sort();
    let mut expected = [leftover.clone(), begun.clone()];
    expected.sort();
    assert_eq!(found, expected);
    assert!(store.remove_leftover(&leftover).unwrap());
    assert!(!store.remove_leftover(&begun).unwrap());
    assert!(!path(&leftover).exists() && path(&begun).exists());
    store.end_sweep();
    assert!(!store.remove_leftover(&begun).unwrap(), "the sweep has ended");
}

#[test]
fn the_error_for_an_entry_that_is_not_a_folder_names_its_path() {
    let (folder, mut store) = store();
    let place = folder.path().join("client4");
    std::fs::write(&place, "").unwrap();
    let mut reason = || {
        let error = store.begin(&key(TransferId::generate(), 1), 0).unwrap_err().into_cause();
        filepull_core::human::chain(&error).to_string()
    };
    let expected = format!("open {}: it is not a folder", place.display());
    assert!(reason().starts_with(&expected), "{}", reason());
    std::fs::remove_file(&place).unwrap();
    std::os::unix::fs::symlink(".", &place).unwrap();
    let expected = format!("open {}: it is a symbolic link,", place.display());
    assert!(reason().starts_with(&expected), "{}", reason());
}

#[test]
fn a_folder_that_is_a_link_is_rejected() {
    let (folder, mut store) = store();
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("client4")).unwrap();
    assert!(store.begin(&key(TransferId::generate(), 1), 0).is_err());
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn the_probe_writes_beside_downloads_and_records_and_leaves_no_file() {
    let (folder, store) = store();
    let records = folder.path().join(RECORDS_FOLDER);
    std::fs::create_dir(&records).unwrap();
    // The two may be on different disks, and only one of them may fail.
    let folders = [folder.path(), &records].map(|path| File::open(path).unwrap());
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    folders.iter().for_each(|folder| folder.set_modified(long_ago).unwrap());
    store.check_writable().unwrap();
    for folder in &folders {
        assert_ne!(folder.metadata().unwrap().modified().unwrap(), long_ago);
    }
    assert_eq!(std::fs::read_dir(&records).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_read_only_partial_can_be_opened_again() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, mut store) = store();
    let transfer = TransferId::generate();
    let (partial, _begun) = store.begin(&key(transfer, 1), 0).unwrap();
    let _synced = store.sync(&partial, Extent::Whole).unwrap();
    drop(partial);
    let reopened = store.resume(&key(transfer, 1), 0, |_| ()).unwrap();
    assert!(reopened.is_some());
    let path = folder.path().join("client4").join(partial_name(transfer, 1));
    // Tests may run as root, who may write to every file, so the mode is checked.
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_partial_counts_the_space_that_it_reserved() {
    let (_folder, mut store) = store();
    let transfer = TransferId::generate();
    let size = 4 << 20;
    let (partial, _begun) = store.begin(&key(transfer, 1), size).unwrap();
    assert!(size <= partial.allocated());
    drop(partial);
    let mut reopened = store.resume(&key(transfer, 1), 0, |_| ()).unwrap().unwrap();
    reopened.reserve(size).unwrap();
    assert!(size <= reopened.allocated());
}
