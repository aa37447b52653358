//! Searches a file for the blocks of a base.

use super::block::RollingHash;
use super::list::{BlockList, FalseMatch};
use crate::CHUNK_LEN;
use crate::extent::MAX_SPAN_LEN;

/// False matches that a search may have, beside one for each block of the file. A match that is false
/// costs the digest of a block.
const MAX_FALSE_MATCHES: u64 = 1024;

/// The next bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes that were not found in the base: at most [`CHUNK_LEN`], at least one.
    Data(&'a [u8]),
    /// Bytes of the base.
    Copy {
        /// The offset of the first byte in the base.
        base_offset: u64,
        /// The number of bytes, at most [`MAX_SPAN_LEN`].
        len: u64,
    },
}

/// Searches a file, which is read in order, for the blocks of a base. Holds one block and one chunk of
/// the file beside what is pushed.
#[derive(Debug)]
pub struct DeltaSearch<'a> {
    list: &'a BlockList,
    rolling: RollingHash,
    block_len: usize,
    /// The bytes that no piece covers yet.
    buffer: Vec<u8>,
    /// The next block may begin here: an index of `buffer`.
    position: usize,
    /// The rolling hash of the block at `position`, once it is known.
    hash: Option<u64>,
    /// The block of the base after the last one that was found.
    expected: Option<u32>,
    copy: Option<CopyRun>,
    n_false_matches: u64,
    n_pushed: u64,
}

/// Found blocks that follow each other in the base.
#[derive(Clone, Copy, Debug)]
struct CopyRun {
    base_offset: u64,
    len: u64,
}

impl<'a> DeltaSearch<'a> {
    /// Starts at any offset of the file: the start, or where an upload is resumed.
    pub fn new(list: &'a BlockList) -> Self {
        Self {
            list,
            rolling: list.rolling_hash(),
            block_len: list.block_len() as usize,
            buffer: Vec::new(),
            position: 0,
            hash: None,
            expected: None,
            copy: None,
            n_false_matches: 0,
            n_pushed: 0,
        }
    }

    /// Adds the next bytes of the file, and emits the pieces that are complete.
    pub fn push(&mut self, bytes: &[u8], emit: &mut impl FnMut(Piece<'_>)) {
        self.buffer.extend(bytes);
        self.n_pushed += bytes.len() as u64;
        let mut n_done = 0;
        while self.position + self.block_len <= self.buffer.len() {
            match self.find() {
                Some(block_idx) => {
                    self.emit_data(&mut n_done, self.position, emit);
                    self.emit_copy(block_idx, emit);
                    n_done += self.block_len;
                    self.position = n_done;
                    self.hash = None;
                }
                None if self.position + self.block_len == self.buffer.len() => break,
                None => self.advance(),
            }
        }
        // Whole chunks only, because each piece of data is sent for itself.
        let n_chunks = (self.position - n_done) / CHUNK_LEN;
        let end = n_done + n_chunks * CHUNK_LEN;
        self.emit_data(&mut n_done, end, emit);
        self.buffer.drain(..n_done);
        self.position -= n_done;
    }

    /// Emits the rest of the file.
    pub fn finish(mut self, emit: &mut impl FnMut(Piece<'_>)) {
        self.emit_data(&mut 0, self.buffer.len(), emit);
        self.flush_copy(emit);
    }

    /// Returns the block of the base that equals the block at the position.
    fn find(&mut self) -> Option<u32> {
        let block = &self.buffer[self.position..self.position + self.block_len];
        let hash = *self.hash.get_or_insert_with(|| self.rolling.of(block));
        let n_blocks = self.n_pushed / self.block_len as u64;
        if MAX_FALSE_MATCHES + n_blocks < self.n_false_matches {
            return None;
        }
        match self.list.find(hash, block, self.expected) {
            Ok(found) => found,
            Err(FalseMatch) => {
                self.n_false_matches += 1;
                None
            }
        }
    }

    /// Moves to the next position whose block may be in the list, or to the last complete block.
    fn advance(&mut self) {
        let Some(mut hash) = self.hash else { return };
        let last = self.buffer.len() - self.block_len;
        let leaving = &self.buffer[self.position..last];
        let entering = &self.buffer[self.position + self.block_len..];
        for (leaving, entering) in leaving.iter().zip(entering) {
            hash = self.rolling.roll(hash, *leaving, *entering);
            self.position += 1;
            if self.list.may_contain(hash) {
                break;
            }
        }
        self.hash = Some(hash);
    }

    /// Emits the bytes from `start` to `end`, and moves `start`.
    fn emit_data(&mut self, start: &mut usize, end: usize, emit: &mut impl FnMut(Piece<'_>)) {
        if *start < end {
            self.flush_copy(emit);
            self.buffer[*start..end].chunks(CHUNK_LEN).for_each(|data| emit(Piece::Data(data)));
            *start = end;
        }
    }

    /// Adds a block to the copy that follows all emitted pieces.
    fn emit_copy(&mut self, block_idx: u32, emit: &mut impl FnMut(Piece<'_>)) {
        let len = self.block_len as u64;
        let base_offset = u64::from(block_idx) * len;
        self.expected = block_idx.checked_add(1);
        if let Some(run) = &mut self.copy {
            let follows = run.base_offset + run.len == base_offset;
            if follows && run.len + len <= MAX_SPAN_LEN {
                run.len += len;
                return;
            }
        }
        self.flush_copy(emit);
        self.copy = Some(CopyRun { base_offset, len });
    }

    fn flush_copy(&mut self, emit: &mut impl FnMut(Piece<'_>)) {
        if let Some(CopyRun { base_offset, len }) = self.copy.take() {
            emit(Piece::Copy { base_offset, len });
        }
    }
}

#[cfg(test)]
mod tests;
