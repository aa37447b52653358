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
    /// Appends this number of zeros.
    Zeros(usize),
    /// Appends bytes of the base: their offset, and their number.
    Copy(usize, usize),
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
        2 => (0..200_000_usize).prop_map(PartialStep::Zeros),
        1 => Just(PartialStep::Zeros(1 << 20)),
        2 => (0..BASE_LEN, 0..100_000_usize).prop_map(|(from, len)| PartialStep::Copy(from, len)),
        2 => (0..16_usize, 0..1_usize << 20)
            .prop_map(|(block, len)| PartialStep::Copy(block * 4096, len)),
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

fn base_bytes() -> Vec<u8> {
    let mut bytes = vec![0; BASE_LEN];
    fastrand::Rng::with_seed(8).fill(&mut bytes);
    bytes
}

/// Publishes a download with these bytes, and opens it as a base.
fn base(store: &mut Store, bytes: &[u8]) -> Base {
    let (mut partial, _begun) =
        store.begin(&key(TransferId::generate(), 1), bytes.len() as u64).unwrap();
    store.append(&mut partial, &[bytes]).unwrap();
    let _synced = store.sync(&partial, Extent::Whole).unwrap();
    let inode = partial.inode().unwrap();
    let size = bytes.len() as u64;
    let source = Source { name: "data.txt".to_owned(), size, modified_ns: 0 };
    assert!(matches!(store.commit(&partial, &name()), Ok(CommitResult::Named(_))));
    let digests = FileDigests::of(bytes);
    let download = Download { source, name: name(), size, digests, inode };
    store.open_base(&client(), &download).unwrap().unwrap()
}

/// Length of the base in bytes.
const BASE_LEN: usize = (1 << 20) + 100;

/// A large partial, and the bytes that its file must have.
struct Fixture {
    folder: tempfile::TempDir,
    store: Store,
    key: PartialKey,
    partial: Partial,
    base: Base,
    bytes: Vec<u8>,
    n_appended: usize,
}

impl Fixture {
    fn begin(len: usize) -> Self {
        Self::begin_in(tempfile::tempdir().unwrap(), len)
    }

    /// Checks first what the disk of the folder can do, as the server does.
    fn begin_in(folder: tempfile::TempDir, len: usize) -> Self {
        let mut store = Store::open_checked(folder.path()).unwrap();
        let key = key(TransferId::generate(), 1);
        let (partial, _begun) = store.begin(&key, len as u64).unwrap();
        let base = base(&mut store, &base_bytes());
        Self { folder, store, key, partial, base, bytes: test_bytes(len), n_appended: 0 }
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

    /// Makes the next bytes of the file equal to these, and returns how many fit into it.
    fn expect(&mut self, next: &[u8]) -> usize {
        let len = next.len().min(self.bytes.len() - self.n_appended);
        self.bytes[self.n_appended..][..len].copy_from_slice(&next[..len]);
        self.n_appended += len;
        len
    }

    fn append_zeros(&mut self, len: usize) {
        let len = self.expect(&vec![0; len]);
        self.store.append_zeros(&mut self.partial, len as u64).unwrap();
    }

    fn copy(&mut self, from: usize, len: usize) {
        let bytes = base_bytes();
        let end = bytes.len().min(from + len);
        let len = self.expect(&bytes[from..end]);
        let mut taken = Vec::new();
        let Self { store, partial, base, .. } = self;
        let take = |part: &[u8]| taken.extend_from_slice(part);
        let found = store.append_base(partial, base, from as u64, len as u64, take).unwrap();
        assert_eq!(found, len as u64);
        assert!(taken == bytes[from..][..len], "other bytes are hashed");
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
            PartialStep::Zeros(len) => self.append_zeros(*len),
            PartialStep::Copy(from, len) => self.copy(*from, *len),
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
        for folder in copy_folders() {
            let mut fixture = Fixture::begin_in(folder, len);
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

/// The folders to test copies in: the temporary one, and one on a disk that clones, if
/// `FILEPULL_REFLINK_DIR` names it.
fn copy_folders() -> Vec<tempfile::TempDir> {
    let mut folders = vec![tempfile::tempdir().unwrap()];
    match std::env::var_os("FILEPULL_REFLINK_DIR") {
        Some(folder) => folders.push(tempfile::tempdir_in(folder).unwrap()),
        None => println!("skipped: FILEPULL_REFLINK_DIR names no folder on a disk that clones"),
    }
    folders
}

#[test]
fn a_truncated_base_appends_nothing() {
    for folder in copy_folders() {
        let mut fixture = Fixture::begin_in(folder, 4 << 20);
        let path = fixture.store.download_path(&client(), &name());
        fixture.append(&[4096]);
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(500_000).unwrap();
        let Fixture { store, partial, base, .. } = &mut fixture;
        for (from, found) in [(0, 500_000), (100, 499_900), (600_000, 0)] {
            let take = |_: &[u8]| panic!("it has too few bytes");
            assert_eq!(store.append_base(partial, base, from, 700_000, take).unwrap(), found);
        }
        fixture.check_file();
        fixture.append(&[4 << 20]);
        fixture.check_file();
    }
}

#[test]
fn a_disk_that_clones_shares_whole_blocks() {
    let Some(folder) = copy_folders().into_iter().nth(1) else { return };
    let mut fixture = Fixture::begin_in(folder, 2 << 20);
    assert_eq!(fixture.store.copy_mode(), CopyMode::Cloned);
    let before = fixture.store.free_space().unwrap().bytes;
    fixture.copy(0, 1 << 20);
    fixture.copy((1 << 20) - 50, 150);
    fixture.append(&[100]);
    fixture.check_file();
    fixture.check_read_back();
    let _synced = fixture.store.sync(&fixture.partial, Extent::Whole).unwrap();
    let after = fixture.store.free_space().unwrap().bytes;
    // The space was reserved before.
    assert!(before + (3 << 19) < after, "{before} before, {after} after");
}

/// Returns whether the page cache is all that the file system has.
fn is_in_memory(path: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    rustix::fs::statfs(path).unwrap().f_type as u64 == TMPFS_MAGIC
}
