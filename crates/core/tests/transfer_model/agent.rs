//! A model of the client: a source file that changes at any time, and the agent that reads it.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use filepull_core::compression::Encoder;
use filepull_core::extent::{Content, UploadExtent};
use filepull_core::file_digest::{Blake3, Blake3Hasher};
use filepull_core::id::TransferId;
use filepull_core::receive::Prefix;
use filepull_core::source::{Consistency, Source, SourceChange, SourceRead, Stat};

/// The length of a cell in bytes. A cell holds its version and its position, so that mixed and
/// shifted files are detected. Some cells are zeros in each version: the holes.
pub(crate) const CELL_LEN: usize = 8;
/// Not a divisor of each file length, so that last chunks are short.
const CHUNK_LEN: usize = 2 * CELL_LEN;

/// The source: all versions of its path, and the files that can still be read.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// The last file has the path. The others may only be open in an upload.
    files: Vec<File>,
    consistency: Consistency,
    pub(crate) versions: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
struct File {
    bytes: Vec<u8>,
    modified_ns: i64,
    changed_ns: i64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Mutation {
    pub(crate) change: Change,
    pub(crate) trace: Trace,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    InPlace { from: usize, n_cells: usize },
    Append { n_cells: usize },
    Truncate { n_cells: usize },
    Replace { n_cells: usize },
    Revert { pick: usize },
}

/// Which file times a mutation changes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trace {
    /// Both times, as `write` does.
    Both,
    /// The modification time was set back, as `touch -d` does.
    SetBack,
    /// No time, as a store through `mmap`.
    Nothing,
}

impl Client {
    pub(crate) fn new(n_cells: usize, consistency: Consistency) -> Self {
        let bytes = cells(0, 0..n_cells);
        let file = File { bytes: bytes.clone(), modified_ns: 0, changed_ns: 0 };
        Self { files: vec![file], consistency, versions: vec![bytes] }
    }

    /// Returns the number of the current version.
    pub(crate) fn version(&self) -> usize {
        self.versions.len() - 1
    }

    pub(crate) fn mutate(&mut self, Mutation { change, trace }: Mutation) {
        let version = self.versions.len();
        let file = self.files.last_mut().expect("there is always a source");
        let n_cells_now = file.bytes.len() / CELL_LEN;
        match change {
            Change::InPlace { from, n_cells } => {
                let from = from.min(n_cells_now);
                let to = (from + n_cells).min(n_cells_now);
                file.bytes[from * CELL_LEN..to * CELL_LEN]
                    .copy_from_slice(&cells(version, from..to));
            }
            Change::Append { n_cells } => {
                file.bytes.extend(cells(version, n_cells_now..n_cells_now + n_cells));
            }
            Change::Truncate { n_cells } => file.bytes.truncate(n_cells * CELL_LEN),
            Change::Replace { n_cells } => {
                // The old file loses its last name; an upload may still have it open.
                file.touch(version, trace);
                let bytes = cells(version, 0..n_cells);
                self.files.push(File { bytes, modified_ns: 0, changed_ns: 0 });
            }
            Change::Revert { pick } => file.bytes.clone_from(&self.versions[pick % version]),
        }
        let file = self.files.last_mut().expect("there is always a source");
        file.touch(version, trace);
        self.versions.push(file.bytes.clone());
    }
}

impl File {
    fn touch(&mut self, version: usize, trace: Trace) {
        let now = i64::try_from(version).expect("versions are few");
        match trace {
            Trace::Both => (self.modified_ns, self.changed_ns) = (now, now),
            Trace::SetBack => self.changed_ns = now,
            Trace::Nothing => {}
        }
    }

    fn stat(&self) -> Stat {
        let Self { ref bytes, modified_ns, changed_ns } = *self;
        Stat { size: bytes.len() as u64, modified_ns, changed_ns }
    }
}

fn cells(version: usize, indices: std::ops::Range<usize>) -> Vec<u8> {
    let word = |n: usize| u32::try_from(n).expect("model files are small").to_le_bytes();
    let cell = |index| match index % 6 {
        4 | 5 => vec![0; CELL_LEN],
        _ => [word(version + 1), word(index)].concat(),
    };
    indices.flat_map(cell).collect()
}

/// An order of the server: the attempt, and the bytes that the server already has.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) id: TransferId,
    pub(crate) attempt: u32,
    pub(crate) held: Prefix,
    pub(crate) token: usize,
    pub(crate) base: Option<BaseList>,
}

/// What an order says about the base, and the list of its blocks.
#[derive(Clone, Debug)]
pub(crate) struct BaseList {
    /// The length and the digest on record.
    pub(crate) whole: Prefix,
    /// What the server has read. The base may be damaged.
    pub(crate) bytes: Vec<u8>,
}

