//! What this machine shares, and the only code that opens a path.
//!
//! A path that is not shared cannot be read, even by a hijacked server: the list lives here, and
//! every file is opened *beneath* the folder that its entry names.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};
use filepull_core::human;
use filepull_core::id::ClientId;
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};
use filepull_core::source::{Source, Stat, unix_ns};
use globset::{GlobBuilder, GlobMatcher};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// The files that may be asked for: the default file, and whatever the settings add.
#[derive(Clone, Debug)]
pub struct Shares {
    /// `FILE_PATH`, as written.
    file: String,
    default: Entry,
    more: Vec<Entry>,
}

/// One path or glob of the list.
#[derive(Clone, Debug)]
struct Entry {
    /// As written in the settings.
    shown: String,
    glob: GlobMatcher,
    /// The folders before the first that is a glob, as part of an asked path ...
    prefix: PathBuf,
    /// ... and on the disk. Nothing outside of it is ever opened.
    root: PathBuf,
}

/// A file that is open, and what it looked like then.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) source: Source,
    pub(crate) stat: Stat,
}

/// Why the default file cannot be sent, for both ends of the line.
#[derive(Clone, Debug)]
pub(crate) struct Unsendable {
    /// For the operator.
    pub(crate) problem: Problem,
    /// For whoever set `FILE_PATH` on this machine.
    pub(crate) here: String,
}

impl Shares {
    /// Shares `file`, and the paths and globs of `more`: relative ones lie beneath its folder.
    ///
    /// # Errors
    /// Names each entry that cannot be understood.
    pub fn new<'a>(file: &Path, more: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let name = file.file_name();
        let name = name.ok_or_else(|| format!("FILE_PATH: {file:?} does not name a file"))?;
        let name = name.to_str().ok_or_else(|| {
            format!("FILE_PATH: the name of {file:?} is not UTF-8; only such names can be sent")
        })?;
        let folder = match file.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let default = Entry::new(folder, name, &globset::escape(name))
            .map_err(|error| format!("FILE_PATH: {error}"))?;
        let entry =
            |text| Entry::new(folder, text, text).map_err(|error| format!("SHARE: {error}"));
        let (more, bad): (Vec<_>, Vec<_>) = more.into_iter().map(entry).partition(Result::is_ok);
        let bad: Vec<String> = bad.into_iter().filter_map(Result::err).collect();
        if !bad.is_empty() {
            return Err(bad.join("; "));
        }
        let more = more.into_iter().filter_map(Result::ok).collect();
        Ok(Self { file: file.display().to_string(), default, more })
    }

    /// What may be asked for, as written in the settings.
    pub fn shares(&self) -> impl Iterator<Item = &str> {
        let more = self.more.iter().map(|entry| entry.shown.as_str());
        [self.default.shown.as_str()].into_iter().chain(more.filter(|&e| e != self.default.shown))
    }

    /// The name of the file that is sent when no path is asked for.
    pub fn default_name(&self) -> &str {
        &self.default.shown
    }

    /// The default file as it looks now, or why `client` cannot send it. It blocks.
    pub(crate) fn default_file(&self, client: &ClientId) -> Result<Source, Unsendable> {
        let opened = open_beneath(&self.default.root, Path::new(&self.default.shown));
        opened.map(|opened| opened.source).map_err(|why| Unsendable {
            problem: why.problem(client, &self.file),
            here: why.here(&self.default_path()),
        })
    }

    /// Why nothing is known of the default file: the disk took too long, a network drive mostly.
    pub(crate) fn no_answer(&self, client: &ClientId) -> Unsendable {
        let why = OpenError::System(io::Error::other("the disk does not answer"));
        Unsendable {
            problem: why.problem(client, &self.file),
            here: why.here(&self.default_path()),
        }
    }

    /// Where the default file is looked for: `FILE_PATH` in full.
    fn default_path(&self) -> PathBuf {
        let path = self.default.root.join(&self.default.shown);
        std::path::absolute(&path).unwrap_or(path)
    }

    /// Opens what `client` was asked for. It blocks: it is the disk's turn.
    pub(crate) fn open(
        &self,
        client: &ClientId,
        asked: Option<&SharedPath>,
    ) -> Result<Opened, Problem> {
        let said = asked.map_or(self.file.as_str(), SharedPath::as_str);
        let Some((root, beneath)) = self.find(asked) else {
            let list = self.shares().collect::<Vec<_>>().join(", ");
            let detail = format!("{client} does not share {said}. It shares: {list}");
            return Err(Problem::new(Code::PathNotShared, detail));
        };
        open_beneath(root, &beneath).map_err(|why| why.problem(client, said))
    }

    /// The folder to open beneath, and the path from there.
    fn find(&self, asked: Option<&SharedPath>) -> Option<(&Path, PathBuf)> {
        let asked = match asked.map(SharedPath::as_str) {
            // Whoever has read the settings may ask for the default file by its whole path.
            Some(path) if path != self.file => path,
            _ => &self.default.shown,
        };
        let mut entries = [&self.default].into_iter().chain(&self.more);
        let entry = entries.find(|entry| entry.glob.is_match(asked))?;
        let beneath = Path::new(asked).strip_prefix(&entry.prefix).ok()?;
        Some((&entry.root, beneath.to_owned()))
    }
}

