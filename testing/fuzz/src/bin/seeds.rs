//! Writes the seeds of the corpus: the inputs that a fuzzer starts with. Inputs that a fuzzer has found are
//! added by hand.

#![allow(clippy::unwrap_used, reason = "a tool of developers")]

use std::fs;
use std::path::Path;

use filepull_core::CHUNK_LEN;
use filepull_core::compression::Encoder;
use filepull_core::file_digest::Blake3;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::invite::{GroupName, Invite, Invitee, Secret, ServerAddress};
use filepull_fuzz::join;
use filepull_proto::v1::agent_message::Kind as ToServer;
use filepull_proto::v1::server_message::Kind as FromServer;
use filepull_proto::v1::transfer_update::{Accepted, State};
use filepull_proto::v1::upload_request::Kind;
use filepull_proto::v1::{self, ErrorCode};
use prost::Message;

/// One transfer, so that the corpus does not change with each run.
const TRANSFER: &str = "0199e0a0-0000-7000-8000-000000000000";

fn main() {
    write("invite", &invites());
    write("http", &requests());
    write("messages", &uploads());
    write("agent", &sessions());
    write("records", &changes());
}

fn write(target: &str, inputs: &[Vec<u8>]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).unwrap();
    for (index, input) in inputs.iter().enumerate() {
        fs::write(folder.join(format!("seed-{index:02}")), input).unwrap();
    }
}

fn invites() -> Vec<Vec<u8>> {
    let address = |text: &str| ServerAddress::parse(text).unwrap();
    let client = Invitee::Client(ClientId::parse("client4").unwrap());
    let group = Invitee::Group(GroupName::parse("tills").unwrap());
    let secret = || Secret::new([7; 32]);
    let one = Invite::new(vec![address("pull.example.com")], client, Vec::new(), secret(), 99);
    let pin = filepull_core::fingerprint::Fingerprint::of_public_key(b"key");
    let addresses = vec![address("192.0.2.1:50051"), address("[2001:db8::1]:443")];
    let many = Invite::new(addresses, group, vec![pin; 2], secret(), 4_000_000_000);
    let text = one.unwrap().encode();
    let cut = text[..text.len() / 2].to_owned();
    let mistyped = text.replacen('A', "B", 1);
    let lines = text.as_bytes().chunks(40).map(|line| String::from_utf8_lossy(line) + "\r\n");
    let wrapped: String = lines.collect();
    let texts = [text, many.unwrap().encode(), cut, mistyped, wrapped, "fp2.AAAA".to_owned()];
    texts.map(String::into_bytes).to_vec()
}

/// The first byte selects the method.
fn requests() -> Vec<Vec<u8>> {
    [
        "\0trigger?id=client4&wait=0s&fresh",
        "\0trigger?id=client4&path=logs/a.log&queue=1m&reason=x",
        "\0trigger?id=..%2f..%2fetc&wait=99999999999h",
        "\0api/v1/transfers?client=client4&state=done&limit=5&cursor=AAAA",
        "\0api/v1/clients?online=true&sort=name",
        "\0clients/client4",
        "\u{1}api/v1/transfers",
        "\u{2}api/v1/clients/client4",
        "\0api/v1/audit?after=1&format=jsonl",
        "\0files/client4/download.txt",
        "\u{3}healthz",
        "\0%00%ff%c0%ae/\u{7f}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn upload(kind: Kind) -> Vec<u8> {
    v1::UploadRequest { kind: Some(kind) }.encode_to_vec()
}

fn uploads() -> Vec<Vec<u8>> {
    let source = || {
        Some(v1::SourceInfo { name: "a.log".to_owned(), size: 6, modified_unix_ns: -1, stored: 6 })
    };
    let header = || {
        let header = v1::UploadHeader { source: source(), ..v1::UploadHeader::default() };
        upload(Kind::Header(header))
    };
    let chunk = |offset: u64, data: &'static [u8]| {
        upload(Kind::Chunk(v1::DataChunk { offset, data: data.into() }))
    };
    let trailer = |total_size: u64, content: &[u8]| {
        let blake3 = Blake3::of(content).as_bytes().to_vec().into();
        upload(Kind::Trailer(v1::UploadTrailer { total_size, blake3, receipt: String::new() }))
    };
    let error = v1::Error {
        code: ErrorCode::NotAFile.into(),
        message: "no\u{1b}[2J".to_owned(),
        retry_after_ms: u32::MAX,
        ..v1::Error::default()
    };
    let accepted = State::Accepted(Accepted { source: source() });
    let hello = v1::Hello {
        client_id: "client4".to_owned(),
        default_file_error: Some(error.clone()),
        ..v1::Hello::default()
    };
    let agent = |kind: ToServer| v1::AgentMessage { kind: Some(kind) }.encode_to_vec();
    let end = v1::SessionEnd { error: Some(error.clone()) };
    let welcome =
        v1::Welcome { heartbeat_ms: u32::MAX, max_chunk_bytes: 1, ..v1::Welcome::default() };
    vec![
        join(&[header(), chunk(0, b"abc"), chunk(3, b"def"), trailer(6, b"abcdef")]),
        join(&[header(), chunk(3, b"def"), chunk(0, b"abcdefg"), trailer(6, b"abcdef")]),
        join(&[header(), chunk(u64::MAX, b"x"), trailer(u64::MAX, b"")]),
        join(&[upload(Kind::Abort(error))]),
        join(&[agent(ToServer::Hello(hello))]),
        join(&[agent(ToServer::Transfer(v1::TransferUpdate {
            transfer_id: TRANSFER.to_owned(),
            attempt: 1,
            state: Some(accepted),
        }))]),
        join(&[server(FromServer::End(end)), server(FromServer::Welcome(welcome))]),
        join(&[server(FromServer::Drain(v1::Drain {
            reconnect_min_ms: u32::MAX,
            reconnect_max_ms: 0,
        }))]),
        join(&extents()),
    ]
}

