//! What a process can open after it has entered the sandbox, and what is reported about it.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use clap::Parser as _;
use filepull_core::path::SharedPath;
use tempfile::TempDir;

use super::*;
use crate::config::Args;

/// The folder of a child process, in its environment.
const FOLDER: &str = "FILEPULL_SANDBOX_TEST";

const SECRET: &str = "SECRET";

fn config(folder: &Path, mode: &str) -> Config {
    let file = folder.join("shared/data.txt");
    let state = folder.join("state");
    let args = Args::try_parse_from([
        "filepull-agent",
        "--client-id=client4",
        "--server-addr=127.0.0.1:1",
        "--share=logs/*.log,link",
        &format!("--file-path={}", file.display()),
        &format!("--state-dir={}", state.display()),
        &format!("--sandbox={mode}"),
    ]);
    Config::try_from(args.unwrap()).unwrap()
}

/// A folder with a shared file, and a file that is not shared.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::create_dir_all(folder.path().join("shared/logs")).unwrap();
    fs::create_dir(folder.path().join("outside")).unwrap();
    fs::write(folder.path().join("outside/canary"), SECRET).unwrap();
    fs::write(folder.path().join("shared/data.txt"), "data").unwrap();
    symlink(folder.path().join("outside/canary"), folder.path().join("shared/link")).unwrap();
    folder
}

/// Runs a test of this file in a process of its own, because a sandbox cannot be left. Returns what
/// the test has written to its state folder; `None` if the kernel has no Landlock.
fn run_child(test: &str) -> Option<String> {
    let folder = folder();
    let program = std::env::current_exe().unwrap();
    let name = format!("sandbox::tests::{test}");
    let mut command = Command::new(program);
    let child = command.args(["--exact", &name, "--nocapture"]).env(FOLDER, folder.path());
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stdout));
    let result = fs::read_to_string(folder.path().join("state/result")).unwrap();
    if result.contains("not supported") {
        skipped(&result);
        return None;
    }
    Some(result)
}

#[allow(clippy::print_stderr, reason = "a skipped test must be seen")]
fn skipped(reason: &str) {
    eprintln!("SKIPPED: the sandbox is not tested here: {reason}");
}

/// Returns the folder of the parent test; `None` if this process is no child of one.
fn child_folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

fn check_denied<T: fmt::Debug>(what: &str, result: io::Result<T>) {
    let error = result.expect_err(what);
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{what}: {error}");
}

#[test]
fn a_process_in_the_sandbox_reads_its_shares_and_nothing_else() {
    let Some(result) = run_child("child_in_the_sandbox") else { return };
    assert!(result.starts_with("on: the agent can read "), "{result}");
    assert!(result.contains("/shared and system files, write "), "{result}");
}

#[test]
fn child_in_the_sandbox() {
    let Some(folder) = child_folder() else { return };
    let (changes, outside) = changes_from_outside(folder.clone());
    let config = config(&folder, "auto");
    let state = FileSandbox::new(&config).enter().unwrap();
    let result = folder.join("state/result");
    fs::write(&result, state.to_string()).unwrap();
    if state.level == SandboxLevel::NotSupported {
        return;
    }
    let canary = folder.join("outside/canary");
    check_denied("a file outside", fs::read(&canary));
    check_denied("a link that leads outside", fs::read(folder.join("shared/link")));
    let other = thread::spawn(move || fs::read(canary)).join().unwrap();
    check_denied("a file outside, from another thread", other);
    check_denied("the folder above", fs::read_dir(&folder));
    check_denied("the memory of another process", fs::read("/proc/1/environ"));
    check_denied("a program", Command::new("/bin/sh").args(["-c", "exit 0"]).status());
    check_denied("a shared file, written", fs::write(folder.join("shared/data.txt"), "x"));
    check_denied("a new file in a share", File::create(folder.join("shared/new")));
    check_denied("a new file outside", File::create(folder.join("new")));
    check_denied("a deleted file", fs::remove_file(folder.join("shared/data.txt")));

    assert_eq!(fs::read(folder.join("shared/data.txt")).unwrap(), b"data");
    let temporary = folder.join("state/temporary");
    fs::write(&temporary, "x").unwrap();
    fs::rename(&temporary, folder.join("state/kept")).unwrap();
    File::open(folder.join("state")).unwrap().sync_all().unwrap();
    fs::read("/etc/hosts").unwrap();

    // The shares still open what appears in them later, and only that.
    let open = |path: &str| config.shares.open(&config.client, Some(&parse(path)));
    changes.send(FolderChange::NewFile).unwrap();
    outside.recv().unwrap();
    assert_eq!(open("logs/later.log").unwrap().source.size, 5);
    changes.send(FolderChange::ReplaceFolder).unwrap();
    outside.recv().unwrap();
    let problem = open("logs/later.log").unwrap_err();
    assert!(problem.detail.contains("the sandbox allows only the old folder"), "{problem:?}");
}

