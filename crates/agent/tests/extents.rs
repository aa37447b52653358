//! Uploads to a server that has a base, or accepts compressed data and holes.

mod fake;

use std::fs;
use std::os::unix::fs::FileExt as _;

use fake::{FakeServer, FakeUpload, order};
use filepull_core::base_offer::BaseOffer;
use filepull_core::delta::BlockHasher;
use filepull_core::extent::ExtentKinds;
use filepull_core::file_digest::Blake3;
use filepull_proto::v1::server_message::Kind as FromServer;
use filepull_proto::v1::transfer_update::State;
use filepull_proto::v1::upload_request::Kind;
use filepull_proto::v1::{self, ErrorCode, upload_response};

const MIB: usize = 1 << 20;

fn offer(base: &[u8]) -> BaseOffer {
    BaseOffer::new(base.len() as u64, Blake3::of(base), [7; 32]).expect("a base that is not empty")
}

fn order_with_base(base: &[u8]) -> v1::StartTransfer {
    v1::StartTransfer { base: Some((&offer(base)).into()), ..order(1) }
}

fn resumed_at(prefix: &[u8], order: v1::StartTransfer) -> v1::StartTransfer {
    let prefix_blake3 = Blake3::of(prefix).as_bytes().to_vec().into();
    v1::StartTransfer { offset: prefix.len() as u64, prefix_blake3, ..order }
}

fn text(len: usize) -> Vec<u8> {
    let lines = (0_u32..).flat_map(|n| format!("{n}: till {} is ready\n", n % 7).into_bytes());
    lines.take(len).collect()
}

async fn end_upload(mut upload: FakeUpload) {
    upload.send(upload_response::Kind::Stored(v1::Stored::default())).await;
    assert!(upload.next().await.is_none());
}

/// Sends the list of the blocks of `base`.
async fn send_list(upload: &FakeUpload, base: &[u8]) {
    let blocks = offer(base).blocks.expect("a base with blocks");
    let mut list = Vec::new();
    BlockHasher::new(blocks.key, blocks.block_len).update(base, &mut list);
    for ids in list.chunks(48 * 1024) {
        let blocks = v1::BaseBlocks { ids: ids.to_vec().into(), gone: false };
        upload.send(upload_response::Kind::Blocks(blocks)).await;
    }
}

fn check_trailer(end: &Kind, content: &[u8]) {
    let Kind::Trailer(trailer) = end else { panic!("{end:?}") };
    assert_eq!(trailer.total_size, content.len() as u64);
    assert_eq!(&trailer.blake3[..], Blake3::of(content).as_bytes());
}

#[tokio::test]
async fn a_hello_lists_every_kind_of_extent() {
    let mut server = FakeServer::start().await;
    let (_session, hello) = server.open_session().await;
    assert_eq!(ExtentKinds::from_capabilities(&hello.capabilities), ExtentKinds::ALL);
}

#[tokio::test]
async fn a_grown_file_sends_its_new_bytes() {
    let mut server = FakeServer::start().await;
    let (mut session, _) = server.open_session_with(ExtentKinds::ALL).await;
    let content = server.content.clone();
    let base = &content[..5 * MIB + 1];
    for offset in [0, MIB, 6 * MIB] {
        let order = resumed_at(&content[..offset], order_with_base(base));
        let mut upload = server.start_upload(&mut session, order).await;
        let header = upload.header().await;
        assert_eq!((header.offset, header.wants_blocks), (offset as u64, false));
        let (assembly, end) = upload.assemble(content.len() as u64, &content[..offset], base).await;
        check_trailer(&end, &content);
        assert!(assembly.bytes == content, "other bytes were sent");
        assert_eq!(assembly.copied, base.len().saturating_sub(offset) as u64);
        end_upload(upload).await;
    }
}

