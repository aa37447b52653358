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

/// How a transfer has used the base of its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BaseUse {
    /// No byte was copied from a base.
    #[default]
    Unused,
    /// Bytes of the base are in the received file.
    Copied,
    /// The base was damaged, changed or removed, so the complete file is sent.
    Failed,
}

impl BaseUse {
    const ALL: [Self; 3] = [Self::Unused, Self::Copied, Self::Failed];

    /// Returns the use as text: `unused`, `copied` or `failed`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Copied => "copied",
            Self::Failed => "failed",
        }
    }

    /// Parses the text of a use.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|base_use| base_use.as_str() == text)
    }
}
