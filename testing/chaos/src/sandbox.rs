//! The ground of one run: a temp folder that takes everything with it when it goes.
//!
//! Whatever a run starts carries the folder's path in its environment, and whatever it mounts lies
//! beneath it. So one sweep ends the processes, takes the mounts (and their loop devices) down and
//! removes the files: at the end of a run, whatever ended it, and at the start of the next one for
//! a run that was killed itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};

/// The variable that marks every process of a run.
pub const MARK: &str = "FILEPULL_CHAOS";
const PREFIX: &str = "filepull-chaos-";
/// Images of disks are sparse, but what is written to them stays.
const ROOM: u64 = 8 << 30;

/// A folder that only this run uses. Dropping it sweeps it.
#[derive(Debug)]
pub struct Sandbox {
    folder: PathBuf,
    _lock: File,
}

impl Sandbox {
    /// Makes a ground in `base`, or where there is memory for it, after it has swept those whose
    /// run is dead.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn claim(base: Option<&Path>) -> anyhow::Result<Self> {
        let base = base.map_or_else(default_base, Path::to_owned);
        for entry in fs::read_dir(&base).with_context(|| base.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(PREFIX) && lock(&path).is_some() {
                sweep(&path);
            }
        }
        // Not named after the process: the first process of every run has the same id.
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&base);
        let folder = folder.with_context(|| base.display().to_string())?.keep();
        let _lock = lock(&folder).context("locking the new folder")?;
        Ok(Self { folder, _lock })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The mark of this run, for the environment of a process.
    pub fn mark(&self) -> (&'static str, String) {
        (MARK, self.folder.display().to_string())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        sweep(&self.folder);
    }
}

/// Memory, because a disk that is flushed for real at each sync makes every trial slower and none
/// of them stricter.
fn default_base() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
    if ROOM < free { memory.to_owned() } else { std::env::temp_dir() }
}

fn lock(folder: &Path) -> Option<File> {
    let file = File::create(folder.join("lock")).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

fn sweep(folder: &Path) {
    for _ in 0..100 {
        let left = processes_of(folder);
        if left.is_empty() {
            break;
        }
        for pid in left {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        #[allow(clippy::disallowed_methods, reason = "nothing else runs any more")]
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

/// The deepest first.
fn mounts_of(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut beneath: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    beneath.sort();
    beneath.reverse();
    beneath
}