#[tokio::test]
async fn an_unchanged_file_is_answered_without_an_upload() {
    let mut server = FakeServer::start().await;
    let (mut session, _) = server.open_session_with(ExtentKinds::ALL).await;
    let content = server.content.clone();
    let order = v1::StartTransfer { if_changed: true, ..order_with_base(&content) };
    session.send(FromServer::Start(order)).await;
    assert!(matches!(session.answer().await, State::Accepted(_)));
    let State::Unchanged(unchanged) = session.answer().await else { panic!("it was sent") };
    assert_eq!(unchanged.source.unwrap().size, content.len() as u64);
    session.check_alive().await;
    assert!(server.try_upload().is_none());

    fs::write(server.path("data.txt"), [&content[..], b"more"].concat()).unwrap();
    let order = v1::StartTransfer { if_changed: true, ..order_with_base(&content) };
    let mut upload = server.start_upload(&mut session, order).await;
    upload.header().await;
    let (assembly, _) = upload.assemble(content.len() as u64 + 4, b"", &content).await;
    assert_eq!(assembly.sent, 4);
}

#[tokio::test]
async fn a_changed_file_sends_the_blocks_that_changed() {
    let mut server = FakeServer::start().await;
    let (mut session, _) = server.open_session_with(ExtentKinds::ALL).await;
    let base = text(6 * MIB);
    let content = [&base[..MIB], b"one more line\n", &base[MIB..4 * MIB], b"end"].concat();
    fs::write(server.path("data.txt"), &content).unwrap();
    for offset in [0, 2 * MIB] {
        let order = resumed_at(&content[..offset], order_with_base(&base));
        let mut upload = server.start_upload(&mut session, order).await;
        let header = upload.header().await;
        assert_eq!((header.offset, header.wants_blocks), (offset as u64, true));
        send_list(&upload, &base).await;
        let (assembly, end) =
            upload.assemble(content.len() as u64, &content[..offset], &base).await;
        check_trailer(&end, &content);
        assert!(assembly.bytes == content, "other bytes were sent");
        assert!(assembly.sent < 3 * 4096, "{}", assembly.sent);
        end_upload(upload).await;
    }
}

#[tokio::test]
async fn a_base_that_is_gone_means_that_everything_is_sent() {
    let mut server = FakeServer::start().await;
    let copies = ExtentKinds { copy: true, ..ExtentKinds::default() };
    let (mut session, _) = server.open_session_with(copies).await;
    let base = text(2 * MIB);
    let content = server.content.clone();
    let mut upload = server.start_upload(&mut session, order_with_base(&base)).await;
    assert!(upload.header().await.wants_blocks);
    let gone = v1::BaseBlocks { gone: true, ..v1::BaseBlocks::default() };
    upload.send(upload_response::Kind::Blocks(gone)).await;
    // A base of no bytes: the assembly rejects every copy.
    let (assembly, end) = upload.assemble(content.len() as u64, b"", b"").await;
    check_trailer(&end, &content);
    assert!(assembly.bytes == content, "other bytes were sent");
}

#[tokio::test]
async fn an_empty_file_needs_no_list() {
    let mut server = FakeServer::start().await;
    let (mut session, _) = server.open_session_with(ExtentKinds::ALL).await;
    let base = server.content.clone();
    fs::write(server.path("data.txt"), b"").unwrap();
    let mut upload = server.start_upload(&mut session, order_with_base(&base)).await;
    assert!(!upload.header().await.wants_blocks);
    let (assembly, end) = upload.assemble(0, b"", &base).await;
    check_trailer(&end, b"");
    assert_eq!(assembly.sent, 0);
}

#[tokio::test]
async fn a_file_that_changes_while_the_agent_waits_for_the_list_ends_with_an_abort() {
    let mut server = FakeServer::start().await;
    let (mut session, _) = server.open_session_with(ExtentKinds::ALL).await;
    let content = server.content.clone();
    let mut base = content.clone();
    base[5] ^= 1;
    let mut upload = server.start_upload(&mut session, order_with_base(&base)).await;
    assert!(upload.header().await.wants_blocks);
    fs::write(server.path("data.txt"), "short").unwrap();
    send_list(&upload, &base).await;
    let (_, end) = upload.assemble(content.len() as u64, b"", &base).await;
    let Kind::Abort(error) = end else { panic!("{end:?}") };
    assert_eq!(error.code(), ErrorCode::SourceChanged);
}

