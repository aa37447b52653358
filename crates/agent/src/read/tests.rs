//! Readers of a file that stays unchanged, and of files that are changed while they are read.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use filepull_core::CHUNK_LEN;
use filepull_core::file_digest::Blake3;
use filepull_core::id::TransferId;
use filepull_core::receive::{Prefix, Receiver};
use tempfile::TempDir;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::parts::Buffers;
use super::*;
use crate::chunker::{FirstMessage, block_channel};
use crate::cpu_limit::CpuLimit;
use crate::server_answers::answer_channel;
use crate::share::Shares;
use crate::transfer_log::SentBytes;

#[path = "../../tests/fake/assembly.rs"]
mod assembly;
mod delta;
mod holes;
mod server_has;

use assembly::Assembly;

/// No multiple of a block or of a chunk.
const LEN: usize = 3 * BLOCK_LEN + 12_345;

struct ReadFixture {
    folder: TempDir,
    content: Vec<u8>,
}

/// The messages of one reader.
struct Sent {
    header: Option<v1::UploadHeader>,
    assembly: Assembly,
    trailer: Option<v1::UploadTrailer>,
    abort: Option<Problem>,
    is_unchanged: bool,
}

impl ReadFixture {
    fn new(len: usize) -> Self {
        let content: Vec<u8> = (0..=250).cycle().take(len).collect();
        let fixture = Self { folder: TempDir::new().unwrap(), content };
        fs::write(fixture.path(), &fixture.content).unwrap();
        fixture
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("data.txt")
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.path()).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    fn reader(&self, resume: Option<Prefix>) -> Reader {
        let client = ClientId::parse("client4").unwrap();
        let open_file = Shares::new(&self.path(), []).unwrap().open(&client, None).unwrap();
        let order = SendOrder {
            transfer: TransferId::generate(),
            attempt: 1,
            path: None,
            resume,
            base: None,
            if_changed: false,
            token: Bytes::from_static(b"token"),
            max_rate: None,
            max_size: None,
            requested_by: String::new(),
        };
        Reader {
            client,
            open_file,
            order,
            consistency: Consistency::DoubleRead,
            extents: ExtentKinds::default(),
            keepalive_interval: KEEPALIVE_INTERVAL,
            list_timeout: LIST_TIMEOUT,
        }
    }
}

/// Runs the reader to its end. Calls `hook` with each step before the step is taken.
fn run(reader: &Reader, hook: impl FnMut(&Step)) -> (Sent, Result<(), ReadError>) {
    run_with_base(reader, b"", hook)
}

/// Like [`run`], with a server that has `base`, and the first bytes of the current file.
fn run_with_base(
    reader: &Reader,
    base: &[u8],
    hook: impl FnMut(&Step),
) -> (Sent, Result<(), ReadError>) {
    let (_answer_sender, mut answers) = answer_channel();
    run_with_answers(reader, base, &mut answers, hook)
}

fn run_with_answers(
    reader: &Reader,
    base: &[u8],
    answers: &mut ServerAnswers,
    mut hook: impl FnMut(&Step),
) -> (Sent, Result<(), ReadError>) {
    let prefix_len = reader.order.resume.map_or(0, |prefix| prefix.len).min(reader.size());
    let mut prefix = vec![0; usize::try_from(prefix_len).unwrap()];
    reader.open_file.file.read_exact_at(&mut prefix, 0).unwrap();
    let mut sent = Sent {
        header: None,
        assembly: Assembly::new(reader.size(), b"", base),
        trailer: None,
        abort: None,
        is_unchanged: false,
    };
    let result = reader.read(answers, &mut |step| {
        hook(&step);
        match step {
            Step::Send(Kind::Header(header)) => {
                let offset = usize::try_from(header.offset).unwrap();
                sent.assembly = Assembly::new(reader.size(), &prefix[..offset], base);
                sent.header = Some(header);
            }
            Step::Block { offset, bytes } => {
                assert!(bytes.len() <= BLOCK_LEN);
                let offsets = (offset..).step_by(CHUNK_LEN);
                for (offset, chunk) in offsets.zip(bytes.chunks(CHUNK_LEN)) {
                    let data = Bytes::copy_from_slice(chunk);
                    sent.assembly.add(&Kind::Chunk(v1::DataChunk { offset, data }));
                }
            }
            Step::Extents(extents) => extents.iter().for_each(|it| sent.assembly.add(it)),
            Step::Send(Kind::Trailer(trailer)) => sent.trailer = Some(trailer),
            Step::Send(Kind::Abort(error)) => sent.abort = Some(filepull_proto::reported(&error)),
            Step::Send(kind) => {
                sent.assembly.add(&kind);
                assert!(matches!(kind, Kind::Chunk(chunk) if chunk.data.is_empty()));
            }
            Step::Unchanged => sent.is_unchanged = true,
            Step::Read | Step::Proving => {}
        }
        Ok(())
    });
    (sent, result)
}

