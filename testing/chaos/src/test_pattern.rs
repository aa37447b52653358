//! Self-describing test data. Every 64-byte cell states its client, its version, its index and the
//! number of cells. So a file alone shows whether it is truncated, mixed, shifted, stale or
//! foreign.
//!
//! A file that was made from an earlier version has cells of several versions. Its last cell is a
//! seal with the version, the number of cells and a hash of all bytes before.

use std::fmt;
use std::ops::Range;

pub(crate) const CELL_LEN: usize = 64;

/// The content of a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TestPattern {
    /// Hash of the client id.
    pub(crate) owner: u64,
    /// Incremented with each change of the file.
    pub(crate) version: u32,
    pub(crate) n_cells: u32,
}

/// How the cells of a file look to a compressor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CellKind {
    /// Random bytes.
    Random,
    /// Text that shrinks.
    Text,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    Empty,
    /// The file has another length than its cells announce.
    Torn {
        expected: u64,
        found: u64,
    },
    /// Not a valid cell: zeroes, or a flipped bit.
    Damaged {
        index: u32,
        /// The first 16 bytes, escaped.
        found: String,
    },
    /// The bytes before the seal are not those that were sealed.
    Unsealed {
        version: u32,
    },
    /// A cell has another version than the first cell.
    Mixed {
        index: u32,
        first: u32,
        found: u32,
    },
    /// A cell is at the wrong index.
    Shifted {
        index: u32,
        found: u32,
    },
    /// A cell belongs to another client.
    Foreign {
        index: u32,
    },
    /// The file is older than the trigger allows.
    Stale {
        /// The oldest version that is allowed.
        expected: u32,
        found: u32,
    },
}

impl TestPattern {
    /// Version `version` of the file of `client`, with about `len` bytes.
    pub(crate) fn new(client: &str, version: u32, len: usize) -> Self {
        let n_cells = u32::try_from(len / CELL_LEN).unwrap_or(u32::MAX).max(1);
        Self { owner: hash(client.as_bytes()), version, n_cells }
    }

    pub(crate) fn len(self) -> u64 {
        u64::from(self.n_cells) * CELL_LEN as u64
    }

    /// The whole file, of random bytes.
    pub(crate) fn bytes(self) -> Vec<u8> {
        self.cells(0..self.n_cells, CellKind::Random)
    }

    /// The cells of this range.
    pub(crate) fn cells(self, range: Range<u32>, content: CellKind) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(range.len() * CELL_LEN);
        for index in range {
            match content {
                CellKind::Random => bytes.extend_from_slice(&self.random_cell(index)),
                CellKind::Text => bytes.extend_from_slice(self.text_cell("fp", index).as_bytes()),
            }
        }
        bytes
    }

    /// The last cell of a file that has the bytes `before` and was made from an earlier version.
    pub(crate) fn seal(self, before: &[u8]) -> Vec<u8> {
        let [low, high] = halves(hash(before));
        // The hash takes the place of the owner; the index names the owner.
        let sealed = Self { owner: u64::from(high) << 32 | u64::from(low), ..self };
        let [owner, _] = halves(self.owner);
        sealed.text_cell("fs", owner).into_bytes()
    }

    fn text_cell(self, kind: &str, index: u32) -> String {
        let Self { owner, version, n_cells } = self;
        let body = format!("{kind} {owner:016x} {version:08x} {index:08x} {n_cells:08x}");
        format!("{body} {:016x}\n", hash(body.as_bytes()))
    }

    fn random_cell(self, index: u32) -> [u8; CELL_LEN] {
        let Self { owner, version, n_cells } = self;
        let [low, high] = halves(owner);
        let mut cell = [0; CELL_LEN];
        for (at, number) in [low, high, version, index, n_cells].into_iter().enumerate() {
            cell[8 + at * 4..][..4].copy_from_slice(&number.to_le_bytes());
        }
        let key = hash(&cell);
        cell[..8].copy_from_slice(&key.to_le_bytes());
        mask(&mut cell[8..CHECK_AT], key);
        let check = hash(&cell[..CHECK_AT]);
        cell[CHECK_AT..].copy_from_slice(&check.to_le_bytes());
        cell
    }

    /// Returns the version of each cell of a file. It may have several versions and any number of
    /// cells.
    pub(crate) fn versions(client: &str, bytes: &[u8]) -> Result<Vec<u32>, Flaw> {
        let owner = hash(client.as_bytes());
        let version = |(cell, index): (&[u8], u32)| match parse(cell) {
            Some((found, _)) if found.owner != owner => Err(Flaw::Foreign { index }),
            Some((_, at)) if at != index => Err(Flaw::Shifted { index, found: at }),
            Some((found, _)) => Ok(found.version),
            None => Err(damaged(cell, index)),
        };
        bytes.chunks(CELL_LEN).zip(0..).map(version).collect()
    }

    /// Reads a file of `client` and requires that it is one complete version.
    pub(crate) fn read(client: &str, bytes: &[u8]) -> Result<Self, Flaw> {
        let owner = hash(client.as_bytes());
        if let Some(sealed) = read_seal(owner, bytes) {
            return sealed;
        }
        let mut first: Option<Self> = None;
        for (cell, index) in bytes.chunks(CELL_LEN).zip(0..) {
            let Some((found, at)) = parse(cell) else {
                // A truncated cell shows as a wrong length, if the rest is valid.
                if let (Some(first), true) = (first, cell.len() < CELL_LEN) {
                    return Err(Flaw::Torn { expected: first.len(), found: bytes.len() as u64 });
                }
                return Err(damaged(cell, index));
            };
            let expected = *first.get_or_insert(found);
            if found.owner != owner {
                return Err(Flaw::Foreign { index });
            }
            if found != expected {
                let first = expected.version;
                let found = found.version;
                return Err(Flaw::Mixed { index, first, found });
            }
            if at != index {
                return Err(Flaw::Shifted { index, found: at });
            }
        }
        let first = first.ok_or(Flaw::Empty)?;
        if first.len() != bytes.len() as u64 {
            return Err(Flaw::Torn { expected: first.len(), found: bytes.len() as u64 });
        }
        Ok(first)
    }

    /// Reads a file that must not be older than version `oldest`.
    pub(crate) fn read_since(client: &str, oldest: u32, bytes: &[u8]) -> Result<Self, Flaw> {
        let found = Self::read(client, bytes)?;
        if found.version < oldest {
            return Err(Flaw::Stale { expected: oldest, found: found.version });
        }
        Ok(found)
    }
}