#[tokio::test]
async fn text_is_compressed_and_noise_is_not() {
    let mut server = FakeServer::start().await;
    let zstd = ExtentKinds { zstd: true, ..ExtentKinds::default() };
    let (mut session, _) = server.open_session_with(zstd).await;
    let mut noise = vec![0; 3 * MIB];
    fastrand::Rng::with_seed(1).fill(&mut noise);
    let text = text(3 * MIB + 5);
    for (content, is_compressed) in [(text, true), (noise, false)] {
        fs::write(server.path("data.txt"), &content).unwrap();
        // A resumed upload has a stream of its own: the assembly has a new decoder.
        for offset in [0, MIB + 3] {
            let order = resumed_at(&content[..offset], order(1));
            let mut upload = server.start_upload(&mut session, order).await;
            assert_eq!(upload.header().await.offset, offset as u64);
            let (assembly, end) =
                upload.assemble(content.len() as u64, &content[..offset], b"").await;
            check_trailer(&end, &content);
            assert!(assembly.bytes == content, "other bytes were sent");
            let len = (content.len() - offset) as u64;
            // The last block has a few bytes, which zstd would make longer.
            assert!(if is_compressed { assembly.plain <= 5 } else { assembly.compressed == 0 });
            assert!(if is_compressed { assembly.sent < len / 4 } else { assembly.sent == len });
            end_upload(upload).await;
        }
    }
}

#[tokio::test]
async fn a_sparse_file_is_announced_and_sent_by_what_it_stores() {
    let mut server = FakeServer::start().await;
    let path = server.path("data.txt");
    let size = 1 << 30;
    let file = fs::File::create(&path).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(b"20 bytes in the file", 700 << 20).unwrap();
    let (mut session, _) = server.open_session_with(ExtentKinds::ALL).await;
    session.send(FromServer::Start(order(1))).await;
    let State::Accepted(accepted) = session.answer().await else { panic!("it was rejected") };
    let stored = accepted.source.unwrap().stored;
    assert!((20..=64 * 1024).contains(&stored), "{stored}");
    let mut upload = server.upload().await;
    let header = upload.header().await.source.unwrap();
    assert_eq!((header.size, header.stored), (size, stored));
    let mut n_holes = 0;
    let trailer = loop {
        match upload.next().await {
            Some(Kind::Hole(hole)) => n_holes += hole.len,
            Some(Kind::Chunk(_) | Kind::Zstd(_)) => {}
            Some(Kind::Trailer(trailer)) => break trailer,
            other => panic!("expected an extent or a trailer, found {other:?}"),
        }
    };
    assert_eq!(n_holes, size - stored);
    assert_eq!(&trailer.blake3[..], Blake3::of(&fs::read(path).unwrap()).as_bytes());
}

#[tokio::test]
async fn a_server_without_capabilities_gets_data_only() {
    let mut server = FakeServer::start().await;
    let path = server.path("data.txt");
    let content = [&text(MIB)[..], &vec![0; MIB]].concat();
    let file = fs::File::create(&path).unwrap();
    file.write_all_at(&content[..MIB], 0).unwrap();
    file.set_len(2 * MIB as u64).unwrap();
    let (mut session, _) = server.open_session().await;
    let mut upload = server.start_upload(&mut session, order_with_base(&content)).await;
    let header = upload.header().await;
    assert_eq!(header.source.unwrap().stored, content.len() as u64);
    let (assembly, end) = upload.assemble(content.len() as u64, b"", &content).await;
    check_trailer(&end, &content);
    assert_eq!(assembly.plain, content.len() as u64);
}