/// A bug of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// The digest of the trailer belongs to other bytes.
    Digest,
    /// It continues after the server's bytes without comparing them.
    Proof,
    /// It starts at an offset that is not the end of the server's bytes.
    Offset,
    /// It omits a chunk.
    Gap,
    /// It ends before the last byte.
    Short,
    /// It sends a hole in place of bytes.
    Hole,
    /// It copies bytes behind the end of the base.
    OutsideBase,
    /// It continues the zstd stream of another upload.
    Stream,
}

/// One attempt of the agent.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) order: Order,
    pub(crate) lie: Option<Lie>,
    /// The version that had the path when the file was opened.
    pub(crate) opened: usize,
    file_idx: usize,
    before: Stat,
    reading: SourceRead,
    at: usize,
    /// The beginning of the file, if it equals the base. It is read once, for the proof.
    grown: Vec<u8>,
    encoder: UploadEncoder,
    stage: Stage,
}

/// The zstd stream of an upload. A clone of an upload that has sent nothing has one of its own.
#[derive(Clone, Default)]
struct UploadEncoder(Option<Rc<RefCell<Encoder>>>);

impl fmt::Debug for UploadEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UploadEncoder")
    }
}

impl UploadEncoder {
    fn encode(&mut self, bytes: &[u8]) -> Vec<u8> {
        let new = || Rc::new(RefCell::new(Encoder::new().expect("there is memory")));
        let mut encoder = self.0.get_or_insert_with(new).borrow_mut();
        encoder.encode(bytes).expect("there is memory").to_vec()
    }
}

/// An extent that owns its bytes.
#[derive(Clone, Debug)]
pub(crate) enum Extent {
    Data(Vec<u8>),
    Zstd { len: usize, encoded: Vec<u8> },
    Hole { len: u64 },
    Copy { base_offset: u64, len: u64 },
}

impl Extent {
    pub(crate) fn borrow(&self, offset: u64) -> UploadExtent<'_> {
        let content = match *self {
            Self::Data(ref bytes) => Content::Data(bytes),
            Self::Zstd { len, ref encoded } => Content::Zstd { len, encoded },
            Self::Hole { len } => Content::Hole { len },
            Self::Copy { base_offset, len } => Content::Copy { base_offset, len },
        };
        UploadExtent { offset, content }
    }
}

#[derive(Clone, Debug)]
enum Stage {
    Proving,
    Sending,
    Again(Blake3Hasher),
}

/// The next message of the agent.
#[derive(Debug)]
pub(crate) enum Message {
    Nothing,
    Begin { offset: u64, source: Source },
    Extent { offset: u64, extent: Extent },
    Trailer { size: u64, digest: Blake3 },
    Changed,
}

impl Upload {
    pub(crate) fn open(client: &Client, order: Order, lie: Option<Lie>) -> Self {
        let file_idx = client.files.len() - 1;
        let before = client.files[file_idx].stat();
        Self {
            order,
            lie,
            opened: client.version(),
            file_idx,
            before,
            reading: SourceRead::new(before),
            at: 0,
            grown: Vec::new(),
            encoder: UploadEncoder::default(),
            stage: Stage::Proving,
        }
    }

    /// Takes one small step. The source may change before the next step.
    pub(crate) fn next(&mut self, client: &Client) -> Message {
        match self.stage {
            Stage::Proving => self.prove(client),
            Stage::Sending => self.send(client).unwrap_or(Message::Changed),
            Stage::Again(_) => self.read_again(client).unwrap_or(Message::Changed),
        }
    }

    fn prove(&mut self, client: &Client) -> Message {
        let Prefix { len, digest } = self.order.held;
        let end = usize::try_from(len.min(self.before.size)).expect("model files are small");
        if self.at < end
            && let Ok(bytes) = self.read(client, end)
        {
            self.reading.update(&bytes);
            return Message::Nothing;
        }
        let proved = self.at as u64 == len && self.reading.digest() == digest;
        if !proved && self.lie != Some(Lie::Proof) {
            (self.at, self.reading) = (0, SourceRead::new(self.before));
        }
        self.stage = Stage::Sending;
        let offset = match self.lie {
            Some(Lie::Proof) => len,
            Some(Lie::Offset) => self.at as u64 + 1,
            Some(
                Lie::Digest | Lie::Gap | Lie::Short | Lie::Hole | Lie::OutsideBase | Lie::Stream,
            )
            | None => self.at as u64,
        };
        self.prove_base(client);
        let Stat { size, modified_ns, .. } = self.before;
        Message::Begin { offset, source: Source { name: "data.bin".to_owned(), size, modified_ns } }
    }

