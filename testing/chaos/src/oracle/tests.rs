use std::path::PathBuf;

use filepull_core::file_digest::FileDigests;
use serde_json::json;
use tempfile::TempDir;

use super::*;

const NAME: &str = "download-20260101-000000.txt";

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("client4").join(NAME);
    fs::create_dir(folder.path().join("client4")).unwrap();
    fs::create_dir(folder.path().join(".filepull")).unwrap();
    fs::write(&file, bytes(1)).unwrap();
    (folder, file)
}

fn bytes(version: u32) -> Vec<u8> {
    TestPattern::new("client4", version, 6400).bytes()
}

fn done(id: &str, digests: FileDigests) -> Value {
    let FileDigests { sha256, blake3 } = digests;
    let download = json!({ "name": NAME, "size": 6400, "sha256": sha256, "blake3": blake3 });
    json!({ "id": id, "client": "client4", "state": "done", "download": download })
}

fn checked(folder: &TempDir) -> Oracle {
    let mut oracle = Oracle::new(Counters::default());
    oracle.check_files(folder.path(), false).unwrap();
    oracle
}

fn assert_error(result: anyhow::Result<()>, text: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(text), "{error}");
}

#[test]
fn a_complete_file_that_an_answer_names_is_right() {
    let (folder, _) = folder();
    let mut oracle = checked(&folder);
    oracle.check_transfers(&[done("t1", FileDigests::of(&bytes(1)))]).unwrap();
    oracle.check_files(folder.path(), true).unwrap();
    assert_eq!((oracle.counters.n_files(), oracle.counters.n_wrong()), (2, 0));
}

#[test]
fn a_truncated_file_is_wrong_and_a_partial_is_ignored() {
    let (folder, file) = folder();
    fs::write(file.with_extension("tmp"), b"torn").unwrap();
    checked(&folder);
    fs::write(file.with_file_name("download-2.txt"), &bytes(1)[..6000]).unwrap();
    let mut oracle = Oracle::new(Counters::default());
    assert_error(oracle.check_files(folder.path(), false), "torn: 6000 bytes of 6400");
    assert_eq!(oracle.counters.n_wrong(), 1);
}

#[test]
fn a_file_that_is_replaced_changed_or_removed_is_wrong() {
    let (folder, file) = folder();
    let mut oracle = checked(&folder);
    let other = file.with_file_name("other");
    fs::write(&other, bytes(1)).unwrap();
    fs::rename(&other, &file).unwrap();
    assert_error(oracle.check_files(folder.path(), false), "has changed");
    let mut oracle = checked(&folder);
    fs::write(&file, bytes(2)).unwrap();
    oracle.check_files(folder.path(), false).unwrap();
    assert_error(oracle.check_files(folder.path(), true), "has changed");
    fs::remove_file(&file).unwrap();
    assert_error(oracle.check_files(folder.path(), false), "is gone");
}

#[test]
fn a_power_cut_may_take_only_what_was_not_acknowledged() {
    let (folder, file) = folder();
    let mut unacknowledged = checked(&folder);
    let mut acknowledged = checked(&folder);
    acknowledged.record_answer(&done("t1", FileDigests::of(&bytes(1)))).unwrap();
    fs::remove_file(&file).unwrap();
    unacknowledged.after_power_cut();
    unacknowledged.check_files(folder.path(), false).unwrap();
    acknowledged.after_power_cut();
    assert_error(acknowledged.check_files(folder.path(), false), "is gone");
}

#[test]
fn answers_that_contradict_the_disk_or_each_other_are_wrong() {
    let (folder, file) = folder();
    let digests = FileDigests::of(&bytes(1));
    let other = FileDigests::of(&bytes(2));
    for wrong in [
        FileDigests { sha256: other.sha256, ..digests },
        FileDigests { blake3: other.blake3, ..digests },
    ] {
        assert_error(checked(&folder).check_transfers(&[done("t1", wrong)]), "the disk Some");
    }
    assert_error(
        checked(&folder).check_transfers(&[done("t1", digests), done("t2", digests)]),
        "have the same file",
    );
    assert_error(checked(&folder).check_transfers(&[]), "a second file");
    let unfinished = json!({ "id": "t1", "client": "client4", "state": "running" });
    checked(&folder).check_transfers(&[unfinished]).unwrap();
    let mut oracle = checked(&folder);
    oracle.record_id("t9");
    assert_error(
        oracle.check_transfers(&[done("t1", digests)]),
        "t9 was in an answer and is not on record",
    );
    let mut oracle = checked(&folder);
    oracle.record_answer(&done("t1", digests)).unwrap();
    let failed = json!({ "id": "t1", "client": "client4", "state": "failed" });
    assert_error(oracle.check_transfers(&[failed]), "was done and is now");
    fs::remove_file(file).unwrap();
    let mut oracle = Oracle::new(Counters::default());
    oracle.check_files(folder.path(), false).unwrap();
    assert_error(oracle.check_transfers(&[done("t1", digests)]), "the disk None");
}

#[test]
fn every_partial_has_one_owner() {
    let (folder, file) = folder();
    let oracle = checked(&folder);
    let unfinished = json!({ "id": "t1", "client": "client4", "state": "waiting", "file": {} });
    assert_error(
        oracle.check_partials(folder.path(), std::slice::from_ref(&unfinished)),
        "unfinished transfers",
    );
    fs::write(file.with_file_name("t1-2.tmp"), b"").unwrap();
    oracle.check_partials(folder.path(), std::slice::from_ref(&unfinished)).unwrap();
    assert_error(oracle.check_partials(folder.path(), &[]), "partials of");
}

#[test]
fn a_foreign_file_may_be_anything_but_must_not_change() {
    let (folder, file) = folder();
    let mut oracle = checked(&folder);
    let name = "download-20260101-000000-2.txt";
    fs::write(file.with_file_name(name), b"mine").unwrap();
    oracle.add_foreign_file(folder.path(), "client4", name).unwrap();
    oracle.check_files(folder.path(), true).unwrap();
    fs::write(file.with_file_name(name), b"changed").unwrap();
    assert_error(oracle.check_files(folder.path(), true), "has changed");
}
