//! Self-describing test data: every 64-byte cell says whose it is, of which version, which one of
//! how many. One look at a file tells whether it is torn, mixed, shifted, stale or foreign, without
//! the file it was copied from.

use std::fmt;

/// The length of a cell in bytes.
pub const CELL_LEN: usize = 64;

/// A source file: whose, which version, how many cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestPattern {
    /// Whose, as a hash of the client's id.
    pub owner: u64,
    /// Counts the changes of the file.
    pub version: u32,
    /// How many cells the file has.
    pub total: u32,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It has no byte.
    Empty,
    /// It ends too early, or goes on too long.
    Torn {
        /// Bytes it should have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// A cell holds no cell: zeroes, or a flipped bit.
    Damaged {
        /// Which cell.
        index: u32,
        /// How it begins.
        found: String,
    },
    /// A cell is of another version than the first.
    Mixed {
        /// Which cell.
        index: u32,
        /// The version of the first.
        first: u32,
        /// Its own.
        found: u32,
    },
    /// A cell belongs elsewhere in the file.
    Shifted {
        /// Which cell.
        index: u32,
        /// Where it belongs.
        found: u32,
    },
    /// A cell is of another client's file.
    Foreign {
        /// Which cell.
        index: u32,
    },
    /// It is older than what was there when it was asked for.
    Stale {
        /// The oldest version that would do.
        expected: u32,
        /// Its version.
        found: u32,
    },
}

impl TestPattern {
    /// Version `version` of the file of `client`, about `len` bytes long.
    pub fn new(client: &str, version: u32, len: usize) -> Self {
        let total = u32::try_from(len / CELL_LEN).unwrap_or(u32::MAX).max(1);
        Self { owner: hash(client.as_bytes()), version, total }
    }

    /// How many bytes the file has.
    pub fn len(self) -> u64 {
        u64::from(self.total) * CELL_LEN as u64
    }

    /// Whether the file has no bytes: never.
    pub fn is_empty(self) -> bool {
        false
    }

    /// The file.
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.total as usize * CELL_LEN);
        (0..self.total).for_each(|index| bytes.extend_from_slice(self.cell(index).as_bytes()));
        bytes
    }

    fn cell(self, index: u32) -> String {
        let Self { owner, version, total } = self;
        let body = format!("fp {owner:016x} {version:08x} {index:08x} {total:08x}");
        format!("{body} {:016x}\n", hash(body.as_bytes()))
    }

    /// The version of each cell of a file of `client`, which may be of several and end early, but
    /// not within a cell.
    ///
    /// # Errors
    /// A cell is not one, or is not the one that belongs there.
    pub fn versions(client: &str, bytes: &[u8]) -> Result<Vec<u32>, Flaw> {
        let owner = hash(client.as_bytes());
        let version = |(cell, index): (&[u8], u32)| match parse(cell) {
            Some((found, _)) if found.owner != owner => Err(Flaw::Foreign { index }),
            Some((_, at)) if at != index => Err(Flaw::Shifted { index, found: at }),
            Some((found, _)) => Ok(found.version),
            None => Err(damaged(cell, index)),
        };
        bytes.chunks(CELL_LEN).zip(0..).map(version).collect()
    }

    /// Reads a file of `client`: which version it is, if it is exactly that, whole.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(client: &str, bytes: &[u8]) -> Result<Self, Flaw> {
        let owner = hash(client.as_bytes());
        let mut first: Option<Self> = None;
        for (cell, index) in bytes.chunks(CELL_LEN).zip(0..) {
            let Some((found, at)) = parse(cell) else {
                // A cell that is cut is told below by the length, if the rest is well.
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
                let (first, found) = (expected.version, found.version);
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

    /// The same, which must not be older than `oldest`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_since(client: &str, oldest: u32, bytes: &[u8]) -> Result<Self, Flaw> {
        let found = Self::read(client, bytes)?;
        if found.version < oldest {
            return Err(Flaw::Stale { expected: oldest, found: found.version });
        }
        Ok(found)
    }
}

/// A cell and its index, if its check is right.
fn parse(cell: &[u8]) -> Option<(TestPattern, u32)> {
    let text = std::str::from_utf8(cell).ok()?.strip_suffix('\n')?;
    let (body, check) = text.rsplit_once(' ')?;
    if cell.len() != CELL_LEN || check != format!("{:016x}", hash(body.as_bytes())) {
        return None;
    }
    let mut words = body.strip_prefix("fp ")?.split(' ');
    let owner = u64::from_str_radix(words.next()?, 16).ok()?;
    let mut number = || u32::from_str_radix(words.next()?, 16).ok();
    let (version, index, total) = (number()?, number()?, number()?);
    Some((TestPattern { owner, version, total }, index))
}

fn damaged(cell: &[u8], index: u32) -> Flaw {
    let found = String::from_utf8_lossy(&cell[..cell.len().min(16)]).into_owned();
    Flaw::Damaged { index, found: found.escape_default().to_string() }
}

/// FNV-1a, stirred: enough to notice what chance or a bug does to 50 bytes.
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
            Self::Mixed { index, first, found } => {
                write!(f, "mixed: cell {index} is of version {found}, the first of {first}")
            }
            Self::Shifted { index, found } => write!(f, "shifted: cell {found} is at {index}"),
            Self::Foreign { index } => write!(f, "foreign: cell {index} is of another client"),
            Self::Stale { expected, found } => {
                write!(f, "stale: version {found}, asked for when {expected} was there")
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
    fn a_whole_file_tells_what_it_is() {
        assert_eq!(TestPattern::read("client4", &file()), Ok(TestPattern::new("client4", 7, 6400)));
        assert_eq!(file().len(), 6400);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        for at in 0..CELL_LEN * 2 {
            for bit in 0..8 {
                let mut bytes = file();
                bytes[at] ^= 1 << bit;
                assert!(TestPattern::read("client4", &bytes).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn every_cut_is_found() {
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
