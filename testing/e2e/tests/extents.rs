//! Uploads of every kind of extent, sent by a scripted agent: the file that they describe, or an error,
//! and never another file.

use std::os::unix::fs::MetadataExt as _;

use bytes::Bytes;
use filepull_core::compression::Encoder;
use filepull_core::extent::{ExtentKinds, MAX_SPAN_LEN};
use filepull_core::file_digest::Blake3Hasher;
use filepull_proto::v1::upload_request::Kind;
use filepull_proto::v1::upload_response::Kind as Response;
use filepull_proto::v1::{
    BaseCopy, DataChunk, ErrorCode, Hole, SourceInfo, StartTransfer, UploadHeader, UploadTrailer,
    ZstdChunk,
};
use filepull_testkit::{DEADLINE, ScriptedAgent, TestServer};
use serde_json::json;

/// A file while a scripted agent sends it.
#[derive(Default)]
struct ScriptedFile {
    hasher: Blake3Hasher,
    len: u64,
    messages: Vec<Kind>,
}

impl ScriptedFile {
    fn add(mut self, kind: Kind, bytes: &[u8]) -> Self {
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        self.messages.push(kind);
        self
    }

    fn data(self, bytes: &[u8]) -> Self {
        let chunk = DataChunk { offset: self.len, data: Bytes::copy_from_slice(bytes) };
        self.add(Kind::Chunk(chunk), bytes)
    }

    fn zstd(self, encoder: &mut Encoder, bytes: &[u8]) -> Self {
        let data = Bytes::copy_from_slice(encoder.encode(bytes).expect("there is memory"));
        let len = u32::try_from(bytes.len()).expect("at most a chunk");
        let chunk = ZstdChunk { offset: self.len, len, data };
        self.add(Kind::Zstd(chunk), bytes)
    }

    fn hole(mut self, len: u64) -> Self {
        let zeros = [0; 1 << 20];
        let end = self.len + len;
        while self.len < end {
            let part = MAX_SPAN_LEN.min(end - self.len);
            let hole = Hole { offset: self.len, len: part };
            self =
                self.add(Kind::Hole(hole), &zeros[..usize::try_from(part).expect("at most 1 MiB")]);
        }
        self
    }

    /// Returns the messages of its upload. Its disk stores `stored` bytes.
    fn upload(self, order: &StartTransfer, stored: u64) -> Vec<Kind> {
        let blake3 = self.hasher.digest().as_bytes().to_vec().into();
        let trailer = UploadTrailer { total_size: self.len, blake3, receipt: String::new() };
        let header = header(order, 0, self.len, stored);
        [vec![header], self.messages, vec![Kind::Trailer(trailer)]].concat()
    }
}

fn header(order: &StartTransfer, offset: u64, size: u64, stored: u64) -> Kind {
    let source = SourceInfo { name: "data.txt".into(), size, modified_unix_ns: 0, stored };
    Kind::Header(UploadHeader {
        transfer_id: order.transfer_id.clone(),
        attempt: order.attempt,
        upload_token: order.upload_token.clone(),
        offset,
        source: Some(source),
        wants_blocks: false,
    })
}

/// Starts a server and an agent that can send these extents and has received an order.
async fn ordered(
    extents: ExtentKinds,
    settings: &[(&str, &str)],
) -> anyhow::Result<(TestServer, ScriptedAgent, StartTransfer)> {
    let server = TestServer::with(settings).await?;
    let mut agent =
        ScriptedAgent::connect_with(server.grpc(), "client4", extents, DEADLINE).await?;
    let created = server.post("/api/v1/transfers", &json!({"client": "client4"})).await?;
    assert_eq!(created.status, 201, "{}", created.text());
    let order = agent.order().await?;
    Ok((server, agent, order))
}

fn text(len: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|n| format!("line {n}: till {} is ready\n", n % 7).into_bytes());
    lines.take(len).collect()
}

#[tokio::test]
async fn data_compressed_data_and_holes_make_one_file() -> anyhow::Result<()> {
    // Above and below the length from which a partial is written directly.
    for hole_len in [1, 4096, 3 * MAX_SPAN_LEN + 5] {
        let (server, agent, order) = ordered(ExtentKinds::ALL, &[]).await?;
        let text = text(50_000);
        let mut encoder = Encoder::new()?;
        let mut file = ScriptedFile::default().data(b"begin").hole(hole_len);
        let mut expected = b"begin".to_vec();
        expected.resize(expected.len() + usize::try_from(hole_len)?, 0);
        for part in text.chunks(7_000) {
            file = file.zstd(&mut encoder, part).data(part).hole(hole_len);
            expected.extend([part, part].concat());
            expected.resize(expected.len() + usize::try_from(hole_len)?, 0);
        }
        let response = agent.upload_messages(file.upload(&order, 110_000)).await?;
        assert!(matches!(response, Some(Response::Stored(_))), "{response:?}");
        assert!(std::fs::read(&server.downloads("client4")?[0])? == expected, "{hole_len}");
    }
    Ok(())
}

