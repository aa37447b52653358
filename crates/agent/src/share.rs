//! What this machine shares, and the only code that opens a path.
//!
//! A path that is not shared cannot be read, even by a hijacked server: the list is a setting of
//! this machine, and every file is opened *beneath* the folder of `FILE_PATH` or of an absolute
//! entry.

mod error;
mod list;
mod open;
mod root;
mod survey;
mod unsized_file;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use filepull_core::id::ClientId;
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};
use filepull_core::source::Source;
use filepull_process::environment;
use globset::{GlobBuilder, GlobMatcher};

use self::error::OpenError;
pub(crate) use self::list::split;
pub(crate) use self::open::OpenFile;
use self::open::SharePlace;
pub(crate) use self::root::ShareFolder;
use self::root::ShareRoot;
pub(crate) use self::unsized_file::stat;

/// The files that may be requested: the default file, and those that `SHARE` adds.
#[derive(Clone, Debug)]
pub struct Shares {
    file_path: String,
    default: ShareEntry,
    entries: Vec<ShareEntry>,
}

/// One path or glob of the list.
#[derive(Clone, Debug)]
struct ShareEntry {
    /// The text of the settings.
    text: String,
    glob: GlobMatcher,
    is_glob: bool,
    /// The folders before the first glob, as they appear in a requested path. Nothing outside of
    /// them is ever opened.
    prefix: PathBuf,
    /// The folder of `FILE_PATH`; for an absolute entry, its prefix.
    root: Arc<ShareRoot>,
}

/// Why the default file cannot be sent.
#[derive(Clone, Debug)]
pub(crate) struct DefaultFileError {
    /// The problem that the server shows to operators.
    pub(crate) problem: Problem,
    /// The text for the local log: it names `FILE_PATH`.
    pub(crate) local_text: String,
}

impl Shares {
    /// Shares `file`, and the paths and globs of `entries`. A relative entry lies beneath the
    /// folder of `file`.
    ///
    /// # Errors
    /// Names each invalid entry.
    pub fn new<'a>(
        file: &Path,
        entries: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, String> {
        let os_name =
            file.file_name().ok_or_else(|| format!("FILE_PATH: {file:?} does not name a file"))?;
        let name = os_name.to_str().ok_or_else(|| {
            format!("FILE_PATH: the name of {file:?} is not UTF-8; only UTF-8 names can be sent")
        })?;
        let folder = match file.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        environment::check_path(file).map_err(|error| format!("FILE_PATH: {error}"))?;
        let folder = Arc::new(ShareRoot::new(folder));
        let default = ShareEntry::new(&folder, name, &globset::escape(name), false)
            .map_err(|error| format!("FILE_PATH: {error}"))?;
        let mut parsed = Vec::new();
        let mut errors = Vec::new();
        for text in entries {
            let entry = list::check(text)
                .and_then(|()| ShareEntry::new(&folder, text, text, text.contains(GLOB)));
            match entry {
                Ok(entry) => parsed.push(entry),
                Err(error) => errors.push(format!("SHARE: {error}")),
            }
        }
        if let Err(error) = list::check_len(parsed.iter().map(|entry| entry.text.as_str())) {
            errors.push(format!("SHARE: {error}"));
        }
        if !errors.is_empty() {
            return Err(errors.join("; "));
        }
        Ok(Self { file_path: file.display().to_string(), default, entries: parsed })
    }

    /// Returns the name of the default file, then the entries of `SHARE`.
    pub(crate) fn shares(&self) -> impl Iterator<Item = &str> {
        let default = self.default_name();
        let entries = self.entries.iter().map(|entry| entry.text.as_str());
        [default].into_iter().chain(entries.filter(move |&entry| entry != default))
    }

    /// Returns the name of the file that is sent when the order has no path.
    pub(crate) fn default_name(&self) -> &str {
        &self.default.text
    }

    /// Remembers where the folders of all entries lead now. Blocks.
    pub(crate) fn remember(&self) {
        for entry in [&self.default].into_iter().chain(&self.entries) {
            entry.root.remember();
        }
    }

    /// Returns the folders that must stay readable in the sandbox. Blocks.
    pub(crate) fn folders(&self) -> Vec<ShareFolder> {
        let mut roots: Vec<&Arc<ShareRoot>> = Vec::new();
        for entry in [&self.default].into_iter().chain(&self.entries) {
            if !roots.iter().any(|root| Arc::ptr_eq(root, &entry.root)) {
                roots.push(&entry.root);
            }
        }
        roots.into_iter().filter_map(|root| root.for_sandbox()).collect()
    }