/// Where the checksum of a random cell begins.
const CHECK_AT: usize = CELL_LEN - 8;

/// Reads a file whose last cell is a seal; `None` if it is not.
fn read_seal(owner: u64, bytes: &[u8]) -> Option<Result<TestPattern, Flaw>> {
    let (before, seal) = bytes.split_at_checked(bytes.len().checked_sub(CELL_LEN)?)?;
    let (sealed, owner_part) = parse_text("fs", seal)?;
    let found = TestPattern { owner, ..sealed };
    Some(if owner_part != halves(owner)[0] {
        Err(Flaw::Foreign { index: sealed.n_cells - 1 })
    } else if found.len() != bytes.len() as u64 {
        Err(Flaw::Torn { expected: found.len(), found: bytes.len() as u64 })
    } else if hash(before) != sealed.owner {
        Err(Flaw::Unsealed { version: sealed.version })
    } else {
        Ok(found)
    })
}

/// Returns the cell and its index if the checksum is right.
fn parse(cell: &[u8]) -> Option<(TestPattern, u32)> {
    parse_text("fp", cell).or_else(|| parse_random(cell))
}

fn parse_text(kind: &str, cell: &[u8]) -> Option<(TestPattern, u32)> {
    let text = std::str::from_utf8(cell).ok()?.strip_suffix('\n')?;
    let (body, check) = text.rsplit_once(' ')?;
    if cell.len() != CELL_LEN || check != format!("{:016x}", hash(body.as_bytes())) {
        return None;
    }
    let mut fields = body.strip_prefix(kind)?.strip_prefix(' ')?.split(' ');
    let owner = u64::from_str_radix(fields.next()?, 16).ok()?;
    let mut number = || u32::from_str_radix(fields.next()?, 16).ok();
    let version = number()?;
    let index = number()?;
    let n_cells = number()?;
    Some((TestPattern { owner, version, n_cells }, index))
}

fn parse_random(cell: &[u8]) -> Option<(TestPattern, u32)> {
    let mut cell: [u8; CELL_LEN] = cell.try_into().ok()?;
    let (body, check) = cell.split_at_mut(CHECK_AT);
    if hash(body).to_le_bytes() != *check {
        return None;
    }
    let (key, fields) = body.split_first_chunk_mut::<8>()?;
    mask(fields, u64::from_le_bytes(*key));
    let mut numbers =
        fields.chunks(4).filter_map(|field| Some(u32::from_le_bytes(field.try_into().ok()?)));
    let owner = u64::from(numbers.next()?) | u64::from(numbers.next()?) << 32;
    let [version, index, n_cells] = [numbers.next()?, numbers.next()?, numbers.next()?];
    Some((TestPattern { owner, version, n_cells }, index))
}

