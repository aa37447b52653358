//! The files that are sent, and the temporary folders of a measurement.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
}

impl SourceFile {
    /// Creates a sparse file of `size` zero bytes: it uses no disk space, and its copies use none
    /// on a file system that compresses. For measurements that do not depend on the content.
    pub(crate) fn zeros(folder: &Path, size: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let path = folder.join(format!("{size}.bin"));
        File::create(&path)
            .and_then(|file| file.set_len(size))
            .with_context(|| path.display().to_string())?;
        Ok(Self { path, size })
    }

    /// Creates a file of `size` random bytes in `folder`, which cannot be compressed, and syncs it.
    pub(crate) fn create(folder: &Path, size: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let path = folder.join(format!("{size}.bin"));
        let write = || {
            let mut file = File::create(&path)?;
            let mut block = vec![0; 1 << 20];
            let mut remaining = size;
            while 0 < remaining {
                fastrand::fill(&mut block);
                let len = usize::try_from(remaining).unwrap_or(usize::MAX).min(block.len());
                file.write_all(&block[..len])?;
                remaining -= len as u64;
            }
            file.sync_all()
        };
        write().with_context(|| path.display().to_string())?;
        Ok(Self { path, size })
    }

    /// The file name without the folder.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Maximum time for one transfer. Less than 10 MB/s over loopback means that a program hangs.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(30 + self.size / 10_000_000)
    }

    /// Checks the size of a copy. (The tests check its content.)
    pub(crate) fn check_copy(&self, copy: &Path) -> anyhow::Result<()> {
        let found = fs::metadata(copy).with_context(|| copy.display().to_string())?.len();
        let path = copy.display();
        let size = self.size;
        anyhow::ensure!(found == size, "{path} has {found} bytes instead of {size}");
        Ok(())
    }
}

/// Creates a folder in `parent` that is deleted when it is dropped.
pub(crate) fn folder(parent: &Path) -> anyhow::Result<TempDir> {
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    // Programs with another current folder get paths in this folder.
    let parent = parent.canonicalize()?;
    let created = tempfile::Builder::new().prefix("filepull-bench-").tempdir_in(&parent);
    created.with_context(|| format!("creating a folder in {}", parent.display()))
}

/// Waits until the disk of `folder` has written everything, so that one program's writes do not
/// slow down the next program.
pub(crate) fn settle(folder: &Path) -> anyhow::Result<()> {
    rustix::fs::syncfs(File::open(folder)?).with_context(|| folder.display().to_string())
}
