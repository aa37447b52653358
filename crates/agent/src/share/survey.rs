//! Checks at the start whether the entries of `SHARE` match any file, so that a mistake in a list
//! is logged before a file is requested.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::OpenError;
use super::open::SharePlace;
use super::{ShareEntry, Shares};

/// Maximum number of names checked in a folder tree. Beyond it nothing is reported.
const MAX_NAMES: usize = 10_000;

/// The result of a walk through a folder tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SurveyResult {
    File,
    Nothing,
    /// The tree has more names than were checked, or a folder cannot be read.
    Unknown,
}

impl Shares {
    /// Returns the likely mistakes in `SHARE` as the disk is now, one sentence each. Blocks.
    pub(crate) fn survey(&self) -> Vec<String> {
        self.entries.iter().filter_map(|entry| self.entry_problem(entry)).collect()
    }

    fn entry_problem(&self, entry: &ShareEntry) -> Option<String> {
        let text = &entry.text;
        if !entry.is_glob {
            let path = self.place_of(entry, text)?.path();
            return path.is_dir().then(|| {
                format!(
                    "SHARE: {text} is a folder, and only files are sent: write {text}/* for its \
                     files, or {text}/** for all files beneath it."
                )
            });
        }
        let folder = SharePlace { root: &entry.root, folder: entry.folder(), file: Path::new("") };
        if matches!(folder.open_folder(), Err(OpenError::LeadsOutside)) {
            let folder = folder.folder.display();
            return Some(format!(
                "SHARE: {text}: {folder} is a link that leads outside the folder of FILE_PATH, so \
                 nothing beneath it is sent: write the absolute path where it leads."
            ));
        }
        let top = entry.root.path().join(entry.folder());
        let mut names_left = MAX_NAMES;
        match walk(entry, &top, &entry.prefix, &mut names_left) {
            SurveyResult::Nothing => {
                Some(format!("SHARE: {text} matches no file beneath {} now.", top.display()))
            }
            SurveyResult::File | SurveyResult::Unknown => None,
        }
    }
}

/// Searches `folder` for a file that `entry` matches. Its files are requested beneath `requested`.
fn walk(
    entry: &ShareEntry,
    folder: &Path,
    requested: &Path,
    names_left: &mut usize,
) -> SurveyResult {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return SurveyResult::Nothing,
        Err(_) => return SurveyResult::Unknown,
    };
    let mut folders: Vec<(PathBuf, PathBuf)> = Vec::new();
    for found in entries {
        let Ok(found) = found else { return SurveyResult::Unknown };
        if *names_left == 0 {
            return SurveyResult::Unknown;
        }
        *names_left -= 1;
        let requested = requested.join(found.file_name());
        match found.file_type() {
            Ok(kind) if kind.is_dir() => folders.push((found.path(), requested)),
            // The target of a link is checked when the file is requested.
            Ok(_) if entry.glob.is_match(&requested) => return SurveyResult::File,
            Ok(_) => {}
            Err(_) => return SurveyResult::Unknown,
        }
    }
    let mut found = SurveyResult::Nothing;
    for (folder, requested) in folders {
        match walk(entry, &folder, &requested, names_left) {
            SurveyResult::File => return SurveyResult::File,
            SurveyResult::Unknown => found = SurveyResult::Unknown,
            SurveyResult::Nothing => {}
        }
    }
    found
}
