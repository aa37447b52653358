//! Explains why the data folder cannot be used: the path, its owner, and the command to run.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// The folder of the records inside the data folder. No client id starts with a dot.
pub const RECORDS_FOLDER: &str = ".filepull";

/// Returns an absolute path, so that a message is clear in any working directory.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Adds to an error of opening the data folder which path is the problem, its owner and the command
/// to run, as far as they are known.
pub fn explained(data_dir: &Path, error: anyhow::Error) -> anyhow::Error {
    match mistake(data_dir) {
        Some(mistake) => anyhow::anyhow!("{error:#}. {mistake}"),
        None => error,
    }
}

/// Describes a path that is not a folder, or the first path that this process may not read and
/// write.
fn mistake(data_dir: &Path) -> Option<String> {
    let data_dir = absolute(data_dir);
    if data_dir.exists() && !data_dir.is_dir() {
        return Some(format!("Set DATA_DIR to a folder: {} is none", data_dir.display()));
    }
    let records = data_dir.join(RECORDS_FOLDER);
    let files = ["lock", "records.db", "records.db-wal", "records.db-shm"];
    let files = files.map(|name| records.join(name));
    let paths = [&data_dir, &records].into_iter().chain(&files);
    paths.into_iter().find_map(|path| mistake_at(path, &data_dir))
}

fn mistake_at(path: &Path, data_dir: &Path) -> Option<String> {
    let (path, user) = (existing(path), geteuid().as_raw());
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
            "user {user}, who runs this program, may not enter the way to {shown}"
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
         there. Type: {next}"
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
    fn a_folder_of_our_own_is_no_mistake() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(mistake(folder.path()), None);
        assert_eq!(mistake(&folder.path().join("not/made/yet")), None);
    }

    #[test]
    fn a_path_is_shown_as_it_is_found_from_anywhere() {
        assert!(absolute(Path::new("server-data")).is_absolute());
        assert_eq!(absolute(Path::new("/srv/data")), Path::new("/srv/data"));
    }
}
