//! The file of a client, and what happens to it between two pulls. Each kind of change leads to
//! another kind of upload: all bytes, none, a tail, changed pages, holes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use fastrand::Rng;

use crate::test_pattern::{CELL_LEN, CellKind, TestPattern};

/// What happens to a file between two pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileChange {
    /// All bytes are new, through a rename.
    Rewritten,
    /// The old bytes, then new ones. If the new file is shorter: only a part of the old bytes.
    Resized,
    /// Pages of the old file are replaced.
    Paged,
    /// Bytes are inserted at any offset, and what follows moves.
    Inserted,
    /// Ranges of the old file become holes.
    Punched,
}

/// The length of a page of a database, and of a block of the disk, in bytes.
const PAGE_LEN: usize = 4096;
const CELLS_IN_A_PAGE: u32 = 64;
/// The longest hole, in pages. An agent sends shorter ones than 16 pages as data.
const MAX_HOLE: usize = 64;
/// The longest insertion, in cells.
const MAX_INSERTION: u32 = 20;

/// The current file of a client.
#[derive(Debug)]
pub(crate) struct TrialFile {
    pub(crate) pattern: TestPattern,
    /// Bytes of the current version that the version before it did not have.
    pub(crate) n_new: u64,
    client: String,
    rng: Rng,
}

impl TrialFile {
    /// Version `version` of a file with about `len` random bytes.
    pub(crate) fn new(client: &str, version: u32, len: usize) -> Self {
        let pattern = TestPattern::new(client, version, len);
        let rng = Rng::with_seed(pattern.owner ^ len as u64);
        Self { pattern, n_new: pattern.len(), client: client.to_owned(), rng }
    }

    /// Changes the file at `path` in a random way into the next version, of about `len` bytes.
    pub(crate) fn change(&mut self, path: &Path, len: usize) -> io::Result<()> {
        let change = match self.rng.u8(0..8) {
            0 | 1 => FileChange::Rewritten,
            2 | 3 => FileChange::Resized,
            4 => FileChange::Inserted,
            5 => FileChange::Punched,
            _ => FileChange::Paged,
        };
        self.change_as(path, len, change)
    }

    /// Changes the file in this way. The new version replaces the old one through a rename.
    fn change_as(&mut self, path: &Path, len: usize, change: FileChange) -> io::Result<()> {
        let content = self.content();
        if change == FileChange::Rewritten {
            return self.rewrite(path, len, content);
        }
        // A version that is shorter than the one before is as likely as a longer one.
        let about_len = len - self.rng.usize(0..=len / 8);
        self.pattern = TestPattern::new(&self.client, self.pattern.version + 1, about_len);
        let bytes = self.bytes_from(fs::read(path)?, change);
        replace(path, &bytes)
    }

    /// Replaces the file by `len` bytes that the version before it did not have.
    pub(crate) fn rewrite(&mut self, path: &Path, len: usize, content: CellKind) -> io::Result<()> {
        self.pattern = TestPattern::new(&self.client, self.pattern.version + 1, len);
        self.n_new = self.pattern.len();
        replace(path, &self.pattern.cells(0..self.pattern.n_cells, content))
    }

    fn content(&mut self) -> CellKind {
        if self.rng.bool() { CellKind::Random } else { CellKind::Text }
    }

    /// Returns the current version, made from the bytes of the version before it.
    fn bytes_from(&mut self, mut bytes: Vec<u8>, change: FileChange) -> Vec<u8> {
        let len = (self.pattern.n_cells as usize - 1) * CELL_LEN;
        let mut n_new = CELL_LEN;
        if change == FileChange::Inserted {
            n_new += self.insert(&mut bytes);
        }
        bytes.truncate(len);
        if bytes.len() < len {
            let index = u32::try_from(bytes.len() / CELL_LEN).unwrap_or(u32::MAX);
            let content = self.content();
            n_new += len - bytes.len();
            bytes.extend(self.pattern.cells(index..self.pattern.n_cells - 1, content));
            bytes.truncate(len);
        }
        match change {
            FileChange::Paged => n_new += self.replace_pages(&mut bytes),
            FileChange::Punched => self.punch_holes(&mut bytes),
            FileChange::Rewritten | FileChange::Resized | FileChange::Inserted => {}
        }
        self.n_new = n_new as u64;
        let seal = self.pattern.seal(&bytes);
        bytes.extend(seal);
        bytes
    }

