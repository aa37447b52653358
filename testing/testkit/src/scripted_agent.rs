//! An agent that sends exactly the messages of a test, also messages that a real agent never sends.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use filepull_core::PROTOCOL;
use filepull_core::extent::ExtentKinds;
use filepull_core::file_digest::Blake3;
use filepull_proto::v1::agent_control_client::AgentControlClient;
use filepull_proto::v1::agent_message::Kind as FromAgent;
use filepull_proto::v1::agent_transfer_client::AgentTransferClient;
use filepull_proto::v1::server_message::Kind as ToAgent;
use filepull_proto::v1::transfer_update::{Accepted, State};
use filepull_proto::v1::upload_request::Kind;
use filepull_proto::v1::upload_response::Kind as Response;
use filepull_proto::v1::{
    AgentMessage, DataChunk, Error, Hello, ServerMessage, SessionEnd, SourceInfo, StartTransfer,
    TransferUpdate, UploadHeader, UploadRequest, UploadResponse, UploadTrailer,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::soon;

/// A session whose messages the test sends.
#[derive(Debug)]
pub struct ScriptedAgent {
    channel: Channel,
    to_server: mpsc::Sender<AgentMessage>,
    from_server: Streaming<ServerMessage>,
    session_id: String,
    /// Maximum time until the next message of the server.
    limit: Duration,
}

/// An upload whose messages the test sends.
#[derive(Debug)]
pub struct ScriptedUpload {
    requests: mpsc::Sender<UploadRequest>,
    responses: Streaming<UploadResponse>,
}

impl ScriptedAgent {
    /// Opens a session as `client`. Fails if the server rejects it. Later waits fail if the server
    /// sends nothing for `limit`.
    pub async fn connect(
        server: SocketAddr,
        client: &str,
        limit: Duration,
    ) -> anyhow::Result<Self> {
        Self::connect_with(server, client, ExtentKinds::default(), limit).await
    }

    /// Opens a session as `client` that can send these kinds of extents.
    pub async fn connect_with(
        server: SocketAddr,
        client: &str,
        extents: ExtentKinds,
        limit: Duration,
    ) -> anyhow::Result<Self> {
        let channel = Channel::from_shared(format!("http://{server}"))?.connect().await?;
        let opened = Self::open_with(channel, client, extents, limit).await?;
        opened.map_err(|error| anyhow::anyhow!("rejected: {error:?}"))
    }

    /// Opens a session as `client` on an open connection. Returns the error with which the server
    /// rejects it.
    pub async fn open(
        channel: Channel,
        client: &str,
        limit: Duration,
    ) -> anyhow::Result<Result<Self, Error>> {
        Self::open_with(channel, client, ExtentKinds::default(), limit).await
    }

    async fn open_with(
        channel: Channel,
        client: &str,
        extents: ExtentKinds,
        limit: Duration,
    ) -> anyhow::Result<Result<Self, Error>> {
        let (to_server, messages) = mpsc::channel(8);
        let hello = Hello {
            client_id: client.into(),
            instance_id: uuid::Uuid::new_v4().as_bytes().to_vec().into(),
            protocol_min: *PROTOCOL.start(),
            protocol_max: *PROTOCOL.end(),
            capabilities: extents.capabilities().map(str::to_owned).collect(),
            ..Hello::default()
        };
        to_server.send(AgentMessage { kind: Some(FromAgent::Hello(hello)) }).await?;
        let mut control = AgentControlClient::new(channel.clone());
        let from_server = control.session(ReceiverStream::new(messages)).await?.into_inner();
        let mut agent = Self { channel, to_server, from_server, session_id: String::new(), limit };
        match agent.next().await? {
            Some(ToAgent::Welcome(welcome)) => {
                agent.session_id = welcome.session_id;
                Ok(Ok(agent))
            }
            Some(ToAgent::End(SessionEnd { error: Some(error) })) => Ok(Err(error)),
            other => anyhow::bail!("neither admitted nor rejected: {other:?}"),
        }
    }

    /// Returns the id of the session, as in the welcome.
    pub fn session_id(&self) -> &str {
        &self.session_id
    }

    /// Returns the connection, for uploads that [`upload`](Self::upload) cannot express.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits for the next message of the server; none if its kind is unknown.
    pub async fn next(&mut self) -> anyhow::Result<Option<ToAgent>> {
        let received = timeout(self.limit, self.from_server.message()).await;
        let message = received.context("timed out waiting for a message of the server")??;
        Ok(message.context("the session ended")?.kind)
    }

    /// Sends a message in the session.
    pub async fn send(&self, message: FromAgent) -> anyhow::Result<()> {
        Ok(self.to_server.send(AgentMessage { kind: Some(message) }).await?)
    }

    /// Waits for the next order. Other messages are skipped.
    pub async fn order(&mut self) -> anyhow::Result<StartTransfer> {
        loop {
            if let Some(ToAgent::Start(order)) = self.next().await? {
                return Ok(order);
            }
        }
    }

    /// Accepts an order for a file of `size` bytes. Its upload does not follow.
    pub async fn accept(&self, order: &StartTransfer, size: u64) -> anyhow::Result<()> {
        let state = Some(State::Accepted(Accepted { source: Some(source(size)) }));
        let transfer_id = order.transfer_id.clone();
        let update = TransferUpdate { transfer_id, attempt: order.attempt, state };
        self.send(FromAgent::Transfer(update)).await
    }

    /// Starts the upload of a file of `size` bytes at `offset`.
    pub async fn upload(
        &self,
        order: &StartTransfer,
        offset: u64,
        size: u64,
    ) -> anyhow::Result<ScriptedUpload> {
        ScriptedUpload::start(self.channel.clone(), order, offset, size).await
    }

    /// Sends these messages in an upload, closes its stream, and returns the last response of the
    /// server.
    pub async fn upload_messages(&self, messages: Vec<Kind>) -> anyhow::Result<Option<Response>> {
        let requests = messages.into_iter().map(|kind| UploadRequest { kind: Some(kind) });
        let mut transfer = AgentTransferClient::new(self.channel());
        let stream = tokio_stream::iter(requests.collect::<Vec<_>>());
        let mut responses = transfer.upload(stream).await?.into_inner();
        let mut last = None;
        while let Ok(Some(response)) = soon("a response", responses.message()).await? {
            last = response.kind;
        }
        Ok(last)
    }
}

impl ScriptedUpload {
    /// Starts the upload of an order on any connection, also on one of another agent.
    pub async fn start(
        channel: Channel,
        order: &StartTransfer,
        offset: u64,
        size: u64,
    ) -> anyhow::Result<Self> {
        let (requests, stream) = mpsc::channel(64);
        let header = UploadHeader {
            transfer_id: order.transfer_id.clone(),
            attempt: order.attempt,
            upload_token: order.upload_token.clone(),
            offset,
            source: Some(source(size)),
            wants_blocks: false,
        };
        requests.send(UploadRequest { kind: Some(Kind::Header(header)) }).await?;
        let mut transfer = AgentTransferClient::new(channel);
        let responses = transfer.upload(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    /// Sends a chunk. Fails if the server has ended the upload.
    pub async fn chunk(&self, offset: u64, data: Bytes) -> anyhow::Result<()> {
        self.send(Kind::Chunk(DataChunk { offset, data })).await
    }

    /// Sends the trailer for a file with these bytes. Fails if the server has ended the upload.
    pub async fn trailer(&self, file: &[u8]) -> anyhow::Result<()> {
        self.trailer_with(file, String::new()).await
    }

    /// Sends the trailer for a file with these bytes, with this receipt.
    pub async fn trailer_with(&self, file: &[u8], receipt: String) -> anyhow::Result<()> {
        let blake3 = Blake3::of(file).as_bytes().to_vec().into();
        let total_size = file.len() as u64;
        self.send(Kind::Trailer(UploadTrailer { total_size, blake3, receipt })).await
    }

    /// Closes the stream to the server. Responses still arrive.
    #[must_use]
    pub fn end(self) -> Self {
        let (requests, _) = mpsc::channel(1);
        Self { requests, ..self }
    }

    async fn send(&self, kind: Kind) -> anyhow::Result<()> {
        Ok(self.requests.send(UploadRequest { kind: Some(kind) }).await?)
    }

    /// Waits up to `limit` for the next response. Returns `None` after the last one.
    pub async fn response(&mut self, limit: Duration) -> anyhow::Result<Option<Response>> {
        let received = timeout(limit, self.responses.message()).await;
        let response = received.context("timed out waiting for a response to the upload")??;
        Ok(response.and_then(|response| response.kind))
    }
}

/// Returns a file of `size` bytes without holes.
fn source(size: u64) -> SourceInfo {
    SourceInfo { name: "data.txt".into(), size, modified_unix_ns: 0, stored: size }
}
