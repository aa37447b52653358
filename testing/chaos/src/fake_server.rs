//! A server that a trial controls, for real agents: it sends any order, and records what the agent sends.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use filepull_core::PROTOCOL;
use filepull_process::Lifecycle;
use filepull_proto::v1::agent_control_server::{AgentControl, AgentControlServer};
use filepull_proto::v1::agent_message::Kind as FromAgent;
use filepull_proto::v1::agent_transfer_server::{AgentTransfer, AgentTransferServer};
use filepull_proto::v1::server_message::Kind as ToAgent;
use filepull_proto::v1::upload_request::Kind as Piece;
use filepull_proto::v1::{
    AgentMessage, ServerMessage, StartTransfer, Stored, TransferUpdate, UploadRequest,
    UploadResponse, Welcome, upload_response,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// A server that accepts every agent.
pub(crate) struct ControlledServer {
    pub(crate) addr: SocketAddr,
    sessions: mpsc::Receiver<ControlledSession>,
    uploads: mpsc::Receiver<ReceivedUpload>,
    _lifecycle: Lifecycle,
}

/// The server's end of a session.
pub(crate) struct ControlledSession {
    orders: mpsc::Sender<Result<ServerMessage, Status>>,
    updates: mpsc::Receiver<TransferUpdate>,
}

/// The first bytes of an upload that has ended.
#[derive(Debug)]
pub(crate) struct ReceivedUpload {
    pub(crate) bytes: Vec<u8>,
}

/// Bytes of an upload that are kept.
const KEPT_LEN: usize = 1 << 20;
const SESSION_LIMIT: Duration = Duration::from_secs(20);

impl ControlledServer {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let (session_sender, sessions) = mpsc::channel(8);
        let (upload_sender, uploads) = mpsc::channel(1024);
        let serving = tonic::transport::Server::builder()
            .add_service(AgentControlServer::new(Sessions(session_sender)))
            .add_service(AgentTransferServer::new(ControlledUploads(upload_sender)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let lifecycle = Lifecycle::new();
        lifecycle.spawn(async move { drop(serving.await) });
        Ok(Self { addr, sessions, uploads, _lifecycle: lifecycle })
    }

    /// Returns the next session.
    pub(crate) async fn session(&mut self) -> anyhow::Result<ControlledSession> {
        let session = timeout(SESSION_LIMIT, self.sessions.recv()).await;
        session.context("no agent dials")?.context("the fake server has ended")
    }

    /// Returns an upload that has ended, if there is one.
    pub(crate) fn upload(&mut self) -> Option<ReceivedUpload> {
        self.uploads.try_recv().ok()
    }

    /// Waits for the end of an upload.
    pub(crate) async fn next_upload(&mut self, limit: Duration) -> Option<ReceivedUpload> {
        timeout(limit, self.uploads.recv()).await.ok().flatten()
    }
}

impl ControlledSession {
    pub(crate) async fn order(&self, order: StartTransfer) -> anyhow::Result<()> {
        let message = ServerMessage { kind: Some(ToAgent::Start(order)) };
        self.orders.send(Ok(message)).await.context("the session ended")
    }

    /// Waits for the answer to an order.
    pub(crate) async fn update(&mut self, limit: Duration) -> Option<TransferUpdate> {
        timeout(limit, self.updates.recv()).await.ok().flatten()
    }
}

struct Sessions(mpsc::Sender<ControlledSession>);

#[tonic::async_trait]
impl AgentControl for Sessions {
    type SessionStream = ReceiverStream<Result<ServerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (orders, messages) = mpsc::channel(16);
        let (update_sender, updates) = mpsc::channel(4096);
        let welcome =
            Welcome { protocol: *PROTOCOL.end(), dead_after_ms: 600_000, ..Welcome::default() };
        let message = ServerMessage { kind: Some(ToAgent::Welcome(welcome)) };
        let gone = |_| Status::unavailable("the trial is over");
        orders.send(Ok(message)).await.map_err(gone)?;
        let mut received = request.into_inner();
        #[allow(clippy::disallowed_methods, reason = "ends with the stream of the agent")]
        tokio::spawn(async move {
            while let Ok(Some(message)) = received.message().await {
                if let Some(FromAgent::Transfer(update)) = message.kind {
                    let _ = update_sender.send(update).await;
                }
            }
        });
        let session = ControlledSession { orders, updates };
        self.0.send(session).await.map_err(|_| Status::unavailable("the trial is over"))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

struct ControlledUploads(mpsc::Sender<ReceivedUpload>);

#[tonic::async_trait]
impl AgentTransfer for ControlledUploads {
    type UploadStream = ReceiverStream<Result<UploadResponse, Status>>;

    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<Self::UploadStream>, Status> {
        let (answers, messages) = mpsc::channel(1);
        let mut pieces = request.into_inner();
        let done = self.0.clone();
        #[allow(clippy::disallowed_methods, reason = "ends with the stream of the agent")]
        tokio::spawn(async move {
            let mut bytes = Vec::new();
            while let Ok(Some(piece)) = pieces.message().await {
                match piece.kind {
                    Some(Piece::Chunk(chunk)) if bytes.len() < KEPT_LEN => {
                        bytes.extend_from_slice(&chunk.data);
                    }
                    Some(Piece::Trailer(trailer)) => {
                        let stored = Stored {
                            size: trailer.total_size,
                            blake3: trailer.blake3,
                            ..Stored::default()
                        };
                        let kind = Some(upload_response::Kind::Stored(stored));
                        let _ = answers.send(Ok(UploadResponse { kind })).await;
                        break;
                    }
                    Some(_) | None => {}
                }
            }
            let _ = done.send(ReceivedUpload { bytes }).await;
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}
