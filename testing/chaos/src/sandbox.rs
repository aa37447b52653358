//! The temp folder of one run, and the cleanup of everything that the run creates.
//!
//! Every process of a run has the path of the folder in its environment, and every mount of a run
//! is inside the folder. So one cleanup kills the processes, unmounts the disks (which frees their
//! loop devices) and removes the files. It runs at the end of a run, and before the next run if a
//! run was killed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};

/// The environment variable that marks every process of a run.
pub(crate) const MARK: &str = "FILEPULL_CHAOS";
const PREFIX: &str = "filepull-chaos-";
/// Disk images are sparse, but written blocks stay allocated.
const MIN_FREE: u64 = 8 << 30;

/// A folder that only this run uses. Dropping it cleans up.
#[derive(Debug)]
pub(crate) struct Sandbox {
    folder: PathBuf,
    _lock: File,
}

impl Sandbox {
    /// Creates a sandbox in `base`, by default in memory if enough is free. First cleans up after
    /// runs that were killed.
    pub(crate) fn new(base: Option<&Path>) -> anyhow::Result<Self> {
        let base = base.map_or_else(default_base, Path::to_owned);
        for entry in fs::read_dir(&base).with_context(|| base.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(PREFIX) && lock(&path).is_some() {
                clean_up(&path);
            }
        }
        // Not named after the process: in its PID namespace every run has the same process id.
        let created = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&base);
        let folder = created.with_context(|| base.display().to_string())?.keep();
        let _lock = lock(&folder).context("locking the new folder")?;
        Ok(Self { folder, _lock })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the environment variable that marks a process of this run.
    pub(crate) fn mark(&self) -> (&'static str, String) {
        (MARK, self.folder.display().to_string())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        clean_up(&self.folder);
    }
}

/// Prefers memory: a real flush for each fsync makes every trial slower, and none stricter.
fn default_base() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
    if MIN_FREE < free { memory.to_owned() } else { std::env::temp_dir() }
}

fn lock(folder: &Path) -> Option<File> {
    let file = File::create(folder.join("lock")).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

fn clean_up(folder: &Path) {
    for _ in 0..100 {
        let remaining = processes_of(folder);
        if remaining.is_empty() {
            break;
        }
        for pid in remaining {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        #[allow(clippy::disallowed_methods, reason = "nothing else runs at the end of a run")]
        std::thread::sleep(Duration::from_millis(20));
    }
    for mount in mounts_of(folder) {
        let unmounted = Command::new("umount").arg(&mount).output();
        if !unmounted.is_ok_and(|done| done.status.success()) {
            let _ = Command::new("umount").arg("-l").arg(&mount).output();
        }
    }
    let _ = fs::remove_dir_all(folder);
}

fn processes_of(folder: &Path) -> Vec<Pid> {
    let mark = format!("{MARK}={}", folder.display());
    let marked = |entry: &fs::DirEntry| {
        let variables = fs::read(entry.path().join("environ")).unwrap_or_default();
        variables.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbered = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
        marked(&entry).then_some(Pid::from_raw(pid)?)
    });
    numbered.collect()
}

/// Returns the mounts in `folder`, the deepest first.
fn mounts_of(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut beneath: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    beneath.sort();
    beneath.reverse();
    beneath
}
