//! Agents that lie, and uploads that end wrongly: nothing of them is ever published.

use filepull_core::digest::Digest;
use filepull_proto::v1::agent_message::Kind as FromAgent;
use filepull_proto::v1::agent_transfer_client::AgentTransferClient;
use filepull_proto::v1::transfer_update::State;
use filepull_proto::v1::upload_request::Kind;
use filepull_proto::v1::upload_response::Kind as Answer;
use filepull_proto::v1::{
    DataChunk, Error, ErrorCode, SourceInfo, StartTransfer, TransferUpdate, UploadHeader,
    UploadRequest, UploadTrailer,
};
use filepull_testkit::{DEADLINE, ScriptedAgent, Strace, TestServer, soon, test_data};
use hyper::Method;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

/// Uploads these pieces, ends the stream, and returns the last word of the server, if any.
async fn upload(liar: &ScriptedAgent, pieces: Vec<Kind>) -> anyhow::Result<Option<Answer>> {
    let pieces = pieces.into_iter().map(|kind| UploadRequest { kind: Some(kind) });
    let mut transfer = AgentTransferClient::new(liar.channel());
    let answers = transfer.upload(tokio_stream::iter(pieces.collect::<Vec<_>>())).await?;
    let mut answers = answers.into_inner();
    let mut last = None;
    while let Ok(Some(answer)) = soon("the server's answer", answers.message()).await? {
        last = answer.kind;
    }
    Ok(last)
}

fn header(order: &StartTransfer, size: u64) -> Kind {
    let source = SourceInfo { name: "../../data.txt\n".into(), size, modified_unix_ns: 0 };
    Kind::Header(UploadHeader {
        transfer_id: order.transfer_id.clone(),
        attempt: order.attempt,
        upload_token: order.upload_token.clone(),
        offset: 0,
        source: Some(source),
    })
}

fn chunk(offset: u64, data: &'static [u8]) -> Kind {
    Kind::Chunk(DataChunk { offset, data: data.into() })
}

fn trailer(total_size: u64, of: &[u8]) -> Kind {
    let sha256 = Digest::of(of).as_bytes().to_vec().into();
    Kind::Trailer(UploadTrailer { total_size, sha256 })
}

fn error_code(answer: Option<Answer>) -> Option<ErrorCode> {
    match answer {
        Some(Answer::Error(error)) => Some(error.code()),
        Some(Answer::Ack(_) | Answer::Stored(_)) | None => None,
    }
}

/// A server whose client is a liar that has been ordered to send its file.
async fn ordered() -> anyhow::Result<(TestServer, ScriptedAgent, StartTransfer, String)> {
    ordered_by(TestServer::start()).await
}

async fn ordered_by(
    server: impl Future<Output = anyhow::Result<TestServer>>,
) -> anyhow::Result<(TestServer, ScriptedAgent, StartTransfer, String)> {
    let server = server.await?;
    let mut liar = ScriptedAgent::connect(server.grpc(), "client4", DEADLINE).await?;
    let made = server
        .send(
            hyper::Method::POST,
            "/api/v1/transfers",
            &[("content-type", "application/json")],
            r#"{"client":"client4"}"#,
        )
        .await?;
    assert_eq!(made.status, 201, "{}", made.text());
    let order = liar.order().await?;
    Ok((server, liar, order, made.header("location").to_owned()))
}

#[tokio::test]
async fn an_honest_upload_is_published_under_a_harmless_name() -> anyhow::Result<()> {
    let (server, liar, order, _) = ordered().await?;
    let answer =
        upload(&liar, vec![header(&order, 4), chunk(0, b"data"), trailer(4, b"data")]).await?;
    assert!(matches!(answer, Some(Answer::Stored(_))), "{answer:?}");
    let downloads = server.downloads("client4")?;
    assert_eq!(downloads.len(), 1);
    assert_eq!(std::fs::read(&downloads[0])?, b"data");
    assert!(server.leftovers("client4")?.is_empty());
    // Its header says what the client has, whether or not the acceptance came before.
    let client = server.json("/api/v1/clients/client4").await?;
    assert_eq!(client["default_file"]["size"], 4, "{client}");
    Ok(())
}

