//! The files of the log: lines of JSON that are only appended. A full file is renamed, and replaces the
//! one before it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;

use super::record::{TransferEvent, TransferRecord};

/// Refused orders have a file of their own: a server that sends many of them cannot displace the
/// records of what it took.
const TRANSFERS: &str = "transfers";
const REFUSALS: &str = "refusals";

/// A file with this length is replaced. Two of them hold at least 10,000 transfers.
const MAX_LEN: u64 = 4 * 1024 * 1024;

/// The log in a state folder.
#[derive(Debug)]
pub(crate) struct LogFolder {
    dir: PathBuf,
    /// One write at a time.
    writing: Mutex<()>,
}

impl LogFolder {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), writing: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// Appends the records. Blocks.
    ///
    /// Does not fsync: that would delay each transfer. A power cut may lose the last seconds.
    ///
    /// # Errors
    /// The disk is full, or the file cannot be written. Some of the records may be in it.
    pub(crate) fn append(&self, records: &[TransferRecord]) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (refused, others): (Vec<_>, Vec<_>) =
            records.iter().partition(|record| record.event == TransferEvent::Refused);
        self.append_to(TRANSFERS, &others)?;
        self.append_to(REFUSALS, &refused)
    }

    fn append_to(&self, name: &str, records: &[&TransferRecord]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let path = self.current(name);
        if fs::symlink_metadata(&path).is_ok_and(|found| MAX_LEN <= found.len()) {
            fs::rename(&path, self.previous(name))?;
        }
        let mut file = open_to_append(&path)?;
        let mut text = Vec::new();
        if ends_within_line(&file)? {
            text.push(b'\n');
        }
        for record in records {
            serde_json::to_writer(&mut text, record)?;
            text.push(b'\n');
        }
        file.write_all(&text)
    }

    fn current(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.jsonl"))
    }

    fn previous(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.1.jsonl"))
    }

    /// Returns the records in the order of their files, oldest first. A line that is not one of this
    /// log, such as the start of a line when the disk became full, is skipped. Blocks.
    ///
    /// # Errors
    /// A file exists and cannot be read.
    pub(crate) fn read(&self) -> io::Result<Vec<TransferRecord>> {
        let mut records = Vec::new();
        for name in [TRANSFERS, REFUSALS] {
            for path in [self.previous(name), self.current(name)] {
                let text = match open_to_read(&path).and_then(|file| read(&file)) {
                    Ok(text) => text,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                let lines = text.split(|&byte| byte == b'\n');
                records.extend(lines.filter_map(|line| serde_json::from_slice(line).ok()));
            }
        }
        Ok(records)
    }
}

/// Neither follows a link nor blocks on a pipe with that name.
const FLAGS: i32 = (OFlags::NOFOLLOW.bits() | OFlags::NONBLOCK.bits()).cast_signed();

fn open_to_append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(true).mode(0o600).custom_flags(FLAGS);
    regular(file.open(path)?)
}

fn open_to_read(path: &Path) -> io::Result<File> {
    regular(OpenOptions::new().read(true).custom_flags(FLAGS).open(path)?)
}

fn regular(file: File) -> io::Result<File> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    Ok(file)
}

fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    // The last batch of records may exceed the limit a little.
    file.take(2 * MAX_LEN).read_to_end(&mut text)?;
    Ok(text)
}

/// Returns whether the last line of the file is incomplete.
fn ends_within_line(file: &File) -> io::Result<bool> {
    let len = file.metadata()?.size();
    if len == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.read_exact_at(&mut last, len - 1)?;
    Ok(last != *b"\n")
}
