//! A server that a test controls.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

pub(crate) mod assembly;
pub(crate) mod trust;

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use filepull_agent::Agent;
use filepull_agent::config::Config;
use filepull_agent::dial::ServerAddr;
use filepull_agent::share::Shares;
use filepull_core::PROTOCOL;
use filepull_core::extent::ExtentKinds;
use filepull_core::fingerprint::Fingerprint;
use filepull_core::id::{ClientId, TransferId};
use filepull_process::Lifecycle;
use filepull_proto::v1::agent_control_server::{AgentControl, AgentControlServer};
use filepull_proto::v1::agent_message::Kind as ToServer;
use filepull_proto::v1::agent_transfer_server::{AgentTransfer, AgentTransferServer};
use filepull_proto::v1::server_message::Kind as FromServer;
use filepull_proto::v1::transfer_update::State;
use filepull_proto::v1::{self, upload_request, upload_response};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use self::assembly::Assembly;
use self::trust::PeerKey;

/// Length of the agent's default file, in bytes.
pub(crate) const CONTENT_LEN: usize = 8 * 1024 * 1024 + 123;

/// A fake server, an agent that dials it, and the agent's folder.
pub(crate) struct FakeServer {
    pub(crate) addr: SocketAddr,
    sessions: mpsc::Receiver<FakeSession>,
    uploads: mpsc::Receiver<FakeUpload>,
    pub(crate) folder: TempDir,
    pub(crate) content: Vec<u8>,
    pub(crate) stop: CancellationToken,
    lifecycle: Lifecycle,
}

/// The server's end of a session.
pub(crate) struct FakeSession {
    received: Streaming<v1::AgentMessage>,
    outbox: mpsc::Sender<Result<v1::ServerMessage, Status>>,
    /// The key of the agent's connection.
    pub(crate) key: Option<Fingerprint>,
}

/// The server's end of an upload.
pub(crate) struct FakeUpload {
    pub(crate) sent: Streaming<v1::UploadRequest>,
    pub(crate) answer: mpsc::Sender<Result<v1::UploadResponse, Status>>,
    /// The agent's end of its connection.
    pub(crate) from: Option<SocketAddr>,
}

/// Fails the test if `future` takes more than a minute.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("the future timed out")
}

