//! Whether the bytes of a file are those that its source had at one instant.

use super::writer::{Versions, WriteMethod};
use crate::test_pattern::{Flaw, TestPattern};

/// Fails for what the source has never been while it was written in this way.
///
/// A program that writes in place goes from the front to the back, and may be held up on its way:
/// then the file has a new beginning and an old end. What a reader blends is the other way round: it
/// reads the beginning before the change and the end after it.
pub(super) fn at_one_instant(
    way: WriteMethod,
    client: &str,
    len: usize,
    bytes: &[u8],
) -> Result<(), String> {
    let versions = TestPattern::versions(client, bytes).map_err(|flaw| flaw.to_string())?;
    let found = bytes.len();
    let len_is_right = match way {
        WriteMethod::InPlace
        | WriteMethod::Mapped
        | WriteMethod::Forged
        | WriteMethod::Replaced => found == len,
        WriteMethod::Appended => len <= found,
        // Between the cut and the write it may be anything, empty too.
        WriteMethod::CutAndWritten => found <= len,
    };
    if !len_is_right {
        return Err(Flaw::Torn { expected: len as u64, found: found as u64 }.to_string());
    }
    let may_be_held_up = match way {
        WriteMethod::InPlace | WriteMethod::Mapped | WriteMethod::Forged => 1,
        WriteMethod::CutAndWritten | WriteMethod::Replaced | WriteMethod::Appended => 0,
    };
    let pairs = versions.windows(2).zip(1..);
    let steps: Vec<(&[u32], u32)> = pairs.filter(|(pair, _)| pair[0] != pair[1]).collect();
    let blended = |(pair, _): &&(&[u32], u32)| pair[0] != Versions::after(pair[1]);
    match steps.iter().find(blended).or_else(|| steps.get(may_be_held_up)) {
        None => Ok(()),
        Some((pair, index)) => {
            Err(Flaw::Mixed { index: *index, first: pair[0], found: pair[1] }.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 640;

    fn check(way: WriteMethod, cells: &[(u32, std::ops::Range<usize>)], right: bool) {
        let of = |version: u32| TestPattern::new("client4", version, LEN).bytes();
        let parts = cells.iter().map(|(version, range)| of(*version)[range.clone()].to_vec());
        let bytes: Vec<u8> = parts.flatten().collect();
        let found = at_one_instant(way, "client4", LEN, &bytes);
        assert_eq!(found.is_ok(), right, "{way:?} {cells:?}: {found:?}");
    }

    #[test]
    fn a_writer_held_up_is_no_blend() {
        check(WriteMethod::InPlace, &[(2, 0..640)], true);
        check(WriteMethod::InPlace, &[(3, 0..320), (2, 320..640)], true);
        check(WriteMethod::InPlace, &[(2, 0..320), (3, 320..640)], false);
        check(WriteMethod::InPlace, &[(4, 0..320), (2, 320..640)], false);
        check(WriteMethod::InPlace, &[(4, 0..128), (3, 128..320), (2, 320..640)], false);
        check(WriteMethod::Replaced, &[(3, 0..320), (2, 320..640)], false);
    }

    #[test]
    fn a_file_that_is_cut_may_be_short_and_nothing_else() {
        check(WriteMethod::CutAndWritten, &[(3, 0..320)], true);
        check(WriteMethod::CutAndWritten, &[], true);
        check(WriteMethod::InPlace, &[(3, 0..320)], false);
        check(WriteMethod::Appended, &[(3, 0..320)], false);
        check(WriteMethod::CutAndWritten, &[(3, 320..640)], false);
    }
}
