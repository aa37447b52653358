//! For any base and any file, the pieces make the file.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::delta::{BlockHasher, BlockId, BlockKey};

const BLOCK_LEN: u32 = 1024;
const LEN: usize = BLOCK_LEN as usize;

/// What a search has found.
#[derive(Debug, Default)]
struct FoundPieces {
    /// The file that the pieces make.
    file: Vec<u8>,
    n_data_bytes: usize,
    n_pieces: usize,
}

fn key() -> BlockKey {
    BlockKey::new([7; 32])
}

fn list_of(base: &[u8]) -> Vec<u8> {
    let mut list = Vec::new();
    BlockHasher::new(key(), BLOCK_LEN).update(base, &mut list);
    list
}

fn parse(base: &[u8], list: &[u8]) -> BlockList {
    BlockList::parse(key(), base.len() as u64, BLOCK_LEN, list).unwrap()
}

/// Searches `file`, which is read in parts of `read_len` bytes.
fn search(list: &BlockList, base: &[u8], file: &[u8], read_len: usize) -> FoundPieces {
    let mut found = FoundPieces::default();
    let mut emit = |piece: Piece<'_>| {
        found.n_pieces += 1;
        match piece {
            Piece::Data(bytes) => {
                assert!((1..=CHUNK_LEN).contains(&bytes.len()));
                found.n_data_bytes += bytes.len();
                found.file.extend(bytes);
            }
            Piece::Copy { base_offset, len } => {
                assert!(len <= MAX_SPAN_LEN);
                let start = usize::try_from(base_offset).unwrap();
                let end = start + usize::try_from(len).unwrap();
                found.file.extend(&base[start..end]);
            }
        }
    };
    let mut search = DeltaSearch::new(list);
    for bytes in file.chunks(read_len) {
        search.push(bytes, &mut emit);
        assert!(search.buffer.len() < CHUNK_LEN + LEN, "{} bytes are held", search.buffer.len());
    }
    search.finish(&mut emit);
    found
}

fn delta(base: &[u8], file: &[u8]) -> FoundPieces {
    search(&parse(base, &list_of(base)), base, file, 5000)
}

/// Bytes without two equal blocks.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// A base with equal blocks among others.
fn bases() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..2000),
        (any::<u8>(), 1usize..5000).prop_map(|(byte, len)| vec![byte; len]),
        (1usize..9000).prop_map(noise),
    ];
    prop::collection::vec(part, 1..8).prop_map(|parts| parts.concat())
}

/// One change of a file: the bytes that replace some of its bytes.
fn edits() -> impl Strategy<Value = Vec<(Index, usize, Vec<u8>)>> {
    let new = prop::collection::vec(any::<u8>(), 0..300);
    prop::collection::vec((any::<Index>(), 0usize..2000, new), 0..6)
}

proptest! {
    #[test]
    fn the_pieces_of_any_file_make_it(base in bases(), edits in edits(), read_len in 1usize..70_000) {
        let mut file = base.clone();
        for (index, n_removed, new) in edits {
            let start = index.index(file.len() + 1);
            let end = file.len().min(start + n_removed);
            file.splice(start..end, new);
        }
        let found = search(&parse(&base, &list_of(&base)), &base, &file, read_len);
        prop_assert_eq!(found.file, file);
    }

    /// Ids that are wrong, or collide, lead to a wrong file or to more data. The digest of the file
    /// decides, so what counts here is that the pieces cover as many bytes as the file has.
    #[test]
    fn a_list_that_is_wrong_costs_bytes(base in bases(), from in any::<Index>(), to in any::<Index>()) {
        let mut list = list_of(&base);
        prop_assume!(!list.is_empty());
        let n_blocks = list.len() / BlockId::LEN;
        let from = from.index(n_blocks) * BlockId::LEN;
        list.copy_within(from..from + BlockId::LEN, to.index(n_blocks) * BlockId::LEN);
        let found = search(&parse(&base, &list), &base, &base, 5000);
        prop_assert_eq!(found.file.len(), base.len());
    }
}

#[test]
fn an_equal_file_is_copied_up_to_its_last_whole_block() {
    let base = noise(3_000_000);
    let found = delta(&base, &base);
    assert_eq!(found.file, base);
    assert_eq!(found.n_data_bytes, base.len() % LEN);
    assert_eq!(found.n_pieces, 4, "copies that follow each other are one copy, up to 1 MiB");
}

#[test]
fn an_insertion_costs_the_block_around_it() {
    let base = noise(300 * LEN);
    for start in [0, 1, LEN - 1, LEN, 100 * LEN + 77, base.len()] {
        let mut file = base.clone();
        file.splice(start..start, *b"inserted");
        let found = delta(&base, &file);
        assert_eq!(found.file, file);
        assert!(found.n_data_bytes <= LEN + 8, "{start}: {} bytes", found.n_data_bytes);
    }
}

#[test]
fn moved_and_repeated_blocks_are_copied() {
    let base = noise(8 * LEN);
    let blocks: Vec<&[u8]> = base.chunks(LEN).collect();
    let file = [blocks[5], blocks[2], blocks[3], blocks[2], blocks[2]].concat();
    let found = delta(&base, &file);
    assert_eq!((found.file, found.n_data_bytes, found.n_pieces), (file, 0, 4));
}

#[test]
fn a_long_run_of_equal_blocks_is_few_copies() {
    let base = [noise(LEN), vec![0; 4 << 20]].concat();
    let found = delta(&base, &base[LEN..]);
    assert_eq!((found.file, found.n_data_bytes), (base[LEN..].to_vec(), 0));
    assert!(found.n_pieces <= 5, "{} pieces", found.n_pieces);
}

#[test]
fn a_file_that_has_nothing_of_the_base_is_sent_in_chunks() {
    let base = vec![1; 10 * LEN];
    let file = noise(10 * CHUNK_LEN);
    let found = delta(&base, &file);
    assert_eq!(found.n_data_bytes, file.len());
    assert!(found.n_pieces <= 11, "{} pieces", found.n_pieces);
    assert_eq!(found.file, file);
}

#[test]
fn an_empty_base_or_file_is_searched_too() {
    assert_eq!(delta(b"", b"abc").file, b"abc");
    assert_eq!(delta(&noise(5000), b"").n_pieces, 0);
}

/// The server, or chance, may choose ids with the rolling hash of every block of the file.
#[test]
fn false_matches_end_the_search_before_they_cost_much() {
    let file = vec![5; 4 << 20];
    let hash = parse(b"", b"").rolling_hash().of(&file[..LEN]);
    let id = BlockId::smallest(hash).to_bytes();
    let base = noise(LEN);
    let list = parse(&base, &id);
    let mut search = DeltaSearch::new(&list);
    search.push(&file, &mut |_| {});
    let max_matches = MAX_FALSE_MATCHES + (file.len() / LEN) as u64 + 1;
    assert_eq!(search.n_false_matches, max_matches);
}
