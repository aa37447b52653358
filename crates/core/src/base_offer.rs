//! What the server tells an agent about the base of a file: the last good download of the same client
//! and path. The agent decides how much of it the upload copies.

use crate::delta::{self, BlockKey};
use crate::file_digest::Blake3;

/// A file that the server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseOffer {
    /// Its length in bytes, at least 1.
    pub len: u64,
    /// The digest of the complete base.
    pub blake3: Blake3,
    /// The list of its blocks that the agent may request; none if a list does not pay.
    pub blocks: Option<BlockListOffer>,
}

/// A list of the blocks of a base, which the server makes when the agent requests it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockListOffer {
    /// The length of a block in bytes.
    pub block_len: u32,
    /// The key of the ids in the list.
    pub key: BlockKey,
}

impl BaseOffer {
    /// Offers a base of `len` bytes; none if it is empty. `random` is the key of its list.
    pub fn new(len: u64, blake3: Blake3, random: [u8; 32]) -> Option<Self> {
        let key = BlockKey::new(random);
        let blocks = delta::block_len(len).map(|block_len| BlockListOffer { block_len, key });
        (len != 0).then_some(Self { len, blake3, blocks })
    }
}
