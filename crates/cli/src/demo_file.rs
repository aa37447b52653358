//! Made files for the demo: text that no other client has, as `setup.sh` makes it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

/// Width of a line, its end included.
const LINE_LEN: usize = 121;

/// The smallest file that has room for its first and its last line.
pub(crate) const MIN_SIZE: u64 = 1024;

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DemoFile {
    /// It is new.
    New,
    /// There was a file of this size, which was left alone.
    Kept(u64),
    /// Nobody wants it any more.
    Stopped,
}

/// Removes what is unfinished, however its making ends.
struct UnfinishedFile(PathBuf);

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        // Once it has its name there is nothing to remove.
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes a text file of `size` bytes (at least [`MIN_SIZE`]) that names `client` in its first and
/// its last line, unless there is a file at `path`.
///
/// # Errors
/// The disk failed.
pub(crate) fn make(
    path: &Path,
    client: &str,
    size: u64,
    stop: &CancellationToken,
) -> io::Result<DemoFile> {
    if let Ok(found) = path.metadata() {
        return Ok(DemoFile::Kept(found.len()));
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Under its name there is never half a file, whenever this is interrupted.
    let unfinished = UnfinishedFile(path.with_extension("part"));
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&unfinished.0)?);
    let first = format!("data of {client}, made by filepull demo\n");
    let last = format!("end of the data of {client}\n");
    file.write_all(first.as_bytes())?;
    let mut left = size.saturating_sub((first.len() + last.len()) as u64);
    while 0 < left {
        if stop.is_cancelled() {
            return Ok(DemoFile::Stopped);
        }
        let len = usize::try_from(left).unwrap_or(LINE_LEN).min(LINE_LEN);
        let line: String = (1..len).map(|_| fastrand::alphanumeric()).collect();
        file.write_all(line.as_bytes())?;
        file.write_all(b"\n")?;
        left -= len as u64;
    }
    file.write_all(last.as_bytes())?;
    file.into_inner()?.sync_all()?;
    fs::rename(&unfinished.0, path)?;
    Ok(DemoFile::New)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_file_has_its_size_and_ends_in_a_line_that_names_its_client() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client4/data.txt");
        let go_on = CancellationToken::new();
        for size in [MIN_SIZE, 10_000] {
            assert_eq!(make(&path, "client4", size, &go_on).unwrap(), DemoFile::New);
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(text.len() as u64, size);
            assert!(text.ends_with("\nend of the data of client4\n"));
            // A file that is there is kept, whatever it is.
            assert_eq!(make(&path, "client4", 5, &go_on).unwrap(), DemoFile::Kept(size));
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_file_that_nobody_wants_any_more_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let stopped = CancellationToken::new();
        stopped.cancel();
        let made = make(&folder.path().join("data.txt"), "client4", 10_000, &stopped).unwrap();
        assert_eq!(made, DemoFile::Stopped);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