    /// Returns the current metadata of the default file, or why `client` cannot send it. Blocks.
    pub(crate) fn default_file(&self, client: &ClientId) -> Result<Source, DefaultFileError> {
        let opened = self.default_place().open();
        opened.map(|opened| opened.source).map_err(|error| self.default_error(client, &error))
    }

    /// Returns the error for a check of the default file that took too long, usually because a
    /// network drive hangs.
    pub(crate) fn timed_out(&self, client: &ClientId) -> DefaultFileError {
        let error = io::Error::other("the disk does not respond");
        self.default_error(client, &OpenError::System(error))
    }

    fn default_error(&self, client: &ClientId, error: &OpenError) -> DefaultFileError {
        let path = self.default_place().path();
        let problem = error.problem(client, &self.file_path, &path);
        DefaultFileError { problem, local_text: error.local_text(&path) }
    }

    fn default_place(&self) -> SharePlace<'_> {
        let ShareEntry { root, text, .. } = &self.default;
        SharePlace { root, folder: Path::new(""), file: Path::new(text) }
    }

    /// Opens the requested file, or the default file without a `path`. Blocks on the disk.
    ///
    /// # Errors
    /// The problem to send to the server. It names `client`.
    pub(crate) fn open(
        &self,
        client: &ClientId,
        path: Option<&SharedPath>,
    ) -> Result<OpenFile, Problem> {
        let requested = path.map_or(self.file_path.as_str(), SharedPath::as_str);
        let Some(place) = self.find(path) else {
            let list = self.shares().collect::<Vec<_>>().join(", ");
            let detail = format!("{client} does not share {requested}. It shares: {list}");
            return Err(Problem::new(Code::PathNotShared, detail));
        };
        place.open().map_err(|error| error.problem(client, requested, &place.path()))
    }

    /// Returns whether an entry matches `path`. Links are not followed.
    pub(crate) fn lists(&self, path: Option<&SharedPath>) -> bool {
        self.find(path).is_some()
    }

    fn find<'a>(&'a self, path: Option<&'a SharedPath>) -> Option<SharePlace<'a>> {
        let requested = match path.map(SharedPath::as_str) {
            // An operator may request the default file by the value of `FILE_PATH`.
            Some(path) if path != self.file_path => path,
            _ => &self.default.text,
        };
        let mut entries = [&self.default].into_iter().chain(&self.entries);
        // A relative glob such as `**` would match an absolute path, which lies beneath another
        // root.
        let entry = entries.find(|entry| {
            entry.is_absolute() == requested.starts_with('/') && entry.glob.is_match(requested)
        })?;
        self.place_of(entry, requested)
    }

    fn place_of<'a>(&self, entry: &'a ShareEntry, requested: &'a str) -> Option<SharePlace<'a>> {
        let file = Path::new(requested).strip_prefix(&entry.prefix).ok()?;
        Some(SharePlace { root: &entry.root, folder: entry.folder(), file })
    }
}

/// A path with one of these characters is a glob.
const GLOB: [char; 7] = ['*', '?', '[', ']', '{', '}', '\\'];

impl ShareEntry {
    fn new(
        folder: &Arc<ShareRoot>,
        text: &str,
        pattern: &str,
        is_glob: bool,
    ) -> Result<Self, String> {
        SharedPath::parse(text).map_err(|error| error.to_string())?;
        // `*` matches no separator: `logs/*.log` does not share `logs/old/x.log`.
        let built = GlobBuilder::new(pattern).literal_separator(true).build();
        let glob = built.map_err(|error| error.to_string())?.compile_matcher();
        let (folders, _) = pattern.rsplit_once('/').unwrap_or_default();
        let is_absolute = pattern.starts_with('/');
        let mut prefix = PathBuf::from(if is_absolute { "/" } else { "" });
        let fixed = folders.split('/').take_while(|part| !part.contains(GLOB));
        prefix.extend(fixed.filter(|part| !part.is_empty()));
        let root = if is_absolute { Arc::new(ShareRoot::new(&prefix)) } else { Arc::clone(folder) };
        Ok(Self { text: text.to_owned(), glob, is_glob, prefix, root })
    }

    fn is_absolute(&self) -> bool {
        self.prefix.is_absolute()
    }

    /// The folder beneath the root that must hold the file.
    fn folder(&self) -> &Path {
        if self.is_absolute() { Path::new("") } else { &self.prefix }
    }
}

#[cfg(test)]
mod tests;
