//! Why a shared path cannot be opened, as text for the operator and for the local log.

use std::io;
use std::path::{Path, PathBuf};

use filepull_core::human;
use filepull_core::id::ClientId;
use filepull_core::problem::{Code, Problem};
use rustix::io::Errno;

use crate::error_text;

/// Why a shared path could not be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    LeadsOutside,
    /// The configured folder no longer leads where it led when it was first resolved.
    LeadsElsewhere {
        path: PathBuf,
        first: PathBuf,
        now: PathBuf,
    },
    /// The folder was replaced after the start, and the sandbox allows only the old one.
    Replaced(PathBuf),
    NotAFile(&'static str),
    /// The size is unknown, and the content exceeds the limit.
    TooLong {
        limit_bytes: usize,
    },
    /// A second read returned other bytes than the first.
    Changed,
    System(io::Error),
}

impl OpenError {
    pub(crate) fn from_open(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::NXIO) => return Self::NotAFile("a socket"),
            Some(Errno::LOOP) => {
                return Self::NotAFile(
                    "a link that forms a cycle, or leads to a file of a process",
                );
            }
            Some(_) | None => {}
        }
        // An error of the kernel has a number; cap-std reports a path that leads outside without
        // one.
        let outside =
            error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none();
        if outside { Self::LeadsOutside } else { Self::System(error) }
    }

    /// Describes what is wrong with the default file at `path`, for the local log.
    pub(crate) fn local_text(&self, path: &Path) -> String {
        use io::ErrorKind::{NotADirectory, NotFound};
        let path = path.display();
        let what = match self {
            Self::LeadsOutside => format!("{path} is a link that leads outside its folder"),
            Self::NotAFile(kind) => format!("{path} is {kind}"),
            Self::System(error) if matches!(error.kind(), NotFound | NotADirectory) => {
                format!("there is no file at {path}")
            }
            Self::LeadsElsewhere { .. }
            | Self::Replaced(_)
            | Self::TooLong { .. }
            | Self::Changed
            | Self::System(_) => {
                format!("{path} cannot be read: {}", self.why())
            }
        };
        human::printable(&format!("FILE_PATH: {what}. A pull without a path will fail."), 2000)
    }

    /// Returns the problem for the operator who requested the file at `path` as `requested`.
    pub(crate) fn problem(&self, client: &ClientId, requested: &str, path: &Path) -> Problem {
        use io::ErrorKind::{NotADirectory, NotFound};
        let (code, detail) = match self {
            Self::LeadsOutside => (
                Code::PathNotShared,
                format!(
                    "{client} does not share {requested}: it is a link that leads outside the shared \
                     folder."
                ),
            ),
            Self::NotAFile(kind) => (Code::NotAFile, format!("{requested} on {client} is {kind}.")),
            Self::System(error) if matches!(error.kind(), NotFound | NotADirectory) => {
                (Code::FileMissing, format!("{client} has no file at {requested}."))
            }
            Self::Changed => {
                (Code::FileChanged, format!("{requested} on {client} changed while it was read."))
            }
            Self::LeadsElsewhere { .. }
            | Self::Replaced(_)
            | Self::TooLong { .. }
            | Self::System(_) => {
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
            Self::Replaced(path) => format!(
                "{} was replaced or mounted after the agent started, and the sandbox allows only \
                 the old folder. Restart the agent, or set SANDBOX=off",
                path.display()
            ),
            Self::TooLong { limit_bytes } => format!(
                "the system does not know its size, and it has more than {}",
                human::size(*limit_bytes as u64)
            ),
            Self::Changed => "it changed while it was read".to_owned(),
            Self::System(error) => {
                let user = rustix::process::geteuid().as_raw();
                format!("{}. The agent runs as user {user}", error_text::io_error(error))
            }
        }
    }
}