#[tokio::test]
async fn the_end_of_the_stream_publishes_nothing() -> anyhow::Result<()> {
    let (server, mut liar, order, _) = ordered().await?;
    // Every byte has come, and no trailer.
    upload(&liar, vec![header(&order, 4), chunk(0, b"data")]).await?;
    let again = liar.order().await?;
    assert_eq!((again.attempt, again.offset), (2, 4), "what came is kept");
    assert!(server.downloads("client4")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn empty_chunks_are_no_bytes() -> anyhow::Result<()> {
    let (_bed, mut liar, order, _) =
        ordered_by(TestServer::with(&[("STALL_TIMEOUT", "1s")])).await?;
    let (pieces, sent) = mpsc::channel(8);
    pieces.send(header(&order, 4)).await?;
    pieces.send(chunk(0, b"da")).await?;
    let requests = ReceiverStream::new(sent).map(|kind| UploadRequest { kind: Some(kind) });
    let mut transfer = AgentTransferClient::new(liar.channel());
    let _answers = transfer.upload(requests).await?;
    let hung_up = async { while pieces.send(chunk(2, b"")).await.is_ok() {} };
    soon("the end of the upload", hung_up).await?;
    let again = liar.order().await?;
    assert_eq!((again.attempt, again.offset), (2, 2));
    Ok(())
}

#[tokio::test]
async fn a_flipped_bit_never_gets_a_final_name() -> anyhow::Result<()> {
    let (server, mut liar, order, location) = ordered().await?;
    let damaged =
        |order: &StartTransfer| vec![header(order, 4), chunk(0, b"dat\x60"), trailer(4, b"data")];
    let answer = upload(&liar, damaged(&order)).await?;
    assert_eq!(error_code(answer), Some(ErrorCode::ChecksumMismatch));
    let again = liar.order().await?;
    assert_eq!(again.offset, 0, "nothing of it is kept");
    upload(&liar, damaged(&again)).await?;
    let failed = server.finished(&location).await?;
    assert_eq!(failed["error"]["code"], "checksum-mismatch", "{failed}");
    assert!(server.downloads("client4")?.is_empty());
    assert!(server.leftovers("client4")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_bit_that_flips_in_the_partial_is_not_published() -> anyhow::Result<()> {
    let (server, mut liar, order, _) = ordered().await?;
    let mut sent = liar.upload(&order, 0, 4).await?;
    sent.chunk(0, "data".into()).await?;
    let written = async {
        loop {
            match &server.leftovers("client4")?[..] {
                [partial] if std::fs::read(partial)? == b"data" => return Ok(partial.clone()),
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let written: anyhow::Result<_> = soon("the bytes on the disk", written).await?;
    std::fs::write(written?, b"dat\x60")?;
    sent.trailer(b"data").await?;
    let mut last = None;
    while let Ok(Some(answer)) = sent.response(DEADLINE).await {
        last = Some(answer);
    }
    assert_eq!(error_code(last), Some(ErrorCode::ChecksumMismatch));
    let again = liar.order().await?;
    assert_eq!(again.offset, 0, "nothing of it is kept");
    assert!(server.downloads("client4")?.is_empty());
    let answer =
        upload(&liar, vec![header(&again, 4), chunk(0, b"data"), trailer(4, b"data")]).await?;
    assert!(matches!(answer, Some(Answer::Stored(_))), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn lost_doubled_and_surplus_chunks_are_refused() -> anyhow::Result<()> {
    let wrong = [
        vec![chunk(0, b"da"), chunk(3, b"a"), trailer(4, b"data")],
        vec![chunk(0, b"da"), chunk(0, b"da"), trailer(4, b"data")],
        vec![chunk(0, b"data"), chunk(4, b"!"), trailer(5, b"data!")],
    ];
    for pieces in wrong {
        let (server, mut liar, order, _) = ordered().await?;
        let answer = upload(&liar, [vec![header(&order, 4)], pieces].concat()).await?;
        assert_eq!(error_code(answer), Some(ErrorCode::OffsetMismatch));
        assert_eq!(liar.order().await?.attempt, 2);
        assert!(server.downloads("client4")?.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn a_short_upload_is_not_published() -> anyhow::Result<()> {
    let (server, mut liar, order, _) = ordered().await?;
    let pieces = vec![header(&order, 8), chunk(0, b"data"), trailer(4, b"data")];
    let answer = upload(&liar, pieces).await?;
    assert_eq!(error_code(answer), Some(ErrorCode::ChecksumMismatch));
    liar.order().await?;
    assert!(server.downloads("client4")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn only_the_token_of_the_current_order_lets_an_upload_in() -> anyhow::Result<()> {
    let (server, mut liar, order, _) = ordered().await?;
    let mut forged = order.clone();
    forged.upload_token = uuid::Uuid::new_v4().as_bytes().to_vec().into();
    let pieces =
        |order: &StartTransfer| vec![header(order, 4), chunk(0, b"data"), trailer(4, b"data")];
    let answer = upload(&liar, pieces(&forged)).await?;
    assert_eq!(error_code(answer), Some(ErrorCode::UnknownTransfer));
    // The current order is ended by an upload that breaks off; its token is worth nothing after.
    upload(&liar, vec![header(&order, 4), chunk(0, b"da")]).await?;
    let current = liar.order().await?;
    let answer = upload(&liar, pieces(&order)).await?;
    assert_eq!(error_code(answer), Some(ErrorCode::UnknownTransfer));
    assert!(server.downloads("client4")?.is_empty());
    let answer = upload(&liar, pieces(&current)).await?;
    assert!(matches!(answer, Some(Answer::Stored(_))), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn no_agent_answers_for_another_client() -> anyhow::Result<()> {
    let (server, liar, order, _) = ordered_by(TestServer::start_process()).await?;
    let other = ScriptedAgent::connect(server.grpc(), "client5", DEADLINE).await?;
    let refused = TransferUpdate {
        transfer_id: order.transfer_id.clone(),
        attempt: order.attempt,
        state: Some(State::Failed(Error::default())),
    };
    other.send(FromAgent::Transfer(refused)).await?;
    // Its line is read in order: once it has said goodbye, the server has read the lie.
    let goodbye = filepull_proto::v1::Goodbye::default();
    other.send(FromAgent::Goodbye(goodbye)).await?;
    server.server()?.says("\"reason\":\"stopped\"").await?;
    let answer =
        upload(&liar, vec![header(&order, 4), chunk(0, b"data"), trailer(4, b"data")]).await?;
    assert!(matches!(answer, Some(Answer::Stored(_))), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn a_size_that_nobody_could_store_is_refused_before_the_first_byte() -> anyhow::Result<()> {
    let (server, liar, order, location) = ordered().await?;
    let answer = upload(&liar, vec![header(&order, u64::MAX)]).await?;
    assert_eq!(error_code(answer), Some(ErrorCode::FileTooLarge));
    let failed = server.finished(&location).await?;
    assert_eq!(failed["error"]["code"], "file-too-large", "{failed}");
    assert!(server.leftovers("client4")?.is_empty());
    Ok(())
}

#[tokio::test]
async fn what_an_agent_says_cannot_forge_a_log_line() -> anyhow::Result<()> {
    let (server, liar, order, location) = ordered_by(TestServer::start_process()).await?;
    let forged = Error {
        code: ErrorCode::ReadFailed.into(),
        message: "gone\n{\"event\":\"forged\"}\u{1b}[31m".into(),
        ..Error::default()
    };
    upload(&liar, vec![header(&order, 4), Kind::Abort(forged)]).await?;
    let failed = server.finished(&location).await?;
    assert_eq!(failed["error"]["code"], "file-unreadable", "{failed}");
    server.server()?.says("transfer.failed").await?;
    for line in server.server()?.said() {
        let forged = line.starts_with("{\"event\":\"forged\"");
        assert!(!forged && !line.contains('\u{1b}'), "{line:?}");
    }
    Ok(())
}

/// The name is there, and nobody can tell whether it survives a power cut: neither done nor failed.
#[tokio::test]
async fn a_download_whose_name_is_not_safe_yet_is_still_under_way() -> anyhow::Result<()> {
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
    let not_ready = async {
        while server.get("/readyz").await?.status != 503 {}
        anyhow::Ok(())
    };
    soon("a probe that is red", not_ready).await??;
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

/// The disk refuses to name a whole file: the transfer waits with its bytes, without its permit,
/// and another client's transfer runs meanwhile.
#[tokio::test]
async fn a_disk_that_refuses_a_name_keeps_no_turn_and_heeds_a_cancel() -> anyhow::Result<()> {
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
    let cancel = server.send(Method::POST, &format!("{location}/cancel"), &[], "").await?;
    assert_eq!(cancel.status, 200, "{}", cancel.text());
    assert!(cancel.text().contains("cancelled"), "{}", cancel.text());
    assert!(server.leftovers("client4")?.is_empty());
    refusing.detach().await?;
    server.pull("client4").await?;
    assert_eq!(server.downloads("client4")?.len(), 2);
    Ok(())
}
