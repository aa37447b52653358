//! Changes the names in an open folder: gives a file a new name, or removes a name. Never follows a
//! link and never replaces a file.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

/// Renames the file `from` to `to`, unless the name `to` is taken. Returns whether the file has the
/// name. The name is durable once the folder is synced.
pub(crate) fn rename_new(folder: impl AsFd, from: &str, to: &str) -> Result<bool, Errno> {
    let folder = folder.as_fd();
    match rustix::fs::renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        // A plain rename would replace a file. A hard link does not.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_new(folder, from, to),
        Err(errno) => Err(errno),
    }
}

fn link_new(folder: impl AsFd, from: &str, to: &str) -> Result<bool, Errno> {
    let folder = folder.as_fd();
    match rustix::fs::linkat(folder, from, folder, to, AtFlags::empty()) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    // The file has its name. If the old name stays, the sweep at the next start removes it.
    let _ = rustix::fs::unlinkat(folder, from, AtFlags::empty());
    Ok(true)
}

/// Removes a file, if it exists.
pub(crate) fn remove_if_exists(folder: impl AsFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Returns whether the system certainly changed nothing when it returned this error. After other
/// errors (`EIO`, `ESTALE`, a timeout of a network file system) the disk may have changed.
pub(crate) fn is_refusal(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::PERM
            | Errno::ACCESS
            | Errno::INVAL
            | Errno::NOSYS
            | Errno::NOTSUP
            | Errno::NOSPC
            | Errno::DQUOT
            | Errno::ROFS
            | Errno::MLINK
            | Errno::XDEV
            | Errno::NOENT
            | Errno::NAMETOOLONG
            | Errno::LOOP
            | Errno::NOTDIR
    )
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn neither_a_rename_nor_a_link_replaces_a_file() {
        type Rename = fn(&File, &str, &str) -> Result<bool, Errno>;
        let folder = tempfile::tempdir().unwrap();
        let handle = File::open(folder.path()).unwrap();
        fs::write(folder.path().join("taken"), "first").unwrap();
        let renames: [(&str, Rename); 2] = [
            ("rename", |folder, from, to| rename_new(folder, from, to)),
            ("link", |folder, from, to| link_new(folder, from, to)),
        ];
        for (free, rename) in renames {
            fs::write(folder.path().join("from"), "second").unwrap();
            assert_eq!(rename(&handle, "from", "taken"), Ok(false), "{free}");
            assert_eq!(rename(&handle, "from", free), Ok(true), "{free}");
            assert_eq!(fs::read_to_string(folder.path().join(free)).unwrap(), "second");
            assert!(!folder.path().join("from").exists(), "{free}");
        }
        assert_eq!(fs::read_to_string(folder.path().join("taken")).unwrap(), "first");
    }
}
