//! Self-describing test data. Every 64-byte cell states its client, its version, its index and the
//! number of cells. So a file alone shows whether it is truncated, mixed, shifted, stale or
//! foreign.

use std::fmt;

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

    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.n_cells as usize * CELL_LEN);
        (0..self.n_cells).for_each(|index| bytes.extend_from_slice(self.cell(index).as_bytes()));
        bytes
    }

    fn cell(self, index: u32) -> String {
        let Self { owner, version, n_cells } = self;
        let body = format!("fp {owner:016x} {version:08x} {index:08x} {n_cells:08x}");
        format!("{body} {:016x}\n", hash(body.as_bytes()))
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

/// Returns the cell and its index if the checksum is right.
fn parse(cell: &[u8]) -> Option<(TestPattern, u32)> {
    let text = std::str::from_utf8(cell).ok()?.strip_suffix('\n')?;
    let (body, check) = text.rsplit_once(' ')?;
    if cell.len() != CELL_LEN || check != format!("{:016x}", hash(body.as_bytes())) {
        return None;
    }
    let mut fields = body.strip_prefix("fp ")?.split(' ');
    let owner = u64::from_str_radix(fields.next()?, 16).ok()?;
    let mut number = || u32::from_str_radix(fields.next()?, 16).ok();
    let version = number()?;
    let index = number()?;
    let n_cells = number()?;
    Some((TestPattern { owner, version, n_cells }, index))
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
