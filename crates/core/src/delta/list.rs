//! The ids of the blocks of a base: computed by the server, parsed by the agent.

use super::block::{BlockId, BlockKey, RollingHash};
use super::{BLOCK_LENS, MAX_BLOCKS};

/// Computes the ids of the blocks of a base from its bytes in their order.
#[derive(Debug)]
pub struct BlockHasher {
    key: BlockKey,
    hash: RollingHash,
    block_len: usize,
    /// The begin of the next block.
    block: Vec<u8>,
}

/// The ids of the blocks of a base. The bytes after its last whole block have none.
#[derive(Clone, Debug)]
pub struct BlockList {
    key: BlockKey,
    block_len: u32,
    /// In the order of the blocks.
    ids: Vec<BlockId>,
    /// The indexes of `ids`, sorted by id, then by index.
    sorted: Vec<u32>,
    filter: Filter,
}

/// Which rolling hashes occur in a list. Answers nearly every question of a search.
#[derive(Clone, Debug)]
struct Filter {
    n_bits: u32,
    words: Vec<u64>,
}

/// A block has the rolling hash of a block of the list, and other bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FalseMatch;

/// Why a list from a server cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockListError {
    /// No base has blocks of this length.
    #[error("a base of {base_len} bytes has no blocks of {block_len} bytes")]
    BlockLen {
        /// The length of the base in bytes.
        base_len: u64,
        /// The length of a block in bytes.
        block_len: u32,
    },
    /// The list has more or fewer ids than the base has blocks.
    #[error("the ids of {n_blocks} blocks have {found} bytes")]
    Len {
        /// The number of whole blocks of the base.
        n_blocks: u64,
        /// The number of bytes of the list.
        found: usize,
    },
}

impl BlockHasher {
    /// Starts the list of a base with blocks of [`block_len`](super::block_len) bytes.
    pub fn new(key: BlockKey, block_len: u32) -> Self {
        let hash = RollingHash::new(&key, block_len);
        Self { key, hash, block_len: block_len as usize, block: Vec::new() }
    }

    /// Appends to `list` the ids of the blocks that `bytes` complete.
    pub fn update(&mut self, mut bytes: &[u8], list: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.block.is_empty() && self.block_len <= bytes.len() {
                let (block, rest) = bytes.split_at(self.block_len);
                list.extend(self.id(block).to_bytes());
                bytes = rest;
                continue;
            }
            let n_missing = self.block_len - self.block.len();
            let (begin, rest) = bytes.split_at(n_missing.min(bytes.len()));
            self.block.extend(begin);
            bytes = rest;
            if self.block.len() == self.block_len {
                list.extend(self.id(&self.block).to_bytes());
                self.block.clear();
            }
        }
    }

    fn id(&self, block: &[u8]) -> BlockId {
        BlockId::new(&self.key, self.hash.of(block), block)
    }
}

impl BlockList {
    /// Parses the list of a base of `base_len` bytes, as [`BlockHasher`] computes it.
    ///
    /// # Errors
    /// The list has not one id for each block, or it is longer than 1 MiB or 1/128 of the base.
    pub fn parse(
        key: BlockKey,
        base_len: u64,
        block_len: u32,
        list: &[u8],
    ) -> Result<Self, BlockListError> {
        let n_blocks = base_len.checked_div(block_len.into()).unwrap_or(u64::MAX);
        if !BLOCK_LENS.contains(&block_len) || MAX_BLOCKS < n_blocks {
            return Err(BlockListError::BlockLen { base_len, block_len });
        }
        let (ids, rest) = list.as_chunks::<{ BlockId::LEN }>();
        if ids.len() as u64 != n_blocks || !rest.is_empty() {
            return Err(BlockListError::Len { n_blocks, found: list.len() });
        }
        let ids: Vec<_> = ids.iter().map(|id| BlockId::from_bytes(*id)).collect();
        let mut sorted: Vec<u32> = (0_u32..).take(ids.len()).collect();
        sorted.sort_unstable_by_key(|block_idx| (ids[*block_idx as usize], *block_idx));
        let filter = Filter::new(&ids);
        Ok(Self { key, block_len, ids, sorted, filter })
    }

    /// Returns the length of a block in bytes.
    pub(crate) fn block_len(&self) -> u32 {
        self.block_len
    }

    /// Returns the rolling hash that the ids contain.
    pub(crate) fn rolling_hash(&self) -> RollingHash {
        RollingHash::new(&self.key, self.block_len)
    }

    /// Returns whether a block with this rolling hash may be in the list. True for about one hash in
    /// a hundred that are not.
    pub(crate) fn may_contain(&self, hash: u64) -> bool {
        self.filter.contains(BlockId::smallest(hash))
    }

