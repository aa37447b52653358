//! Disks whose power can be cut: ext4 and XFS in an image behind a loop device.
//!
//! The cut is the shutdown ioctl of the file system without a flush of its log. What was not synced
//! is lost, and the next mount replays the journal as after a real power cut.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use crate::sandbox::Sandbox;
use crate::tool;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
}

/// A disk image that is mounted at a folder.
#[derive(Debug)]
pub(crate) struct LoopDisk {
    sandbox: Arc<Sandbox>,
    image: PathBuf,
    at: PathBuf,
}

/// Disks that lose power together. Each is mounted on or inside the one before.
#[derive(Debug)]
pub(crate) struct LoopDisks(pub(crate) Vec<LoopDisk>);

impl LoopDisks {
    /// Creates a disk for the data folder, and a separate one for the records in it if
    /// `separate_records`.
    pub(crate) async fn make(
        sandbox: &Arc<Sandbox>,
        file_system: FileSystem,
        name: &str,
        data_dir: &Path,
        separate_records: bool,
    ) -> anyhow::Result<Self> {
        let mut disks = vec![LoopDisk::make(sandbox, file_system, name, data_dir).await?];
        if separate_records {
            let name = format!("{name}-records");
            let at = data_dir.join(".filepull");
            disks.push(LoopDisk::make(sandbox, file_system, &name, &at).await?);
        }
        Ok(Self(disks))
    }

    /// Prepares a power cut of all disks.
    pub(crate) fn switches(&self) -> anyhow::Result<Vec<DiskSwitch>> {
        self.0.iter().map(LoopDisk::switch).collect()
    }

    /// Unmounts all disks and mounts them again.
    pub(crate) async fn remount(&self) -> anyhow::Result<()> {
        for disk in self.0.iter().rev() {
            disk.unmount().await?;
        }
        for disk in &self.0 {
            disk.mount().await?;
        }
        Ok(())
    }
}

/// A prepared power cut, so that the cut itself takes no time.
#[derive(Debug)]
pub(crate) struct DiskSwitch {
    tool: Child,
}

/// XFS requires at least 300 MB.
const IMAGE_LEN: u64 = 2 << 30;
const CUT_LIMIT: Duration = Duration::from_secs(10);

impl FileSystem {
    pub(crate) const ALL: [Self; 2] = [Self::Ext4, Self::Xfs];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// The name of a power cut in the counters.
    pub(crate) fn cut_name(self) -> &'static str {
        match self {
            Self::Ext4 => "power cuts on ext4",
            Self::Xfs => "power cuts on xfs",
        }
    }
}

impl LoopDisk {
    /// Creates a disk and mounts it at `at`; creates that folder too.
    pub(crate) async fn make(
        sandbox: &Arc<Sandbox>,
        file_system: FileSystem,
        name: &str,
        at: &Path,
    ) -> anyhow::Result<Self> {
        let image = sandbox.folder().join(format!("{name}.img"));
        File::create(&image)?.set_len(IMAGE_LEN)?;
        let program = format!("mkfs.{}", file_system.name());
        tool::run(sandbox, &program, &["-q", text(&image)?]).await?;
        Self::of(sandbox, &image, at).await
    }

    /// Mounts an existing image at `at`; creates that folder too.
    pub(crate) async fn of(
        sandbox: &Arc<Sandbox>,
        image: &Path,
        at: &Path,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(at)?;
        let disk =
            Self { sandbox: Arc::clone(sandbox), image: image.to_owned(), at: at.to_owned() };
        disk.mount().await?;
        Ok(disk)
    }

    pub(crate) fn switch(&self) -> anyhow::Result<DiskSwitch> {
        let mut command = tool::command(&self.sandbox, "xfs_io");
        command.arg("-x").arg(&self.at).stdin(Stdio::piped());
        Ok(DiskSwitch { tool: command.spawn().context("starting xfs_io")? })
    }

    /// Unmounts the disk. Retries while a killed process still closes its files.
    pub(crate) async fn unmount(&self) -> anyhow::Result<()> {
        let mut last = Ok(());
        for _ in 0..100 {
            last = tool::run(&self.sandbox, "umount", &[text(&self.at)?]).await.map(drop);
            if last.is_ok() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        last
    }

    pub(crate) async fn mount(&self) -> anyhow::Result<()> {
        let image = text(&self.image)?;
        let at = text(&self.at)?;
        tool::run(&self.sandbox, "mount", &["-o", "loop", image, at]).await.map(drop)
    }
}

impl DiskSwitch {
    pub(crate) async fn cut(mut self) -> anyhow::Result<()> {
        let mut stdin = self.tool.stdin.take().context("its standard input is piped")?;
        stdin.write_all(b"shutdown\n").await?;
        drop(stdin);
        let ended = timeout(CUT_LIMIT, self.tool.wait_with_output()).await;
        let output = ended.context("the power cut timed out")??;
        let text = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success() && text.is_empty(), "xfs_io: {text}");
        Ok(())
    }
}

pub(crate) fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the path is not UTF-8")
}
