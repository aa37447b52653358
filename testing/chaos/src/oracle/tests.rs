use std::path::PathBuf;

use filepull_core::digest::Digest;
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

fn done(id: &str, digest: &str) -> Value {
    let download = json!({ "name": NAME, "size": 6400, "sha256": digest });
    json!({ "id": id, "client": "client4", "state": "done", "download": download })
}

fn looked(folder: &TempDir) -> Oracle {
    let mut oracle = Oracle::new(Counters::default());
    oracle.look(folder.path(), false).unwrap();
    oracle
}

fn says(result: anyhow::Result<()>, words: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

#[test]
fn a_whole_file_that_an_answer_names_is_right() {
    let (folder, _) = folder();
    let mut oracle = looked(&folder);
    oracle.agree(&[done("t1", &Digest::of(&bytes(1)).to_string())]).unwrap();
    oracle.look(folder.path(), true).unwrap();
    assert_eq!((oracle.tally.n_files(), oracle.tally.n_wrong()), (2, 0));
}

#[test]
fn a_torn_file_is_wrong_and_its_partial_is_not_looked_at() {
    let (folder, file) = folder();
    fs::write(file.with_extension("tmp"), b"torn").unwrap();
    looked(&folder);
    fs::write(file.with_file_name("download-2.txt"), &bytes(1)[..6000]).unwrap();
    let mut oracle = Oracle::new(Counters::default());
    says(oracle.look(folder.path(), false), "torn: 6000 bytes of 6400");
    assert_eq!(oracle.tally.n_wrong(), 1);
}

#[test]
fn a_file_that_is_replaced_changed_or_removed_is_wrong() {
    let (folder, file) = folder();
    let mut oracle = looked(&folder);
    let other = file.with_file_name("other");
    fs::write(&other, bytes(1)).unwrap();
    fs::rename(&other, &file).unwrap();
    says(oracle.look(folder.path(), false), "has changed");
    let mut oracle = looked(&folder);
    fs::write(&file, bytes(2)).unwrap();
    oracle.look(folder.path(), false).unwrap();
    says(oracle.look(folder.path(), true), "has changed");
    fs::remove_file(&file).unwrap();
    says(oracle.look(folder.path(), false), "is gone");
}

#[test]
fn a_power_cut_may_take_only_what_was_not_acknowledged() {
    let (folder, file) = folder();
    let (mut unheard, mut acknowledged) = (looked(&folder), looked(&folder));
    acknowledged.answered(&done("t1", &Digest::of(&bytes(1)).to_string())).unwrap();
    fs::remove_file(&file).unwrap();
    unheard.power_cut();
    unheard.look(folder.path(), false).unwrap();
    acknowledged.power_cut();
    says(acknowledged.look(folder.path(), false), "is gone");
}

#[test]
fn answers_that_contradict_the_disk_or_each_other_are_wrong() {
    let (folder, file) = folder();
    let digest = Digest::of(&bytes(1)).to_string();
    says(looked(&folder).agree(&[done("t1", "00")]), "the disk");
    says(looked(&folder).agree(&[done("t1", &digest), done("t2", &digest)]), "claim one file");
    says(looked(&folder).agree(&[]), "a second file");
    let open = json!({ "id": "t1", "client": "client4", "state": "running" });
    looked(&folder).agree(&[open]).unwrap();
    let mut oracle = looked(&folder);
    oracle.recorded("t9");
    says(oracle.agree(&[done("t1", &digest)]), "t9 was answered, and is not on record");
    let mut oracle = looked(&folder);
    oracle.answered(&done("t1", &digest)).unwrap();
    let failed = json!({ "id": "t1", "client": "client4", "state": "failed" });
    says(oracle.agree(&[failed]), "was done, and is now");
    fs::remove_file(file).unwrap();
    let mut oracle = Oracle::new(Counters::default());
    oracle.look(folder.path(), false).unwrap();
    says(oracle.agree(&[done("t1", &digest)]), "the disk None");
}

#[test]
fn every_partial_has_one_owner() {
    let (folder, file) = folder();
    let oracle = looked(&folder);
    let open = json!({ "id": "t1", "client": "client4", "state": "waiting", "file": {} });
    says(oracle.partials(folder.path(), std::slice::from_ref(&open)), "open are");
    fs::write(file.with_file_name("t1-2.tmp"), b"").unwrap();
    oracle.partials(folder.path(), std::slice::from_ref(&open)).unwrap();
    says(oracle.partials(folder.path(), &[]), "partials of");
}

#[test]
fn a_stranger_may_be_anything_but_touched() {
    let (folder, file) = folder();
    let mut oracle = looked(&folder);
    let name = "download-20260101-000000-2.txt";
    fs::write(file.with_file_name(name), b"mine").unwrap();
    oracle.stranger(folder.path(), "client4", name).unwrap();
    oracle.look(folder.path(), true).unwrap();
    fs::write(file.with_file_name(name), b"thine").unwrap();
    says(oracle.look(folder.path(), true), "has changed");
}