    fn insert(&mut self, bytes: &mut Vec<u8>) -> usize {
        let mut n_inserted = 0;
        for index in 0..self.rng.u32(1..=8) {
            let at = self.rng.usize(0..=bytes.len());
            let content = self.content();
            let n_cells = self.rng.u32(1..=MAX_INSERTION);
            let cells = self.pattern.cells(index..index + n_cells, content);
            n_inserted += cells.len();
            bytes.splice(at..at, cells);
        }
        n_inserted
    }

    fn replace_pages(&mut self, bytes: &mut [u8]) -> usize {
        let n_pages = bytes.len() / PAGE_LEN;
        let n_changed = if n_pages == 0 { 0 } else { self.rng.usize(1..=1 + n_pages / 50) };
        for _ in 0..n_changed {
            let page = self.rng.usize(0..n_pages);
            let first = u32::try_from(page).unwrap_or(u32::MAX) * CELLS_IN_A_PAGE;
            let content = self.content();
            let cells = self.pattern.cells(first..first + CELLS_IN_A_PAGE, content);
            bytes[page * PAGE_LEN..][..PAGE_LEN].copy_from_slice(&cells);
        }
        n_changed * PAGE_LEN
    }

    fn punch_holes(&mut self, bytes: &mut [u8]) {
        let n_pages = bytes.len() / PAGE_LEN;
        for _ in 0..if n_pages == 0 { 0 } else { self.rng.usize(1..=4) } {
            let page = self.rng.usize(0..n_pages);
            let end = n_pages.min(page + self.rng.usize(1..=MAX_HOLE));
            bytes[page * PAGE_LEN..end * PAGE_LEN].fill(0);
        }
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    write_sparse(&new, bytes)?;
    fs::rename(new, path)
}

/// Writes a file. Its pages of zeros become holes.
fn write_sparse(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = File::create(path)?;
    file.set_len(bytes.len() as u64)?;
    let is_hole = |page: &[u8]| page.iter().all(|&byte| byte == 0);
    let mut at = 0;
    while at < bytes.len() {
        let pages = bytes[at..].chunks(PAGE_LEN);
        let hole: usize = pages.clone().take_while(|page| is_hole(page)).map(<[u8]>::len).sum();
        let data: usize = bytes[at + hole..]
            .chunks(PAGE_LEN)
            .take_while(|page| !is_hole(page))
            .map(<[u8]>::len)
            .sum();
        file.write_all_at(&bytes[at + hole..][..data], (at + hole) as u64)?;
        at += hole + data;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    const LEN: usize = 1 << 20;

    /// Returns the old and the new bytes, and the size on the disk of the new file.
    fn changed(change: FileChange, seed: u64) -> (Vec<u8>, Vec<u8>, u64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.txt");
        let mut trial_file = TrialFile::new("client4", 1, LEN);
        trial_file.rng = Rng::with_seed(seed);
        fs::write(&path, trial_file.pattern.bytes()).unwrap();
        let old = fs::read(&path).unwrap();
        trial_file.change_as(&path, LEN, change).unwrap();
        let new = fs::read(&path).unwrap();
        assert_eq!(TestPattern::read("client4", &new), Ok(trial_file.pattern));
        assert_eq!((trial_file.pattern.version, trial_file.pattern.len()), (2, new.len() as u64));
        (old, new, path.metadata().unwrap().blocks() * 512)
    }

    #[test]
    fn each_change_makes_a_complete_version() {
        for seed in 0..20 {
            for change in [
                FileChange::Rewritten,
                FileChange::Resized,
                FileChange::Paged,
                FileChange::Inserted,
            ] {
                let (old, new, _) = changed(change, seed);
                assert_ne!(old, new, "{change:?}");
            }
            let (_, new, on_disk) = changed(FileChange::Punched, seed);
            assert!(on_disk < new.len() as u64, "no hole");
        }
    }

    #[test]
    fn a_file_with_one_cell_can_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.txt");
        let mut trial_file = TrialFile::new("client4", 1, 1);
        fs::write(&path, trial_file.pattern.bytes()).unwrap();
        for len in [1, 1, 64, 70_000, 5_000, 1, 9_000, 1 << 20, 1] {
            trial_file.change(&path, len).unwrap();
            let found = TestPattern::read("client4", &fs::read(&path).unwrap());
            assert_eq!(found, Ok(trial_file.pattern));
        }
    }
}
