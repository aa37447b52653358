//! A configured folder beneath which files are opened.
//!
//! The folder must still lead where it led when it was first resolved, or nothing is opened: a link
//! that replaces it, or a folder above it, is never followed. A folder that is missing at the
//! start, or is replaced by another real folder or a mounted drive, needs no restart. A handle that
//! stays open would not allow that: it shows a deleted folder forever, hides a drive that is
//! mounted later, and keeps a drive from being unmounted.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use cap_std::fs::Dir;
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use super::error::OpenError;

#[derive(Debug)]
pub(crate) struct ShareRoot {
    /// The configured path, made absolute.
    path: PathBuf,
    /// Where it led when it was first resolved: a path without links.
    first: OnceLock<PathBuf>,
    /// The folder that the sandbox allows.
    allowed: OnceLock<FolderId>,
}

/// The device and the number of a folder.
type FolderId = (u64, u64);

/// A folder of shares that must stay readable in the sandbox.
#[derive(Debug)]
pub(crate) struct ShareFolder {
    pub(crate) folder: OwnedFd,
    /// The path of `folder`.
    pub(crate) open_path: PathBuf,
    /// The configured folder, if it does not exist yet: then `folder` is the nearest one above it.
    pub(crate) missing: Option<PathBuf>,
}

impl ShareFolder {
    /// Returns a sentence on a folder that is open only because its share does not exist yet.
    pub(crate) fn missing(&self) -> Option<String> {
        let path = self.missing.as_ref()?.display();
        let open = self.open_path.display();
        Some(format!(
            " {open} is open because {path} does not exist yet: restart the agent once it does."
        ))
    }
}

impl ShareRoot {
    pub(crate) fn new(path: &Path) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self { path, first: OnceLock::new(), allowed: OnceLock::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Remembers where the folder leads now, unless that is known already. Blocks.
    pub(crate) fn remember(&self) {
        if self.first.get().is_none() {
            let _ = self.leads_to();
        }
    }

    /// Opens the folder. Blocks.
    ///
    /// # Errors
    /// The folder is missing, or no longer leads where it led when it was first resolved.
    pub(crate) fn open(&self) -> Result<Dir, OpenError> {
        let path = self.leads_to()?;
        // No part may be a link, so changes in between do not matter.
        let folder = open_without_links(path).map_err(OpenError::System)?;
        Ok(Dir::from_std_file(fs::File::from(folder)))
    }

    /// Returns the folder that the sandbox must allow, and remembers it. `None` if not even a folder
    /// above it exists, except for `/`. Blocks.
    pub(crate) fn for_sandbox(&self) -> Option<ShareFolder> {
        let configured = self.leads_to().ok()?;
        let found = configured.ancestors().find_map(|path| {
            let folder = open_without_links(path).ok()?;
            Some((path, folder))
        });
        let (path, folder) = found?;
        if path == configured {
            let _ = self.allowed.set(folder_id(&folder)?);
        } else if path == Path::new("/") {
            return None;
        }
        let missing = (path != configured).then(|| configured.to_owned());
        Some(ShareFolder { folder, open_path: path.to_owned(), missing })
    }

    /// Returns whether the folder is another one than the sandbox allows: it was replaced, or a
    /// drive was mounted over it. Blocks.
    pub(crate) fn was_replaced(&self) -> bool {
        let now = || folder_id(&open_without_links(self.leads_to().ok()?).ok()?);
        self.allowed.get().is_some_and(|allowed| Some(*allowed) != now())
    }

    fn leads_to(&self) -> Result<&Path, OpenError> {
        let now = resolve(&self.path, MAX_LINKS).map_err(OpenError::System)?;
        let first = self.first.get_or_init(|| now.clone());
        if now == *first {
            return Ok(first);
        }
        Err(OpenError::LeadsElsewhere { path: self.path.clone(), first: first.clone(), now })
    }
}

/// Maximum number of links in one path, as in Linux.
const MAX_LINKS: u32 = 40;

/// Resolves `path` to a path without links. Its last parts may not exist yet.
fn resolve(path: &Path, links_left: u32) -> io::Result<PathBuf> {
    let missing = match fs::canonicalize(path) {
        Ok(found) => return Ok(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => error,
        Err(error) => return Err(error),
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(missing);
    };
    let parent = resolve(parent, links_left)?;
    let path = parent.join(name);
    match fs::read_link(&path) {
        // A link to a missing target, such as a drive that is not mounted yet.
        Ok(target) if links_left > 0 => resolve(&parent.join(target), links_left - 1),
        Ok(_) => Err(missing),
        Err(_) => Ok(path),
    }
}

fn folder_id(folder: &OwnedFd) -> Option<FolderId> {
    let stat = fstat(folder).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// Opens a folder by an absolute path of which no part may be a link.
fn open_without_links(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = openat(CWD, "/", flags, Mode::empty())?;
    for part in path.components() {
        match part {
            Component::Normal(name) => folder = openat(&folder, name, flags, Mode::empty())?,
            Component::RootDir => {}
            Component::CurDir | Component::ParentDir | Component::Prefix(_) => {
                return Err(io::ErrorKind::NotFound.into());
            }
        }
    }
    Ok(folder)
}
