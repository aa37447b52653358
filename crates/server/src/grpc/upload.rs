//! The Upload rpc: checks the header, then connects the agent to the transfer.

use std::net::SocketAddr;

use bytes::Bytes;
use filepull_core::file_digest::{Blake3, FileDigests};
use filepull_core::fingerprint::Fingerprint;
use filepull_core::id::TransferId;
use filepull_core::problem::Code;
use filepull_proto::v1::upload_request::Kind;
use filepull_proto::v1::upload_response::Kind as Response;
use filepull_proto::v1::{
    BaseBlocks, BaseCopy, Error, ErrorCode, Hole, Stored, UploadAck, UploadHeader, UploadRequest,
    UploadResponse, UploadTrailer, ZstdChunk,
};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};
use uuid::Uuid;

use super::authentication::PeerRejection;
use super::frames::{self, RawBody, UploadFrame};
use super::incoming::ConnectionInfo;
use super::{GREETING_LIMIT, Gateway};
use crate::read_budget::ReadBudget;
use crate::receive::{
    ReceivedContent, ReceivedExtent, ReceivedTrailer, SignedReceipt, UploadItem, UploadStream,
};
use crate::transfers::{BlockListPart, Reply, Upload};

/// Maximum number of queued replies. A reply that finds the queue full is dropped: the agent has read
/// nothing for at least 16 acks.
const REPLIES_LEN: usize = 16;

/// Maximum number of queued parts of a list of blocks, of 48 KiB each. If the queue is full, the base is
/// not read on.
const LIST_LEN: usize = 1;

/// What the agent receives.
type Responses = BoxStream<'static, Result<UploadResponse, Status>>;

/// The message for an agent whose key does not allow an upload.
const UPLOAD_REFUSED: &str = "the key of this agent does not allow the upload";

pub(crate) async fn open(
    gateway: &Gateway,
    request: Request<Streaming<UploadRequest>>,
) -> Result<Responses, Status> {
    let info = request.extensions().get::<ConnectionInfo>().cloned();
    let connection = info.ok_or_else(|| Status::internal("an unknown connection"))?;
    let remote_addr = connection.remote_addr;
    let opened = admit(gateway, request, connection, remote_addr).await;
    opened.inspect_err(|status| gateway.rejections.rpc(remote_addr, status))
}

async fn admit(
    gateway: &Gateway,
    request: Request<Streaming<UploadRequest>>,
    connection: ConnectionInfo,
    remote_addr: Option<SocketAddr>,
) -> Result<Responses, Status> {
    // First of all: no message of an agent whose key admits no client is handled.
    let peer = match gateway.authenticate(&connection).await {
        Ok(peer) => peer,
        Err(rejected) => return Ok(reject(gateway, "", remote_addr, &rejected).await),
    };
    let key = peer.key();
    let read_budget = connection.read_budget;
    let raw_body = request.extensions().get::<RawBody>().and_then(RawBody::take);
    let body = raw_body.ok_or_else(|| Status::internal("a request without its body"))?;
    let mut frames = Box::pin(frames::upload_frames(body));
    let received = timeout(GREETING_LIMIT, frames.next()).await;
    let first =
        received.map_err(|_| Status::deadline_exceeded("no header arrived"))?.transpose()?;
    let Some(UploadFrame::Message(UploadRequest { kind: Some(Kind::Header(header)) })) = first
    else {
        return Err(Status::invalid_argument("an upload begins with its header"));
    };
    let id = TransferId::parse(&header.transfer_id)
        .map_err(|_| Status::invalid_argument("transfer_id must be a UUID"))?;
    // The token must come with the key of the client that got it. An unknown transfer is rejected below.
    if let Some(client) = gateway.transfers.client_of(id)
        && let Err(rejected) = gateway.authorize(&peer, &client).await
    {
        return Ok(reject(gateway, client.as_str(), remote_addr, &rejected).await);
    }
    let (replies, responses) = mpsc::channel(REPLIES_LEN);
    let (parts, list) = mpsc::channel(LIST_LEN);
    let block_list = header.wants_blocks.then_some(parts);
    let items = frames.map(move |frame| item(frame, key));
    gateway.transfers.upload(id, upload(header, items, read_budget, block_list, replies)?);
    let rejections = gateway.rejections.clone();
    let log = move |reply: &Reply| {
        if let Reply::Refused { problem, .. } = reply
            && problem.code == Code::TransferUnknown
        {
            rejections.upload(id, remote_addr, &problem.detail);
        }
    };
    let replies = ReceiverStream::new(responses).inspect(log).map(|reply| Ok(response(reply)));
    let list = ReceiverStream::new(list).map(|part| Ok(list_response(part)));
    Ok(stream::select(replies, list).boxed())
}