#[tokio::test]
async fn a_sparse_file_stays_sparse_and_needs_space_for_its_data_only() -> anyhow::Result<()> {
    // More than the disk of the test has.
    let size = 64 << 40;
    let (server, agent, order) = ordered(ExtentKinds::ALL, &[("MAX_FILE_SIZE", "128TiB")]).await?;
    let mut messages = vec![header(&order, 0, size, 4096)];
    messages.push(Kind::Hole(Hole { offset: 0, len: MAX_SPAN_LEN }));
    agent.upload_messages(messages).await?;
    let partial = std::fs::metadata(&server.leftovers("client4")?[0])?;
    assert_eq!(partial.len(), MAX_SPAN_LEN, "the upload was not admitted");

    let (server, agent, order) = ordered(ExtentKinds::ALL, &[]).await?;
    let file = ScriptedFile::default().hole(100 << 20).data(&[7; 20]).hole((100 << 20) + 1);
    let response = agent.upload_messages(file.upload(&order, 4096)).await?;
    assert!(matches!(response, Some(Response::Stored(_))), "{response:?}");
    let download = std::fs::metadata(&server.downloads("client4")?[0])?;
    assert_eq!(download.len(), (200 << 20) + 21);
    assert!(download.blocks() * 512 <= 1 << 20, "{} blocks", download.blocks());
    Ok(())
}

#[tokio::test]
async fn space_that_was_reserved_under_a_hole_is_released() -> anyhow::Result<()> {
    let (server, agent, order) = ordered(ExtentKinds::ALL, &[]).await?;
    let bytes = text(64 * 1024);
    let mut file = ScriptedFile::default().hole(5 << 20);
    for _ in 0..48 {
        file = file.data(&bytes);
    }
    let stored = 3 << 20;
    let response = agent.upload_messages(file.upload(&order, stored)).await?;
    assert!(matches!(response, Some(Response::Stored(_))), "{response:?}");
    let download = std::fs::metadata(&server.downloads("client4")?[0])?;
    assert_eq!(download.len(), (5 << 20) + stored);
    assert!(download.blocks() * 512 <= stored + (64 << 10), "{} blocks", download.blocks());
    Ok(())
}

#[tokio::test]
async fn an_agent_without_holes_needs_space_for_the_whole_file() -> anyhow::Result<()> {
    let size = 64 << 40;
    let (_server, agent, order) =
        ordered(ExtentKinds::default(), &[("MAX_FILE_SIZE", "128TiB")]).await?;
    let response = agent.upload_messages(vec![header(&order, 0, size, 4096)]).await?;
    let Some(Response::Error(error)) = response else { panic!("admitted: {response:?}") };
    assert_eq!(error.code(), ErrorCode::StorageFull, "{error:?}");
    Ok(())
}

/// Extents that follow the bytes `da` of a file of 1 MiB, and break a rule.
fn violations() -> Vec<(&'static str, Vec<Kind>)> {
    let at = |offset: u64, len: u64| Hole { offset, len };
    let bomb = {
        let mut encoder = Encoder::new().expect("there is memory");
        Bytes::copy_from_slice(encoder.encode(&[0; 65_536]).expect("there is memory"))
    };
    let zstd = |len: u32, data: &Bytes| ZstdChunk { offset: 2, len, data: data.clone() };
    let copy = |base_offset: u64, len: u64| BaseCopy { offset: 2, base_offset, len };
    let one = |kind: Kind| vec![kind];
    let short = |n: u64| Kind::Chunk(DataChunk { offset: 2 + n, data: Bytes::from_static(b"x") });
    vec![
        ("a bomb", one(Kind::Zstd(zstd(4_000, &bomb)))),
        ("a bomb that covers too much", one(Kind::Zstd(zstd(u32::MAX, &bomb)))),
        ("no zstd", one(Kind::Zstd(zstd(10, &Bytes::from_static(b"not zstd"))))),
        ("a hole without bytes", one(Kind::Hole(at(2, 0)))),
        ("a hole too long", one(Kind::Hole(at(2, MAX_SPAN_LEN + 1)))),
        ("an endless hole", one(Kind::Hole(at(2, u64::MAX)))),
        ("a copy without a base", one(Kind::Copy(copy(0, 10)))),
        ("a copy of everything", one(Kind::Copy(copy(u64::MAX, u64::MAX)))),
        ("a million extents", (0..200_000).map(short).collect()),
    ]
}