fn parse(path: &str) -> SharedPath {
    SharedPath::parse(path).unwrap()
}

/// What another program does to the shared folder.
enum FolderChange {
    NewFile,
    ReplaceFolder,
}

/// Starts a thread that stays outside the sandbox, because it started before. It makes each change
/// that it receives, and confirms it.
fn changes_from_outside(folder: PathBuf) -> (mpsc::Sender<FolderChange>, mpsc::Receiver<()>) {
    let (changes, received) = mpsc::channel();
    let (done, confirmed) = mpsc::channel();
    thread::spawn(move || {
        for change in received {
            if let FolderChange::ReplaceFolder = change {
                fs::rename(folder.join("shared"), folder.join("old")).unwrap();
                fs::create_dir_all(folder.join("shared/logs")).unwrap();
            }
            fs::write(folder.join("shared/logs/later.log"), "later").unwrap();
            done.send(()).unwrap();
        }
    });
    (changes, confirmed)
}

#[test]
fn a_share_that_does_not_exist_yet_needs_no_restart() {
    let Some(result) = run_child("child_with_a_missing_folder") else { return };
    assert!(result.starts_with("partly on: the agent can read "), "{result}");
    assert!(result.contains(" is open because "), "{result}");
    assert!(result.contains("/shared/none/deep does not exist yet: restart"), "{result}");
}

#[test]
fn child_with_a_missing_folder() {
    let Some(folder) = child_folder() else { return };
    let file = folder.join("shared/none/deep/data.txt");
    let shares = crate::share::Shares::new(&file, []).unwrap();
    let config = Config { shares, ..config(&folder, "auto") };
    let (start, started) = mpsc::channel();
    let created = thread::spawn(move || {
        started.recv().unwrap();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "data").unwrap();
    });
    let state = FileSandbox::new(&config).enter().unwrap();
    fs::write(folder.join("state/result"), state.to_string()).unwrap();
    if state.level == SandboxLevel::NotSupported {
        return;
    }
    check_denied("a file outside", fs::read(folder.join("outside/canary")));
    start.send(()).unwrap();
    created.join().unwrap();
    assert_eq!(config.shares.open(&config.client, None).unwrap().source.size, 4);
}

#[test]
fn what_an_older_kernel_enforces_is_reported() {
    let folder = folder();
    let check = |ruleset, landlock, level, expected: &str| {
        let state = FileSandbox::new(&config(folder.path(), "auto")).state(&ruleset, landlock);
        assert_eq!(state.level, level, "{state}");
        assert!(state.to_string().contains(expected), "{state}");
    };
    let available = |effective_abi| LandlockStatus::Available { effective_abi, kernel_abi: None };
    let full = RulesetStatus::FullyEnforced;
    check(full, available(ABI::V5), SandboxLevel::Full, "on: the agent can read ");
    let partial = RulesetStatus::PartiallyEnforced;
    let old = "partly on: the agent can read ";
    check(partial, available(ABI::V2), SandboxLevel::Partial, old);
    let partial = RulesetStatus::PartiallyEnforced;
    let version = "This kernel has version 2 of Landlock; all rules need version 5 (Linux 6.10).";
    check(partial, available(ABI::V2), SandboxLevel::Partial, version);
    for (landlock, why) in [
        (LandlockStatus::NotEnabled, "not supported: Landlock is switched off"),
        (LandlockStatus::NotImplemented, "not supported: this kernel, or the container"),
    ] {
        check(RulesetStatus::NotEnforced, landlock, SandboxLevel::NotSupported, why);
    }
}

#[test]
fn a_sandbox_that_is_switched_off_restricts_nothing() {
    let folder = folder();
    let state = FileSandbox::new(&config(folder.path(), "off")).enter().unwrap();
    assert_eq!(state.to_string(), "off: SANDBOX=off.");
    assert_eq!(fs::read(folder.path().join("outside/canary")).unwrap(), SECRET.as_bytes());
}
