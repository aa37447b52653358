//! Readers that search for the blocks of a base.

use filepull_core::base_offer::BaseOffer;
use filepull_core::delta::BlockHasher;
use tokio::runtime::Runtime;
use tokio::task::spawn_blocking;

use super::*;
use crate::server_answers::AnswerSender;

const MIB: usize = 1 << 20;

/// A list in messages of 48 KiB.
fn list_of(base: &[u8]) -> Vec<v1::BaseBlocks> {
    let offer = offer(base).blocks.unwrap();
    let mut list = Vec::new();
    BlockHasher::new(offer.key, offer.block_len).update(base, &mut list);
    let messages = list.chunks(48 * 1024);
    messages.map(|ids| v1::BaseBlocks { ids: ids.to_vec().into(), gone: false }).collect()
}

fn offer(base: &[u8]) -> BaseOffer {
    BaseOffer::new(base.len() as u64, Blake3::of(base), [7; 32]).unwrap()
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut state = u64::from(seed) + 1;
    for byte in &mut bytes {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = state.to_be_bytes()[0];
    }
    bytes
}

fn fixture_of(content: &[u8]) -> ReadFixture {
    let fixture = ReadFixture::new(0);
    fs::write(fixture.path(), content).unwrap();
    ReadFixture { content: content.to_vec(), ..fixture }
}

fn reader(fixture: &ReadFixture, resume: Option<Prefix>, base: &[u8]) -> Reader {
    let mut reader = fixture.reader(resume);
    reader.extents = ExtentKinds::ALL;
    reader.order.base = Some(offer(base));
    reader
}

/// Runs a reader whose server sends `messages`, and returns the sender if the server waits after them.
fn run_with_list(
    reader: Reader,
    base: &[u8],
    messages: Vec<v1::BaseBlocks>,
    keep_open: bool,
    hook: impl FnMut(&Step) + Send + 'static,
) -> (Sent, Result<(), ReadError>) {
    let base = base.to_vec();
    Runtime::new().unwrap().block_on(async move {
        let (sender, mut answers) = answer_channel();
        let reading = spawn_blocking(move || run_with_answers(&reader, &base, &mut answers, hook));
        let sender = send_all(sender, messages).await;
        let _open = keep_open.then_some(sender);
        reading.await.unwrap()
    })
}

async fn send_all(sender: AnswerSender, messages: Vec<v1::BaseBlocks>) -> AnswerSender {
    for message in messages {
        sender.blocks(message).await;
    }
    sender
}

/// Checks that `content` arrives whole after `base`, and returns what was sent.
fn check_delta(base: &[u8], content: &[u8], resume_at: Option<usize>) -> Assembly {
    let fixture = fixture_of(content);
    let resume = resume_at.map(|len| {
        let digest = Blake3::of(&content[..len]);
        Prefix { len: len as u64, digest }
    });
    let (sent, result) =
        run_with_list(reader(&fixture, resume, base), base, list_of(base), false, |_| {});
    assert_eq!(result, Ok(()));
    check_whole(&fixture, &sent, resume_at.unwrap_or(0));
    assert!(sent.header.unwrap().wants_blocks);
    sent.assembly
}

#[test]
fn a_base_that_differs_in_one_byte_costs_one_block() {
    let base = noise(1, 3 * MIB + 77);
    let mut content = base.clone();
    content[MIB] ^= 1;
    let assembly = check_delta(&base, &content, None);
    // The block of the byte, and the bytes after the last whole block.
    assert!(assembly.sent <= 4096 + 4096, "{}", assembly.sent);
    assert_eq!(assembly.copied + assembly.plain + assembly.compressed, content.len() as u64);
}

#[test]
fn inserted_and_removed_bytes_cost_a_block_each() {
    let base = noise(2, 4 * MIB);
    let content = [&base[..MIB], b"inserted", &base[MIB..3 * MIB], &base[3 * MIB + 5..]].concat();
    let assembly = check_delta(&base, &content, None);
    assert!(assembly.sent <= 3 * 4096, "{}", assembly.sent);
}

#[test]
fn a_file_that_is_shorter_than_the_base_copies_its_blocks() {
    let base = noise(3, 2 * MIB);
    let assembly = check_delta(&base, &base[..MIB], None);
    assert_eq!((assembly.copied, assembly.sent), (MIB as u64, 0));
}

#[test]
fn a_delta_resumes_at_any_offset() {
    let base = noise(4, 2 * MIB);
    let mut content = base.clone();
    content[5] ^= 1;
    content[MIB + 5] ^= 1;
    for offset in [1, 4096, MIB + 3, 2 * MIB - 4096] {
        let assembly = check_delta(&base, &content, Some(offset));
        assert!(assembly.sent <= 4 * 4096, "at {offset}: {}", assembly.sent);
    }
}

