use filepull_core::digest::Digest;

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

/// A partial that holds `bytes`.
fn partial(store: &Store, bytes: &'static [u8]) -> Partial {
    let size = bytes.len() as u64;
    let mut partial = store.create_partial(&client(), TransferId::generate(), 1, size).unwrap();
    partial.append(&[bytes.into()]).unwrap();
    partial
}

#[test]
fn a_published_partial_has_its_name_and_no_other() {
    let (folder, store) = store();
    let partial = partial(&store, b"whole");
    partial.seal().unwrap();
    assert_eq!(partial.publish(&name()).unwrap(), Published::Named);
    let names: Vec<_> = std::fs::read_dir(folder.path().join("client4"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["download-19700101-000000.txt"]);
    let file = store.find_download(&client(), &name()).unwrap().unwrap();
    assert_eq!(digest_of(&file).unwrap(), (5, Digest::of(b"whole")));
    assert!(file.metadata().unwrap().permissions().readonly());
}

#[test]
fn a_taken_name_is_never_overwritten() {
    let (_folder, store) = store();
    assert_eq!(partial(&store, b"first").publish(&name()).unwrap(), Published::Named);
    let second = partial(&store, b"second");
    assert_eq!(second.publish(&name()).unwrap(), Published::Taken);
    assert_eq!(second.publish_by_link(&name().to_string()).unwrap(), Published::Taken);
    assert_eq!(second.publish_by_link(&name().next().to_string()).unwrap(), Published::Named);
    let first = store.find_download(&client(), &name()).unwrap().unwrap();
    assert_eq!(digest_of(&first).unwrap().1, Digest::of(b"first"));
}

#[test]
fn a_partial_is_cut_to_what_is_known_to_be_valid() {
    let (_folder, store) = store();
    let transfer = TransferId::generate();
    let mut partial = store.create_partial(&client(), transfer, 1, 9).unwrap();
    partial.append(&[b"0123".as_slice().into(), b"45678".as_slice().into()]).unwrap();
    let mut reopened = store.open_partial(&client(), transfer, 1, 4).unwrap().unwrap();
    reopened.append(&[b"xy".as_slice().into()]).unwrap();
    let mut bytes = Vec::new();
    reopened.read_back(|part| bytes.extend_from_slice(part)).unwrap();
    assert_eq!(bytes, b"0123xy");
    assert!(store.open_partial(&client(), transfer, 1, 7).unwrap().is_none(), "it is too short");
    assert!(store.open_partial(&client(), transfer, 2, 0).unwrap().is_none(), "it is missing");
}

#[test]
fn a_generation_is_created_once() {
    let (_folder, store) = store();
    let transfer = TransferId::generate();
    store.create_partial(&client(), transfer, 1, 0).unwrap();
    assert!(store.create_partial(&client(), transfer, 1, 0).is_err());
}

#[test]
fn only_unwanted_partials_are_swept() {
    let (folder, store) = store();
    let (wanted, unwanted) = (TransferId::generate(), TransferId::generate());
    for transfer in [wanted, unwanted] {
        store.create_partial(&client(), transfer, 1, 0).unwrap();
    }
    std::fs::write(folder.path().join("client4/notes.tmp"), "not ours").unwrap();
    let n_removed = store.sweep(|name| name.starts_with(&wanted.to_string())).unwrap();
    assert_eq!(n_removed, 1);
    assert!(folder.path().join("client4/notes.tmp").exists());
    assert!(store.open_partial(&client(), wanted, 1, 0).unwrap().is_some());
}

#[test]
fn a_folder_that_is_a_link_is_refused() {
    let (folder, store) = store();
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("client4")).unwrap();
    assert!(store.create_partial(&client(), TransferId::generate(), 1, 0).is_err());
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn the_probe_writes_where_downloads_and_where_records_lie_and_leaves_nothing() {
    let (folder, store) = store();
    let records = folder.path().join(RECORDS_FOLDER);
    std::fs::create_dir(&records).unwrap();
    // Either may be a disk of its own, and fail alone.
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
fn a_partial_that_was_protected_already_can_be_opened_again() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, store) = store();
    let transfer = TransferId::generate();
    let partial = store.create_partial(&client(), transfer, 1, 0).unwrap();
    partial.seal().unwrap();
    drop(partial);
    let reopened = store.open_partial(&client(), transfer, 1, 0).unwrap();
    assert!(reopened.is_some());
    let path = folder.path().join("client4").join(partial_name(transfer, 1));
    // Root may write to anything: what counts is that nobody needs to be root.
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_partial_owns_the_room_that_it_reserved() {
    let (_folder, store) = store();
    let (transfer, size) = (TransferId::generate(), 4 << 20);
    let partial = store.create_partial(&client(), transfer, 1, size).unwrap();
    assert!(size <= partial.allocated());
    drop(partial);
    let reopened = store.open_partial(&client(), transfer, 1, 0).unwrap().unwrap();
    reopened.reserve(size).unwrap();
    assert!(size <= reopened.allocated());
}
