//! Creates and locks the folder of the records, so that only one server uses it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process;

use super::error::RecordsError;

/// Locks the records for this process. The system unlocks them when the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    folder: PathBuf,
    _file: File,
}

impl Lock {
    /// Creates `folder` if it is missing, and locks it. Blocks.
    ///
    /// # Errors
    /// Another process holds the lock, or the disk failed.
    pub(crate) fn take(folder: &Path) -> Result<Self, RecordsError> {
        let failed = |source| RecordsError::Folder { folder: folder.to_owned(), source };
        create_folder(folder).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(folder.join("lock")).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {
                write_pid(&mut file).map_err(failed)?;
                Ok(Self { folder: folder.to_owned(), _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let pid = read_pid(&mut file).map_err(failed)?;
                Err(RecordsError::InUse { data_folder: parent(folder).to_owned(), pid })
            }
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Makes the names in the folder durable.
    pub(crate) fn sync_folder(&self) -> Result<(), RecordsError> {
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| RecordsError::Folder { folder: self.folder.clone(), source })
    }
}

/// Creates the folder with access for the user of the server only, and makes it durable, because a
/// power cut would otherwise remove it with the records.
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(parent(folder))?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    File::open(parent(folder))?.sync_all()
}

fn parent(folder: &Path) -> &Path {
    let named = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", process::id())
}

fn read_pid(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let pid = text.trim();
    // A process writes its id just after it has taken the lock.
    Ok(if pid.is_empty() { "unknown".to_owned() } else { pid.to_owned() })
}