/// Reports an agent whose key does not allow the upload, and returns the answer for it. The answer does not
/// tell whether there is such a transfer.
async fn reject(
    gateway: &Gateway,
    client: &str,
    remote_addr: Option<SocketAddr>,
    rejected: &PeerRejection,
) -> Responses {
    gateway.report_peer(client, remote_addr, rejected).await;
    let error = Error { message: UPLOAD_REFUSED.to_owned(), ..rejected.into() };
    let response = UploadResponse { kind: Some(Response::Error(error)) };
    stream::iter([Ok(response)]).boxed()
}

fn upload(
    header: UploadHeader,
    items: impl Stream<Item = Result<UploadItem, String>> + Send + 'static,
    read_budget: ReadBudget,
    block_list: Option<mpsc::Sender<BlockListPart>>,
    replies: mpsc::Sender<Reply>,
) -> Result<Upload, Status> {
    let token = Uuid::from_slice(&header.upload_token)
        .map_err(|_| Status::invalid_argument("upload_token must be 16 bytes"))?;
    let source = header.source.ok_or_else(|| Status::invalid_argument("source is missing"))?;
    Ok(Upload {
        attempt: header.attempt,
        token,
        offset: header.offset,
        stored: source.stored.min(source.size),
        source: source.into(),
        block_list,
        stream: UploadStream::new(Box::pin(items), read_budget),
        replies,
    })
}

/// Converts a message of an agent whose connection has proven `key`.
fn item(
    frame: Result<UploadFrame, Status>,
    key: Option<Fingerprint>,
) -> Result<UploadItem, String> {
    let request = match frame {
        Ok(UploadFrame::Bytes { offset, bytes }) => {
            return Ok(extent(offset, ReceivedContent::Data(bytes)));
        }
        Ok(UploadFrame::Message(request)) => request,
        Err(status) => return Err(connection_error(&status)),
    };
    match request.kind {
        Some(Kind::Chunk(chunk)) => Ok(extent(chunk.offset, ReceivedContent::Data(chunk.data))),
        Some(Kind::Zstd(ZstdChunk { offset, len, data: encoded })) => {
            let len = usize::try_from(len).map_err(|_| "an extent is too long".to_owned())?;
            Ok(extent(offset, ReceivedContent::Zstd { len, encoded }))
        }
        Some(Kind::Hole(Hole { offset, len })) => Ok(extent(offset, ReceivedContent::Hole { len })),
        Some(Kind::Copy(BaseCopy { offset, base_offset, len })) => {
            Ok(extent(offset, ReceivedContent::Copy { base_offset, len }))
        }
        Some(Kind::Trailer(trailer)) => received_trailer(trailer, key).map(UploadItem::End),
        Some(Kind::Abort(error)) => Ok(UploadItem::Abort(filepull_proto::reported(&error))),
        Some(Kind::Header(_)) => Err("a second header arrived".into()),
        None => Err("a message of unknown kind arrived".into()),
    }
}

fn extent(offset: u64, content: ReceivedContent) -> UploadItem {
    UploadItem::Extent(ReceivedExtent { offset, content })
}

fn received_trailer(
    trailer: UploadTrailer,
    key: Option<Fingerprint>,
) -> Result<ReceivedTrailer, String> {
    let UploadTrailer { total_size, blake3, receipt } = trailer;
    let blake3 = Blake3::try_from(blake3.as_ref())
        .map_err(|_| "the trailer's blake3 must be 32 bytes".to_owned())?;
    let receipt = SignedReceipt::verify(receipt, key);
    Ok(ReceivedTrailer { total_size, blake3, receipt })
}

/// Describes the failure of a stream for an operator. The innermost cause is the clearest.
fn connection_error(status: &Status) -> String {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(status);
    let mut reason = status.message().to_owned();
    while let Some(error) = cause {
        reason = error.to_string();
        cause = error.source();
    }
    format!("the connection broke: {reason}")
}

fn list_response(part: BlockListPart) -> UploadResponse {
    let blocks = match part {
        BlockListPart::Ids(ids) => BaseBlocks { ids, gone: false },
        BlockListPart::Gone => BaseBlocks { ids: Bytes::new(), gone: true },
    };
    UploadResponse { kind: Some(Response::Blocks(blocks)) }
}

fn response(reply: Reply) -> UploadResponse {
    let kind = match reply {
        Reply::Ack { received, durable } => Response::Ack(UploadAck { received, durable }),
        Reply::Stored { name, proof } => {
            let FileDigests { blake3, sha256 } = proof.digests();
            Response::Stored(Stored {
                name,
                size: proof.size(),
                blake3: blake3.as_bytes().to_vec().into(),
                sha256: sha256.as_bytes().to_vec().into(),
            })
        }
        Reply::Violation { reason } => Response::Error(Error {
            code: ErrorCode::Protocol.into(),
            message: reason,
            ..Error::default()
        }),
        Reply::Refused { problem, expected_offset: None } => Response::Error((&problem).into()),
        Reply::Refused { problem, expected_offset: Some(expected_offset) } => {
            let code = ErrorCode::OffsetMismatch.into();
            Response::Error(Error { code, expected_offset, ..(&problem).into() })
        }
    };
    UploadResponse { kind: Some(kind) }
}
