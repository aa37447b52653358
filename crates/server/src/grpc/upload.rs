//! The Upload rpc: checks the header, then hands pieces and replies to the transfer.

use std::net::SocketAddr;
use std::str::from_utf8;

use filepull_core::digest::Digest;
use filepull_core::id::TransferId;
use filepull_core::problem::Code;
use filepull_core::source::Source;
use filepull_proto::v1::upload_request::Kind as Asked;
use filepull_proto::v1::upload_response::Kind as Response;
use filepull_proto::v1::{
    Error, ErrorCode, Stored, UploadAck, UploadHeader, UploadRequest, UploadResponse,
};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};
use uuid::Uuid;

use super::frames::{self, RawBody, UploadFrame};
use super::incoming::ConnectionInfo;
use super::{GREETING_LIMIT, Gateway};
use crate::read_budget::ReadBudget;
use crate::receive::{BatchWriter, UploadItem};
use crate::transfers::{Reply, Upload};

/// Acks that the agent has not read; the last word always finds room, or the agent is gone.
const REPLIES_LEN: usize = 16;

pub(super) async fn open(
    gateway: &Gateway,
    request: Request<Streaming<UploadRequest>>,
) -> Result<BoxStream<'static, Result<UploadResponse, Status>>, Status> {
    let caller = request.extensions().get::<ConnectionInfo>().cloned();
    let remote_addr = caller.as_ref().and_then(|caller| caller.remote_addr);
    let opened = admit(gateway, request, caller, remote_addr).await;
    opened.inspect_err(|status| gateway.rejections.rpc(remote_addr, status))
}

async fn admit(
    gateway: &Gateway,
    request: Request<Streaming<UploadRequest>>,
    caller: Option<ConnectionInfo>,
    remote_addr: Option<SocketAddr>,
) -> Result<BoxStream<'static, Result<UploadResponse, Status>>, Status> {
    let read_budget = caller.map(|caller| caller.read_budget).unwrap_or_default();
    let body = request.extensions().get::<RawBody>().and_then(RawBody::take);
    let body = body.ok_or_else(|| Status::internal("a request without its body"))?;
    let mut arrivals = Box::pin(frames::arrivals(body));
    let first = timeout(GREETING_LIMIT, arrivals.next()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no header came"))?.transpose()?;
    let Some(UploadFrame::Message(UploadRequest { kind: Some(Asked::Header(header)) })) = first
    else {
        return Err(Status::invalid_argument("an upload begins with its header"));
    };
    let id = from_utf8(header.transfer_id.as_bytes())
        .ok()
        .and_then(|id| TransferId::parse(id).ok())
        .ok_or_else(|| Status::invalid_argument("transfer_id is not a UUID"))?;
    let (replies, answers) = mpsc::channel(REPLIES_LEN);
    gateway.transfers.upload(id, upload(header, arrivals.map(piece), read_budget, replies)?);
    let rejections = gateway.rejections.clone();
    let log = move |reply: &Reply| {
        if let Reply::Refused { problem, .. } = reply
            && problem.code == Code::TransferUnknown
        {
            rejections.upload(id, remote_addr, &problem.detail);
        }
    };
    Ok(ReceiverStream::new(answers).inspect(log).map(|reply| Ok(response(reply))).boxed())
}

fn upload(
    header: UploadHeader,
    pieces: impl Stream<Item = Result<UploadItem, String>> + Send + 'static,
    read_budget: ReadBudget,
    replies: mpsc::Sender<Reply>,
) -> Result<Upload, Status> {
    let token = Uuid::from_slice(&header.upload_token)
        .map_err(|_| Status::invalid_argument("upload_token has not 16 bytes"))?;
    let source = header.source.ok_or_else(|| Status::invalid_argument("source is missing"))?;
    let source = Source::from(source);
    let (attempt, offset) = (header.attempt, header.offset);
    let reception = BatchWriter::new(Box::pin(pieces), read_budget);
    Ok(Upload { attempt, token, offset, source, reception, replies })
}

fn piece(arrived: Result<UploadFrame, Status>) -> Result<UploadItem, String> {
    let request = match arrived {
        Ok(UploadFrame::Bytes { offset, bytes }) => return Ok(UploadItem::Chunk { offset, bytes }),
        Ok(UploadFrame::Message(request)) => request,
        Err(status) => return Err(broken(&status)),
    };
    match request.kind {
        Some(Asked::Chunk(chunk)) => {
            Ok(UploadItem::Chunk { offset: chunk.offset, bytes: chunk.data })
        }
        Some(Asked::Trailer(trailer)) => match Digest::try_from(trailer.sha256.as_ref()) {
            Ok(digest) => Ok(UploadItem::End { total_size: trailer.total_size, digest }),
            Err(_) => Err("the trailer's sha256 has not 32 bytes".into()),
        },
        Some(Asked::Abort(error)) => Ok(UploadItem::Abort(filepull_proto::reported(&error))),
        Some(Asked::Header(_)) => Err("a second header came".into()),
        None => Err("a piece of unknown kind came".into()),
    }
}

/// How a stream broke, in words an operator knows.
fn broken(status: &Status) -> String {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(status);
    let mut said = status.message().to_owned();
    while let Some(error) = cause {
        said = error.to_string();
        cause = error.source();
    }
    format!("the connection broke: {said}")
}

fn response(reply: Reply) -> UploadResponse {
    let kind = match reply {
        Reply::Ack { received, durable } => Response::Ack(UploadAck { received, durable }),
        Reply::Stored { name, proof } => {
            let sha256 = proof.digest().as_bytes().to_vec().into();
            Response::Stored(Stored { name, size: proof.size(), sha256 })
        }
        Reply::Refused { problem, expected_offset: None } => Response::Error((&problem).into()),
        Reply::Refused { problem, expected_offset: Some(expected_offset) } => {
            let code = ErrorCode::OffsetMismatch.into();
            Response::Error(Error { code, expected_offset, ..(&problem).into() })
        }
    };
    UploadResponse { kind: Some(kind) }
}