    fn send(&mut self, client: &Client) -> Result<Message, SourceChange> {
        let offset = self.at as u64;
        if offset < self.before.size && self.lie == Some(Lie::Short) {
            return Ok(self.trailer());
        }
        if offset < self.before.size {
            let bytes = self.read_or_grown(client)?;
            self.reading.update(&bytes);
            if self.lie == Some(Lie::Gap) {
                self.lie = None;
                return Ok(Message::Nothing);
            }
            return Ok(Message::Extent { offset, extent: self.extent(offset, bytes) });
        }
        self.reading.check_stat(client.files[self.file_idx].stat(), client.consistency)?;
        match client.consistency {
            Consistency::Stat => Ok(self.trailer()),
            Consistency::DoubleRead => {
                (self.at, self.stage) = (0, Stage::Again(Blake3Hasher::default()));
                Ok(Message::Nothing)
            }
        }
    }

    /// Compares the beginning of the file with the base on record.
    fn prove_base(&mut self, client: &Client) {
        let Some(BaseList { whole, .. }) = &self.order.base else { return };
        let len = usize::try_from(whole.len).expect("model files are small");
        let beginning = client.files[self.file_idx].bytes.get(..len);
        let proved = beginning.filter(|bytes| Blake3::of(bytes) == whole.digest);
        self.grown = proved.unwrap_or_default().to_vec();
    }

    fn read_or_grown(&mut self, client: &Client) -> Result<Vec<u8>, SourceChange> {
        let end = self.grown.len().min(self.at + CHUNK_LEN);
        match self.grown.get(self.at..end) {
            Some(bytes) if !bytes.is_empty() => {
                self.at = end;
                Ok(bytes.to_vec())
            }
            _ => self.read(client, usize::MAX),
        }
    }

    /// Chooses how to send these bytes.
    fn extent(&mut self, offset: u64, bytes: Vec<u8>) -> Extent {
        let len = bytes.len();
        let n_bytes = len as u64;
        let base_len = self.order.base.as_ref().map_or(0, |base| base.whole.len);
        match self.lie {
            Some(Lie::Hole) => return Extent::Hole { len: n_bytes },
            Some(Lie::OutsideBase) => return Extent::Copy { base_offset: base_len, len: n_bytes },
            Some(Lie::Stream) => {
                let mut other = UploadEncoder::default();
                other.encode(&bytes);
                return Extent::Zstd { len, encoded: other.encode(&bytes) };
            }
            Some(Lie::Digest | Lie::Proof | Lie::Offset | Lie::Gap | Lie::Short) | None => {}
        }
        if offset < self.grown.len() as u64 {
            return Extent::Copy { base_offset: offset, len: n_bytes };
        }
        if let Some(base_offset) = self.listed(&bytes) {
            return Extent::Copy { base_offset, len: n_bytes };
        }
        let idx = self.at / CHUNK_LEN + usize::try_from(self.order.attempt).expect("few");
        match idx % 3 {
            _ if bytes.iter().all(|&byte| byte == 0) => Extent::Hole { len: n_bytes },
            0 => Extent::Data(bytes),
            _ => Extent::Zstd { len, encoded: self.encoder.encode(&bytes) },
        }
    }

    /// Returns where the list of the base has these bytes.
    fn listed(&self, bytes: &[u8]) -> Option<u64> {
        let base = self.order.base.as_ref()?;
        let at = base.bytes.windows(bytes.len()).step_by(CELL_LEN).position(|at| at == bytes)?;
        Some((at * CELL_LEN) as u64)
    }

    fn read_again(&mut self, client: &Client) -> Result<Message, SourceChange> {
        let bytes = self.read(client, usize::MAX)?;
        let Stage::Again(hasher) = &mut self.stage else { return Err(SourceChange) };
        if !bytes.is_empty() {
            hasher.update(&bytes);
            return Ok(Message::Nothing);
        }
        self.reading.check_again(hasher.digest())?;
        Ok(self.trailer())
    }

    fn trailer(&self) -> Message {
        let is_wrong = self.lie == Some(Lie::Digest);
        let digest = if is_wrong { Blake3::of(b"a lie") } else { self.reading.digest() };
        Message::Trailer { size: self.before.size, digest }
    }

    /// Reads the next chunk of the file that was opened, up to `end`.
    fn read(&mut self, client: &Client, end: usize) -> Result<Vec<u8>, SourceChange> {
        let size = usize::try_from(self.before.size).expect("model files are small");
        let start = self.at.min(size);
        let end = end.min(size).min(start + CHUNK_LEN);
        let bytes = client.files[self.file_idx].bytes.get(start..end).ok_or(SourceChange)?;
        self.at = end;
        Ok(bytes.to_vec())
    }
}