fn check_whole(fixture: &ReadFixture, sent: &Sent, offset: usize) {
    assert_eq!(sent.header.as_ref().unwrap().offset, offset as u64);
    assert!(sent.assembly.bytes == fixture.content, "other bytes were sent");
    let trailer = sent.trailer.as_ref().unwrap();
    assert_eq!(trailer.total_size, fixture.content.len() as u64);
    assert_eq!(&trailer.blake3[..], Blake3::of(&fixture.content).as_bytes());
}

fn check_changed(sent: &Sent, result: &Result<(), ReadError>) {
    let detail = "data.txt on client4 changed while it was read.";
    let problem = Problem::new(Code::FileChanged, detail);
    assert_eq!(result, &Err(ReadError::Failed(problem.clone())));
    assert_eq!(sent.abort, Some(problem));
    assert_eq!(sent.trailer, None);
}

fn is_block(step: &Step) -> bool {
    matches!(step, Step::Block { .. })
}

#[test]
fn an_unchanged_file_is_sent_whole() {
    for len in [0, 1, BLOCK_LEN, LEN] {
        let fixture = ReadFixture::new(len);
        let (sent, result) = run(&fixture.reader(None), |_| {});
        assert_eq!(result, Ok(()));
        check_whole(&fixture, &sent, 0);
    }
}

#[test]
fn a_reader_resumes_where_the_prefixes_match() {
    let fixture = ReadFixture::new(LEN);
    for len in [0, 1, BLOCK_LEN + 7, LEN] {
        let mut receiver = Receiver::new(LEN as u64);
        receiver.chunk(0, &fixture.content[..len]).unwrap();
        let (sent, result) = run(&fixture.reader(Some(receiver.prefix())), |_| {});
        assert_eq!(result, Ok(()));
        check_whole(&fixture, &sent, len);
    }
}

#[test]
fn a_slow_comparison_of_the_prefix_sends_keepalives() {
    let fixture = ReadFixture::new(LEN);
    let mut receiver = Receiver::new(LEN as u64);
    receiver.chunk(0, &fixture.content).unwrap();
    let reader =
        Reader { keepalive_interval: Duration::ZERO, ..fixture.reader(Some(receiver.prefix())) };
    let mut n_keepalives = 0;
    let (sent, result) = run(&reader, |step| {
        n_keepalives += usize::from(matches!(step, Step::Proving));
    });
    assert_eq!(result, Ok(()));
    assert_eq!(n_keepalives, LEN.div_ceil(BLOCK_LEN), "one for each block");
    check_whole(&fixture, &sent, LEN);
}

#[test]
fn a_reader_starts_at_zero_when_the_prefixes_differ() {
    let fixture = ReadFixture::new(LEN);
    let other = Prefix { len: 5, digest: Blake3::of(b"other") };
    let longer = Prefix { len: LEN as u64 + 1, digest: Blake3::of(b"other") };
    for prefix in [other, longer] {
        let (sent, result) = run(&fixture.reader(Some(prefix)), |_| {});
        assert_eq!(result, Ok(()));
        check_whole(&fixture, &sent, 0);
    }
}

#[test]
fn bytes_appended_while_the_file_is_read_are_not_sent() {
    let fixture = ReadFixture::new(LEN);
    let reader = fixture.reader(None);
    let (sent, result) = run(&reader, |step| {
        if is_block(step) {
            fixture.write_at(LEN as u64, b"one more line");
        }
    });
    assert_eq!(result, Ok(()));
    check_whole(&fixture, &sent, 0);
}

#[test]
fn a_truncated_file_has_changed() {
    let fixture = ReadFixture::new(LEN);
    let (sent, result) = run(&fixture.reader(None), |step| {
        if is_block(step) {
            let file = OpenOptions::new().write(true).open(fixture.path()).unwrap();
            file.set_len(10).unwrap();
        }
    });
    check_changed(&sent, &result);
}

