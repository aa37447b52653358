//! A disk that fails: an ext4 whose device answers every read and write with `EIO` from a moment on.
//! The file system notices, aborts its journal and lets nobody write any more (`EROFS`); it is well
//! again after it has been unmounted, checked and mounted.
//!
//! The device is a file on another disk, which is shut down beneath it. (nbdkit's `error` filter
//! would do the same, but nbdfuse, which shows it to the kernel, may hang after an error.)

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::disk::{FileSystem, LoopDisk, text};
use crate::sandbox::Sandbox;
use crate::scenario::{LOOK_AGAIN, PATIENCE};
use crate::tool;

const IMAGE_LEN: u64 = 128 << 20;
/// What the file system writes later by itself would meet the fault at another time each time.
const MKFS: &[&str] = &["-q", "-F", "-b", "4096", "-e", "remount-ro", "-E", LAZY];
const LAZY: &str = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
/// What [`FailingDisk::gone_read_only`] writes.
const SOMETHING: &str = ".something";

/// Such a disk, mounted.
#[derive(Debug)]
pub struct FailingDisk {
    ground: Arc<Sandbox>,
    /// What the device lies on.
    beneath: LoopDisk,
    device: PathBuf,
    at: PathBuf,
    disk: LoopDisk,
}

impl FailingDisk {
    /// Makes one that does not fail yet, and mounts it at `at`, which is made too.
    ///
    /// # Errors
    /// A tool failed.
    pub async fn make(ground: &Arc<Sandbox>, name: &str, at: &Path) -> anyhow::Result<Self> {
        let name = format!("{name}-beneath");
        let folder = ground.folder().join(format!("{name}-mounted"));
        let beneath = LoopDisk::make(ground, FileSystem::Ext4, &name, &folder).await?;
        let device = folder.join("device");
        File::create(&device)?.set_len(IMAGE_LEN)?;
        tool::run(ground, "mkfs.ext4", &[MKFS, &[text(&device)?]].concat()).await?;
        let disk = LoopDisk::of(ground, &device, at).await?;
        Ok(Self { ground: Arc::clone(ground), beneath, device, at: at.to_owned(), disk })
    }

    /// From now on its device answers with errors.
    ///
    /// # Errors
    /// The tool failed.
    pub async fn fail(&self) -> anyhow::Result<()> {
        self.beneath.switch()?.cut().await
    }

    /// Waits until the file system has noticed and refuses to be written to, which is the case
    /// after a write of its own at the latest: it is given one.
    ///
    /// # Errors
    /// It does not notice.
    pub async fn gone_read_only(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let folder = self.at.clone();
            let written = timeout(PATIENCE, spawn_blocking(move || write_something(&folder))).await;
            let written = written.context("a write to the failing disk does not end")??;
            // Not the flag of the mount: newer kernels do not set it after an error.
            if written.is_err_and(|error| error.kind() == ErrorKind::ReadOnlyFilesystem) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "the file system does not go read-only");
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Takes the disk away, makes its device well, has it checked as an operator would, and brings
    /// it back. Nobody may use it meanwhile.
    ///
    /// # Errors
    /// It is in use, or the check cannot mend it.
    pub async fn heal(&self) -> anyhow::Result<()> {
        self.disk.unmount().await?;
        self.beneath.unmount().await?;
        self.beneath.mount().await?;
        let mut check = tool::command(&self.ground, "e2fsck");
        let checked = check.arg("-p").arg(&self.device).output().await;
        let checked = checked.context("starting e2fsck")?;
        // 1 says that there was something to mend, and that it is mended.
        let mended = matches!(checked.status.code(), Some(0 | 1));
        let words = String::from_utf8_lossy(&checked.stdout);
        anyhow::ensure!(mended, "e2fsck: {} {words}", checked.status);
        self.disk.mount().await?;
        let _ = std::fs::remove_file(self.at.join(SOMETHING));
        Ok(())
    }
}

fn write_something(folder: &Path) -> std::io::Result<()> {
    let mut file = File::create(folder.join(SOMETHING))?;
    file.write_all(b"something")?;
    file.sync_all()
}
