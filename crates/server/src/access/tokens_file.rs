//! Reads the file of tokens, and checks who else may read or write it.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::token_table::{LineError, TokenTable};

/// Maximum length of the file in bytes: some thousand tokens.
const MAX_LEN: u64 = 1 << 20;

/// Permissions with which another user could add a token.
const WRITABLE_BY_OTHERS: u32 = 0o022;

const READABLE_BY_OTHERS: u32 = 0o044;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensFileError {
    /// The file cannot be read or written.
    #[error("TOKENS_FILE={}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file is not text, or larger than any file of tokens.
    #[error("TOKENS_FILE={}: {reason}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A line is wrong.
    #[error("TOKENS_FILE={}, {source}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line and the reason.
        source: LineError,
    },
    /// Another user can add a token to the file.
    #[error(
        "TOKENS_FILE={0} can be written by other users, who could give themselves a token. \
         Run: chmod go-w {0}", .path.display()
    )]
    Writable {
        /// The file.
        path: PathBuf,
    },
}

/// Identifies the content of a file: changes with every write and every replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A file of tokens that was read.
#[derive(Clone, Debug)]
pub(crate) struct TokensFile {
    pub(crate) table: TokenTable,
    pub(crate) stamp: FileStamp,
    /// Other users can read the hashes, which are useless to them, and the names.
    pub(crate) is_readable_by_others: bool,
}

impl FileStamp {
    /// Returns the stamp of the file at `path`; none if it cannot be read. Blocks.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().as_ref().map(Self::from)
    }
}

impl From<&Metadata> for FileStamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Reads the file, or returns none if it does not exist. Blocks.
///
/// # Errors
/// The file cannot be read, other users may write it, or a line is wrong.
pub(crate) fn read(path: &Path) -> Result<Option<TokensFile>, TokensFileError> {
    let failed = |source| TokensFileError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.mode();
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(TokensFileError::Writable { path: path.to_owned() });
    }
    let text = read_text(&file, path)?;
    let table = TokenTable::parse(&text)
        .map_err(|source| TokensFileError::Line { path: path.to_owned(), source })?;
    let is_readable_by_others = mode & READABLE_BY_OTHERS != 0;
    Ok(Some(TokensFile { table, stamp: FileStamp::from(&metadata), is_readable_by_others }))
}

/// Reads the text of an open file. Blocks.
pub(crate) fn read_text(file: &File, path: &Path) -> Result<String, TokensFileError> {
    let failed = |source| TokensFileError::Io { path: path.to_owned(), source };
    let wrong = |reason| TokensFileError::Content { path: path.to_owned(), reason };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(wrong("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(failed)?;
    if MAX_LEN < bytes.len() as u64 {
        return Err(wrong("it is larger than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| wrong("it is not text in UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(mode: u32, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn a_file_that_others_may_write_is_rejected_and_one_that_they_may_read_is_noted() {
        let read_with = |mode| {
            let (_folder, path) = file(mode, b"user a admin\n");
            read(&path).map(|file| file.unwrap().is_readable_by_others)
        };
        assert!(matches!(read_with(0o600), Ok(false)));
        assert!(matches!(read_with(0o444), Ok(true)));
        for mode in [0o620, 0o602, 0o666] {
            assert!(matches!(read_with(mode), Err(TokensFileError::Writable { .. })), "{mode:o}");
        }
    }

    #[test]
    fn a_file_that_is_no_text_is_rejected() {
        let (_folder, binary) = file(0o600, &[0xff]);
        assert!(read(&binary).unwrap_err().to_string().ends_with("it is not text in UTF-8"));
        let (_folder, long) = file(0o600, &vec![b'#'; 1 << 21]);
        assert!(read(&long).unwrap_err().to_string().ends_with("it is larger than 1 MiB"));
        let folder = tempfile::tempdir().unwrap();
        assert!(read(&folder.path().join("missing")).unwrap().is_none());
        assert!(read(folder.path()).is_err());
    }
}
