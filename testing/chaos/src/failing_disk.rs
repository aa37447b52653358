//! An ext4 disk whose device fails on demand: every read and write then returns `EIO`. The file
//! system detects this, aborts its journal and becomes read-only (`EROFS`). It works again after an
//! unmount, a check and a mount.
//!
//! The device is a file on another disk, and the trial shuts that disk down. (nbdkit's `error`
//! filter would do the same, but nbdfuse may hang after an error.)

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::task::spawn_blocking;

use crate::disk::{FileSystem, LoopDisk, text};
use crate::sandbox::Sandbox;
use crate::scenario::poll;
use crate::tool;

const IMAGE_LEN: u64 = 128 << 20;
/// Without lazy background writes, which would reach the fault at random times.
const MKFS: &[&str] = &["-q", "-F", "-b", "4096", "-e", "remount-ro", "-E", LAZY];
const LAZY: &str = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
/// The file that [`FailingDisk::wait_until_read_only`] writes.
const PROBE: &str = ".probe";

#[derive(Debug)]
pub(crate) struct FailingDisk {
    sandbox: Arc<Sandbox>,
    /// The disk that holds the device.
    beneath: LoopDisk,
    device: PathBuf,
    at: PathBuf,
    disk: LoopDisk,
}

impl FailingDisk {
    /// Creates a disk that works, and mounts it at `at`; creates that folder too.
    pub(crate) async fn make(
        sandbox: &Arc<Sandbox>,
        name: &str,
        at: &Path,
    ) -> anyhow::Result<Self> {
        let name = format!("{name}-beneath");
        let folder = sandbox.folder().join(format!("{name}-mounted"));
        let beneath = LoopDisk::make(sandbox, FileSystem::Ext4, &name, &folder).await?;
        let device = folder.join("device");
        File::create(&device)?.set_len(IMAGE_LEN)?;
        tool::run(sandbox, "mkfs.ext4", &[MKFS, &[text(&device)?]].concat()).await?;
        let disk = LoopDisk::of(sandbox, &device, at).await?;
        Ok(Self { sandbox: Arc::clone(sandbox), beneath, device, at: at.to_owned(), disk })
    }

    /// Makes every later read and write of the device fail.
    pub(crate) async fn fail(&self) -> anyhow::Result<()> {
        self.beneath.switch()?.cut().await
    }

    /// Waits until the file system is read-only. It writes a file, because the file system detects
    /// the fault at its own next write at the latest.
    pub(crate) async fn wait_until_read_only(&self) -> anyhow::Result<()> {
        poll("the file system to become read-only", async || {
            let folder = self.at.clone();
            let written = spawn_blocking(move || write_probe(&folder)).await?;
            // Not the mount flag: newer kernels do not set it after an error.
            let read_only = written.is_err_and(|e| e.kind() == ErrorKind::ReadOnlyFilesystem);
            Ok(read_only.then_some(()))
        })
        .await
    }

    /// Unmounts the disk, makes its device work, runs e2fsck as an operator would, and mounts it.
    /// No process may use the disk meanwhile.
    pub(crate) async fn repair(&self) -> anyhow::Result<()> {
        self.disk.unmount().await?;
        self.beneath.unmount().await?;
        self.beneath.mount().await?;
        let mut check = tool::command(&self.sandbox, "e2fsck");
        check.arg("-p").arg(&self.device);
        let output = check.output().await.context("starting e2fsck")?;
        // Exit code 1: e2fsck found errors and repaired them.
        let repaired = matches!(output.status.code(), Some(0 | 1));
        let text = String::from_utf8_lossy(&output.stdout);
        anyhow::ensure!(repaired, "e2fsck: {} {text}", output.status);
        self.disk.mount().await?;
        let _ = std::fs::remove_file(self.at.join(PROBE));
        Ok(())
    }
}

fn write_probe(folder: &Path) -> std::io::Result<()> {
    let mut file = File::create(folder.join(PROBE))?;
    file.write_all(b"probe")?;
    file.sync_all()
}
