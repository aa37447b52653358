//! Partials that are written directly, on the file system of the temporary folder.

use std::io::IoSliceMut;

use proptest::prelude::*;
use rustix::io::ReadWriteFlags;

use super::super::direct::DIRECT_FROM;
use super::*;

/// One step of a transfer on its partial.
#[derive(Clone, Debug)]
enum PartialStep {
    /// Appends chunks of these lengths.
    Append(Vec<usize>),
    Sync,
    ReadBack,
    /// Cuts the partial to this percentage of its bytes, as after a restart.
    Resume(usize),
}

fn step() -> impl Strategy<Value = PartialStep> {
    let chunk = prop_oneof![
        3 => Just(64 << 10),
        2 => 0..70_000_usize,
        1 => (0..8_usize).prop_map(|n| n * 4096),
        1 => 0..1_200_000_usize,
    ];
    prop_oneof![
        6 => prop::collection::vec(chunk, 0..12).prop_map(PartialStep::Append),
        1 => Just(PartialStep::Sync),
        1 => Just(PartialStep::ReadBack),
        1 => (0..=100_usize).prop_map(PartialStep::Resume),
    ]
}

fn large_len() -> usize {
    usize::try_from(DIRECT_FROM).unwrap()
}

fn test_bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(7).fill(&mut bytes);
    bytes
}

/// A large partial, and the bytes that its file must have.
struct Fixture {
    folder: tempfile::TempDir,
    store: Store,
    key: PartialKey,
    partial: Partial,
    bytes: Vec<u8>,
    n_appended: usize,
}

impl Fixture {
    fn begin(len: usize) -> Self {
        let (folder, mut store) = store();
        let key = key(TransferId::generate(), 1);
        let (partial, _begun) = store.begin(&key, len as u64).unwrap();
        Self { folder, store, key, partial, bytes: test_bytes(len), n_appended: 0 }
    }

    fn expected(&self) -> &[u8] {
        &self.bytes[..self.n_appended]
    }

    fn path(&self) -> PathBuf {
        let name = partial_name(self.key.transfer, self.key.generation);
        self.folder.path().join("client4").join(name)
    }

    fn append(&mut self, lens: &[usize]) {
        let mut chunks = Vec::new();
        let mut end = self.n_appended;
        for len in lens {
            let next = (end + len).min(self.bytes.len());
            chunks.push(&self.bytes[end..next]);
            end = next;
        }
        self.store.append(&mut self.partial, &chunks).unwrap();
        self.n_appended = end;
    }

    fn resume(&mut self, len: usize) {
        let mut found = Vec::new();
        let take = |part: &[u8]| found.extend_from_slice(part);
        self.partial = self.store.resume(&self.key, len as u64, take).unwrap().unwrap();
        self.n_appended = len;
        assert!(found == self.expected(), "the prefix of {len} bytes differs");
    }

    fn check_file(&self) {
        let found = std::fs::read(self.path()).unwrap();
        assert_eq!(found.len(), self.n_appended);
        assert!(found == self.expected(), "the bytes differ");
    }

    fn check_read_back(&mut self) {
        let mut found = Vec::new();
        self.partial.read_back(|part| found.extend_from_slice(part)).unwrap();
        assert!(found == self.expected(), "the bytes that are read back differ");
    }

    fn run(&mut self, step: &PartialStep) {
        match step {
            PartialStep::Append(lens) => self.append(lens),
            PartialStep::Sync => _ = self.store.sync(&self.partial, Extent::Prefix).unwrap(),
            PartialStep::ReadBack => self.check_read_back(),
            PartialStep::Resume(percent) => self.resume(self.n_appended * percent / 100),
        }
    }

    /// Returns whether the page cache has the byte at `offset`. The check itself may read that byte
    /// and its neighbours into the page cache.
    fn is_cached(&self, offset: u64) -> bool {
        let file = File::open(self.path()).unwrap();
        let mut byte = [0];
        let mut slices = [IoSliceMut::new(&mut byte)];
        // `NOWAIT` reads what needs no disk.
        rustix::io::preadv2(&file, &mut slices, offset, ReadWriteFlags::NOWAIT).is_ok()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_file_has_the_appended_bytes_and_not_one_more(
        len in large_len()..5 << 20,
        steps in prop::collection::vec(step(), 0..20),
    ) {
        let mut fixture = Fixture::begin(len);
        for step in &steps {
            fixture.run(step);
            fixture.check_file();
        }
        // The rest, in chunks as an agent sends them.
        fixture.append(&[64 << 10; 80]);
        fixture.check_read_back();
        let _synced = fixture.store.sync(&fixture.partial, Extent::Whole).unwrap();
        fixture.check_file();
        prop_assert_eq!(fixture.n_appended, len);
    }
}

#[test]
fn a_checkpoint_holds_the_bytes_behind_the_last_block() {
    let mut fixture = Fixture::begin(3 << 20);
    fixture.append(&[(2 << 20) + 1]);
    // A second handle, as a checkpoint has. The appends continue from the middle of a block.
    let handle = fixture.partial.clone();
    fixture.append(&[4094]);
    fixture.append(&[1, 5000]);
    let _synced = fixture.store.sync(&handle, Extent::Prefix).unwrap();
    fixture.check_file();
    fixture.resume((2 << 20) + 1);
    fixture.check_file();
    fixture.append(&[1 << 20]);
    fixture.check_file();
}

#[test]
fn a_large_partial_leaves_the_page_cache_alone() {
    let len = large_len();
    let mut small = Fixture::begin(len - 1);
    small.append(&[len]);
    let mut large = Fixture::begin(2 * len);
    large.append(&[2 * len]);
    let is_direct = large.store.write_mode() == WriteMode::Direct;
    if !is_direct || is_in_memory(large.folder.path()) || !small.is_cached(0) {
        println!("skipped: this file system has no direct writes");
        return;
    }
    assert!(!large.is_cached(0), "it was written through the page cache");
    large.check_read_back();
    assert!(!large.is_cached(DIRECT_FROM), "it was read through the page cache");
}

/// Returns whether the page cache is all that the file system has.
fn is_in_memory(path: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    rustix::fs::statfs(path).unwrap().f_type as u64 == TMPFS_MAGIC
}
