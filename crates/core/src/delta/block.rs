//! The id of a block: a hash that can be moved by one byte, and a digest.

/// The key of the ids of one list, chosen at random by the server. Who writes the file cannot know it,
/// so no file is slow to search, and none has blocks of equal ids.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BlockKey([u8; 32]);

/// Identifies a block: 32 bits of its rolling hash, then 32 bits of its keyed BLAKE3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockId(u64);

/// Computes the rolling hash of blocks of one length: a polynomial modulo 2^64 (Karp and Rabin, 1987).
#[derive(Clone, Copy, Debug)]
pub(crate) struct RollingHash {
    factor: u64,
    /// The factor to the power of 2, 3 and 4.
    powers: [u64; 3],
    /// The factor to the power of the length of a block.
    leaving_factor: u64,
}

impl BlockKey {
    /// Takes 32 random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// Returns the key as 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns 32 bits of the keyed BLAKE3 of a block.
    fn strong(&self, block: &[u8]) -> u32 {
        let digest = blake3::keyed_hash(&self.0, block);
        let bytes = digest.as_bytes();
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

impl BlockId {
    /// Number of bytes of an id on the wire.
    pub const LEN: usize = 8;

    /// Computes the id of a block whose rolling hash is known.
    pub(crate) fn new(key: &BlockKey, hash: u64, block: &[u8]) -> Self {
        Self(u64::from(weak(hash)) << 32 | u64::from(key.strong(block)))
    }

    pub(crate) fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(u64::from_le_bytes(bytes))
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        self.0.to_le_bytes()
    }

    /// Returns the smallest id that a block with this rolling hash can have.
    pub(crate) fn smallest(hash: u64) -> Self {
        Self(u64::from(weak(hash)) << 32)
    }

    /// Returns whether a block with this rolling hash can have this id.
    pub(crate) fn agrees_with(self, hash: u64) -> bool {
        self.0 >> 32 == u64::from(weak(hash))
    }

    /// Returns the first `n_bits` bits of the rolling hash.
    pub(crate) fn first_bits(self, n_bits: u32) -> u64 {
        self.0 >> (64 - n_bits)
    }
}

/// Returns the upper half of a rolling hash. The lower bits of a product depend on fewer bits.
fn weak(hash: u64) -> u32 {
    u32::try_from(hash >> 32).unwrap_or_default()
}

impl RollingHash {
    pub(crate) fn new(key: &BlockKey, block_len: u32) -> Self {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&key.0[..8]);
        // The order of a number that is 5 modulo 8 is 2^62, the greatest that there is.
        let factor = u64::from_le_bytes(bytes) & !7 | 5;
        let squared = factor.wrapping_mul(factor);
        let powers = [squared, squared.wrapping_mul(factor), squared.wrapping_mul(squared)];
        Self { factor, powers, leaving_factor: factor.wrapping_pow(block_len) }
    }

    /// Returns the hash of a block.
    pub(crate) fn of(&self, block: &[u8]) -> u64 {
        let [squared, cubed, fourth] = self.powers;
        let (fours, rest) = block.as_chunks::<4>();
        let hash = fours.iter().fold(0_u64, |hash, four| {
            let [a, b, c, d] = four.map(u64::from);
            let high = a.wrapping_mul(cubed).wrapping_add(b.wrapping_mul(squared));
            let low = c.wrapping_mul(self.factor).wrapping_add(d);
            hash.wrapping_mul(fourth).wrapping_add(high).wrapping_add(low)
        });
        rest.iter()
            .fold(hash, |hash, byte| hash.wrapping_mul(self.factor).wrapping_add(u64::from(*byte)))
    }

    /// Returns the hash of the block that starts one byte later.
    pub(crate) fn roll(&self, hash: u64, leaving: u8, entering: u8) -> u64 {
        let left = u64::from(leaving).wrapping_mul(self.leaving_factor);
        hash.wrapping_mul(self.factor).wrapping_add(u64::from(entering)).wrapping_sub(left)
    }
}

impl std::fmt::Debug for BlockKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlockKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_rolled_hash_is_the_hash_of_the_next_block(
            bytes in prop::collection::vec(any::<u8>(), 2..300),
            key: [u8; 32],
        ) {
            let len = bytes.len() - 1;
            let rolling = RollingHash::new(&BlockKey::new(key), u32::try_from(len).unwrap());
            let rolled = rolling.roll(rolling.of(&bytes[..len]), bytes[0], bytes[len]);
            prop_assert_eq!(rolled, rolling.of(&bytes[1..]));
        }
    }

    #[test]
    fn another_key_has_other_ids() {
        let id = |key| {
            let rolling = RollingHash::new(&key, 4);
            BlockId::new(&key, rolling.of(b"abcd"), b"abcd")
        };
        let [one, two] = [[1; 32], [2; 32]].map(BlockKey::new).map(id);
        assert_ne!(one.0 >> 32, two.0 >> 32);
        assert_ne!(one.0 << 32, two.0 << 32);
    }

    #[test]
    fn a_key_is_not_shown() {
        assert_eq!(format!("{:?}", BlockKey::new([7; 32])), "BlockKey(***)");
    }
}
