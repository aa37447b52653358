//! An agent that is led by hand: it says what a test wants and hears what the server answers,
//! also what a real agent would not show.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use filepull_core::digest::Digest;
use filepull_proto::v1::agent_control_client::AgentControlClient;
use filepull_proto::v1::agent_message::Kind as FromAgent;
use filepull_proto::v1::agent_transfer_client::AgentTransferClient;
use filepull_proto::v1::server_message::Kind as ToAgent;
use filepull_proto::v1::upload_request::Kind;
use filepull_proto::v1::upload_response::Kind as Answer;
use filepull_proto::v1::{
    AgentMessage, DataChunk, Hello, ServerMessage, SourceInfo, StartTransfer, UploadHeader,
    UploadRequest, UploadResponse, UploadTrailer,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// A line that a hand holds.
#[derive(Debug)]
pub struct ScriptedAgent {
    channel: Channel,
    says: mpsc::Sender<AgentMessage>,
    hears: Streaming<ServerMessage>,
    /// The server is not silent for longer.
    patience: Duration,
}

/// An upload that a hand holds.
#[derive(Debug)]
pub struct ScriptedUpload {
    pieces: mpsc::Sender<UploadRequest>,
    answers: Streaming<UploadResponse>,
}

impl ScriptedAgent {
    /// Opens a line as `client`, on which the server is never silent for longer than `patience`.
    ///
    /// # Errors
    /// The server does not let it in.
    pub async fn connect(
        server: SocketAddr,
        client: &str,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let channel = Channel::from_shared(format!("http://{server}"))?.connect().await?;
        let (says, said) = mpsc::channel(8);
        let hello = Hello {
            client_id: client.into(),
            instance_id: uuid::Uuid::new_v4().as_bytes().to_vec().into(),
            protocol_min: 1,
            protocol_max: 1,
            ..Hello::default()
        };
        says.send(AgentMessage { kind: Some(FromAgent::Hello(hello)) }).await?;
        let mut control = AgentControlClient::new(channel.clone());
        let hears = control.session(ReceiverStream::new(said)).await?.into_inner();
        let mut agent = Self { channel, says, hears, patience };
        let first = agent.next().await?;
        anyhow::ensure!(matches!(first, Some(ToAgent::Welcome(_))), "not welcome: {first:?}");
        Ok(agent)
    }

    /// Its connection, for uploads that [`upload`](Self::upload) does not make.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    async fn next(&mut self) -> anyhow::Result<Option<ToAgent>> {
        let message = timeout(self.patience, self.hears.message()).await.context("silence")??;
        Ok(message.context("the line ended")?.kind)
    }

    /// Says something.
    ///
    /// # Errors
    /// The line is gone.
    pub async fn say(&self, what: FromAgent) -> anyhow::Result<()> {
        Ok(self.says.send(AgentMessage { kind: Some(what) }).await?)
    }

    /// The next order.
    ///
    /// # Errors
    /// None comes in time, or the line ends.
    pub async fn order(&mut self) -> anyhow::Result<StartTransfer> {
        loop {
            if let Some(ToAgent::Start(order)) = self.next().await? {
                return Ok(order);
            }
        }
    }

    /// Begins the upload of a file of `size` bytes from `offset` on.
    ///
    /// # Errors
    /// The server does not take it.
    pub async fn upload(
        &self,
        order: &StartTransfer,
        offset: u64,
        size: u64,
    ) -> anyhow::Result<ScriptedUpload> {
        let (pieces, requests) = mpsc::channel(64);
        let source = SourceInfo { name: "data.txt".into(), size, modified_unix_ns: 0 };
        let header = UploadHeader {
            transfer_id: order.transfer_id.clone(),
            attempt: order.attempt,
            upload_token: order.upload_token.clone(),
            offset,
            source: Some(source),
        };
        pieces.send(UploadRequest { kind: Some(Kind::Header(header)) }).await?;
        let mut transfer = AgentTransferClient::new(self.channel.clone());
        let answers = transfer.upload(ReceiverStream::new(requests)).await?.into_inner();
        Ok(ScriptedUpload { pieces, answers })
    }
}

impl ScriptedUpload {
    /// Sends bytes that begin at `offset`.
    ///
    /// # Errors
    /// The server has ended the upload.
    pub async fn chunk(&self, offset: u64, data: Bytes) -> anyhow::Result<()> {
        self.send(Kind::Chunk(DataChunk { offset, data })).await
    }

    /// Says that `file` has been sent.
    ///
    /// # Errors
    /// The server has ended the upload.
    pub async fn trailer(&self, file: &[u8]) -> anyhow::Result<()> {
        let sha256 = Digest::of(file).as_bytes().to_vec().into();
        self.send(Kind::Trailer(UploadTrailer { total_size: file.len() as u64, sha256 })).await
    }

    /// Ends the stream of what it sends; only answers can follow.
    #[must_use]
    pub fn end(self) -> Self {
        let (pieces, _) = mpsc::channel(1);
        Self { pieces, ..self }
    }

    async fn send(&self, kind: Kind) -> anyhow::Result<()> {
        Ok(self.pieces.send(UploadRequest { kind: Some(kind) }).await?)
    }

    /// The server's next word; none when it has ended the upload.
    ///
    /// # Errors
    /// None comes within `limit`, or the line is gone.
    pub async fn answer(&mut self, limit: Duration) -> anyhow::Result<Option<Answer>> {
        let answer = timeout(limit, self.answers.message()).await.context("silence")??;
        Ok(answer.and_then(|answer| answer.kind))
    }
}
