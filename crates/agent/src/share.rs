//! What this machine shares, and the only code that opens a path.
//!
//! A path that is not shared cannot be read, even by a hijacked server: the list lives here, and
//! every file is opened *beneath* the folder of `FILE_PATH`, or of an absolute entry.

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

pub(crate) use self::list::split;
use self::open::{OpenError, SharePlace};
pub(crate) use self::open::{OpenFile, in_words, stat};
use self::root::ShareRoot;

/// The files that may be asked for: the default file, and whatever the settings add.
#[derive(Clone, Debug)]
pub struct Shares {
    /// `FILE_PATH`, as written.
    file: String,
    default: ShareEntry,
    more: Vec<ShareEntry>,
}

/// One path or glob of the list.
#[derive(Clone, Debug)]
struct ShareEntry {
    /// As written in the settings.
    shown: String,
    glob: GlobMatcher,
    is_glob: bool,
    /// The folders before the first that is a glob, as part of an asked path. Nothing outside of them
    /// is ever opened.
    prefix: PathBuf,
    /// The folder of `FILE_PATH`; for an absolute entry, its prefix.
    root: Arc<ShareRoot>,
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
        environment::check_path(file).map_err(|error| format!("FILE_PATH: {error}"))?;
        let folder = Arc::new(ShareRoot::new(folder));
        let default = ShareEntry::new(&folder, name, &globset::escape(name), false)
            .map_err(|error| format!("FILE_PATH: {error}"))?;
        let entry = |text| {
            list::check(text)?;
            ShareEntry::new(&folder, text, text, text.contains(GLOB))
        };
        let (more, bad): (Vec<_>, Vec<_>) = more.into_iter().map(entry).partition(Result::is_ok);
        let mut bad: Vec<String> = bad.into_iter().filter_map(Result::err).collect();
        let more: Vec<ShareEntry> = more.into_iter().filter_map(Result::ok).collect();
        bad.extend(list::check_len(more.iter().map(|entry| entry.shown.as_str())).err());
        if !bad.is_empty() {
            let bad: Vec<String> = bad.iter().map(|error| format!("SHARE: {error}")).collect();
            return Err(bad.join("; "));
        }
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

    /// Remembers where the folders of all entries lead now. Blocks.
    pub(crate) fn remember(&self) {
        for entry in [&self.default].into_iter().chain(&self.more) {
            entry.root.remember();
        }
    }

    /// The default file as it looks now, or why `client` cannot send it. It blocks.
    pub(crate) fn default_file(&self, client: &ClientId) -> Result<Source, Unsendable> {
        let opened = self.default_place().open();
        opened.map(|opened| opened.source).map_err(|why| self.unsendable(client, &why))
    }

    /// Why nothing is known of the default file: the disk took too long, a network drive mostly.
    pub(crate) fn no_answer(&self, client: &ClientId) -> Unsendable {
        self.unsendable(client, &OpenError::System(io::Error::other("the disk does not answer")))
    }

    fn unsendable(&self, client: &ClientId, why: &OpenError) -> Unsendable {
        let path = self.default_place().path();
        Unsendable { problem: why.problem(client, &self.file, &path), here: why.here(&path) }
    }

    /// Where the default file is looked for.
    fn default_place(&self) -> SharePlace<'_> {
        let ShareEntry { root, shown, .. } = &self.default;
        SharePlace { root, folder: Path::new(""), file: Path::new(shown) }
    }

    /// Opens what `client` was asked for. It blocks: it is the disk's turn.
    pub(crate) fn open(
        &self,
        client: &ClientId,
        asked: Option<&SharedPath>,
    ) -> Result<OpenFile, Problem> {
        let said = asked.map_or(self.file.as_str(), SharedPath::as_str);
        let Some(place) = self.find(asked) else {
            let list = self.shares().collect::<Vec<_>>().join(", ");
            let detail = format!("{client} does not share {said}. It shares: {list}");
            return Err(Problem::new(Code::PathNotShared, detail));
        };
        place.open().map_err(|why| why.problem(client, said, &place.path()))
    }

    /// Whether an entry matches a path, wherever it leads.
    pub(crate) fn lists(&self, asked: Option<&SharedPath>) -> bool {
        self.find(asked).is_some()
    }

    fn find<'a>(&'a self, asked: Option<&'a SharedPath>) -> Option<SharePlace<'a>> {
        let asked = match asked.map(SharedPath::as_str) {
            // Whoever has read the settings may ask for the default file by its whole path.
            Some(path) if path != self.file => path,
            _ => &self.default.shown,
        };
        let mut entries = [&self.default].into_iter().chain(&self.more);
        // A relative glob such as `**` would match an absolute path, which lies beneath another root.
        let entry = entries.find(|entry| {
            entry.is_absolute() == asked.starts_with('/') && entry.glob.is_match(asked)
        })?;
        self.place_of(entry, asked)
    }

    fn place_of<'a>(&self, entry: &'a ShareEntry, asked: &'a str) -> Option<SharePlace<'a>> {
        let file = Path::new(asked).strip_prefix(&entry.prefix).ok()?;
        Some(SharePlace { root: &entry.root, folder: entry.folder(), file })
    }
}

/// What makes a part of an entry a glob.
const GLOB: [char; 7] = ['*', '?', '[', ']', '{', '}', '\\'];

impl ShareEntry {
    fn new(
        folder: &Arc<ShareRoot>,
        shown: &str,
        pattern: &str,
        is_glob: bool,
    ) -> Result<Self, String> {
        SharedPath::parse(shown).map_err(|error| error.to_string())?;
        // `*` stays in its folder: `logs/*.log` does not share `logs/old/x.log`.
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        let glob = glob.map_err(|error| error.to_string())?.compile_matcher();
        let (folders, _) = pattern.rsplit_once('/').unwrap_or_default();
        let is_absolute = pattern.starts_with('/');
        let mut prefix = PathBuf::from(if is_absolute { "/" } else { "" });
        let fixed = folders.split('/').take_while(|part| !part.contains(GLOB));
        prefix.extend(fixed.filter(|part| !part.is_empty()));
        let root = if is_absolute { Arc::new(ShareRoot::new(&prefix)) } else { Arc::clone(folder) };
        Ok(Self { shown: shown.to_owned(), glob, is_glob, prefix, root })
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