#[test]
fn copies_compressed_data_and_holes_mix() {
    let text: Vec<u8> = (0..).flat_map(|n| format!("line {n}\n").into_bytes()).take(MIB).collect();
    let base = noise(5, 2 * MIB);
    let content = [&base[..MIB], &text[..], &vec![0; MIB], &base[MIB..]].concat();
    let fixture = ReadFixture::new(0);
    let file = OpenOptions::new().write(true).open(fixture.path()).unwrap();
    file.write_all_at(&content[..2 * MIB], 0).unwrap();
    file.write_all_at(&content[3 * MIB..], 3 * MIB as u64).unwrap();
    let fixture = ReadFixture { content, ..fixture };
    let (sent, result) =
        run_with_list(reader(&fixture, None, &base), &base, list_of(&base), false, |_| {});
    assert_eq!(result, Ok(()));
    check_whole(&fixture, &sent, 0);
    let Assembly { holes, copied, compressed, sent, .. } = sent.assembly;
    assert_eq!((holes, copied), (MIB as u64, 2 * MIB as u64));
    assert_eq!(compressed, MIB as u64);
    assert!(sent < MIB as u64 / 2, "{sent}");
}

#[test]
fn a_list_that_cannot_be_used_means_that_everything_is_data() {
    let base = noise(6, MIB);
    let mut content = base.clone();
    content[0] ^= 1;
    let fixture = fixture_of(&content);
    let blocks = |len, gone| v1::BaseBlocks { ids: vec![1; len].into(), gone };
    let n_list = MIB / 4096 * 8;
    for messages in [
        vec![blocks(0, true)],
        vec![blocks(n_list / 2, false), blocks(0, true)],
        vec![blocks(n_list + 8, false)],
        vec![blocks(n_list - 1, false), blocks(2, false)],
        // The stream ends.
        vec![blocks(8, false)],
        vec![],
    ] {
        let text = format!("{messages:?}");
        let (sent, result) =
            run_with_list(reader(&fixture, None, &base), &base, messages, false, |_| {});
        assert_eq!(result, Ok(()));
        check_whole(&fixture, &sent, 0);
        assert_eq!((sent.assembly.copied, sent.assembly.plain), (0, MIB as u64), "{text}");
    }
}

#[test]
fn a_server_that_never_sends_the_list_gets_keepalives_and_then_data() {
    let base = noise(7, MIB);
    let mut content = base.clone();
    content[0] ^= 1;
    let fixture = fixture_of(&content);
    // Empty messages are no progress.
    let empty = v1::BaseBlocks::default();
    for messages in [vec![], vec![empty; 3]] {
        let mut reader = reader(&fixture, None, &base);
        reader.keepalive_interval = Duration::from_millis(1);
        reader.list_timeout = Duration::from_millis(50);
        let (n_keepalives, counted) = std::sync::mpsc::channel();
        let (sent, result) = run_with_list(reader, &base, messages, true, move |step| {
            if matches!(step, Step::Send(Kind::Chunk(_))) {
                n_keepalives.send(()).unwrap();
            }
        });
        assert_eq!(result, Ok(()));
        check_whole(&fixture, &sent, 0);
        assert_eq!(sent.assembly.copied, 0);
        assert!(counted.iter().count() > 1, "keepalives while the reader waits");
    }
}

#[test]
fn a_search_that_sends_nothing_sends_keepalives() {
    let base = noise(8, 4 * MIB);
    let mut content = base.clone();
    content[0] ^= 1;
    let fixture = fixture_of(&content);
    let mut reader = reader(&fixture, None, &base);
    reader.keepalive_interval = Duration::ZERO;
    let (is_keepalive, counted) = std::sync::mpsc::channel();
    let (sent, result) = run_with_list(reader, &base, list_of(&base), false, move |step| {
        is_keepalive.send(matches!(step, Step::Send(Kind::Chunk(_)))).unwrap();
    });
    assert_eq!(result, Ok(()));
    check_whole(&fixture, &sent, 0);
    // One for each block of the search and of the second reading, at least.
    assert!(16 <= counted.iter().filter(|is_keepalive| *is_keepalive).count());
}

#[test]
fn a_file_that_changes_or_shrinks_during_the_search_has_changed() {
    let base = noise(9, 4 * MIB);
    let mut content = base.clone();
    content[MIB] ^= 1;
    for is_truncated in [false, true] {
        let fixture = fixture_of(&content);
        let path = fixture.path();
        let mut is_changed = false;
        let change = move |step: &Step| {
            if matches!(step, Step::Extents(_)) && !std::mem::replace(&mut is_changed, true) {
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                if is_truncated {
                    file.set_len(10).unwrap();
                } else {
                    file.write_all_at(b"!", 3).unwrap();
                }
            }
        };
        let (sent, result) =
            run_with_list(reader(&fixture, None, &base), &base, list_of(&base), false, change);
        check_changed(&sent, &result);
    }
}
