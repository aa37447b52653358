//! Orders and uploads: what is answered, what is sent, and what ends an upload.

mod fake;

use std::fs;

use fake::{CONTENT_LEN, FakeServer, FakeSession, FakeUpload, order};
use filepull_agent::config::DataConn;
use filepull_core::digest::Digest;
use filepull_proto::v1::server_message::Kind as Say;
use filepull_proto::v1::transfer_update::State;
use filepull_proto::v1::{self, ErrorCode, upload_request, upload_response};

fn code(state: State) -> ErrorCode {
    match state {
        State::Failed(error) => error.code(),
        State::Accepted(_) => panic!("the order was accepted"),
    }
}

/// Gives an order and sees it accepted.
async fn ordered(
    bed: &mut FakeServer,
    line: &mut FakeSession,
    order: v1::StartTransfer,
) -> FakeUpload {
    line.say(Say::Start(order)).await;
    assert!(matches!(line.answer().await, State::Accepted(_)));
    bed.upload().await
}

#[tokio::test]
async fn a_file_is_sent_whole_and_ends_with_its_digest() {
    for data_conn in [DataConn::Separate, DataConn::Shared] {
        let mut bed = FakeServer::start_with(|config| config.data_conn = data_conn).await;
        let (mut line, _) = bed.greeted().await;
        let order = v1::StartTransfer { upload_token: "token".into(), ..order(1) };
        line.say(Say::Start(order.clone())).await;
        let State::Accepted(accepted) = line.answer().await else { panic!("it was refused") };
        assert_eq!(accepted.source.unwrap().size, CONTENT_LEN as u64);

        let mut upload = bed.upload().await;
        let header = upload.header().await;
        assert_eq!((header.transfer_id, header.attempt), (order.transfer_id, 1));
        assert_eq!((&header.upload_token[..], header.offset), (&b"token"[..], 0));
        let (bytes, trailer) = upload.rest().await;
        assert!(bytes == bed.content, "other bytes were sent");
        let trailer = trailer.unwrap();
        assert_eq!(trailer.total_size, CONTENT_LEN as u64);
        assert_eq!(&trailer.sha256[..], Digest::of(&bed.content).as_bytes());
        upload.say(upload_response::Kind::Stored(v1::Stored::default())).await;
        assert!(upload.next().await.is_none());
        line.check_alive().await;
    }
}

#[tokio::test]
async fn an_upload_goes_on_where_the_server_stands() {
    let mut bed = FakeServer::start().await;
    let (mut line, _) = bed.greeted().await;
    let held = &bed.content[..3_000_000];
    let prefix_sha256 = Digest::of(held).as_bytes().to_vec().into();
    let order = v1::StartTransfer { offset: held.len() as u64, prefix_sha256, ..order(2) };
    let mut upload = ordered(&mut bed, &mut line, order).await;
    assert_eq!(upload.header().await.offset, 3_000_000);
    let (bytes, trailer) = upload.rest().await;
    assert!(bytes == bed.content[3_000_000..], "other bytes were sent");
    assert_eq!(&trailer.unwrap().sha256[..], Digest::of(&bed.content).as_bytes());
}

#[tokio::test]
async fn an_order_that_cannot_be_carried_out_is_refused_with_the_reason() {
    let mut bed = FakeServer::start().await;
    let (mut line, _) = bed.greeted().await;
    let path = |path: &str| v1::StartTransfer { path: path.to_owned(), ..order(1) };
    for (order, expected) in [
        (path("/etc/passwd"), ErrorCode::FileNotShared),
        (path("logs/../data.txt"), ErrorCode::FileNotShared),
        (path("logs/none.log"), ErrorCode::FileNotFound),
        (v1::StartTransfer { max_size: 5, ..order(1) }, ErrorCode::FileTooLarge),
        (v1::StartTransfer { transfer_id: "x".to_owned(), ..order(1) }, ErrorCode::Internal),
    ] {
        line.say(Say::Start(order)).await;
        assert_eq!(code(line.answer().await), expected);
    }
}

