//! Opens one regular file beneath a root, and explains as text why a file cannot be opened.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};
use filepull_core::human;
use filepull_core::id::ClientId;
use filepull_core::problem::{Code, Problem};
use filepull_core::source::{Source, Stat, unix_ns};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::root::ShareRoot;
use super::unsized_file;

/// An open file, and its metadata when it was opened.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) file: File,
    pub(crate) source: Source,
    pub(crate) stat: Stat,
    /// Its whole content, if its size was unknown before it was read.
    pub(crate) content: Option<Bytes>,
}

/// Why a shared path could not be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    LeadsOutside,
    /// The configured folder leads elsewhere than at first.
    LeadsElsewhere {
        path: PathBuf,
        first: PathBuf,
        now: PathBuf,
    },
    NotAFile(&'static str),
    /// The size is unknown, and the content exceeds the bound.
    Endless,
    /// A second read returned other bytes than the first.
    Changed,
    System(io::Error),
}

/// Where to search for a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct SharePlace<'a> {
    pub(super) root: &'a ShareRoot,
    /// The folder beneath the root that must hold the file; may be empty.
    pub(super) folder: &'a Path,
    pub(super) file: &'a Path,
}

impl SharePlace<'_> {
    /// Returns the absolute path.
    pub(super) fn path(&self) -> PathBuf {
        self.root.path().join(self.folder).join(self.file)
    }

    /// Opens the folder that must hold the file.
    pub(super) fn open_folder(&self) -> Result<Dir, OpenError> {
        let root = self.root.open()?;
        if self.folder == Path::new("") {
            return Ok(root);
        }
        root.open_dir(self.folder).map_err(OpenError::from_open)
    }

    /// Opens the regular file at this place.
    ///
    /// On Linux this is one `openat2` with `RESOLVE_BENEATH` (seen with strace; cap-std walks the path
    /// itself where the kernel is older than 5.6): no link, however it changes meanwhile, leads out.
    pub(super) fn open(&self) -> Result<OpenFile, OpenError> {
        let folder = self.open_folder()?;
        // O_NONBLOCK and O_NOCTTY: do not block on a pipe without a writer, and do not take a
        // terminal.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags.bits().cast_signed());
        let file = folder.open_with(self.file, &options).map_err(OpenError::from_open)?.into_std();
        let metadata = file.metadata().map_err(OpenError::System)?;
        // Only an open file is certain: a check before the open could have seen another file.
        if let Some(kind) = irregular(metadata.file_type()) {
            return Err(OpenError::NotAFile(kind));
        }
        let (stat, content) = unsized_file::look(&file)?;
        let size = content.as_ref().map_or(stat.size, |content| content.len() as u64);
        let name = self.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let source = Source { name, size, modified_ns: stat.modified_ns };
        Ok(OpenFile { file, source, stat, content })
    }
}

/// Returns the metadata of an open file.
pub(crate) fn stat(file: &File) -> io::Result<Stat> {
    let found = file.metadata()?;
    Ok(Stat {
        size: found.len(),
        modified_ns: unix_ns(found.mtime(), found.mtime_nsec()),
        changed_ns: unix_ns(found.ctime(), found.ctime_nsec()),
    })
}

fn irregular(kind: std::fs::FileType) -> Option<&'static str> {
    match kind {
        kind if kind.is_file() => None,
        kind if kind.is_dir() => Some("a directory"),
        kind if kind.is_fifo() => Some("a pipe (FIFO)"),
        kind if kind.is_socket() => Some("a socket"),
        _ => Some("a device"),
    }
}

/// Returns the system's error as text, without its number.
pub(crate) fn in_words(error: &io::Error) -> String {
    if matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE)) {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        return format!("too many open files on the client: the agent may hold {limit} open");
    }
    let words = error.to_string();
    words.split_once(" (os error").map_or(words.clone(), |(words, _)| words.to_owned())
}

impl OpenError {
    fn from_open(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::NXIO) => return Self::NotAFile("a socket"),
            Some(Errno::LOOP) => {
                return Self::NotAFile("a link that leads in a circle, or to a file of a process");
            }
            Some(_) | None => {}
        }
        // An error of the kernel has a number; cap-std reports a path that leads outside without
        // one.
        let outside =
            error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none();
        if outside { Self::LeadsOutside } else { Self::System(error) }
    }

    /// Describes what is wrong with the default file at `path`.
    pub(super) fn here(&self, path: &Path) -> String {
        use io::ErrorKind::{NotADirectory, NotFound};
        let path = path.display();
        let what = match self {
            Self::LeadsOutside => format!("{path} is a link that leads outside its folder"),
            Self::NotAFile(kind) => format!("{path} is {kind}"),
            Self::System(error) if matches!(error.kind(), NotFound | NotADirectory) => {
                format!("there is no file at {path}")
            }
            Self::LeadsElsewhere { .. } | Self::Endless | Self::Changed | Self::System(_) => {
                format!("{path} cannot be read: {}", self.why())
            }
        };
        human::printable(&format!("FILE_PATH: {what}. A pull without a path will fail."), 2000)
    }

    /// Returns the problem for the operator who requested the file at `path` as `said`.
    pub(super) fn problem(&self, client: &ClientId, said: &str, path: &Path) -> Problem {
        use io::ErrorKind::{NotADirectory, NotFound};
        let (code, detail) = match self {
            Self::LeadsOutside => (
                Code::PathNotShared,
                format!(
                    "{client} does not share {said}: it is a link that leads outside the shared \
                     folder."
                ),
            ),
            Self::NotAFile(kind) => (Code::NotAFile, format!("{said} on {client} is {kind}.")),
            Self::System(error) if matches!(error.kind(), NotFound | NotADirectory) => {
                (Code::FileMissing, format!("{client} has no file at {said}."))
            }
            Self::Changed => {
                (Code::FileChanged, format!("{said} on {client} changed while it was read."))
            }
            Self::LeadsElsewhere { .. } | Self::Endless | Self::System(_) => {
                let detail = format!("{client} cannot read {}: {}.", path.display(), self.why());
                (Code::FileUnreadable, detail)
            }
        };
        Problem::new(code, human::printable(&detail, 2000))
    }

    fn why(&self) -> String {
        match self {
            Self::LeadsOutside => "it leads outside".to_owned(),
            Self::NotAFile(kind) => format!("it is {kind}"),
            Self::LeadsElsewhere { path, first, now } => {
                let [path, first, now] = [path, first, now].map(|path| path.display());
                format!(
                    "{path} led to {first} at first and leads to {now} now. Restart the agent if \
                     that is right"
                )
            }
            Self::Endless => format!(
                "the system does not know its size, and it has more than {}",
                human::size(unsized_file::MAX_LEN as u64)
            ),
            Self::Changed => "it changed while it was read".to_owned(),
            Self::System(error) => {
                let user = rustix::process::geteuid().as_raw();
                format!("{}. The agent runs as user {user}", in_words(error))
            }
        }
    }
}
