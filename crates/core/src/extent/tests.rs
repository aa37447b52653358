//! Any split of a file into extents makes that file, wherever it is cut and resumed. Anything else is
//! an error, and never another file.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::compression::Encoder;

/// A part of a file, and where its bytes come from.
#[derive(Clone, Debug)]
enum FilePart {
    Random(Vec<u8>),
    Repeated(u8, usize),
    Base(Index, usize),
}

/// How the sender sends a part if the part allows it.
#[derive(Clone, Copy, Debug)]
enum Sending {
    Data,
    Zstd,
    Short,
}

/// A file, and for each of its bytes the offset in the base that it was copied from.
#[derive(Clone, Debug)]
struct TestFile {
    bytes: Vec<u8>,
    base: Vec<u8>,
    parts: Vec<PlacedPart>,
}

#[derive(Clone, Debug)]
struct PlacedPart {
    start: usize,
    end: usize,
    base_offset: Option<usize>,
}

/// An extent that owns its bytes.
#[derive(Clone, Debug)]
struct OwnedExtent {
    offset: u64,
    kind: OwnedContent,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum OwnedContent {
    Data,
    Zstd { len: usize },
    Hole { len: u64 },
    Copy { base_offset: u64, len: u64 },
}

impl OwnedExtent {
    fn borrow(&self) -> UploadExtent<'_> {
        let content = match self.kind {
            OwnedContent::Data => Content::Data(&self.bytes),
            OwnedContent::Zstd { len } => Content::Zstd { len, encoded: &self.bytes },
            OwnedContent::Hole { len } => Content::Hole { len },
            OwnedContent::Copy { base_offset, len } => Content::Copy { base_offset, len },
        };
        UploadExtent { offset: self.offset, content }
    }
}

fn test_files() -> impl Strategy<Value = TestFile> {
    let base = prop::collection::vec(any::<u8>(), 1..4000);
    let part = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..2000).prop_map(FilePart::Random),
        (any::<u8>(), 1usize..5000).prop_map(|(byte, len)| FilePart::Repeated(byte, len)),
        (1usize..5000).prop_map(|len| FilePart::Repeated(0, len)),
        (any::<Index>(), 1usize..3000).prop_map(|(start, len)| FilePart::Base(start, len)),
    ];
    (base, prop::collection::vec(part, 1..12)).prop_map(|(base, parts)| {
        let mut file = TestFile { bytes: Vec::new(), base, parts: Vec::new() };
        for part in parts {
            let start = file.bytes.len();
            let mut base_offset = None;
            match part {
                FilePart::Random(bytes) => file.bytes.extend(bytes),
                FilePart::Repeated(byte, len) => file.bytes.resize(start + len, byte),
                FilePart::Base(index, len) => {
                    let offset = index.index(file.base.len());
                    let end = file.base.len().min(offset + len);
                    file.bytes.extend_from_slice(&file.base[offset..end]);
                    base_offset = Some(offset);
                }
            }
            file.parts.push(PlacedPart { start, end: file.bytes.len(), base_offset });
        }
        file
    })
}

fn sendings() -> impl Strategy<Value = Vec<(Sending, usize)>> {
    let sending = prop_oneof![Just(Sending::Data), Just(Sending::Zstd), Just(Sending::Short)];
    // One long extent among up to seven short ones: more would be too many.
    (prop::collection::vec((sending, 1usize..3000), 0..7), Just((Sending::Short, 3000)))
        .prop_map(|(sendings, long)| sendings.into_iter().chain([long]).collect())
}

