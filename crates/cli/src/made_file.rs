//! Made files for the demo: text that no other client has, as `setup.sh` makes it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

/// Width of a line, its end included.
const LINE_LEN: usize = 121;

/// Makes a text file of exactly `size` bytes that names `client` in its first and its last line,
/// unless there is a file at `path`. Was it made?
///
/// # Errors
/// The disk failed.
pub(crate) fn make(path: &Path, client: &str, size: usize) -> io::Result<bool> {
    if path.exists() {
        return Ok(false);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Under its name there is never half a file, whenever this is interrupted.
    let unfinished = path.with_extension("part");
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&unfinished)?);
    let first = format!("data of {client}, made by filepull demo\n");
    let last = format!("end of the data of {client}\n");
    file.write_all(first.as_bytes())?;
    let mut left = size.saturating_sub(first.len() + last.len());
    while 0 < left {
        let len = left.min(LINE_LEN);
        let line: String = (1..len).map(|_| fastrand::alphanumeric()).collect();
        file.write_all(line.as_bytes())?;
        file.write_all(b"\n")?;
        left -= len;
    }
    file.write_all(last.as_bytes())?;
    file.into_inner()?.sync_all()?;
    fs::rename(&unfinished, path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_file_has_its_size_and_ends_in_a_line_that_names_its_client() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client4/data.txt");
        assert!(make(&path, "client4", 10_000).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.len(), 10_000);
        assert!(text.ends_with("\nend of the data of client4\n"));
        assert!(!make(&path, "client4", 5).unwrap(), "a file that is there is kept");
    }
}
