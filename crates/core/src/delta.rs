//! Finds the parts of a file that the last good download of the same client and path already has, the
//! *base*. Only the other parts travel.
//!
//! The server cuts the base into blocks of equal length and sends one [`BlockId`] for each. The agent
//! searches its file for these blocks at every offset, as rsync does (Tridgell, "Efficient Algorithms
//! for Sorting and Synchronization", 1999), and sends copies of the blocks that it finds.
//!
//! An id has 64 bits. Two blocks with one id make a wrong file, which the digest of the file shows:
//! then the complete file is sent. So a collision costs bytes, never correctness.

mod block;
mod list;
mod search;

pub use block::{BlockId, BlockKey};
pub use list::{BlockHasher, BlockList, BlockListError};
pub use search::{DeltaSearch, Piece};

use std::ops::RangeInclusive;

use crate::CHUNK_LEN;

/// Length of the blocks of a base below 512 MiB: the page of most databases.
const BLOCK_LEN: u32 = 4096;

/// Maximum number of blocks of a base. Their ids take 1 MiB on the wire, and 2.5 MiB in the agent.
const MAX_BLOCKS: u64 = 1 << 17;

/// The lengths of blocks that an agent accepts. With 1 MiB, the base has at most 128 GiB.
const BLOCK_LENS: RangeInclusive<u32> = 1024..=1 << 20;

/// Returns the length in bytes of the blocks of a base of `base_len` bytes; none if a list of its
/// blocks does not pay. A power of two, so that the pages of a database are whole blocks.
pub fn block_len(base_len: u64) -> Option<u32> {
    if base_len <= CHUNK_LEN as u64 {
        return None;
    }
    let mut block_len = BLOCK_LEN;
    while MAX_BLOCKS < base_len / u64::from(block_len) {
        block_len = block_len.checked_mul(2).filter(|len| BLOCK_LENS.contains(len))?;
    }
    Some(block_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_at_most_1_mib_and_a_share_of_its_base() {
        let mib = 1_u64 << 20;
        assert_eq!(block_len(CHUNK_LEN as u64), None);
        assert_eq!(block_len(CHUNK_LEN as u64 + 1), Some(4096));
        assert_eq!(block_len(512 * mib), Some(4096));
        assert_eq!(block_len(512 * mib + 4096), Some(8192));
        assert_eq!(block_len(10 * 1024 * mib), Some(128 * 1024));
        assert_eq!(block_len(128 * 1024 * mib), Some(1 << 20));
        assert_eq!(block_len(128 * 1024 * mib + mib), None);
        assert_eq!(block_len(u64::MAX), None);
        for base_len in (17..37).map(|bits| (1_u64 << bits) - 1) {
            let list_len = base_len / u64::from(block_len(base_len).unwrap()) * BlockId::LEN as u64;
            assert!(list_len <= mib && list_len <= base_len / 512, "{base_len}: {list_len}");
        }
    }
}