/// Returns the extents of an upload that starts at `offset`, with an encoder of its own.
fn extents(file: &TestFile, offset: usize, sendings: &[(Sending, usize)]) -> Vec<OwnedExtent> {
    let mut encoder = Encoder::new().unwrap();
    let mut extents = Vec::new();
    let mut sendings = sendings.iter().cycle();
    for part in file.parts.iter().filter(|part| offset < part.end) {
        let mut start = part.start.max(offset);
        while start < part.end {
            let (sending, max_len) = *sendings.next().unwrap();
            let end = part.end.min(start + max_len);
            let bytes = &file.bytes[start..end];
            let len = bytes.len() as u64;
            let is_hole = bytes.iter().all(|byte| *byte == 0);
            let (kind, bytes) = match (sending, part.base_offset) {
                (Sending::Short, Some(base_offset)) => {
                    let base_offset = (base_offset + start - part.start) as u64;
                    (OwnedContent::Copy { base_offset, len }, Vec::new())
                }
                (Sending::Short, None) if is_hole => (OwnedContent::Hole { len }, Vec::new()),
                (Sending::Data | Sending::Short, _) => (OwnedContent::Data, bytes.to_vec()),
                (Sending::Zstd, _) => {
                    let encoded = encoder.encode(bytes).unwrap().to_vec();
                    (OwnedContent::Zstd { len: bytes.len() }, encoded)
                }
            };
            extents.push(OwnedExtent { offset: start as u64, kind, bytes });
            start = end;
        }
    }
    extents
}

