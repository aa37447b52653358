//! A program that changes a file while the agent reads it.

use std::fs::{File, FileTimes, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Child;
use tokio::task::block_in_place;

use crate::sandbox::Sandbox;
use crate::test_pattern::{CELL_LEN, TestPattern};
use crate::tool;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteMethod {
    InPlace,
    /// Writes through a memory mapping: on this disk the modification time does not change.
    Mapped,
    /// Overwrites the content and resets the modification time.
    Forged,
    /// Truncates the file to zero and writes it again.
    CutAndWritten,
    /// Renames a new file over the old one.
    Replaced,
    Appended,
}

impl WriteMethod {
    pub(super) const ALL: [Self; 6] = [
        Self::InPlace,
        Self::Mapped,
        Self::Forged,
        Self::CutAndWritten,
        Self::Replaced,
        Self::Appended,
    ];

    /// A reader that has opened the file still sees one complete version.
    pub(super) fn keeps_what_was_opened(self) -> bool {
        matches!(self, Self::Replaced | Self::Appended)
    }
}

/// The versions of a file, in a cycle.
#[derive(Clone, Debug)]
pub(super) struct Versions {
    images: Arc<[Vec<u8>]>,
    /// What is appended to the first version.
    more: Arc<[u8]>,
}

const N_VERSIONS: u32 = 16;
const MAX_APPENDED: usize = 4 << 20;

impl Versions {
    pub(super) fn make(client: &str, len: usize) -> Self {
        block_in_place(|| {
            let images =
                (1..=N_VERSIONS).map(|version| TestPattern::new(client, version, len).bytes());
            let longer = TestPattern::new(client, 1, len + MAX_APPENDED).bytes();
            Self { images: images.collect(), more: longer[len..].into() }
        })
    }

    pub(super) fn after(version: u32) -> u32 {
        version % N_VERSIONS + 1
    }

    fn image(&self, change: u64) -> &[u8] {
        let index = change % u64::from(N_VERSIONS);
        &self.images[usize::try_from(index).unwrap_or_default()]
    }
}

/// A running writer. It stops when it is dropped.
#[derive(Debug)]
pub(super) enum SourceWriter {
    Thread { stop: Sender<()>, thread: JoinHandle<io::Result<u64>> },
    Program { child: Child, rate: u32, began: std::time::Instant },
}

const MAPPED: &str = include_str!("mapped.py");

impl SourceWriter {
    /// Creates `file` with the first version, then changes it `rate` times per second. Files that
    /// the writer needs are created at `beside`.
    pub(super) fn start(
        sandbox: &Sandbox,
        method: WriteMethod,
        versions: &Versions,
        file: &Path,
        beside: &Path,
        rate: u32,
    ) -> anyhow::Result<Self> {
        block_in_place(|| replace(file, versions.image(0)))?;
        let pause = Duration::from_secs(1) / rate;
        if method == WriteMethod::Mapped {
            block_in_place(|| std::fs::write(beside, versions.images.concat()))?;
            let mut command = tool::command(sandbox, "python3");
            command.args(["-c", MAPPED]).args([file, beside]);
            command.arg(versions.image(0).len().to_string()).arg(pause.as_secs_f64().to_string());
            let child = command.spawn().context("starting python3")?;
            return Ok(Self::Program { child, rate, began: std::time::Instant::now() });
        }
        let (stop, stop_receiver) = channel();
        let versions = versions.clone();
        let file = file.to_owned();
        let thread = std::thread::spawn(move || {
            let mut target = ChangedFile::open(method, versions, file)?;
            let mut n_changes = 0;
            while stop_receiver.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                n_changes += 1;
                target.change(n_changes)?;
            }
            Ok(n_changes)
        });
        Ok(Self::Thread { stop, thread })
    }

    /// Stops the writer. Returns the number of its changes; for a program, the number that it
    /// should have made.
    pub(super) async fn stop(self) -> anyhow::Result<u64> {
        match self {
            Self::Thread { stop, thread } => {
                drop(stop);
                let joined = block_in_place(|| thread.join());
                let result = joined.map_err(|_| anyhow::anyhow!("the writer panicked"))?;
                result.context("the writer failed")
            }
            Self::Program { mut child, rate, began } => {
                anyhow::ensure!(child.try_wait()?.is_none(), "the writer ended early");
                child.kill().await?;
                Ok(began.elapsed().as_secs() * u64::from(rate))
            }
        }
    }
}

struct ChangedFile {
    method: WriteMethod,
    versions: Versions,
    path: PathBuf,
    file: File,
    times: FileTimes,
}

impl ChangedFile {
    fn open(method: WriteMethod, versions: Versions, path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(&path)?;
        let times = FileTimes::new().set_modified(file.metadata()?.modified()?);
        Ok(Self { method, versions, path, file, times })
    }

    fn change(&mut self, n: u64) -> io::Result<()> {
        let image = self.versions.image(n);
        match self.method {
            WriteMethod::InPlace => self.file.write_all_at(image, 0),
            WriteMethod::Forged => {
                self.file.write_all_at(image, 0)?;
                self.file.set_times(self.times)
            }
            WriteMethod::CutAndWritten => {
                self.file.set_len(0)?;
                self.file.write_all_at(image, 0)
            }
            WriteMethod::Replaced => replace(&self.path, image),
            WriteMethod::Appended => {
                let at = usize::try_from(n - 1).unwrap_or_default() * CELL_LEN;
                let end = (self.versions.image(0).len() + at) as u64;
                let cell = self.versions.more.get(at..at + CELL_LEN).unwrap_or_default();
                self.file.write_all_at(cell, end)
            }
            // A Python program does that.
            WriteMethod::Mapped => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes)?;
    std::fs::rename(new, path)
}
