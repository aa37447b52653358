//! Checks that the bytes of a file are what its source contained at one instant.

use super::source_writer::{Versions, WriteMethod};
use crate::test_pattern::{Flaw, TestPattern};

/// Returns an error for content that the source never had while it was written with this method.
///
/// A program that writes in place writes from the front to the back and may be paused: then the
/// file has a new beginning and an old end. A reader that mixes versions produces the opposite: it
/// reads the beginning before the change and the end after it.
pub(super) fn check_single_version(
    method: WriteMethod,
    client: &str,
    len: usize,
    bytes: &[u8],
) -> Result<(), String> {
    let versions = TestPattern::versions(client, bytes).map_err(|flaw| flaw.to_string())?;
    let found = bytes.len();
    let len_is_right = match method {
        WriteMethod::InPlace
        | WriteMethod::Mapped
        | WriteMethod::Forged
        | WriteMethod::Replaced => found == len,
        WriteMethod::Appended => len <= found,
        // Between the truncation and the write the file has any shorter length.
        WriteMethod::CutAndWritten => found <= len,
    };
    if !len_is_right {
        return Err(Flaw::Torn { expected: len as u64, found: found as u64 }.to_string());
    }
    let max_steps = match method {
        WriteMethod::InPlace | WriteMethod::Mapped | WriteMethod::Forged => 1,
        WriteMethod::CutAndWritten | WriteMethod::Replaced | WriteMethod::Appended => 0,
    };
    let pairs = versions.windows(2).zip(1..);
    let steps: Vec<(&[u32], u32)> = pairs.filter(|(pair, _)| pair[0] != pair[1]).collect();
    let is_mixed = |(pair, _): &&(&[u32], u32)| pair[0] != Versions::after(pair[1]);
    match steps.iter().find(is_mixed).or_else(|| steps.get(max_steps)) {
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

    fn check(method: WriteMethod, cells: &[(u32, std::ops::Range<usize>)], right: bool) {
        let bytes_of = |version: u32| TestPattern::new("client4", version, LEN).bytes();
        let parts = cells.iter().map(|(version, range)| bytes_of(*version)[range.clone()].to_vec());
        let bytes: Vec<u8> = parts.flatten().collect();
        let found = check_single_version(method, "client4", LEN, &bytes);
        assert_eq!(found.is_ok(), right, "{method:?} {cells:?}: {found:?}");
    }

    #[test]
    fn a_paused_writer_is_no_mix() {
        check(WriteMethod::InPlace, &[(2, 0..640)], true);
        check(WriteMethod::InPlace, &[(3, 0..320), (2, 320..640)], true);
        check(WriteMethod::InPlace, &[(2, 0..320), (3, 320..640)], false);
        check(WriteMethod::InPlace, &[(4, 0..320), (2, 320..640)], false);
        check(WriteMethod::InPlace, &[(4, 0..128), (3, 128..320), (2, 320..640)], false);
        check(WriteMethod::Replaced, &[(3, 0..320), (2, 320..640)], false);
    }

    #[test]
    fn a_truncated_file_may_be_short_and_nothing_else() {
        check(WriteMethod::CutAndWritten, &[(3, 0..320)], true);
        check(WriteMethod::CutAndWritten, &[], true);
        check(WriteMethod::InPlace, &[(3, 0..320)], false);
        check(WriteMethod::Appended, &[(3, 0..320)], false);
        check(WriteMethod::CutAndWritten, &[(3, 320..640)], false);
    }
}