/// Does what a server does with an extent.
fn receive(
    receiver: &mut ExtentReceiver,
    extent: &OwnedExtent,
    base: &[u8],
    partial: &mut Vec<u8>,
) -> Result<(), ExtentError> {
    match receiver.next(extent.borrow())? {
        Fill::Bytes(bytes) => partial.extend(bytes),
        Fill::Zeros(len) => partial.resize(partial.len() + index(len), 0),
        Fill::Base(range) => {
            let start = index(range.base_offset());
            let bytes = base.get(start..start + index(range.n_bytes())).unwrap_or_default();
            receiver.base_bytes(&range, bytes)?;
            partial.extend(bytes);
        }
    }
    Ok(())
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

fn receiver_of(file: &TestFile) -> ExtentReceiver {
    ExtentReceiver::new(Receiver::new(file.bytes.len() as u64), file.base.len() as u64)
}

/// Receives all extents. Returns the partial if it is complete, and has the digest of the file.
fn receive_all(file: &TestFile, extents: &[OwnedExtent], base: &[u8]) -> Option<Vec<u8>> {
    let mut receiver = receiver_of(file);
    let mut partial = Vec::new();
    for extent in extents {
        receive(&mut receiver, extent, base, &mut partial).ok()?;
    }
    is_whole(&receiver, file).then_some(partial)
}

fn is_whole(receiver: &ExtentReceiver, file: &TestFile) -> bool {
    let mut whole = Receiver::new(file.bytes.len() as u64);
    whole.chunk(0, &file.bytes).unwrap();
    receiver.receiver().prefix() == whole.prefix()
}

proptest! {
    #[test]
    fn any_split_into_extents_makes_the_file(file in test_files(), sendings in sendings()) {
        let extents = extents(&file, 0, &sendings);
        let received = receive_all(&file, &extents, &file.base);
        prop_assert_eq!(received, Some(file.bytes));
    }

    /// The checkpoint may be anywhere, also inside an extent: the partial is cut there, and new
    /// extents follow.
    #[test]
    fn an_upload_resumes_at_any_offset_with_new_extents(
        file in test_files(),
        before in sendings(),
        after in sendings(),
        cut in any::<Index>(),
        checkpoint in any::<Index>(),
    ) {
        let mut receiver = receiver_of(&file);
        let mut partial = Vec::new();
        let first = extents(&file, 0, &before);
        for extent in &first[..cut.index(first.len() + 1)] {
            receive(&mut receiver, extent, &file.base, &mut partial).unwrap();
        }
        partial.truncate(checkpoint.index(partial.len() + 1));
        let mut resumed = Receiver::new(file.bytes.len() as u64);
        resumed.chunk(0, &partial).unwrap();
        let mut receiver = ExtentReceiver::new(resumed, file.base.len() as u64);
        for extent in &extents(&file, partial.len(), &after) {
            receive(&mut receiver, extent, &file.base, &mut partial).unwrap();
        }
        prop_assert!(is_whole(&receiver, &file));
        prop_assert_eq!(partial, file.bytes);
    }

    #[test]
    fn a_lost_repeated_or_swapped_extent_is_rejected(
        file in test_files(),
        sendings in sendings(),
        pick in any::<Index>(),
        change in 0..3,
    ) {
        let mut extents = extents(&file, 0, &sendings);
        let extent_idx = pick.index(extents.len());
        match change {
            0 => drop(extents.remove(extent_idx)),
            1 => extents.insert(extent_idx, extents[extent_idx].clone()),
            _ if extent_idx + 1 < extents.len() => extents.swap(extent_idx, extent_idx + 1),
            _ => return Ok(()),
        }
        prop_assert_eq!(receive_all(&file, &extents, &file.base), None);
    }

    #[test]
    fn a_flipped_bit_of_an_extent_or_the_base_never_makes_another_file(
        file in test_files(),
        sendings in sendings(),
        extent in any::<Index>(),
        byte in any::<Index>(),
        bit in 0..8,
        in_base: bool,
    ) {
        let mut extents = extents(&file, 0, &sendings);
        let mut base = file.base.clone();
        let extent_idx = extent.index(extents.len());
        let bytes = if in_base { &mut base } else { &mut extents[extent_idx].bytes };
        prop_assume!(!bytes.is_empty());
        let byte_idx = byte.index(bytes.len());
        bytes[byte_idx] ^= 1_u8 << bit;
        let received = receive_all(&file, &extents, &base);
        prop_assert!(received.is_none_or(|partial| partial == file.bytes));
    }

    #[test]
    fn a_stream_of_an_earlier_upload_is_never_continued(file in test_files(), pick in any::<Index>()) {
        let extents = extents(&file, 0, &[(Sending::Zstd, 500)]);
        prop_assume!(1 < extents.len());
        let extent_idx = 1 + pick.index(extents.len() - 1);
        let resumed_at = index(extents[extent_idx].offset);
        let mut resumed = Receiver::new(file.bytes.len() as u64);
        resumed.chunk(0, &file.bytes[..resumed_at]).unwrap();
        let mut receiver = ExtentReceiver::new(resumed, 0);
        let rejected = receiver.next(extents[extent_idx].borrow());
        prop_assert!(matches!(rejected, Err(ExtentError::Compression(_))), "{:?}", rejected);
    }
}

/// An extent that a hostile agent may send: nearly in place, or with any numbers.
fn hostile_extents() -> impl Strategy<Value = (i64, OwnedContent, Vec<u8>)> {
    let shift = prop_oneof![9 => Just(0_i64), 1 => any::<i64>(), 1 => -2..3_i64];
    let len = || prop_oneof![4 => 0..300_u64, 1 => 0..2 * MAX_SPAN_LEN, 1 => any::<u64>()];
    let base_offset = prop_oneof![4 => 0..300_u64, 1 => any::<u64>()];
    let kind = prop_oneof![
        Just(OwnedContent::Data),
        (0..2 * CHUNK_LEN).prop_map(|len| OwnedContent::Zstd { len }),
        len().prop_map(|len| OwnedContent::Hole { len }),
        (base_offset, len()).prop_map(|(base_offset, len)| OwnedContent::Copy { base_offset, len }),
    ];
    (shift, kind, prop::collection::vec(any::<u8>(), 0..300))
}

proptest! {
    #[test]
    fn any_extents_stay_within_the_announced_size_and_the_base(
        extents in prop::collection::vec(hostile_extents(), 1..30),
        announced in prop_oneof![0..3000_u64, 0..1_u64 << 22],
        base_len in 0..400_usize,
    ) {
        let base = vec![7; base_len];
        let mut receiver = ExtentReceiver::new(Receiver::new(announced), base_len as u64);
        let mut encoder = Encoder::new().unwrap();
        let mut partial = Vec::new();
        for (shift, kind, mut bytes) in extents {
            let received = receiver.receiver().received();
            if let OwnedContent::Zstd { len } = kind && len % 2 == 0 {
                bytes = encoder.encode(&bytes).unwrap().to_vec();
            }
            let offset = received.wrapping_add_signed(shift);
            let extent = OwnedExtent { offset, kind, bytes };
            let accepted = receive(&mut receiver, &extent, &base, &mut partial);
            prop_assert_eq!(receiver.receiver().received(), partial.len() as u64);
            prop_assert!(partial.len() as u64 <= announced);
            prop_assert!(accepted.is_ok() || received == partial.len() as u64);
        }
    }
}

/// Checks the answer to one extent of a file of 10 MB, of which 100 bytes are received, with a base of
/// 5 MB.
fn check(offset: u64, content: Content<'_>, expected: &Result<(), ExtentError>) {
    let mut received = Receiver::new(10_000_000);
    received.chunk(0, &[1; 100]).unwrap();
    let mut receiver = ExtentReceiver::new(received, 5_000_000);
    let found = receiver.next(UploadExtent { offset, content }).map(|_| ());
    assert_eq!(found, *expected, "{content:?}");
    if expected.is_err() {
        assert_eq!(receiver.receiver().received(), 100, "{content:?}");
    }
}

#[test]
fn an_extent_that_does_not_follow_is_rejected() {
    for content in [
        Content::Data(&[1]),
        Content::Zstd { len: 1, encoded: &[1] },
        Content::Hole { len: 1 },
        Content::Copy { base_offset: 0, len: 1 },
    ] {
        for found in [0, 99, 101, u64::MAX] {
            let gap = ReceiveError::Gap { expected: 100, found };
            check(found, content, &Err(gap.into()));
        }
    }
}

#[test]
fn an_extent_without_bytes_is_rejected_unless_it_is_a_keepalive() {
    check(100, Content::Data(&[]), &Ok(()));
    let empty = ExtentError::Empty { offset: 100 };
    check(100, Content::Zstd { len: 0, encoded: &[] }, &Err(empty.clone()));
    check(100, Content::Hole { len: 0 }, &Err(empty.clone()));
    check(100, Content::Copy { base_offset: 0, len: 0 }, &Err(empty));
}

#[test]
fn an_extent_that_is_too_long_is_rejected() {
    let too_long = |len: u64, max: u64| Err(ExtentError::TooLong { len, max });
    let max = CHUNK_LEN as u64;
    check(100, Content::Data(&[0; CHUNK_LEN + 1]), &too_long(max + 1, max));
    check(100, Content::Zstd { len: CHUNK_LEN + 1, encoded: &[1] }, &too_long(max + 1, max));
    let encoded = &[0; MAX_ENCODED_LEN + 1];
    let max_encoded = MAX_ENCODED_LEN as u64;
    check(100, Content::Zstd { len: 1, encoded }, &too_long(max_encoded + 1, max_encoded));
    check(100, Content::Hole { len: MAX_SPAN_LEN }, &Ok(()));
    for len in [MAX_SPAN_LEN + 1, u64::MAX] {
        check(100, Content::Hole { len }, &too_long(len, MAX_SPAN_LEN));
        check(100, Content::Copy { base_offset: 0, len }, &too_long(len, MAX_SPAN_LEN));
    }
}

#[test]
fn an_extent_never_exceeds_the_announced_size() {
    let mut receiver = ExtentReceiver::new(Receiver::new(10), 100);
    let overrun = Err(ExtentError::Received(ReceiveError::Overrun { announced: 10, end: 11 }));
    for content in [
        Content::Data(&[1; 11]),
        Content::Zstd { len: 11, encoded: &[1] },
        Content::Hole { len: 11 },
        Content::Copy { base_offset: 0, len: 11 },
    ] {
        assert_eq!(receiver.next(UploadExtent { offset: 0, content }).map(|_| ()), overrun);
    }
    let encoded = Encoder::new().unwrap().encode(&[0; CHUNK_LEN]).unwrap().to_vec();
    let content = Content::Zstd { len: 10, encoded: &encoded };
    let exploded = receiver.next(UploadExtent { offset: 0, content });
    assert!(matches!(exploded, Err(ExtentError::Compression(_))), "{exploded:?}");
    assert_eq!(receiver.receiver().received(), 0);
}

#[test]
fn a_copy_outside_the_base_is_rejected() {
    let base_len = 5_000_000;
    check(100, Content::Copy { base_offset: base_len - 9, len: 9 }, &Ok(()));
    for (base_offset, len) in [(base_len - 9, 10), (base_len, 1), (u64::MAX, 1), (u64::MAX, 9)] {
        let outside = ExtentError::OutsideBase { base_offset, len, base_len };
        check(100, Content::Copy { base_offset, len }, &Err(outside));
    }
    let mut receiver = ExtentReceiver::new(Receiver::new(10), 0);
    let content = Content::Copy { base_offset: 0, len: 1 };
    let rejected = receiver.next(UploadExtent { offset: 0, content }).map(|_| ());
    assert_eq!(rejected, Err(ExtentError::OutsideBase { base_offset: 0, len: 1, base_len: 0 }));
}

#[test]
fn a_base_that_has_become_shorter_is_an_error() {
    let mut receiver = ExtentReceiver::new(Receiver::new(10), 100);
    let content = Content::Copy { base_offset: 95, len: 5 };
    let Fill::Base(range) = receiver.next(UploadExtent { offset: 0, content }).unwrap() else {
        panic!("a copy needs the base");
    };
    let changed = Err(ExtentError::BaseChanged { len: 5, found: 3 });
    assert_eq!(receiver.base_bytes(&range, &[1; 3]), changed);
    assert_eq!(receiver.receiver().received(), 0);
}

#[test]
fn the_bytes_of_a_copy_are_accepted_once() {
    let mut receiver = ExtentReceiver::new(Receiver::new(10), 100);
    let content = Content::Copy { base_offset: 0, len: 5 };
    let Fill::Base(range) = receiver.next(UploadExtent { offset: 0, content }).unwrap() else {
        panic!("a copy needs the base");
    };
    receiver.base_bytes(&range, &[1; 5]).unwrap();
    let gap = ReceiveError::Gap { expected: 5, found: 0 };
    assert_eq!(receiver.base_bytes(&range, &[1; 5]), Err(gap.into()));
}

#[test]
fn an_extent_leaves_a_gap_if_the_bytes_of_a_copy_are_missing() {
    let mut receiver = ExtentReceiver::new(Receiver::new(10), 100);
    let content = Content::Copy { base_offset: 0, len: 5 };
    receiver.next(UploadExtent { offset: 0, content }).unwrap();
    let next = UploadExtent { offset: 5, content: Content::Data(&[1]) };
    let gap = ReceiveError::Gap { expected: 0, found: 5 };
    assert_eq!(receiver.next(next), Err(gap.into()));
}

#[test]
fn a_million_tiny_extents_are_rejected() {
    for content in [
        Content::Data(&[1]),
        Content::Hole { len: 1 },
        Content::Zstd { len: 1, encoded: &[1] },
        Content::Copy { base_offset: 0, len: 1 },
    ] {
        let mut receiver = ExtentReceiver::new(Receiver::new(1_000_000), 100);
        let mut encoder = Encoder::new().unwrap();
        let rejected = (0..1_000_000).find_map(|offset| {
            let content = match content {
                Content::Zstd { .. } => {
                    Content::Zstd { len: 1, encoded: encoder.encode(&[1]).unwrap() }
                }
                Content::Data(_) | Content::Hole { .. } | Content::Copy { .. } => content,
            };
            match receiver.next(UploadExtent { offset, content }) {
                Ok(Fill::Base(range)) => receiver.base_bytes(&range, &[1]).err(),
                Ok(Fill::Bytes(_) | Fill::Zeros(_)) => None,
                Err(error) => Some(error),
            }
        });
        let too_many = ExtentError::TooMany { n_extents: 1028, n_bytes: 1028 };
        assert_eq!(rejected, Some(too_many), "{content:?}");
    }
}

#[test]
fn a_resumed_upload_may_have_short_extents_again() {
    let mut received = Receiver::new(1 << 30);
    for _ in 0..2 {
        let mut receiver = ExtentReceiver::new(received, 0);
        for _ in 0..MAX_SHORT_EXTENTS {
            let offset = receiver.receiver().received();
            receiver.next(UploadExtent { offset, content: Content::Data(&[1]) }).unwrap();
        }
        received = receiver.into_receiver();
    }
    assert_eq!(received.received(), 2 * MAX_SHORT_EXTENTS);
}

#[test]
fn the_largest_hole_is_hashed_as_zeros() {
    let mut receiver = ExtentReceiver::new(Receiver::new(MAX_SPAN_LEN), 0);
    let content = Content::Hole { len: MAX_SPAN_LEN };
    assert_eq!(receiver.next(UploadExtent { offset: 0, content }), Ok(Fill::Zeros(MAX_SPAN_LEN)));
    let mut zeros = Receiver::new(MAX_SPAN_LEN);
    zeros.chunk(0, &vec![0; index(MAX_SPAN_LEN)]).unwrap();
    assert_eq!(receiver.receiver().prefix(), zeros.prefix());
}