/// Exchanges bytes with random ones, and back. The key decides which.
fn mask(bytes: &mut [u8], key: u64) {
    for (block, n) in bytes.chunks_mut(8).zip(1_u64..) {
        let mixed = (key ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let stream = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        for (byte, random) in block.iter_mut().zip((stream ^ stream >> 32).to_le_bytes()) {
            *byte ^= random;
        }
    }
}

/// Returns the low and the high half of a number.
fn halves(number: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

fn damaged(cell: &[u8], index: u32) -> Flaw {
    let found = String::from_utf8_lossy(&cell[..cell.len().min(16)]).into_owned();
    Flaw::Damaged { index, found: found.escape_default().to_string() }
}

/// FNV-1a with a final mix: detects accidental changes of 50 bytes.
fn hash(bytes: &[u8]) -> u64 {
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (sum ^ (sum >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "empty"),
            Self::Torn { expected, found } => write!(f, "torn: {found} bytes of {expected}"),
            Self::Damaged { index, found } => {
                write!(f, "damaged: cell {index} begins with {found:?}")
            }
            Self::Unsealed { version } => {
                write!(f, "mixed or damaged: not what version {version} was made of")
            }
            Self::Mixed { index, first, found } => {
                write!(f, "mixed: cell {index} has version {found}, the first cell {first}")
            }
            Self::Shifted { index, found } => write!(f, "shifted: cell {found} is at {index}"),
            Self::Foreign { index } => write!(f, "foreign: cell {index} belongs to another client"),
            Self::Stale { expected, found } => {
                write!(f, "stale: version {found}, but {expected} existed before the trigger")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        TestPattern::new("client4", 7, 100 * CELL_LEN).bytes()
    }

    #[test]
    fn a_complete_file_is_recognized() {
        assert_eq!(TestPattern::read("client4", &file()), Ok(TestPattern::new("client4", 7, 6400)));
        assert_eq!(file().len(), 6400);
    }

    /// Version 8, made from version 7: one cell is replaced, and one is a hole.
    fn sealed_file() -> Vec<u8> {
        let new = TestPattern::new("client4", 8, 6400);
        let hole = [0; CELL_LEN];
        let parts = [&file()[..640], &new.cells(10..11, CellKind::Text), &hole, &file()[768..6336]];
        let before = parts.concat();
        [&before[..], &new.seal(&before)].concat()
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let text = TestPattern::new("client4", 7, 6400).cells(0..100, CellKind::Text);
        for file in [file(), text, sealed_file()] {
            for at in (0..CELL_LEN * 2).chain(640..768).chain(6336..6400) {
                for bit in 0..8 {
                    let mut bytes = file.clone();
                    bytes[at] ^= 1 << bit;
                    assert!(TestPattern::read("client4", &bytes).is_err(), "byte {at}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_sealed_file_is_recognized_only_as_it_was_sealed() {
        let sealed = sealed_file();
        assert_eq!(TestPattern::read("client4", &sealed), Ok(TestPattern::new("client4", 8, 6400)));
        let flaw = |bytes: &[u8]| TestPattern::read("client4", bytes).unwrap_err();
        let other_page = [&sealed[..640], &file()[640..704], &sealed[704..]].concat();
        assert_eq!(flaw(&other_page), Flaw::Unsealed { version: 8 });
        let shorter = [&sealed[..6272], &sealed[6336..]].concat();
        assert_eq!(flaw(&shorter), Flaw::Torn { expected: 6400, found: 6336 });
        assert!(matches!(flaw(&sealed[..6336]), Flaw::Mixed { .. } | Flaw::Damaged { .. }));
        let foreign = TestPattern::read("client5", &sealed);
        assert_eq!(foreign, Err(Flaw::Foreign { index: 99 }));
    }

    #[test]
    fn text_shrinks_and_random_bytes_do_not() {
        let pattern = TestPattern::new("client4", 7, 64_000);
        let n_of = |content| {
            let cells = pattern.cells(0..1000, content);
            let words: std::collections::BTreeSet<&[u8]> = cells.chunks(4).collect();
            words.len()
        };
        assert!(n_of(CellKind::Text) < 13_000 && 15_900 < n_of(CellKind::Random));
    }

    #[test]
    fn every_truncation_is_found() {
        for len in 0..CELL_LEN * 3 {
            assert!(TestPattern::read("client4", &file()[..len]).is_err(), "{len} bytes");
        }
        let longer = [file(), vec![0; 4096]].concat();
        assert!(matches!(
            TestPattern::read("client4", &longer),
            Err(Flaw::Damaged { index: 100, .. })
        ));
    }

    #[test]
    fn each_flaw_has_its_name() {
        let other = TestPattern::new("client4", 8, 6400).bytes();
        let mixed = [&file()[..3200], &other[3200..]].concat();
        let flaw = |bytes: &[u8]| TestPattern::read("client4", bytes).unwrap_err();
        assert_eq!(flaw(&mixed), Flaw::Mixed { index: 50, first: 7, found: 8 });
        let shifted = [&file()[..64], &file()[128..]].concat();
        assert_eq!(flaw(&shifted), Flaw::Shifted { index: 1, found: 2 });
        let zeroes = [&file()[..640], &[0; 5760]].concat();
        assert!(matches!(flaw(&zeroes), Flaw::Damaged { index: 10, .. }));
        assert_eq!(flaw(&file()[..6336]), Flaw::Torn { expected: 6400, found: 6336 });
        assert_eq!(flaw(&file()[..100]), Flaw::Torn { expected: 6400, found: 100 });
        assert_eq!(flaw(&[]), Flaw::Empty);
        assert_eq!(TestPattern::read("client5", &file()), Err(Flaw::Foreign { index: 0 }));
        let stale = TestPattern::read_since("client4", 8, &file());
        assert_eq!(stale, Err(Flaw::Stale { expected: 8, found: 7 }));
    }
}
