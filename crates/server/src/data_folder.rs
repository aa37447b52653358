//! The data folder: its layout, and why it cannot be used (the path, its owner, the command to run).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::process::geteuid;
use tokio::task::spawn_blocking;

use crate::records::Records;
use crate::store::{DataFolderError, Store};

/// The folder of the records inside the data folder. No client id starts with a dot.
pub const RECORDS_FOLDER: &str = ".filepull";

/// Returns an absolute path, so that a message is clear in any working directory.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Opens the data folder and its records.
///
/// # Errors
/// The folder cannot be used, and why.
pub(crate) async fn open(data_dir: &Path) -> anyhow::Result<(Store, Records)> {
    let opened = async {
        let folder = data_dir.to_owned();
        let store = spawn_blocking(move || Store::open_checked(&folder)).await??;
        anyhow::Ok((store, Records::open(&data_dir.join(RECORDS_FOLDER)).await?))
    };
    opened.await.map_err(|error| match error.downcast_ref() {
        // An unresponsive disk is not queried again.
        Some(DataFolderError::Unsuitable { .. } | DataFolderError::Unresponsive { .. }) => error,
        Some(DataFolderError::Store(_)) | None => explained(data_dir, error),
    })
}

/// Adds an explanation to an error of opening the data folder: which path is the problem, its owner,
/// and the command to run. Leaves the error unchanged if they are unknown.
pub fn explained(data_dir: &Path, error: anyhow::Error) -> anyhow::Error {
    match explanation(data_dir) {
        Some(explanation) => anyhow::anyhow!("{error:#}. {explanation}"),
        None => error,
    }
}

/// Explains that the path is not a folder, or which path this process may not read and write.
fn explanation(data_dir: &Path) -> Option<String> {
    let data_dir = absolute(data_dir);
    if data_dir.exists() && !data_dir.is_dir() {
        return Some(format!("Set DATA_DIR to a folder: {} is not a folder", data_dir.display()));
    }
    let records = data_dir.join(RECORDS_FOLDER);
    let names = ["lock", "records.db", "records.db-wal", "records.db-shm"];
    let files = names.map(|name| records.join(name));
    let paths = [&data_dir, &records].into_iter().chain(&files);
    paths.into_iter().find_map(|path| explanation_of(path, &data_dir))
}

fn explanation_of(path: &Path, data_dir: &Path) -> Option<String> {
    let path = existing(path);
    let user = geteuid().as_raw();
    let file = Access::READ_OK | Access::WRITE_OK;
    let wanted = if path.is_dir() { file | Access::EXEC_OK } else { file };
    match accessat(CWD, path, wanted, AtFlags::EACCESS) {
        Err(Errno::ACCESS | Errno::PERM) => {}
        Err(Errno::ROFS) => {
            return Some(format!("{} is on a read-only file system", path.display()));
        }
        _ => return None,
    }
    let shown = path.display();
    let Ok(owner) = fs::metadata(path).map(|metadata| metadata.uid()) else {
        return Some(format!(
            "user {user}, who runs this program, may not enter a folder above {shown}"
        ));
    };
    let next = if path.starts_with(data_dir) {
        format!("sudo chown -R {user} {}", data_dir.display())
    } else {
        format!(
            "sudo mkdir -p {0} && sudo chown {user} {0}, or set DATA_DIR to a folder of that user",
            data_dir.display()
        )
    };
    Some(format!(
        "{shown} belongs to user {owner}, and user {user}, who runs this program, may not write \
         there. Run: {next}"
    ))
}

/// Returns the path, or its nearest existing ancestor, in which it would be created.
fn existing(path: &Path) -> &Path {
    let found = path.ancestors().find(|path| fs::symlink_metadata(path).is_ok());
    found.unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_this_user_needs_no_explanation() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(explanation(folder.path()), None);
        assert_eq!(explanation(&folder.path().join("not/created/yet")), None);
    }

    #[test]
    fn a_path_is_shown_as_an_absolute_path() {
        assert!(absolute(Path::new("server-data")).is_absolute());
        assert_eq!(absolute(Path::new("/srv/data")), Path::new("/srv/data"));
    }
}
