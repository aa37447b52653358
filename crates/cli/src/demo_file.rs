//! Generates the files of the demo's clients: text that differs from client to client, in the form
//! that `setup.sh` writes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

/// Bytes in a line, including the newline.
const LINE_LEN: usize = 121;

/// Minimum size of a generated file, in bytes. Its first and its last line always fit.
pub(crate) const MIN_SIZE: u64 = 1024;

/// The result of generating a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DemoFile {
    /// No file existed, so it was generated.
    New,
    /// A file of this size existed. It stays unchanged.
    Kept(u64),
    /// The demo stopped before the file was complete. No file was written.
    Stopped,
}

/// Removes the unfinished file when it is dropped.
struct UnfinishedFile(PathBuf);

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        // Fails after the rename, when no unfinished file exists.
        let _ = fs::remove_file(&self.0);
    }
}

/// Generates a text file of `size` bytes (minimum [`MIN_SIZE`]) that names `client` in its first
/// and its last line. Keeps a file that exists at `path`.
///
/// # Errors
/// The disk failed.
pub(crate) fn generate(
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
    // Renamed when complete, so that an interruption leaves no incomplete file under `path`.
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
    fn a_generated_file_has_its_size_and_ends_in_a_line_that_names_its_client() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client4/data.txt");
        let stop = CancellationToken::new();
        for size in [MIN_SIZE, 10_000] {
            assert_eq!(generate(&path, "client4", size, &stop).unwrap(), DemoFile::New);
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(text.len() as u64, size);
            assert!(text.ends_with("\nend of the data of client4\n"));
            // An existing file is kept, also if its size differs.
            assert_eq!(generate(&path, "client4", 5, &stop).unwrap(), DemoFile::Kept(size));
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_stopped_demo_leaves_no_incomplete_file() {
        let folder = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        let result = generate(&folder.path().join("data.txt"), "client4", 10_000, &stop).unwrap();
        assert_eq!(result, DemoFile::Stopped);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
