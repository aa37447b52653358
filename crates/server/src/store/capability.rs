//! Checks at the start of the server that the disk has every operation that a download needs.

use std::fs::File;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::names::{remove_if_exists, rename_new};
use super::{Store, StoreError};

/// How long opening and checking the data folder may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Why a server does not start on this data folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataFolderError {
    /// The folder cannot be created or opened.
    #[error(transparent)]
    Store(StoreError),
    /// The file system lacks an operation.
    #[error(
        "the file system under DATA_DIR={path} ({kind}) cannot {what}, so a download there might be \
         lost or replace another file; use a folder on a local disk (ext4, XFS, Btrfs, ZFS), or NFS"
    )]
    Unsuitable {
        path: String,
        /// The type of the file system.
        kind: String,
        /// The operation that the file system lacks.
        what: &'static str,
        source: std::io::Error,
    },
    /// The disk did not respond within the time limit.
    #[error(
        "the disk under DATA_DIR={path} ({kind}) has not answered for {} s; check it (df {path}), \
         then start the server again", LIMIT.as_secs()
    )]
    Unresponsive {
        path: String,
        /// The type of the file system.
        kind: String,
    },
}

impl Store {
    /// Opens the data folder and checks the operations of its disk. Blocks for at most 10 seconds.
    pub(crate) fn open_checked(path: &Path) -> Result<Self, DataFolderError> {
        let (sender, opened) = mpsc::channel();
        let folder = path.to_owned();
        // On a separate thread, because a thread that waits for a hung disk cannot be ended.
        std::thread::spawn(move || {
            let store = Self::open(&folder).map_err(|error| not_opened(&folder, error));
            let checked = store.and_then(|store| store.check_capabilities().map(|()| store));
            let _ = sender.send(checked); // fails if the time is up
        });
        opened.recv_timeout(LIMIT).unwrap_or_else(|_| {
            let kind = kind_of(path);
            Err(DataFolderError::Unresponsive { path: path.display().to_string(), kind })
        })
    }

    fn check_capabilities(&self) -> Result<(), DataFolderError> {
        // A killed process may have left these files.
        self.remove_probe();
        let checked = self.publish_probe();
        self.remove_probe();
        checked.map_err(|(what, errno)| unsuitable(&self.root.path, what, errno.into()))
    }

    /// Publishes a file with the same calls as a download. A disk that refuses direct writes or clones is
    /// suitable.
    fn publish_probe(&self) -> Result<(), (&'static str, Errno)> {
        let folder = &self.root.folder;
        let [from, to, clone] = PROBE;
        // A clone needs a file that can be read.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(folder, from, flags, Mode::RUSR | Mode::WUSR);
        let file: File = opened.map_err(|errno| ("create files", errno))?.into();
        self.root.direct.probe(&file);
        self.root.clones.probe(folder, clone, &file);
        rustix::fs::fsync(&file).map_err(|errno| ("sync files", errno))?;
        let what = "rename a file without replacing another, and has no hard links";
        let has_name = rename_new(folder, from, to).map_err(|errno| (what, errno))?;
        if !has_name {
            return Err((what, Errno::EXIST));
        }
        rustix::fs::fsync(folder).map_err(|errno| ("sync folders", errno))
    }

    fn remove_probe(&self) {
        for name in PROBE {
            let _ = remove_if_exists(&self.root.folder, name);
        }
    }
}

/// The first name of the probe file, its name when published, and a clone of it. No client id starts with
/// a dot.
const PROBE: [&str; 3] = [".probe-from", ".probe-to", ".probe-clone"];

/// Returns the error of a folder that did not open. A folder that cannot be synced is unsuitable.
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

/// Returns the type of the file system at the longest mount point that is a prefix of `path`. If
/// there are several, the last one is on top.
fn kind_in<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let mount = |line: &'a str| {
        let (mount_fields, type_fields) = line.split_once(" - ")?;
        let point = mount_fields.split(' ').nth(4)?.replace("\\040", " ");
        let kind = type_fields.split(' ').next()?;
        path.starts_with(&point).then_some((point.len(), kind))
    };
    mounts.lines().filter_map(mount).max_by_key(|(len, _)| *len).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_a_file_system_is_read_from_the_nearest_mount() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      2 1 0:5 / /srv/my\\040files rw shared:1 - fuse.rclone remote: rw\n";
        let kind = |path: &str| kind_in(mounts, Path::new(path));
        assert_eq!(kind("/srv/my files/data"), Some("fuse.rclone"));
        assert_eq!(kind("/srv/my filesystem"), Some("ext4"));
        assert_eq!(kind_in("", Path::new("/")), None);
    }

    #[test]
    fn a_suitable_disk_is_accepted_and_the_probe_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".probe-to"), "of a killed process").unwrap();
        Store::open_checked(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
