//! A server that does what a test tells it to, on a port of its own.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use filepull_agent::Agent;
use filepull_agent::config::Config;
use filepull_agent::dial::ServerAddr;
use filepull_agent::share::Shares;
use filepull_core::id::{ClientId, TransferId};
use filepull_process::Lifecycle;
use filepull_proto::v1::agent_control_server::{AgentControl, AgentControlServer};
use filepull_proto::v1::agent_message::Kind as Said;
use filepull_proto::v1::agent_transfer_server::{AgentTransfer, AgentTransferServer};
use filepull_proto::v1::server_message::Kind as Say;
use filepull_proto::v1::{self, upload_request, upload_response};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// What the default file of the agent holds.
pub(crate) const CONTENT_LEN: usize = 8 * 1024 * 1024 + 123;

/// A fake server, an agent that dials it, and the agent's folder.
pub(crate) struct FakeServer {
    lines: mpsc::Receiver<FakeSession>,
    uploads: mpsc::Receiver<FakeUpload>,
    pub(crate) folder: TempDir,
    pub(crate) content: Vec<u8>,
    pub(crate) stop: CancellationToken,
    lifecycle: Lifecycle,
}

/// The server's end of a session.
pub(crate) struct FakeSession {
    said: Streaming<v1::AgentMessage>,
    say: mpsc::Sender<Result<v1::ServerMessage, Status>>,
}

/// The server's end of an upload.
pub(crate) struct FakeUpload {
    pub(crate) sent: Streaming<v1::UploadRequest>,
    pub(crate) answer: mpsc::Sender<Result<v1::UploadResponse, Status>>,
    /// The agent's end of its connection.
    pub(crate) from: Option<SocketAddr>,
}

/// Fails a test that waits for what does not come.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it did not come")
}

impl FakeServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = TempDir::new().unwrap();
        let content: Vec<u8> = (0..=250).cycle().take(CONTENT_LEN).collect();
        fs::write(folder.path().join("data.txt"), &content).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (line_sender, lines) = mpsc::channel(8);
        let (upload_sender, uploads) = mpsc::channel(8);
        let serving = tonic::transport::Server::builder()
            .add_service(AgentControlServer::new(Fake(line_sender)))
            .add_service(AgentTransferServer::new(Fake(upload_sender)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let client = ClientId::parse("client4").unwrap();
        let shares = Shares::new(&folder.path().join("data.txt"), ["logs/*.log"]).unwrap();
        let mut config = Config::new(client, ServerAddr::parse(&addr).unwrap(), shares);
        change(&mut config);
        let (stop, lifecycle) = (CancellationToken::new(), Lifecycle::new());
        let ended = lifecycle.stop().clone();
        lifecycle.spawn(async move {
            ended.run_until_cancelled(serving).await;
        });
        let agent = Agent::new(config).run_until(stop.clone().cancelled_owned());
        lifecycle.spawn(async move { agent.await.unwrap() });
        Self { lines, uploads, folder, content, stop, lifecycle }
    }

    /// The next line that the agent opens, before any message.
    pub(crate) async fn line(&mut self) -> FakeSession {
        soon(self.lines.recv()).await.unwrap()
    }

    /// The next line, past hello and welcome.
    pub(crate) async fn greeted(&mut self) -> (FakeSession, v1::Hello) {
        let mut line = self.line().await;
        let Some(Said::Hello(hello)) = line.hear().await else { panic!("hello comes first") };
        line.say(Say::Welcome(welcome())).await;
        (line, hello)
    }

    pub(crate) async fn upload(&mut self) -> FakeUpload {
        soon(self.uploads.recv()).await.unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A welcome of a server in a hurry: whoever loses it comes back at once.
pub(crate) fn welcome() -> v1::Welcome {
    let reconnect = v1::ReconnectPolicy { base_ms: 1, cap_ms: 1, spread_ms: 1, stable_ms: 1 };
    v1::Welcome { protocol: 1, reconnect: Some(reconnect), ..v1::Welcome::default() }
}

pub(crate) fn order(attempt: u32) -> v1::StartTransfer {
    let transfer_id = TransferId::generate().to_string();
    v1::StartTransfer { transfer_id, attempt, ..v1::StartTransfer::default() }
}

impl FakeSession {
    /// The next message; none is the end of the line.
    pub(crate) async fn hear(&mut self) -> Option<Said> {
        soon(self.said.message()).await.ok().flatten().map(|message| message.kind.unwrap())
    }

    pub(crate) async fn say(&self, kind: Say) {
        self.say_raw(v1::ServerMessage { kind: Some(kind) }).await;
    }

    pub(crate) async fn say_raw(&self, message: v1::ServerMessage) {
        soon(self.say.send(Ok(message))).await.unwrap();
    }

    pub(crate) async fn check_alive(&mut self) {
        self.say(Say::Ping(v1::Ping { seq: 7, sent_unix_us: 9 })).await;
        let pong = Said::Pong(v1::Pong { seq: 7, echo_unix_us: 9 });
        assert_eq!(self.hear().await, Some(pong));
    }

    /// The answer to an order.
    pub(crate) async fn answer(&mut self) -> v1::transfer_update::State {
        let Some(Said::Transfer(update)) = self.hear().await else { panic!("an answer comes") };
        update.state.unwrap()
    }
}

impl FakeUpload {
    /// The next message; none is the end, in whatever way.
    pub(crate) async fn next(&mut self) -> Option<upload_request::Kind> {
        soon(self.sent.message()).await.ok().flatten().map(|message| message.kind.unwrap())
    }

    pub(crate) async fn header(&mut self) -> v1::UploadHeader {
        let Some(upload_request::Kind::Header(header)) = self.next().await else {
            panic!("a header comes first")
        };
        header
    }

    /// Everything up to the trailer, if one comes.
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

    pub(crate) async fn say(&self, kind: upload_response::Kind) {
        soon(self.answer.send(Ok(v1::UploadResponse { kind: Some(kind) }))).await.unwrap();
    }
}

/// Hands every call to the test.
struct Fake<T>(mpsc::Sender<T>);

#[tonic::async_trait]
impl AgentControl for Fake<FakeSession> {
    type SessionStream = ReceiverStream<Result<v1::ServerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (say, saying) = mpsc::channel(16);
        let line = FakeSession { said: request.into_inner(), say };
        self.0.send(line).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(saying)))
    }
}

#[tonic::async_trait]
impl AgentTransfer for Fake<FakeUpload> {
    type UploadStream = ReceiverStream<Result<v1::UploadResponse, Status>>;

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadRequest>>,
    ) -> Result<Response<Self::UploadStream>, Status> {
        let (answer, answering) = mpsc::channel(16);
        let from = request.remote_addr();
        let upload = FakeUpload { sent: request.into_inner(), answer, from };
        self.0.send(upload).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(answering)))
    }
}