impl Entry {
    fn new(folder: &Path, shown: &str, pattern: &str) -> Result<Self, String> {
        SharedPath::parse(shown).map_err(|error| error.to_string())?;
        // `*` stays in its folder: `logs/*.log` does not share `logs/old/x.log`.
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        let glob = glob.map_err(|error| error.to_string())?.compile_matcher();
        let (folders, _) = pattern.rsplit_once('/').unwrap_or_default();
        let is_glob = |part: &&str| part.contains(['*', '?', '[', ']', '{', '}', '\\']);
        let mut prefix = PathBuf::from(if pattern.starts_with('/') { "/" } else { "" });
        prefix
            .extend(folders.split('/').take_while(|part| !is_glob(part)).filter(|p| !p.is_empty()));
        Ok(Self { shown: shown.to_owned(), glob, root: folder.join(&prefix), prefix })
    }
}

/// Why a path that is shared could not be opened.
#[derive(Debug)]
enum OpenError {
    LeadsOutside,
    NotAFile(&'static str),
    System(io::Error),
}

/// Opens a regular file beneath `root`.
///
/// On Linux this is one `openat2` with `RESOLVE_BENEATH` (seen with strace; cap-std walks the path
/// itself where the kernel is older than 5.6): no link, however it changes meanwhile, leads out.
fn open_beneath(root: &Path, beneath: &Path) -> Result<Opened, OpenError> {
    let root = Dir::open_ambient_dir(root, ambient_authority()).map_err(OpenError::System)?;
    // A pipe without a writer must not block us, nor a terminal become ours.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.bits().cast_signed());
    let file = root.open_with(beneath, &options).map_err(OpenError::from_open)?.into_std();
    let metadata = file.metadata().map_err(OpenError::System)?;
    // Only now is it certain what was opened: a look before could be of another file.
    if let Some(kind) = irregular(metadata.file_type()) {
        return Err(OpenError::NotAFile(kind));
    }
    let name = beneath.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stat = stat(&file).map_err(OpenError::System)?;
    let source = Source { name, size: stat.size, modified_ns: stat.modified_ns };
    Ok(Opened { file, source, stat })
}

/// What the file system says of an open file.
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

/// The system's error in words, without its number.
pub(crate) fn in_words(error: &io::Error) -> String {
    let words = error.to_string();
    words.split_once(" (os error").map_or(words.clone(), |(words, _)| words.to_owned())
}

impl OpenError {
    fn from_open(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NXIO) => return Self::NotAFile("a socket"),
            Some(Errno::LOOP) => return Self::NotAFile("a link that leads in a circle"),
            Some(_) | None => {}
        }
        // The kernel's own refusal has a number; this one is cap-std's word for a way out.
        let outside =
            error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none();
        if outside { Self::LeadsOutside } else { Self::System(error) }
    }

    /// What is wrong with the default file, which lies at `path`.
    fn here(&self, path: &Path) -> String {
        use io::ErrorKind::{NotADirectory, NotFound};
        let path = path.display();
        let what = match self {
            Self::LeadsOutside => format!("{path} is a link that leads outside its folder"),
            Self::NotAFile(kind) => format!("{path} is {kind}"),
            Self::System(error) if matches!(error.kind(), NotFound | NotADirectory) => {
                format!("there is no file at {path}")
            }
            Self::System(error) => {
                let (why, user) = (in_words(error), rustix::process::geteuid().as_raw());
                format!("{path} cannot be read: {why}. The agent runs as user {user}")
            }
        };
        human::printable(&format!("FILE_PATH: {what}. A pull without a path will fail."), 2000)
    }

    fn problem(&self, client: &ClientId, said: &str) -> Problem {
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
            Self::System(error) => {
                let (why, user) = (in_words(error), rustix::process::geteuid().as_raw());
                let detail =
                    format!("{client} cannot read {said}: {why}. The agent runs as user {user}.");
                (Code::FileUnreadable, detail)
            }
        };
        Problem::new(code, human::printable(&detail, 2000))
    }
}

#[cfg(test)]
mod tests;