    /// Returns the index of a block with the id of `block`: `expected`, or the first one.
    ///
    /// # Errors
    /// The rolling hash is in the list, but the block is not.
    pub(crate) fn find(
        &self,
        hash: u64,
        block: &[u8],
        expected: Option<u32>,
    ) -> Result<Option<u32>, FalseMatch> {
        let expected_id = expected.and_then(|block_idx| self.id(block_idx));
        let is_expected = expected_id.is_some_and(|id| id.agrees_with(hash));
        if !is_expected && !self.may_contain(hash) {
            return Ok(None);
        }
        let first = self.first_at_least(BlockId::smallest(hash));
        if !first.and_then(|block_idx| self.id(block_idx)).is_some_and(|id| id.agrees_with(hash)) {
            return Ok(None);
        }
        let id = BlockId::new(&self.key, hash, block);
        if expected_id == Some(id) {
            return Ok(expected);
        }
        let found = self.first_at_least(id).filter(|block_idx| self.id(*block_idx) == Some(id));
        found.map(Some).ok_or(FalseMatch)
    }

    fn id(&self, block_idx: u32) -> Option<BlockId> {
        self.ids.get(block_idx as usize).copied()
    }

    /// Returns the first block with the smallest id that is not below `id`.
    fn first_at_least(&self, id: BlockId) -> Option<u32> {
        let rank = self.sorted.partition_point(|block_idx| self.ids[*block_idx as usize] < id);
        self.sorted.get(rank).copied()
    }
}

impl Filter {
    fn new(ids: &[BlockId]) -> Self {
        // 64 to 128 bits for each id, and at least one word.
        let n_bits = 6 + ids.len().max(1).next_power_of_two().trailing_zeros();
        let mut filter = Self { n_bits, words: vec![0; 1 << (n_bits - 6)] };
        for id in ids {
            let bit = id.first_bits(n_bits);
            filter.words[word_idx(bit)] |= 1 << (bit % 64);
        }
        filter
    }

    fn contains(&self, id: BlockId) -> bool {
        let bit = id.first_bits(self.n_bits);
        self.words[word_idx(bit)] >> (bit % 64) & 1 == 1
    }
}

/// Returns the word of a bit of a filter, which has at most 2^23 bits.
fn word_idx(bit: u64) -> usize {
    usize::try_from(bit / 64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK_LEN: u32 = 1024;

    fn key() -> BlockKey {
        BlockKey::new([7; 32])
    }

    proptest! {
        #[test]
        fn a_list_does_not_depend_on_how_the_base_is_read(
            base in prop::collection::vec(any::<u8>(), 0..5000),
            read_len in 1usize..3000,
        ) {
            let mut whole = Vec::new();
            BlockHasher::new(key(), BLOCK_LEN).update(&base, &mut whole);
            prop_assert_eq!(whole.len(), base.len() / 1024 * BlockId::LEN);
            let mut hasher = BlockHasher::new(key(), BLOCK_LEN);
            let mut list = Vec::new();
            base.chunks(read_len).for_each(|bytes| hasher.update(bytes, &mut list));
            prop_assert_eq!(list, whole);
        }

        #[test]
        fn any_list_is_parsed_or_rejected(
            base_len: u64,
            block_len in prop_oneof![any::<u32>(), Just(0), BLOCK_LENS],
            list in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            if let Ok(parsed) = BlockList::parse(key(), base_len, block_len, &list) {
                prop_assert_eq!(parsed.ids.len() as u64, base_len / u64::from(block_len));
            }
        }
    }

    #[test]
    fn a_list_has_one_id_for_each_whole_block() {
        let parse = |base_len, n_bytes| {
            BlockList::parse(key(), base_len, BLOCK_LEN, &vec![1; n_bytes]).map(|_| ())
        };
        assert_eq!(parse(2047, 8), Ok(()));
        assert_eq!(parse(1023, 0), Ok(()));
        for (base_len, n_blocks, found) in [(2047, 1, 0), (2047, 1, 16), (2047, 1, 9), (2048, 2, 8)]
        {
            assert_eq!(parse(base_len, found), Err(BlockListError::Len { n_blocks, found }));
        }
    }

    #[test]
    fn a_list_that_is_too_long_is_rejected() {
        let parse = |base_len, block_len, n_blocks: usize| {
            BlockList::parse(key(), base_len, block_len, &vec![1; n_blocks * BlockId::LEN])
                .map(|_| ())
        };
        let max_blocks = 1 << 17;
        assert_eq!(parse(1 << 30, 8192, max_blocks), Ok(()));
        let rejected = |base_len, block_len| Err(BlockListError::BlockLen { base_len, block_len });
        assert_eq!(parse(1 << 30, 4096, 2 * max_blocks), rejected(1 << 30, 4096));
        for block_len in [0, 1, 1023, (1 << 20) + 1] {
            assert_eq!(parse(1 << 20, block_len, 1), rejected(1 << 20, block_len));
        }
    }
}