#[test]
fn a_write_behind_the_reader_is_detected_by_the_times() {
    let fixture = ReadFixture::new(LEN);
    let mut blocks = 0;
    let (sent, result) =
        run(&Reader { consistency: Consistency::Stat, ..fixture.reader(None) }, |step| {
            blocks += u32::from(is_block(step));
            if blocks == 2 {
                fixture.write_at(0, b"changed");
                // The clock of the file system is coarse: two writes may get the same time.
                let file = OpenOptions::new().write(true).open(fixture.path()).unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            }
        });
    check_changed(&sent, &result);
}

#[test]
fn a_write_that_the_times_do_not_show_is_detected_by_the_second_reading() {
    let fixture = ReadFixture::new(LEN);
    let mut written = false;
    let (sent, result) = run(&fixture.reader(None), |step| {
        // The times have been compared. From here only the second reading can detect a write.
        if matches!(step, Step::Read) && !written {
            written = true;
            fixture.write_at(LEN as u64 - 1, b"!");
        }
    });
    assert!(written);
    check_changed(&sent, &result);
}

#[test]
fn a_reader_whose_sink_is_closed_stops_without_a_trailer() {
    let fixture = ReadFixture::new(LEN);
    let mut steps = 0;
    let (_answer_sender, mut answers) = answer_channel();
    let result = fixture.reader(None).read(&mut answers, &mut |_| {
        steps += 1;
        if steps == 3 { Err(ClosedSink) } else { Ok(()) }
    });
    assert_eq!((result, steps), (Err(ReadError::Stopped), 3));
}

#[test]
fn a_buffer_is_reused_when_its_block_is_dropped() {
    let fixture = ReadFixture::new(LEN);
    let file = fixture.reader(None).open_file;
    let mut buffers = Buffers::default();
    let first = buffers.fill(&file, 0, BLOCK_LEN).unwrap().as_ptr();
    let in_use: Vec<_> =
        (1..N_BLOCKS).map(|_| buffers.fill(&file, 0, BLOCK_LEN).unwrap()).collect();
    assert_eq!(buffers.fill(&file, 0, 10).unwrap().as_ptr(), first);
    // These blocks are still being sent, so they must not change.
    for block in in_use {
        assert_ne!(buffers.fill(&file, 5, BLOCK_LEN).unwrap().as_ptr(), block.as_ptr());
        assert!(block == fixture.content[..BLOCK_LEN], "a block in use was overwritten");
    }
}

#[test]
fn a_file_of_unknown_size_is_sent_as_it_was_at_open() {
    let Ok(expected) = fs::read("/proc/version") else { return };
    let client = ClientId::parse("client4").unwrap();
    let shares = Shares::new(std::path::Path::new("/proc/version"), []).unwrap();
    for consistency in [Consistency::DoubleRead, Consistency::Stat] {
        let open_file = shares.open(&client, None).unwrap();
        let reader = Reader { open_file, consistency, ..ReadFixture::new(1).reader(None) };
        let (sent, result) = run(&reader, |_| {});
        assert_eq!(
            (result, sent.assembly.bytes.len() as u64),
            (Ok(()), sent.trailer.unwrap().total_size)
        );
        assert!(sent.assembly.bytes == expected, "other bytes were sent");
    }
}

#[test]
fn without_a_second_reading_a_file_that_grows_has_changed() {
    let fixture = ReadFixture::new(LEN);
    let reader = Reader { consistency: Consistency::Stat, ..fixture.reader(None) };
    let mut grown = false;
    let (sent, result) = run(&reader, |step| {
        if matches!(step, Step::Block { .. }) && !std::mem::replace(&mut grown, true) {
            fixture.write_at(LEN as u64, b"more");
        }
    });
    assert!(sent.trailer.is_none(), "a trailer was sent");
    let Err(ReadError::Failed(problem)) = result else { panic!("{result:?}") };
    assert_eq!(problem.code, Code::FileChanged);
}

#[tokio::test]
async fn a_pause_for_the_cpu_limit_ends_when_the_upload_is_stopped() {
    let stop = CancellationToken::new();
    let (sender, mut chunker) = block_channel(4, None, SentBytes::default(), stop.clone());
    let limit = CpuLimit::exhausted();
    let reader = ReadFixture::new(LEN).reader(None);
    let (_answer_sender, mut answers) = answer_channel();
    let result = spawn_blocking(move || sender.run(&reader, &mut answers, Some(&limit)));
    assert!(matches!(chunker.first().await, Some(FirstMessage::Message(_))));
    assert!(!result.is_finished(), "the reader did not pause");
    stop.cancel();
    assert_eq!(result.await.unwrap(), Err(ReadError::Stopped));
    assert_eq!(chunker.next().await, None);
}