/// An upload with each kind of extent.
fn extents() -> Vec<Vec<u8>> {
    let size = 20;
    let source = Some(v1::SourceInfo { size, ..v1::SourceInfo::default() });
    let header = v1::UploadHeader { source, ..v1::UploadHeader::default() };
    let mut encoder = Encoder::new().unwrap();
    let mut zstd = |offset, text: &'static str| {
        let data = encoder.encode(text.as_bytes()).unwrap().to_vec().into();
        Kind::Zstd(v1::ZstdChunk { offset, len: 5, data })
    };
    let chunks = [zstd(0, "first"), zstd(5, "fifth")];
    let hole = v1::Hole { offset: 10, len: 5 };
    let copy = v1::BaseCopy { offset: 15, base_offset: 4, len: 4 };
    let chunk = v1::DataChunk { offset: 19, data: "!".into() };
    let blake3 = Blake3::of(b"firstfifth\0\0\0\0\0last!").as_bytes().to_vec().into();
    let trailer = v1::UploadTrailer { total_size: size, blake3, receipt: String::new() };
    let rest = [Kind::Hole(hole), Kind::Copy(copy), Kind::Chunk(chunk), Kind::Trailer(trailer)];
    let kinds = [Kind::Header(header)].into_iter().chain(chunks).chain(rest);
    kinds.map(upload).collect()
}

fn server(kind: FromServer) -> Vec<u8> {
    v1::ServerMessage { kind: Some(kind) }.encode_to_vec()
}

fn sessions() -> Vec<Vec<u8>> {
    let order = |path: &str| v1::StartTransfer {
        transfer_id: TRANSFER.to_owned(),
        attempt: 1,
        path: path.to_owned(),
        upload_token: TransferId::parse(TRANSFER).unwrap().to_string().into(),
        ..v1::StartTransfer::default()
    };
    let start = |path: &str| server(FromServer::Start(order(path)));
    let resume = v1::StartTransfer {
        offset: 5,
        prefix_blake3: vec![0; 32].into(),
        max_size: 1,
        max_bytes_per_s: u64::MAX,
        ..order("logs/a.log")
    };
    let cancel = v1::CancelTransfer { transfer_id: TRANSFER.to_owned(), reason: "x".to_owned() };
    let pins = v1::CaPins { sha256: vec![vec![7; 32].into(); 9] };
    let ping = v1::Ping { seq: u64::MAX, sent_unix_us: u64::MAX };
    vec![
        join(&[start("")]),
        join(&[start("logs/a.log"), start("logs/link.log"), server(FromServer::Cancel(cancel))]),
        join(&[start("logs/../../canary"), start("/etc/passwd"), start("..\\canary")]),
        join(&[server(FromServer::Start(resume)), server(FromServer::Ping(ping))]),
        join(&[server(FromServer::CaPins(pins)), server(FromServer::RotateKey(v1::RotateKey {}))]),
        join(&[server(FromServer::Welcome(v1::Welcome {
            max_chunk_bytes: u32::try_from(CHUNK_LEN).unwrap(),
            ..v1::Welcome::default()
        }))]),
        join(&[server(FromServer::KeyAccepted(v1::KeyAccepted {
            public_key_sha256: vec![1; 32].into(),
        }))]),
    ]
}

/// File, offset, value and length of each change; one more byte truncates.
fn changes() -> Vec<Vec<u8>> {
    vec![
        Vec::new(),
        vec![0, 0, 0, 0, 0, 15],
        vec![0, 18, 0, 0, 255, 1],
        vec![1, 0, 0, 0, 0, 31],
        vec![1, 24, 16, 0, 9, 200, 1, 0, 32, 0, 1, 255],
        vec![128],
        vec![0, 0, 16, 0, 13, 7, 0, 100, 16, 0, 255, 99, 0, 0, 32, 0, 0, 255],
        vec![1, 100, 0, 0, 255, 255, 3],
    ]
}
