//! Disks whose power can be cut: ext4 and XFS in an image behind a loop device.
//!
//! The cut is the file system's own shutdown ioctl without a flush of its log: what was not synced
//! is gone, and the next mount replays the journal as after a real one.

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

/// Which file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4 with its defaults.
    Ext4,
    /// XFS with its defaults.
    Xfs,
}

/// A disk that is mounted at a folder.
#[derive(Debug)]
pub struct LoopDisk {
    ground: Arc<Sandbox>,
    image: PathBuf,
    at: PathBuf,
}

/// Disks that hang on one plug: each is mounted on or beneath the one before.
#[derive(Debug)]
pub struct LoopDisks(pub Vec<LoopDisk>);

impl LoopDisks {
    /// A disk for the data folder, and one of its own for the records in it if `apart`.
    ///
    /// # Errors
    /// A tool failed.
    pub async fn make(
        ground: &Arc<Sandbox>,
        file_system: FileSystem,
        name: &str,
        data_dir: &Path,
        apart: bool,
    ) -> anyhow::Result<Self> {
        let mut disks = vec![LoopDisk::make(ground, file_system, name, data_dir).await?];
        if apart {
            let (name, at) = (format!("{name}-records"), data_dir.join(".filepull"));
            disks.push(LoopDisk::make(ground, file_system, &name, &at).await?);
        }
        Ok(Self(disks))
    }

    /// Gets ready to cut the power of all.
    ///
    /// # Errors
    /// The tool does not start.
    pub fn switches(&self) -> anyhow::Result<Vec<DiskSwitch>> {
        self.0.iter().map(LoopDisk::switch).collect()
    }

    /// Takes all away and brings them back.
    ///
    /// # Errors
    /// One is in use, or cannot be mounted any more.
    pub async fn remount(&self) -> anyhow::Result<()> {
        for disk in self.0.iter().rev() {
            disk.unmount().await?;
        }
        for disk in &self.0 {
            disk.mount().await?;
        }
        Ok(())
    }
}

/// A finger on the switch: the cut itself then takes no time.
#[derive(Debug)]
pub struct DiskSwitch {
    tool: Child,
}

/// XFS refuses less than 300 MB.
const IMAGE_LEN: u64 = 2 << 30;
const CUT_LIMIT: Duration = Duration::from_secs(10);

impl FileSystem {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ext4, Self::Xfs];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// What the tally calls a power cut on it.
    pub fn cut_name(self) -> &'static str {
        match self {
            Self::Ext4 => "power cuts on ext4",
            Self::Xfs => "power cuts on xfs",
        }
    }
}

impl LoopDisk {
    /// Makes a disk and mounts it at `at`, which is made too.
    ///
    /// # Errors
    /// A tool failed.
    pub async fn make(
        ground: &Arc<Sandbox>,
        file_system: FileSystem,
        name: &str,
        at: &Path,
    ) -> anyhow::Result<Self> {
        let image = ground.folder().join(format!("{name}.img"));
        File::create(&image)?.set_len(IMAGE_LEN)?;
        let program = format!("mkfs.{}", file_system.name());
        tool::run(ground, &program, &["-q", text(&image)?]).await?;
        Self::of(ground, &image, at).await
    }

    /// Mounts a file with a file system in it at `at`, which is made too.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub async fn of(ground: &Arc<Sandbox>, image: &Path, at: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(at)?;
        let disk = Self { ground: Arc::clone(ground), image: image.to_owned(), at: at.to_owned() };
        disk.mount().await?;
        Ok(disk)
    }

    /// Gets ready to cut the power.
    ///
    /// # Errors
    /// The tool does not start.
    pub fn switch(&self) -> anyhow::Result<DiskSwitch> {
        let mut command = tool::command(&self.ground, "xfs_io");
        command.arg("-x").arg(&self.at).stdin(Stdio::piped());
        Ok(DiskSwitch { tool: command.spawn().context("starting xfs_io")? })
    }

    /// Takes the disk away.
    ///
    /// # Errors
    /// It stays in use.
    pub async fn unmount(&self) -> anyhow::Result<()> {
        let mut last = Ok(());
        for _ in 0..100 {
            last = tool::run(&self.ground, "umount", &[text(&self.at)?]).await.map(drop);
            if last.is_ok() {
                break;
            }
            // A process that was just killed may still be closing its files.
            sleep(Duration::from_millis(20)).await;
        }
        last
    }

    /// Brings it back.
    ///
    /// # Errors
    /// It cannot be mounted any more.
    pub async fn mount(&self) -> anyhow::Result<()> {
        let (image, at) = (text(&self.image)?, text(&self.at)?);
        tool::run(&self.ground, "mount", &["-o", "loop", image, at]).await.map(drop)
    }
}

impl DiskSwitch {
    /// Cuts the power.
    ///
    /// # Errors
    /// The tool failed.
    pub async fn cut(mut self) -> anyhow::Result<()> {
        let mut stdin = self.tool.stdin.take().context("its input is piped")?;
        stdin.write_all(b"shutdown\n").await?;
        drop(stdin);
        let output = timeout(CUT_LIMIT, self.tool.wait_with_output()).await;
        let output = output.context("the power cut does not end")??;
        let words = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success() && words.is_empty(), "xfs_io: {words}");
        Ok(())
    }
}

/// A path as a tool takes it.
///
/// # Errors
/// It is no text.
pub fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path of ours is text")
}
