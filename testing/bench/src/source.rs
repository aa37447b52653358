//! The files that are sent, and the folders in which a measurement happens.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

/// A file to be sent.
#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
}

impl SourceFile {
    /// Makes a file of `size` noughts, which take no room: neither here, nor where many copies of it
    /// go if that file system compresses. For measurements in which the contents play no part.
    pub(crate) fn noughts(folder: &Path, size: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let path = folder.join(format!("{size}.bin"));
        File::create(&path)
            .and_then(|file| file.set_len(size))
            .with_context(|| path.display().to_string())?;
        Ok(Self { path, size })
    }

    /// Makes a file of `size` random bytes, which no program can compress, in `folder`, and waits
    /// until it is on the disk.
    pub(crate) fn make(folder: &Path, size: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let path = folder.join(format!("{size}.bin"));
        let make = || {
            let mut file = File::create(&path)?;
            let mut block = vec![0; 1 << 20];
            let mut left = size;
            while 0 < left {
                fastrand::fill(&mut block);
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
                file.write_all(&block[..len])?;
                left -= len as u64;
            }
            file.sync_all()
        };
        make().with_context(|| path.display().to_string())?;
        Ok(Self { path, size })
    }

    /// The name without its folder.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// How long one transfer may take before the measurement is given up: whoever is slower than
    /// 10 MB/s on loopback is stuck.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(30 + self.size / 10_000_000)
    }

    /// Does the copy have the size of the source? What its bytes are is for the tests.
    pub(crate) fn check_copy(&self, copy: &Path) -> anyhow::Result<()> {
        let found = fs::metadata(copy).with_context(|| copy.display().to_string())?.len();
        let (path, size) = (copy.display(), self.size);
        anyhow::ensure!(found == size, "{path} has {found} bytes instead of {size}");
        Ok(())
    }
}

/// Makes a folder in `parent` that is deleted at the end.
pub(crate) fn folder(parent: &Path) -> anyhow::Result<TempDir> {
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    // Servers with their own idea of the current folder are given paths of it.
    let parent = parent.canonicalize()?;
    let made = tempfile::Builder::new().prefix("filepull-bench-").tempdir_in(&parent);
    made.with_context(|| format!("making a folder in {}", parent.display()))
}

/// Waits until the disk of `folder` has nothing more to write: what one program left behind must
/// not be paid by the next.
pub(crate) fn settle(folder: &Path) -> anyhow::Result<()> {
    rustix::fs::syncfs(File::open(folder)?).with_context(|| folder.display().to_string())
}
