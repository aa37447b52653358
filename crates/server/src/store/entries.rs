//! Lists the entries of the data folder and of the clients' folders.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use filepull_core::id::ClientId;
use filepull_core::name::DownloadName;
use rustix::fs::{AtFlags, Dir};
use rustix::io::Errno;

use super::{Store, StoreError};

impl Store {
    /// Returns whether any entry has the name of a download.
    pub(crate) fn has_download(
        &self,
        client: &ClientId,
        name: &DownloadName,
    ) -> Result<bool, StoreError> {
        self.has_entry(client, OsStr::new(&name.to_string()))
    }

    /// Returns whether any entry of the client's folder has this name.
    pub(crate) fn has_entry(&self, client: &ClientId, name: &OsStr) -> Result<bool, StoreError> {
        let Some(folder) = self.open_folder(client)? else { return Ok(false) };
        match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => {
                let path = self.root.path.join(client.as_str()).join(name);
                Err(StoreError { step: "stat", path, source: errno.into() })
            }
        }
    }

    /// Returns the names of all entries of the client's folder.
    pub(crate) fn entries(&self, client: &ClientId) -> Result<Vec<OsString>, StoreError> {
        let Some(folder) = self.open_folder(client)? else { return Ok(Vec::new()) };
        let failed = |errno| self.folder_failed("read", client, errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder).map_err(failed)? {
            let name = OsStr::from_bytes(entry.map_err(failed)?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Returns the clients whose id is the name of an entry, which may be something else than a
    /// folder.
    pub(crate) fn clients(&self) -> Result<Vec<ClientId>, StoreError> {
        let failed = |source| StoreError { step: "read", path: self.root.path.clone(), source };
        let mut clients = Vec::new();
        for entry in std::fs::read_dir(&self.root.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            clients.extend(name.to_str().and_then(|name| ClientId::parse(name).ok()));
        }
        Ok(clients)
    }
}

/// Describes an entry that is not a folder, for a message. Returns none for a folder.
pub(crate) fn not_a_folder(path: &Path) -> Option<&'static str> {
    let file_type = std::fs::symlink_metadata(path).ok()?.file_type();
    if file_type.is_dir() {
        None
    } else if file_type.is_symlink() {
        Some("a symbolic link, which filepull does not follow; mount the disk there instead")
    } else {
        Some("not a folder")
    }
}