#[tokio::test]
async fn a_cancelled_upload_ends_without_a_trailer() {
    let mut bed = FakeServer::start().await;
    let (mut line, _) = bed.greeted().await;
    let order = order(1);
    let mut upload = ordered(&mut bed, &mut line, order.clone()).await;
    upload.header().await;
    let transfer_id = order.transfer_id;
    line.say(Say::Cancel(v1::CancelTransfer { transfer_id, reason: "test".to_owned() })).await;
    // A pong that follows the cancel: it has been heard.
    line.check_alive().await;
    let (bytes, trailer) = upload.rest().await;
    assert_eq!(trailer, None);
    assert!(bytes.len() < CONTENT_LEN);
}

#[tokio::test]
async fn a_later_order_takes_the_place_of_an_earlier_one_and_a_repeated_one_does_not() {
    // A server that crashed before it recorded the attempt counts it again.
    for attempt in [2, 1] {
        let mut bed = FakeServer::start().await;
        let (mut line, _) = bed.greeted().await;
        let order = v1::StartTransfer { upload_token: "first".into(), ..order(1) };
        let mut earlier = ordered(&mut bed, &mut line, order.clone()).await;
        earlier.header().await;
        line.say(Say::Start(order.clone())).await;
        line.check_alive().await;
        let again = v1::StartTransfer { attempt, upload_token: "second".into(), ..order };
        let mut later = ordered(&mut bed, &mut line, again).await;
        assert_eq!(earlier.rest().await.1, None);
        assert_eq!(later.header().await.attempt, attempt);
        assert!(later.rest().await.1.is_some());
    }
}

#[tokio::test]
async fn an_upload_outlives_its_line_and_is_named_in_the_next_hello() {
    let mut bed = FakeServer::start().await;
    let (mut line, _) = bed.greeted().await;
    let order = order(1);
    let mut upload = ordered(&mut bed, &mut line, order.clone()).await;
    drop(line);
    let (_line, hello) = bed.greeted().await;
    assert_eq!(hello.active_transfers, [order.transfer_id]);
    upload.header().await;
    assert!(upload.rest().await.1.is_some());
}

#[tokio::test]
async fn an_upload_that_breaks_is_reported_as_worth_another_try() {
    let mut bed = FakeServer::start().await;
    let (mut line, _) = bed.greeted().await;
    let upload = ordered(&mut bed, &mut line, order(1)).await;
    upload.answer.send(Err(tonic::Status::unavailable("gone"))).await.unwrap();
    let State::Failed(error) = line.answer().await else { panic!("it was accepted twice") };
    assert!(error.retryable);
}

#[tokio::test]
async fn a_file_that_changes_is_taken_back_by_an_abort() {
    let mut bed = FakeServer::start().await;
    let (mut line, _) = bed.greeted().await;
    let mut upload = ordered(&mut bed, &mut line, order(1)).await;
    upload.header().await;
    // The window is full by now, and the reader waits: it has not seen the end yet.
    fs::write(bed.path("data.txt"), "short").unwrap();
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

/// Sees an upload through, and tells where it came from.
async fn stored(bed: &mut FakeServer, line: &mut FakeSession) -> Option<std::net::SocketAddr> {
    let mut upload = ordered(bed, line, order(1)).await;
    upload.header().await;
    assert!(upload.rest().await.1.is_some());
    upload.say(upload_response::Kind::Stored(v1::Stored::default())).await;
    assert!(upload.next().await.is_none());
    upload.from
}

#[tokio::test]
async fn a_new_line_brings_a_new_connection_for_uploads() {
    let mut bed = FakeServer::start().await;
    let (mut line, _) = bed.greeted().await;
    let first = stored(&mut bed, &mut line).await;
    assert_eq!(stored(&mut bed, &mut line).await, first, "it is kept while the line is");
    drop(line);
    let (mut line, _) = bed.greeted().await;
    assert_ne!(stored(&mut bed, &mut line).await, first, "it may lead to another server");
}

#[tokio::test]
async fn an_upload_that_the_server_does_not_know_is_worth_another_try() {
    let mut bed = FakeServer::start().await;
    let (mut line, _) = bed.greeted().await;
    let first = stored(&mut bed, &mut line).await;
    let upload = ordered(&mut bed, &mut line, order(1)).await;
    let unknown = v1::Error { code: ErrorCode::UnknownTransfer.into(), ..v1::Error::default() };
    upload.say(upload_response::Kind::Error(unknown)).await;
    let State::Failed(error) = line.answer().await else { panic!("it was accepted twice") };
    assert!(error.retryable);
    assert_ne!(stored(&mut bed, &mut line).await, first, "another connection is tried");
}
