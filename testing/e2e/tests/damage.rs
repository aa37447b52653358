//! Agents that send wrong data, and uploads that end early: neither is ever published.

use filepull_core::file_digest::Blake3;
use filepull_proto::v1::agent_message::Kind as FromAgent;
use filepull_proto::v1::agent_transfer_client::AgentTransferClient;
use filepull_proto::v1::transfer_update::State;
use filepull_proto::v1::upload_request::Kind;
use filepull_proto::v1::upload_response::Kind as Response;
use filepull_proto::v1::{
    DataChunk, Error, ErrorCode, SourceInfo, StartTransfer, TransferUpdate, UploadHeader,
    UploadRequest, UploadTrailer,
};
use filepull_testkit::{
    DEADLINE, ScriptedAgent, Strace, TestServer, poll, same_bytes, soon, test_data,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

fn header(order: &StartTransfer, size: u64) -> Kind {
    let source =
        SourceInfo { name: "../../data.txt\n".into(), size, modified_unix_ns: 0, stored: size };
    Kind::Header(UploadHeader {
        transfer_id: order.transfer_id.clone(),
        attempt: order.attempt,
        upload_token: order.upload_token.clone(),
        offset: 0,
        source: Some(source),
        wants_blocks: false,
    })
}

fn chunk(offset: u64, data: &'static [u8]) -> Kind {
    Kind::Chunk(DataChunk { offset, data: data.into() })
}

fn trailer(total_size: u64, of: &[u8]) -> Kind {
    let blake3 = Blake3::of(of).as_bytes().to_vec().into();
    Kind::Trailer(UploadTrailer { total_size, blake3, ..UploadTrailer::default() })
}

/// A correct upload of the file `data`.
fn whole_file(order: &StartTransfer) -> Vec<Kind> {
    vec![header(order, 4), chunk(0, b"data"), trailer(4, b"data")]
}

fn error_code(response: Option<Response>) -> Option<ErrorCode> {
    match response {
        Some(Response::Error(error)) => Some(error.code()),
        Some(Response::Ack(_) | Response::Stored(_) | Response::Blocks(_)) | None => None,
    }
}

/// Starts a server and a scripted agent that has received an order. Also returns the location of
/// the transfer.
async fn ordered() -> anyhow::Result<(TestServer, ScriptedAgent, StartTransfer, String)> {
    ordered_by(TestServer::start()).await
}

async fn ordered_by(
    server: impl Future<Output = anyhow::Result<TestServer>>,
) -> anyhow::Result<(TestServer, ScriptedAgent, StartTransfer, String)> {
    let server = server.await?;
    let mut agent = ScriptedAgent::connect(server.grpc(), "client4", DEADLINE).await?;
    let created = server.post("/api/v1/transfers", &json!({"client": "client4"})).await?;
    assert_eq!(created.status, 201, "{}", created.text());
    let order = agent.order().await?;
    Ok((server, agent, order, created.header("location").to_owned()))
}

#[tokio::test]
async fn an_honest_upload_is_published_under_a_harmless_name() -> anyhow::Result<()> {
    let (server, agent, order, _) = ordered().await?;
    let response = agent.upload_messages(whole_file(&order)).await?;
    assert!(matches!(response, Some(Response::Stored(_))), "{response:?}");
    let downloads = server.downloads("client4")?;
    assert_eq!(downloads.len(), 1);
    assert_eq!(std::fs::read(&downloads[0])?, b"data");
    assert!(server.leftovers("client4")?.is_empty());
    // The header updates the default file of the client.
    let client = server.json("/api/v1/clients/client4").await?;
    assert_eq!(client["default_file"]["size"], 4, "{client}");
    Ok(())
}

#[tokio::test]
async fn the_end_of_the_stream_publishes_nothing() -> anyhow::Result<()> {
    let (server, mut agent, order, _) = ordered().await?;
    // All bytes have arrived, but no trailer.
    agent.upload_messages(vec![header(&order, 4), chunk(0, b"data")]).await?;
    let again = agent.order().await?;
    assert_eq!((again.attempt, again.offset), (2, 4), "the bytes are kept");
    assert!(server.downloads("client4")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn empty_chunks_are_no_progress() -> anyhow::Result<()> {
    let (_bed, mut agent, order, _) =
        ordered_by(TestServer::with(&[("STALL_TIMEOUT", "1s")])).await?;
    let (messages, sent) = mpsc::channel(8);
    messages.send(header(&order, 4)).await?;
    messages.send(chunk(0, b"da")).await?;
    let requests = ReceiverStream::new(sent).map(|kind| UploadRequest { kind: Some(kind) });
    let mut transfer = AgentTransferClient::new(agent.channel());
    let _answers = transfer.upload(requests).await?;
    let until_closed = async { while messages.send(chunk(2, b"")).await.is_ok() {} };
    soon("the end of the upload", until_closed).await?;
    let again = agent.order().await?;
    assert_eq!((again.attempt, again.offset), (2, 2));
    Ok(())
}

#[tokio::test]
async fn a_flipped_bit_never_gets_a_final_name() -> anyhow::Result<()> {
    let (server, mut agent, order, location) = ordered().await?;
    let damaged =
        |order: &StartTransfer| vec![header(order, 4), chunk(0, b"dat\x60"), trailer(4, b"data")];
    let response = agent.upload_messages(damaged(&order)).await?;
    assert_eq!(error_code(response), Some(ErrorCode::ChecksumMismatch));
    let again = agent.order().await?;
    assert_eq!(again.offset, 0, "no byte is kept");
    agent.upload_messages(damaged(&again)).await?;
    let failed = server.finished(&location).await?;
    assert_eq!(failed["error"]["code"], "checksum-mismatch", "{failed}");
    assert!(server.downloads("client4")?.is_empty());
    assert!(server.leftovers("client4")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn with_read_back_always_a_bit_that_flips_in_the_partial_is_not_published()
-> anyhow::Result<()> {
    let read_back = TestServer::process_with(&[("READ_BACK", "always")]);
    let (server, mut agent, order, _) = ordered_by(read_back).await?;
    let mut sent = agent.upload(&order, 0, 4).await?;
    sent.chunk(0, "data".into()).await?;
    let complete_partial = async || match &server.leftovers("client4")?[..] {
        [partial] if std::fs::read(partial)? == b"data" => Ok(Some(partial.clone())),
        _ => Ok(None),
    };
    let partial = poll("the bytes on the disk", complete_partial).await?;
    std::fs::write(partial, b"dat\x60")?;
    sent.trailer(b"data").await?;
    let mut last = None;
    while let Ok(Some(response)) = sent.response(DEADLINE).await {
        last = Some(response);
    }
    assert_eq!(error_code(last), Some(ErrorCode::ChecksumMismatch));
    let again = agent.order().await?;
    assert_eq!(again.offset, 0, "no byte is kept");
    assert!(server.downloads("client4")?.is_empty());
    let response = agent.upload_messages(whole_file(&again)).await?;
    assert!(matches!(response, Some(Response::Stored(_))), "{response:?}");
    Ok(())
}

#[tokio::test]
async fn lost_repeated_and_surplus_chunks_are_rejected() -> anyhow::Result<()> {
    let wrong = [
        vec![chunk(0, b"da"), chunk(3, b"a"), trailer(4, b"data")],
        vec![chunk(0, b"da"), chunk(0, b"da"), trailer(4, b"data")],
        vec![chunk(0, b"data"), chunk(4, b"!"), trailer(5, b"data!")],
    ];
    for messages in wrong {
        let (server, mut agent, order, _) = ordered().await?;
        let response = agent.upload_messages([vec![header(&order, 4)], messages].concat()).await?;
        assert_eq!(error_code(response), Some(ErrorCode::OffsetMismatch));
        assert_eq!(agent.order().await?.attempt, 2);
        assert!(server.downloads("client4")?.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn a_short_upload_is_not_published() -> anyhow::Result<()> {
    let (server, mut agent, order, _) = ordered().await?;
    let messages = vec![header(&order, 8), chunk(0, b"data"), trailer(4, b"data")];
    let response = agent.upload_messages(messages).await?;
    assert_eq!(error_code(response), Some(ErrorCode::ChecksumMismatch));
    agent.order().await?;
    assert!(server.downloads("client4")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn only_the_token_of_the_current_order_admits_an_upload() -> anyhow::Result<()> {
    let (server, mut agent, order, _) = ordered().await?;
    let mut forged = order.clone();
    forged.upload_token = uuid::Uuid::new_v4().as_bytes().to_vec().into();
    let messages = |order: &StartTransfer| whole_file(order);
    let response = agent.upload_messages(messages(&forged)).await?;
    assert_eq!(error_code(response), Some(ErrorCode::UnknownTransfer));
    // An interrupted upload ends the current order and invalidates its token.
    agent.upload_messages(vec![header(&order, 4), chunk(0, b"da")]).await?;
    let current = agent.order().await?;
    let response = agent.upload_messages(messages(&order)).await?;
    assert_eq!(error_code(response), Some(ErrorCode::UnknownTransfer));
    assert!(server.downloads("client4")?.is_empty());
    let response = agent.upload_messages(messages(&current)).await?;
    assert!(matches!(response, Some(Response::Stored(_))), "{response:?}");
    Ok(())
}

#[tokio::test]
async fn no_agent_can_report_for_another_client() -> anyhow::Result<()> {
    let (server, agent, order, _) = ordered_by(TestServer::start_process()).await?;
    let other = ScriptedAgent::connect(server.grpc(), "client5", DEADLINE).await?;
    let refused = TransferUpdate {
        transfer_id: order.transfer_id.clone(),
        attempt: order.attempt,
        state: Some(State::Failed(Error::default())),
    };
    other.send(FromAgent::Transfer(refused)).await?;
    // The server reads a session in order: after the goodbye it has read the wrong update.
    let goodbye = filepull_proto::v1::Goodbye::default();
    other.send(FromAgent::Goodbye(goodbye)).await?;
    server.server()?.says("\"reason\":\"stopped\"").await?;
    let response = agent.upload_messages(whole_file(&order)).await?;
    assert!(matches!(response, Some(Response::Stored(_))), "{response:?}");
    Ok(())
}

#[tokio::test]
async fn an_impossible_size_is_rejected_before_the_first_byte() -> anyhow::Result<()> {
    let (server, agent, order, location) = ordered().await?;
    let response = agent.upload_messages(vec![header(&order, u64::MAX)]).await?;
    assert_eq!(error_code(response), Some(ErrorCode::FileTooLarge));
    let failed = server.finished(&location).await?;
    assert_eq!(failed["error"]["code"], "file-too-large", "{failed}");
    assert!(server.leftovers("client4")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_agent_cannot_forge_a_log_line() -> anyhow::Result<()> {
    let (server, agent, order, location) = ordered_by(TestServer::start_process()).await?;
    let forged = Error {
        code: ErrorCode::ReadFailed.into(),
        message: "gone\n{\"event\":\"forged\"}\u{1b}[31m".into(),
        ..Error::default()
    };
    agent.upload_messages(vec![header(&order, 4), Kind::Abort(forged)]).await?;
    let failed = server.finished(&location).await?;
    assert_eq!(failed["error"]["code"], "file-unreadable", "{failed}");
    server.server()?.says("transfer.failed").await?;
    for line in server.server()?.said() {
        let forged = line.starts_with("{\"event\":\"forged\"");
        assert!(!forged && !line.contains('\u{1b}'), "{line:?}");
    }
    Ok(())
}

/// The name exists, but may not survive a power cut: the transfer is neither done nor failed.
#[tokio::test]
async fn a_download_with_an_unsynced_name_is_not_done() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let before = server.connect("client4", b"data").await?;
    server.pull("client4").await?;
    drop(before);
    let folder = server.data_dir().join("client4").display().to_string();
    let fails = ["-e", "trace=fsync", "-P", &folder, "-e", "inject=fsync:error=EIO"];
    let _client = server.connect_at("client4", &test_data("client4", 4 << 20), "2MiB/s").await?;
    let started = server.get("/trigger?id=client4").await?;
    let location = started.header("location").to_owned();
    server.server()?.says_times("transfer.started", 2).await?;
    let Some(failing) = Strace::attach(server.server()?.pid(), &fails).await? else {
        println!("skipped: no strace");
        return Ok(());
    };
    let not_ready = async || Ok((server.get("/readyz").await?.status == 503).then_some(()));
    poll("status 503 of /readyz", not_ready).await?;
    let found = server.json(&location).await?;
    assert_eq!((&found["state"], &found["waiting_for"]), (&"waiting".into(), &"disk".into()));
    let joined = server.get("/trigger?id=client4").await?;
    assert_eq!(joined.header("location"), location, "{}", joined.text());
    failing.detach().await?;
    server.done(&location).await?;
    assert_eq!(server.downloads("client4")?.len(), 2);
    assert_eq!(server.get("/readyz").await?.status, 200);
    Ok(())
}

/// The disk rejects the rename of a complete file: the transfer keeps its bytes and releases its
/// permit, so the transfer of another client can run.
#[tokio::test]
async fn a_disk_that_rejects_a_name_keeps_no_permit_and_allows_a_cancel() -> anyhow::Result<()> {
    let server = TestServer::process_with(&[("MAX_RUNNING", "1")]).await?;
    let _client = server.connect("client4", b"data").await?;
    server.pull("client4").await?;
    let folder = server.data_dir().join("client4").display().to_string();
    let refuses = ["-e", "trace=renameat2", "-P", &folder, "-e", "inject=renameat2:error=EPERM"];
    let Some(refusing) = Strace::attach(server.server()?.pid(), &refuses).await? else {
        println!("skipped: no strace");
        return Ok(());
    };
    let started = server.get("/trigger?id=client4").await?;
    let location = started.header("location").to_owned();
    let for_disk = |transfer: &Value| transfer["waiting_for"] == "disk";
    server.until(&location, for_disk).await?;
    let page = server.get(location.trim_start_matches("/api/v1")).await?;
    assert!(page.text().contains("Operation not permitted"), "{}", page.text());
    assert_eq!(server.leftovers("client4")?.len(), 1);
    let _other = server.connect("client5", b"data").await?;
    server.pull("client5").await?;
    let cancel = server.cancel(&location).await?;
    assert_eq!(cancel.status, 200, "{}", cancel.text());
    assert!(cancel.text().contains("cancelled"), "{}", cancel.text());
    assert!(server.leftovers("client4")?.is_empty());
    refusing.detach().await?;
    server.pull("client4").await?;
    assert_eq!(server.downloads("client4")?.len(), 2);
    Ok(())
}

/// Returns how many bytes a process has read from disks. The page cache does not count.
fn read_from_disks(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
    let count = text.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    Ok(count.unwrap_or_default().parse()?)
}

#[tokio::test]
async fn with_read_back_always_each_byte_is_read_from_the_disk_before_the_name()
-> anyhow::Result<()> {
    const TMPFS: i64 = 0x0102_1994; // `man 2 statfs`
    const LEN: usize = 3_000_001;
    let server = TestServer::process_with(&[("READ_BACK", "always")]).await?;
    if rustix::fs::statfs(server.folder())?.f_type == TMPFS {
        println!("skipped: the temp folder is in memory");
        return Ok(());
    }
    let client = server.connect("client4", &test_data("client4", LEN)).await?;
    let pid = server.server()?.pid();
    for _ in 0..2 {
        let before = read_from_disks(pid)?;
        let download = server.pull("client4").await?;
        let n_read = read_from_disks(pid)? - before;
        assert!(LEN as u64 <= n_read, "{n_read} bytes were read from the disk");
        assert!(same_bytes(&download, &client.data())?);
    }
    Ok(())
}
