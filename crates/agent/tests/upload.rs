//! Orders and uploads: the answer to an order, the bytes of an upload, and what ends it.

mod fake;

use std::fs;

use fake::{CONTENT_LEN, FakeServer, FakeSession, order};
use filepull_agent::config::DataConn;
use filepull_core::file_digest::Blake3;
use filepull_proto::v1::server_message::Kind as FromServer;
use filepull_proto::v1::transfer_update::State;
use filepull_proto::v1::{self, ErrorCode, upload_request, upload_response};

fn code(state: State) -> ErrorCode {
    match state {
        State::Failed(error) => error.code(),
        State::Accepted(_) | State::Unchanged(_) => panic!("the order was accepted"),
    }
}

#[tokio::test]
async fn a_file_is_sent_whole_and_ends_with_its_digest() {
    for data_conn in [DataConn::Separate, DataConn::Shared] {
        let mut server = FakeServer::start_with(|config| config.data_conn = data_conn).await;
        let (mut session, _) = server.open_session().await;
        let order = v1::StartTransfer { upload_token: "token".into(), ..order(1) };
        session.send(FromServer::Start(order.clone())).await;
        let State::Accepted(accepted) = session.answer().await else { panic!("it was rejected") };
        assert_eq!(accepted.source.unwrap().size, CONTENT_LEN as u64);

        let mut upload = server.upload().await;
        let header = upload.header().await;
        assert_eq!((header.transfer_id, header.attempt), (order.transfer_id, 1));
        assert_eq!((&header.upload_token[..], header.offset), (&b"token"[..], 0));
        let (bytes, trailer) = upload.rest().await;
        assert!(bytes == server.content, "other bytes were sent");
        let trailer = trailer.unwrap();
        assert_eq!(trailer.total_size, CONTENT_LEN as u64);
        assert_eq!(&trailer.blake3[..], Blake3::of(&server.content).as_bytes());
        upload.send(upload_response::Kind::Stored(v1::Stored::default())).await;
        assert!(upload.next().await.is_none());
        session.check_alive().await;
    }
}

#[tokio::test]
async fn an_upload_resumes_at_the_end_of_the_prefix() {
    let mut server = FakeServer::start().await;
    let (mut session, _) = server.open_session().await;
    let prefix = &server.content[..3_000_000];
    let prefix_blake3 = Blake3::of(prefix).as_bytes().to_vec().into();
    let order = v1::StartTransfer { offset: prefix.len() as u64, prefix_blake3, ..order(2) };
    let mut upload = server.start_upload(&mut session, order).await;
    assert_eq!(upload.header().await.offset, 3_000_000);
    let (bytes, trailer) = upload.rest().await;
    assert!(bytes == server.content[3_000_000..], "other bytes were sent");
    assert_eq!(&trailer.unwrap().blake3[..], Blake3::of(&server.content).as_bytes());
}

#[tokio::test]
async fn an_order_for_a_file_that_cannot_be_sent_is_rejected_with_the_reason() {
    let mut server = FakeServer::start().await;
    let (mut session, _) = server.open_session().await;
    let path = |path: &str| v1::StartTransfer { path: path.to_owned(), ..order(1) };
    for (order, expected) in [
        (path("/etc/passwd"), ErrorCode::FileNotShared),
        (path("logs/../data.txt"), ErrorCode::FileNotShared),
        (path("logs/none.log"), ErrorCode::FileNotFound),
        (v1::StartTransfer { max_size: 5, ..order(1) }, ErrorCode::FileTooLarge),
        (v1::StartTransfer { transfer_id: "x".to_owned(), ..order(1) }, ErrorCode::Internal),
    ] {
        session.send(FromServer::Start(order)).await;
        assert_eq!(code(session.answer().await), expected);
    }
}

#[tokio::test]
async fn a_cancelled_upload_ends_without_a_trailer() {
    let mut server = FakeServer::start().await;
    let (mut session, _) = server.open_session().await;
    let order = order(1);
    let mut upload = server.start_upload(&mut session, order.clone()).await;
    upload.header().await;
    let transfer_id = order.transfer_id;
    session
        .send(FromServer::Cancel(v1::CancelTransfer { transfer_id, reason: "test".to_owned() }))
        .await;
    // The agent handles messages in order, so its pong follows the cancellation.
    session.check_alive().await;
    let (bytes, trailer) = upload.rest().await;
    assert_eq!(trailer, None);
    assert!(bytes.len() < CONTENT_LEN);
}

