//! A file and a reader, and somebody who writes to the file in between.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;

use filepull_core::digest::Digest;
use filepull_core::id::TransferId;
use filepull_core::receive::Receiver;
use tempfile::TempDir;

use super::*;
use crate::share::Shares;

/// Not a multiple of a block, nor of a chunk.
const LEN: usize = 3 * BLOCK_LEN + 12_345;

struct ReadFixture {
    folder: TempDir,
    content: Vec<u8>,
}

/// What came out of a reader.
#[derive(Default)]
struct Sent {
    offset: u64,
    bytes: Vec<u8>,
    trailer: Option<v1::UploadTrailer>,
    abort: Option<Problem>,
}

impl ReadFixture {
    fn new(len: usize) -> Self {
        let content: Vec<u8> = (0..=250).cycle().take(len).collect();
        let bed = Self { folder: TempDir::new().unwrap(), content };
        fs::write(bed.path(), &bed.content).unwrap();
        bed
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("data.txt")
    }

    fn write_at(&self, at: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.path()).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    fn reader(&self, resume: Option<Prefix>) -> Reader {
        let client = ClientId::parse("client4").unwrap();
        let opened = Shares::new(&self.path(), []).unwrap().open(&client, None).unwrap();
        let order = SendOrder {
            transfer: TransferId::generate(),
            attempt: 1,
            path: None,
            resume,
            token: Bytes::from_static(b"token"),
            max_rate: None,
            max_size: None,
            requested_by: String::new(),
        };
        let (consistency, sign_every) = (Consistency::DoubleRead, SIGN_OF_LIFE_EVERY);
        Reader { client, opened, order, consistency, sign_every }
    }
}

/// Runs the reader to its end; `hook` sees each step before it is taken.
fn run(reader: &Reader, mut hook: impl FnMut(&Step)) -> (Sent, Result<(), ReadError>) {
    let mut sent = Sent::default();
    let ended = reader.read(&mut |step| {
        hook(&step);
        match step {
            Step::Send(Kind::Header(header)) => sent.offset = header.offset,
            Step::Block { offset, bytes } => {
                assert_eq!(offset, sent.offset + sent.bytes.len() as u64);
                assert!(bytes.len() <= BLOCK_LEN);
                sent.bytes.extend_from_slice(&bytes);
            }
            Step::Send(Kind::Chunk(chunk)) => assert!(chunk.data.is_empty(), "a sign of life"),
            Step::Send(Kind::Trailer(trailer)) => sent.trailer = Some(trailer),
            Step::Send(Kind::Abort(error)) => sent.abort = Some(filepull_proto::reported(&error)),
            Step::Read | Step::Proving => {}
        }
        Ok(())
    });
    (sent, ended)
}

fn check_whole(bed: &ReadFixture, sent: &Sent, offset: usize) {
    assert_eq!(sent.offset, offset as u64);
    assert!(sent.bytes == bed.content[offset..], "other bytes were sent");
    let trailer = sent.trailer.as_ref().unwrap();
    assert_eq!(trailer.total_size, bed.content.len() as u64);
    assert_eq!(&trailer.sha256[..], Digest::of(&bed.content).as_bytes());
}

fn check_changed(sent: &Sent, ended: &Result<(), ReadError>) {
    let detail = "data.txt on client4 changed while it was read.";
    let problem = Problem::new(Code::FileChanged, detail);
    assert_eq!(ended, &Err(ReadError::Failed(problem.clone())));
    assert_eq!(sent.abort, Some(problem));
    assert_eq!(sent.trailer, None);
}

fn is_block(step: &Step) -> bool {
    matches!(step, Step::Block { .. })
}

#[test]
fn a_file_that_holds_still_is_sent_whole() {
    for len in [0, 1, BLOCK_LEN, LEN] {
        let bed = ReadFixture::new(len);
        let (sent, ended) = run(&bed.reader(None), |_| {});
        assert_eq!(ended, Ok(()));
        check_whole(&bed, &sent, 0);
    }
}

#[test]
fn a_reader_goes_on_where_the_server_holds_the_same() {
    let bed = ReadFixture::new(LEN);
    for len in [0, 1, BLOCK_LEN + 7, LEN] {
        let mut held = Receiver::new(LEN as u64);
        held.chunk(0, &bed.content[..len]).unwrap();
        let (sent, ended) = run(&bed.reader(Some(held.prefix())), |_| {});
        assert_eq!(ended, Ok(()));
        check_whole(&bed, &sent, len);
    }
}

#[test]
fn a_proof_that_takes_its_time_says_that_it_goes_on() {
    let bed = ReadFixture::new(LEN);
    let mut held = Receiver::new(LEN as u64);
    held.chunk(0, &bed.content).unwrap();
    let reader = Reader { sign_every: Duration::ZERO, ..bed.reader(Some(held.prefix())) };
    let mut signs = 0;
    let (sent, ended) = run(&reader, |step| signs += usize::from(matches!(step, Step::Proving)));
    assert_eq!((ended, signs), (Ok(()), LEN.div_ceil(BLOCK_LEN)), "one for each block");
    check_whole(&bed, &sent, LEN);
}