#[tokio::test]
async fn an_extent_that_breaks_a_rule_ends_the_upload_and_keeps_the_bytes_before_it()
-> anyhow::Result<()> {
    for (name, messages) in violations() {
        let (server, mut agent, order) = ordered(ExtentKinds::ALL, &[]).await?;
        let data = Kind::Chunk(DataChunk { offset: 0, data: Bytes::from_static(b"da") });
        let begin = vec![header(&order, 0, 1 << 20, 1 << 20), data];
        let response = agent.upload_messages([begin, messages].concat()).await?;
        let Some(Response::Error(error)) = response else { panic!("{name}: {response:?}") };
        assert_eq!(error.code(), ErrorCode::Protocol, "{name}: {error:?}");
        let again = agent.order().await?;
        assert_eq!(again.attempt, 2, "{name}");
        assert!((2..4_000).contains(&again.offset), "{name}: {} bytes are kept", again.offset);
        assert!(server.downloads("client4")?.is_empty(), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn a_hole_past_the_announced_size_ends_the_upload() -> anyhow::Result<()> {
    let (server, mut agent, order) = ordered(ExtentKinds::ALL, &[]).await?;
    let messages = vec![
        header(&order, 0, 100, 100),
        Kind::Hole(Hole { offset: 0, len: 99 }),
        Kind::Hole(Hole { offset: 99, len: 2 }),
    ];
    let response = agent.upload_messages(messages).await?;
    assert!(matches!(response, Some(Response::Error(_))), "{response:?}");
    assert_eq!(agent.order().await?.offset, 99);
    assert!(server.downloads("client4")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_extent_without_its_capability_ends_the_upload() -> anyhow::Result<()> {
    let data = Bytes::copy_from_slice(Encoder::new()?.encode(b"ta")?);
    let extents = [
        Kind::Zstd(ZstdChunk { offset: 2, len: 2, data }),
        Kind::Hole(Hole { offset: 2, len: 2 }),
        Kind::Copy(BaseCopy { offset: 2, base_offset: 0, len: 2 }),
    ];
    for extent in extents {
        let (server, mut agent, order) = ordered(ExtentKinds::default(), &[]).await?;
        let chunk = Kind::Chunk(DataChunk { offset: 0, data: Bytes::from_static(b"da") });
        let response = agent.upload_messages(vec![header(&order, 0, 4, 4), chunk, extent]).await?;
        let Some(Response::Error(error)) = response else { panic!("accepted: {response:?}") };
        assert_eq!(error.code(), ErrorCode::Protocol, "{error:?}");
        let again = agent.order().await?;
        assert_eq!((again.attempt, again.offset), (2, 2), "the bytes before it are kept");
        assert!(server.downloads("client4")?.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn a_resumed_upload_begins_a_new_zstd_stream() -> anyhow::Result<()> {
    let (server, mut agent, order) = ordered(ExtentKinds::ALL, &[]).await?;
    let text = text(20_000);
    let first = text[..10_000].to_vec();
    let mut encoder = Encoder::new()?;
    let whole = ScriptedFile::default().zstd(&mut encoder, &first);
    let mut messages = whole.zstd(&mut encoder, &text[10_000..]).upload(&order, 20_000);
    let [_, second, trailer] = messages.split_off(1).try_into().unwrap();
    let first = ScriptedFile::default().zstd(&mut Encoder::new()?, &first).messages.remove(0);
    agent.upload_messages(vec![header(&order, 0, 20_000, 20_000), first]).await?;

    let order = agent.order().await?;
    assert_eq!(order.offset, 10_000);
    let continued = vec![header(&order, 10_000, 20_000, 20_000), second, trailer.clone()];
    let response = agent.upload_messages(continued).await?;
    let Some(Response::Error(error)) = response else { panic!("continued: {response:?}") };
    assert_eq!(error.code(), ErrorCode::Protocol, "{error:?}");

    let order = agent.order().await?;
    assert_eq!(order.offset, 10_000);
    let data = Bytes::copy_from_slice(Encoder::new()?.encode(&text[10_000..])?);
    let second = Kind::Zstd(ZstdChunk { offset: 10_000, len: 10_000, data });
    let header = header(&order, 10_000, 20_000, 20_000);
    let response = agent.upload_messages(vec![header, second, trailer]).await?;
    assert!(matches!(response, Some(Response::Stored(_))), "{response:?}");
    assert!(std::fs::read(&server.downloads("client4")?[0])? == text);
    Ok(())
}