#[tokio::test]
async fn a_new_order_replaces_an_earlier_one_and_a_repeated_one_does_not() {
    // A server that crashed before it recorded an attempt uses its number again.
    for attempt in [2, 1] {
        let mut server = FakeServer::start().await;
        let (mut session, _) = server.open_session().await;
        let order = v1::StartTransfer { upload_token: "first".into(), ..order(1) };
        let mut earlier = server.start_upload(&mut session, order.clone()).await;
        earlier.header().await;
        session.send(FromServer::Start(order.clone())).await;
        session.check_alive().await;
        let replacement = v1::StartTransfer { attempt, upload_token: "second".into(), ..order };
        let mut later = server.start_upload(&mut session, replacement).await;
        assert_eq!(earlier.rest().await.1, None);
        assert_eq!(later.header().await.attempt, attempt);
        assert!(later.rest().await.1.is_some());
    }
}

#[tokio::test]
async fn an_upload_outlives_its_session_and_is_named_in_the_next_hello() {
    let mut server = FakeServer::start().await;
    let (mut session, _) = server.open_session().await;
    let order = order(1);
    let mut upload = server.start_upload(&mut session, order.clone()).await;
    drop(session);
    let (_session, hello) = server.open_session().await;
    assert_eq!(hello.active_transfers, [order.transfer_id]);
    upload.header().await;
    assert!(upload.rest().await.1.is_some());
}

#[tokio::test]
async fn a_failed_upload_is_reported_as_retryable() {
    let mut server = FakeServer::start().await;
    let (mut session, _) = server.open_session().await;
    let upload = server.start_upload(&mut session, order(1)).await;
    upload.answer.send(Err(tonic::Status::unavailable("gone"))).await.unwrap();
    let State::Failed(error) = session.answer().await else { panic!("it was accepted twice") };
    assert!(error.retryable);
}

#[tokio::test]
async fn a_changed_file_ends_with_an_abort() {
    let mut server = FakeServer::start().await;
    let (mut session, _) = server.open_session().await;
    let mut upload = server.start_upload(&mut session, order(1)).await;
    upload.header().await;
    // The window is full, so the reader waits before the end of the file.
    fs::write(server.path("data.txt"), "short").unwrap();
    let abort = loop {
        match upload.next().await {
            Some(upload_request::Kind::Chunk(_)) => {}
            Some(upload_request::Kind::Abort(error)) => break error,
            other => panic!("expected an abort, found {other:?}"),
        }
    };
    assert_eq!(abort.code(), ErrorCode::SourceChanged);
    assert!(upload.next().await.is_none());
}

/// Receives and stores an upload. Returns the agent's address of its connection.
async fn receive_upload(
    server: &mut FakeServer,
    session: &mut FakeSession,
) -> Option<std::net::SocketAddr> {
    let mut upload = server.start_upload(session, order(1)).await;
    upload.header().await;
    assert!(upload.rest().await.1.is_some());
    upload.send(upload_response::Kind::Stored(v1::Stored::default())).await;
    assert!(upload.next().await.is_none());
    upload.from
}

#[tokio::test]
async fn a_new_session_gets_a_new_connection_for_uploads() {
    let mut server = FakeServer::start().await;
    let (mut session, _) = server.open_session().await;
    let first = receive_upload(&mut server, &mut session).await;
    assert_eq!(
        receive_upload(&mut server, &mut session).await,
        first,
        "the connection is reused within a session"
    );
    drop(session);
    let (mut session, _) = server.open_session().await;
    assert_ne!(
        receive_upload(&mut server, &mut session).await,
        first,
        "the new session may lead to another server"
    );
}

#[tokio::test]
async fn an_upload_that_the_server_does_not_know_is_retryable() {
    let mut server = FakeServer::start().await;
    let (mut session, _) = server.open_session().await;
    let first = receive_upload(&mut server, &mut session).await;
    let upload = server.start_upload(&mut session, order(1)).await;
    let unknown = v1::Error { code: ErrorCode::UnknownTransfer.into(), ..v1::Error::default() };
    upload.send(upload_response::Kind::Error(unknown)).await;
    let State::Failed(error) = session.answer().await else { panic!("it was accepted twice") };
    assert!(error.retryable);
    assert_ne!(
        receive_upload(&mut server, &mut session).await,
        first,
        "another connection is tried"
    );
}