#[test]
fn a_reader_starts_anew_when_the_server_holds_something_else() {
    let bed = ReadFixture::new(LEN);
    let other = Prefix { len: 5, digest: Digest::of(b"other") };
    let longer = Prefix { len: LEN as u64 + 1, digest: Digest::of(b"other") };
    for prefix in [other, longer] {
        let (sent, ended) = run(&bed.reader(Some(prefix)), |_| {});
        assert_eq!(ended, Ok(()));
        check_whole(&bed, &sent, 0);
    }
}

#[test]
fn growth_is_not_sent_and_does_no_harm() {
    let bed = ReadFixture::new(LEN);
    let reader = bed.reader(None);
    let (sent, ended) = run(&reader, |step| {
        if is_block(step) {
            bed.write_at(LEN as u64, b"one more line");
        }
    });
    assert_eq!(ended, Ok(()));
    check_whole(&bed, &sent, 0);
}

#[test]
fn a_file_that_is_cut_has_changed() {
    let bed = ReadFixture::new(LEN);
    let (sent, ended) = run(&bed.reader(None), |step| {
        if is_block(step) {
            let file = OpenOptions::new().write(true).open(bed.path()).unwrap();
            file.set_len(10).unwrap();
        }
    });
    check_changed(&sent, &ended);
}

#[test]
fn a_write_behind_the_reader_is_found_by_the_times() {
    let bed = ReadFixture::new(LEN);
    let mut blocks = 0;
    let (sent, ended) =
        run(&Reader { consistency: Consistency::Stat, ..bed.reader(None) }, |step| {
            blocks += u32::from(is_block(step));
            if blocks == 2 {
                bed.write_at(0, b"changed");
                // The clock of the file system ticks slowly: two writes may fall into one tick.
                let file = OpenOptions::new().write(true).open(bed.path()).unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            }
        });
    check_changed(&sent, &ended);
}

#[test]
fn a_write_that_the_times_miss_is_found_by_the_second_reading() {
    let bed = ReadFixture::new(LEN);
    let mut written = false;
    let (sent, ended) = run(&bed.reader(None), |step| {
        // The times have been looked at: what comes now is seen by a second reading only.
        if matches!(step, Step::Read) && !written {
            written = true;
            bed.write_at(LEN as u64 - 1, b"!");
        }
    });
    assert!(written);
    check_changed(&sent, &ended);
}

#[test]
fn a_reader_that_nobody_listens_to_stops_without_a_trailer() {
    let bed = ReadFixture::new(LEN);
    let mut steps = 0;
    let ended = bed.reader(None).read(&mut |_| {
        steps += 1;
        if steps == 3 { Err(ReadStopped) } else { Ok(()) }
    });
    assert_eq!((ended, steps), (Err(ReadError::Stopped), 3));
}

#[test]
fn a_buffer_is_used_again_when_its_block_is_gone() {
    let bed = ReadFixture::new(LEN);
    let file = bed.reader(None).opened;
    let mut buffers = Buffers::default();
    let first = buffers.fill(&file, 0, BLOCK_LEN).unwrap().as_ptr();
    let held: Vec<_> = (1..N_BLOCKS).map(|_| buffers.fill(&file, 0, BLOCK_LEN).unwrap()).collect();
    assert_eq!(buffers.fill(&file, 0, 10).unwrap().as_ptr(), first);
    // These are still on their way: they must not change.
    for block in held {
        assert_ne!(buffers.fill(&file, 5, BLOCK_LEN).unwrap().as_ptr(), block.as_ptr());
        assert!(block == bed.content[..BLOCK_LEN], "a block on its way was overwritten");
    }
}

#[test]
fn a_file_of_unknown_size_is_sent_as_it_was_at_open() {
    let Ok(expected) = fs::read("/proc/version") else { return };
    let client = ClientId::parse("client4").unwrap();
    let shares = Shares::new(std::path::Path::new("/proc/version"), []).unwrap();
    for consistency in [Consistency::DoubleRead, Consistency::Stat] {
        let opened = shares.open(&client, None).unwrap();
        let reader = Reader { opened, consistency, ..ReadFixture::new(1).reader(None) };
        let (sent, ended) = run(&reader, |_| {});
        assert_eq!((ended, sent.bytes.len() as u64), (Ok(()), sent.trailer.unwrap().total_size));
        assert!(sent.bytes == expected, "other bytes were sent");
    }
}

#[test]
fn without_a_second_reading_a_file_that_grows_has_changed() {
    let bed = ReadFixture::new(LEN);
    let reader = Reader { consistency: Consistency::Stat, ..bed.reader(None) };
    let mut grown = false;
    let (sent, ended) = run(&reader, |step| {
        if matches!(step, Step::Block { .. }) && !std::mem::replace(&mut grown, true) {
            bed.write_at(LEN as u64, b"more");
        }
    });
    assert!(sent.trailer.is_none(), "a trailer was sent");
    let Err(ReadError::Failed(problem)) = ended else { panic!("{ended:?}") };
    assert_eq!(problem.code, Code::FileChanged);
}
