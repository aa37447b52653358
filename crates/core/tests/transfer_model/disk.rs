//! A model of one client's folder on a disk that can lose power. Changes that are not synced may be
//! lost in part.
//!
//! Bytes are safe once their file is synced, and entries once the folder is synced. After a power cut
//! any other change may survive. For one entry, a later change survives only with the earlier ones.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) type Inode = u64;
type Folder = BTreeMap<String, Inode>;
/// Entries that change together, as in a rename; none removes the entry.
type Change = Vec<(String, Option<Inode>)>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    files: BTreeMap<Inode, File>,
    folder: Folder,
    safe_folder: Folder,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug, Default)]
struct File {
    bytes: Vec<u8>,
    safe_bytes: Vec<u8>,
    /// The writes of the next sync. If that sync fails, they are lost.
    unsynced: Vec<Write>,
}

#[derive(Clone, Debug)]
enum Write {
    At(usize, Vec<u8>),
    Cut(usize),
}

/// What survives a power cut: two bits for each unsynced change. Zero means lost, also once the bits
/// run out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate(pub(crate) u64);

enum Survival {
    Nothing,
    /// The file has its new length, and the new bytes are zero.
    Zeros,
    All,
}

impl Fate {
    fn next(&mut self) -> Survival {
        let bits = self.0 & 3;
        self.0 >>= 2;
        match bits {
            0 => Survival::Nothing,
            1 => Survival::Zeros,
            _ => Survival::All,
        }
    }
}

impl Disk {
    /// Creates an empty file. Reuses the lowest free inode number, as real disks do.
    pub(crate) fn create(&mut self, name: &str) -> Inode {
        assert!(!self.folder.contains_key(name), "{name} exists already");
        let inode = (1..).find(|inode| !self.files.contains_key(inode)).expect("inodes never end");
        self.files.insert(inode, File::default());
        self.change(vec![(name.to_owned(), Some(inode))]);
        inode
    }

    pub(crate) fn unlink(&mut self, name: &str) {
        if self.folder.contains_key(name) {
            self.change(vec![(name.to_owned(), None)]);
        }
    }

    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        let inode = self.folder[from];
        self.change(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
    }

    /// Adds a second entry. The change lists the first entry too, so that its later unlink follows this
    /// change.
    pub(crate) fn link(&mut self, from: &str, to: &str) {
        let inode = self.folder[from];
        self.change(vec![(to.to_owned(), Some(inode)), (from.to_owned(), Some(inode))]);
    }

    pub(crate) fn write(&mut self, name: &str, at: usize, bytes: &[u8]) {
        self.file_mut(name).push(Write::At(at, bytes.to_vec()));
    }

    pub(crate) fn cut(&mut self, name: &str, len: usize) {
        self.file_mut(name).push(Write::Cut(len));
    }

    pub(crate) fn sync(&mut self, name: &str) {
        let file = self.file_mut(name);
        for write in std::mem::take(&mut file.unsynced) {
            write.apply(&mut file.safe_bytes);
        }
    }

    /// Fails a sync: its writes are lost, although later syncs succeed.
    pub(crate) fn fail_sync(&mut self, name: &str) {
        self.file_mut(name).unsynced.clear();
    }

    pub(crate) fn sync_folder(&mut self) {
        self.unsynced.clear();
        self.safe_folder.clone_from(&self.folder);
        self.forget_unlinked();
    }

    /// Damages one bit, in memory and on the disk. A recovery that reads from memory would otherwise
    /// correctly find no damage.
    pub(crate) fn flip_bit(&mut self, name: &str, pick: usize) {
        let file = self.file_mut(name);
        let bits = file.bytes.len() * 8;
        for bytes in [&mut file.bytes, &mut file.safe_bytes] {
            if let Some(byte) = pick.checked_rem(bits).and_then(|bit| bytes.get_mut(bit / 8)) {
                *byte ^= 1 << (pick % 8);
            }
        }
    }

    /// Cuts a file, in memory and on the disk.
    pub(crate) fn truncate(&mut self, name: &str, len: usize) {
        let file = self.file_mut(name);
        file.bytes.truncate(len);
        file.safe_bytes.truncate(len);
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.folder.keys().map(String::as_str)
    }

    pub(crate) fn inode(&self, name: &str) -> Option<Inode> {
        self.folder.get(name).copied()
    }

    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        Some(&self.files[&self.inode(name)?].bytes)
    }

    /// Returns the bytes of an open file, also after it was removed.
    pub(crate) fn open_bytes(&self, inode: Inode) -> Option<&[u8]> {
        self.files.get(&inode).map(|file| &file.bytes[..])
    }

    /// Returns the folder as a reader sees it.
    pub(crate) fn contents(&self) -> BTreeMap<String, (Inode, Vec<u8>)> {
        let entry = |(name, inode): (&String, &Inode)| {
            (name.clone(), (*inode, self.files[inode].bytes.clone()))
        };
        self.folder.iter().map(entry).collect()
    }

    pub(crate) fn power_cut(&mut self, mut fate: Fate) {
        let mut lost = BTreeSet::new();
        for change in std::mem::take(&mut self.unsynced) {
            let follows_a_lost_one = change.iter().any(|(name, _)| lost.contains(name));
            if matches!(fate.next(), Survival::All) && !follows_a_lost_one {
                apply(&mut self.safe_folder, change);
            } else {
                lost.extend(change.into_iter().map(|(name, _)| name));
            }
        }
        self.folder.clone_from(&self.safe_folder);
        self.files.values_mut().for_each(|file| file.power_cut(&mut fate));
        self.forget_unlinked();
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.folder, change.clone());
        self.unsynced.push(change);
    }

    fn file_mut(&mut self, name: &str) -> &mut File {
        let inode = self.folder[name];
        self.files.get_mut(&inode).expect("every entry has a file")
    }

    /// Frees inodes that no crash can bring back.
    fn forget_unlinked(&mut self) {
        let changed = self.unsynced.iter().flatten().filter_map(|(_, inode)| *inode);
        let entries = self.folder.values().chain(self.safe_folder.values()).copied();
        let linked: BTreeSet<Inode> = changed.chain(entries).collect();
        self.files.retain(|inode, _| linked.contains(inode));
    }
}

fn apply(folder: &mut Folder, change: Change) {
    for (name, inode) in change {
        match inode {
            Some(inode) => folder.insert(name, inode),
            None => folder.remove(&name),
        };
    }
}

impl File {
    fn push(&mut self, write: Write) {
        write.apply(&mut self.bytes);
        self.unsynced.push(write);
    }

    fn power_cut(&mut self, fate: &mut Fate) {
        for write in std::mem::take(&mut self.unsynced) {
            match fate.next() {
                Survival::Nothing => {}
                Survival::Zeros => write.grow(&mut self.safe_bytes),
                Survival::All => write.apply(&mut self.safe_bytes),
            }
        }
        self.bytes.clone_from(&self.safe_bytes);
    }
}

impl Write {
    fn apply(&self, file: &mut Vec<u8>) {
        self.grow(file);
        match self {
            Self::At(at, bytes) => file[*at..at + bytes.len()].copy_from_slice(bytes),
            Self::Cut(len) => file.truncate(*len),
        }
    }

    fn grow(&self, file: &mut Vec<u8>) {
        if let Self::At(at, bytes) = self {
            file.resize(file.len().max(at + bytes.len()), 0);
        }
    }
}
