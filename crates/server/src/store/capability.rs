//! Checks once, at the start, that the disk can do what a safe download needs.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Store, StoreError};

/// How long the data folder may take to open and to be checked.
const LIMIT: Duration = Duration::from_secs(10);

/// Why a server does not start on this data folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataFolderError {
    /// It cannot be created or opened.
    #[error(transparent)]
    Store(StoreError),
    /// Its file system lacks an operation.
    #[error(
        "the file system under DATA_DIR={path} ({kind}) cannot {what}, so a download there might be \
         lost or replace another file; use a folder on a local disk (ext4, XFS, Btrfs, ZFS), or NFS"
    )]
    Unsuitable {
        /// The data folder.
        path: String,
        /// The type of its file system.
        kind: String,
        /// What it cannot do.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It does not answer.
    #[error(
        "the disk under DATA_DIR={path} ({kind}) has not answered for {} s; check it (df {path}), \
         then start the server again", LIMIT.as_secs()
    )]
    Unresponsive {
        /// The data folder.
        path: String,
        /// The type of its file system.
        kind: String,
    },
}

impl Store {
    /// Opens the data folder and checks what its disk can do, within a time limit. Blocks.
    ///
    /// # Errors
    /// It cannot be opened, lacks an operation, or does not answer.
    pub(crate) fn open_checked(path: &Path) -> Result<Self, DataFolderError> {
        let (sender, opened) = mpsc::channel();
        let folder = path.to_owned();
        // A thread of its own: one that hangs cannot be ended, and must not be waited for.
        std::thread::spawn(move || {
            let store = Self::open(&folder).map_err(|error| not_opened(&folder, error));
            let checked = store.and_then(|store| store.check_capabilities().map(|()| store));
            let _ = sender.send(checked); // fails if the time is up
        });
        opened.recv_timeout(LIMIT).unwrap_or_else(|_| {
            let (path, kind) = (path.display().to_string(), kind_of(path));
            Err(DataFolderError::Unresponsive { path, kind })
        })
    }

    fn check_capabilities(&self) -> Result<(), DataFolderError> {
        // No client id starts with a dot.
        let (from, to) = (".probe-from", ".probe-to");
        let checked = self.publish_probe(from, to);
        for name in [from, to] {
            let _ = rustix::fs::unlinkat(&self.root.folder, name, AtFlags::empty());
        }
        checked.map_err(|(what, errno)| unsuitable(&self.root.path, what, errno.into()))
    }

    /// Publishes a file as a download is published, on names that a killed process may have left.
    fn publish_probe(&self, from: &str, to: &str) -> Result<(), (&'static str, Errno)> {
        let folder = self.root.folder.as_fd();
        for name in [from, to] {
            let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, from, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| ("create files", errno))?;
        rustix::fs::fsync(&file).map_err(|errno| ("sync files", errno))?;
        let renamed =
            match rustix::fs::renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                    rustix::fs::linkat(folder, from, folder, to, AtFlags::empty())
                }
                renamed => renamed,
            };
        let what = "rename a file without replacing another, and has no hard links";
        renamed.map_err(|errno| (what, errno))?;
        rustix::fs::fsync(folder).map_err(|errno| ("sync folders", errno))
    }
}

/// A folder that opens and cannot be synced lacks an operation.
fn not_opened(path: &Path, error: StoreError) -> DataFolderError {
    match Errno::from_io_error(&error.source) {
        Some(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if error.step == "sync" => {
            unsuitable(path, "sync folders", error.source)
        }
        _ => DataFolderError::Store(error),
    }
}

fn unsuitable(path: &Path, what: &'static str, source: std::io::Error) -> DataFolderError {
    let kind = kind_of(path);
    DataFolderError::Unsuitable { path: path.display().to_string(), kind, what, source }
}

/// Returns the type of the file system that holds `path`, from the system's list of mounts. Does
/// not query the file system itself, which may hang.
fn kind_of(path: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    kind_in(&mounts, &absolute).unwrap_or("unknown").to_owned()
}

/// The last of the longest mount points that are a prefix of `path`.
fn kind_in<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let mount = |line: &'a str| {
        let (of_mount, of_kind) = line.split_once(" - ")?;
        let point = of_mount.split(' ').nth(4)?.replace("\\040", " ");
        let kind = of_kind.split(' ').next()?;
        path.starts_with(&point).then_some((point.len(), kind))
    };
    mounts.lines().filter_map(mount).max_by_key(|(len, _)| *len).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_named_by_the_nearest_mount() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      2 1 0:5 / /srv/my\\040files rw shared:1 - fuse.rclone remote: rw\n";
        let kind = |path: &str| kind_in(mounts, Path::new(path));
        assert_eq!(kind("/srv/my files/data"), Some("fuse.rclone"));
        assert_eq!(kind("/srv/my filesystem"), Some("ext4"));
        assert_eq!(kind_in("", Path::new("/")), None);
    }

    #[test]
    fn a_disk_that_can_do_everything_is_accepted_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".probe-to"), "of a killed process").unwrap();
        Store::open_checked(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