impl FakeServer {
    /// Sends an order that the agent accepts, and returns its upload.
    pub(crate) async fn start_upload(
        &mut self,
        session: &mut FakeSession,
        order: v1::StartTransfer,
    ) -> FakeUpload {
        session.send(FromServer::Start(order)).await;
        assert!(matches!(session.answer().await, State::Accepted(_)));
        self.upload().await
    }

    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = TempDir::new().unwrap();
        let content: Vec<u8> = (0..=250).cycle().take(CONTENT_LEN).collect();
        fs::write(folder.path().join("data.txt"), &content).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (session_sender, sessions) = mpsc::channel(8);
        let (upload_sender, uploads) = mpsc::channel(8);
        let serving = tonic::transport::Server::builder()
            .add_service(AgentControlServer::new(Fake(session_sender)))
            .add_service(AgentTransferServer::new(Fake(upload_sender)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let client = ClientId::parse("client4").unwrap();
        let shares = Shares::new(&folder.path().join("data.txt"), ["logs/*.log"]).unwrap();
        let mut config = Config::new(client, ServerAddr::parse(&addr.to_string()).unwrap(), shares);
        change(&mut config);
        let stop = CancellationToken::new();
        let lifecycle = Lifecycle::new();
        let ended = lifecycle.stop().clone();
        lifecycle.spawn(async move {
            ended.run_until_cancelled(serving).await;
        });
        let agent = Agent::new(config).run_until(stop.clone().cancelled_owned());
        lifecycle.spawn(async move { agent.await.unwrap() });
        Self { addr, sessions, uploads, folder, content, stop, lifecycle }
    }

    /// Returns the next session that the agent opens, before any message.
    pub(crate) async fn next_session(&mut self) -> FakeSession {
        soon(self.sessions.recv()).await.unwrap()
    }

    /// Receives the hello of the next session, and answers with a welcome.
    pub(crate) async fn open_session(&mut self) -> (FakeSession, v1::Hello) {
        self.open_session_with(ExtentKinds::default()).await
    }

    /// Like [`open_session`](Self::open_session), as a server that accepts these extents.
    pub(crate) async fn open_session_with(
        &mut self,
        extents: ExtentKinds,
    ) -> (FakeSession, v1::Hello) {
        let mut session = self.next_session().await;
        let Some(ToServer::Hello(hello)) = session.receive().await else {
            panic!("expected a hello")
        };
        let capabilities = extents.capabilities().map(str::to_owned).collect();
        session.send(FromServer::Welcome(v1::Welcome { capabilities, ..welcome() })).await;
        (session, hello)
    }

    pub(crate) async fn upload(&mut self) -> FakeUpload {
        soon(self.uploads.recv()).await.unwrap()
    }

    /// Returns the next upload if the agent has started one.
    pub(crate) fn try_upload(&mut self) -> Option<FakeUpload> {
        self.uploads.try_recv().ok()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A welcome that makes the agent reconnect at once.
pub(crate) fn welcome() -> v1::Welcome {
    let reconnect = v1::ReconnectPolicy { base_ms: 1, cap_ms: 1, spread_ms: 1, stable_ms: 1 };
    v1::Welcome { protocol: *PROTOCOL.end(), reconnect: Some(reconnect), ..v1::Welcome::default() }
}

pub(crate) fn order(attempt: u32) -> v1::StartTransfer {
    let transfer_id = TransferId::generate().to_string();
    v1::StartTransfer { transfer_id, attempt, ..v1::StartTransfer::default() }
}

impl FakeSession {
    /// Returns the next message; `None` at the end of the session.
    pub(crate) async fn receive(&mut self) -> Option<ToServer> {
        soon(self.received.message()).await.ok().flatten().map(|message| message.kind.unwrap())
    }

    pub(crate) async fn send(&self, kind: FromServer) {
        self.send_raw(v1::ServerMessage { kind: Some(kind) }).await;
    }

    pub(crate) async fn send_raw(&self, message: v1::ServerMessage) {
        soon(self.outbox.send(Ok(message))).await.unwrap();
    }

    pub(crate) async fn check_alive(&mut self) {
        self.send(FromServer::Ping(v1::Ping { seq: 7, sent_unix_us: 9 })).await;
        let pong = ToServer::Pong(v1::Pong { seq: 7, echo_unix_us: 9 });
        assert_eq!(self.receive().await, Some(pong));
    }

    /// Receives the answer to an order.
    pub(crate) async fn answer(&mut self) -> v1::transfer_update::State {
        let Some(ToServer::Transfer(update)) = self.receive().await else {
            panic!("expected an answer")
        };
        update.state.unwrap()
    }
}

impl FakeUpload {
    /// Returns the next message; `None` at the end of the stream, or if it failed.
    pub(crate) async fn next(&mut self) -> Option<upload_request::Kind> {
        soon(self.sent.message()).await.ok().flatten().map(|message| message.kind.unwrap())
    }

    pub(crate) async fn header(&mut self) -> v1::UploadHeader {
        let Some(upload_request::Kind::Header(header)) = self.next().await else {
            panic!("expected a header")
        };
        header
    }

    /// Receives the remaining messages. Returns the bytes, and the trailer if there is one.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, Option<v1::UploadTrailer>) {
        let mut bytes = Vec::new();
        loop {
            match self.next().await {
                Some(upload_request::Kind::Chunk(chunk)) => bytes.extend_from_slice(&chunk.data),
                Some(upload_request::Kind::Trailer(trailer)) => return (bytes, Some(trailer)),
                _ => return (bytes, None),
            }
        }
    }

    /// Receives the extents of a file of `size` bytes, up to the trailer or the abort.
    pub(crate) async fn assemble(
        &mut self,
        size: u64,
        prefix: &[u8],
        base: &[u8],
    ) -> (Assembly, upload_request::Kind) {
        let mut assembly = Assembly::new(size, prefix, base);
        loop {
            let kind = self.next().await.expect("the upload ended without a trailer");
            if matches!(kind, upload_request::Kind::Trailer(_) | upload_request::Kind::Abort(_)) {
                return (assembly, kind);
            }
            assembly.add(&kind);
        }
    }

    pub(crate) async fn send(&self, kind: upload_response::Kind) {
        soon(self.answer.send(Ok(v1::UploadResponse { kind: Some(kind) }))).await.unwrap();
    }
}

/// Sends each call to the test.
pub(crate) struct Fake<T>(pub(crate) mpsc::Sender<T>);

#[tonic::async_trait]
impl AgentControl for Fake<FakeSession> {
    type SessionStream = ReceiverStream<Result<v1::ServerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbox, responses) = mpsc::channel(16);
        let key = request.extensions().get::<PeerKey>().and_then(|key| key.0);
        let session = FakeSession { received: request.into_inner(), outbox, key };
        self.0.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

#[tonic::async_trait]
impl AgentTransfer for Fake<FakeUpload> {
    type UploadStream = ReceiverStream<Result<v1::UploadResponse, Status>>;

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadRequest>>,
    ) -> Result<Response<Self::UploadStream>, Status> {
        let (answer, responses) = mpsc::channel(16);
        let from = request.remote_addr();
        let upload = FakeUpload { sent: request.into_inner(), answer, from };
        self.0.send(upload).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}
