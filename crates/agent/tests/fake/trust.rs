//! A server with TLS that a test controls, and an agent that a test can restart.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use filepull_agent::Agent;
use filepull_agent::config::Config;
use filepull_agent::dial::ServerAddr;
use filepull_agent::report::StatusReport;
use filepull_agent::share::Shares;
use filepull_core::fingerprint::Fingerprint;
use filepull_core::id::ClientId;
use filepull_core::invite::{Invite, Invitee, Secret, ServerAddress};
use filepull_process::Lifecycle;
use filepull_proto::v1;
use filepull_proto::v1::agent_control_server::AgentControlServer;
use filepull_proto::v1::agent_enrolment_server::{AgentEnrolment, AgentEnrolmentServer};
use filepull_proto::v1::agent_transfer_server::AgentTransferServer;
use filepull_proto::v1::enrol_response;
use filepull_trust::{CertificateAuthority, ClientKeys, fingerprint_of, server_config};
use rustls::ServerConfig;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use super::{Fake, FakeSession, soon, welcome};
use filepull_proto::v1::agent_message::Kind as ToServer;
use filepull_proto::v1::server_message::Kind as FromServer;

/// The secret of every invite, easy to find in a text: 32 bytes.
pub(crate) const SECRET: [u8; 32] = *b"SECRET-0123456789-SECRET-6789012";

/// A server that speaks TLS only.
pub(crate) struct TlsServer {
    pub(crate) addr: SocketAddr,
    pub(crate) authority: CertificateAuthority,
    sessions: mpsc::Receiver<FakeSession>,
    enrolments: mpsc::Receiver<FakeEnrolment>,
    _lifecycle: Lifecycle,
}

/// An agent that presents its invite.
pub(crate) struct FakeEnrolment {
    pub(crate) request: v1::EnrolRequest,
    pub(crate) key: Option<Fingerprint>,
    answer: oneshot::Sender<v1::EnrolResponse>,
}

/// The key that a client has proved in its TLS handshake.
#[derive(Clone, Debug)]
pub(crate) struct PeerKey(pub(crate) Option<Fingerprint>);

impl TlsServer {
    pub(crate) async fn start() -> Self {
        let authority = CertificateAuthority::generate("test CA").unwrap();
        let config = tls_config(&authority);
        Self::start_with(authority, config).await
    }

    pub(crate) async fn start_with(
        authority: CertificateAuthority,
        config: Arc<ServerConfig>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (session_sender, sessions) = mpsc::channel(8);
        let (upload_sender, _) = mpsc::channel(8);
        let (enrolment_sender, enrolments) = mpsc::channel(8);
        let (connections, incoming) = mpsc::channel(8);
        let lifecycle = Lifecycle::new();
        let serving = tonic::transport::Server::builder()
            .add_service(AgentControlServer::new(Fake(session_sender)))
            .add_service(AgentTransferServer::new(Fake(upload_sender)))
            .add_service(AgentEnrolmentServer::new(Fake(enrolment_sender)))
            .serve_with_incoming(ReceiverStream::new(incoming));
        let ended = lifecycle.stop().clone();
        lifecycle.spawn(async move {
            ended
                .run_until_cancelled(async {
                    tokio::join!(serving, accept(listener, config, connections))
                })
                .await;
        });
        Self { addr, authority, sessions, enrolments, _lifecycle: lifecycle }
    }

    /// Returns an invite for `client4` with the pin of this server.
    pub(crate) fn invite(&self) -> Invite {
        invite(self.addr, "client4", &[self.authority.fingerprint()], SECRET)
    }

    pub(crate) async fn next_enrolment(&mut self) -> FakeEnrolment {
        soon(self.enrolments.recv()).await.unwrap()
    }

    /// Returns the next session that an agent opens, before any message.
    pub(crate) async fn next_session(&mut self) -> FakeSession {
        soon(self.sessions.recv()).await.unwrap()
    }

    /// Receives the hello of the next session, and answers with a welcome for the session `id`.
    pub(crate) async fn open_session(&mut self, id: &str) -> FakeSession {
        let mut session = self.next_session().await;
        assert!(matches!(session.receive().await, Some(ToServer::Hello(_))));
        let welcome = v1::Welcome { session_id: id.to_owned(), ..welcome() };
        session.send(FromServer::Welcome(welcome)).await;
        session
    }

    /// Accepts the next enrolment, and returns the key.
    pub(crate) async fn enrol(&mut self) -> Fingerprint {
        let enrolment = self.next_enrolment().await;
        let key = enrolment.key.unwrap();
        enrolment.accept(&[self.authority.fingerprint()], false);
        key
    }

    /// Fails the test if an agent has enrolled or opened a session.
    pub(crate) fn expect_silence(&mut self) {
        assert!(self.enrolments.try_recv().is_err(), "an agent sent its secret");
        assert!(self.sessions.try_recv().is_err(), "an agent opened a session");
    }
}

impl FakeEnrolment {
    pub(crate) fn accept(self, pins: &[Fingerprint], pending: bool) {
        let client_id = self.request.client_id.clone();
        let enrolled = v1::Enrolled { client_id, pending, ca_pins: Some(ca_pins(pins)) };
        self.respond(enrol_response::Result::Enrolled(enrolled));
    }

    pub(crate) fn reject(self, code: v1::ErrorCode) {
        let error = v1::Error { code: code.into(), retry_after_ms: 1, ..v1::Error::default() };
        self.respond(enrol_response::Result::Error(error));
    }

    fn respond(self, result: enrol_response::Result) {
        let _ = self.answer.send(v1::EnrolResponse { result: Some(result) });
    }
}

pub(crate) fn invite(
    addr: SocketAddr,
    client: &str,
    pins: &[Fingerprint],
    secret: [u8; 32],
) -> Invite {
    let address = ServerAddress::parse(&addr.to_string()).unwrap();
    let invitee = Invitee::Client(ClientId::parse(client).unwrap());
    let secret = Secret::new(secret);
    Invite::new(vec![address], invitee, pins.to_vec(), secret, 4_102_444_800).unwrap()
}

pub(crate) fn ca_pins(pins: &[Fingerprint]) -> v1::CaPins {
    let sha256 = pins.iter().map(|pin| pin.digest().as_bytes().to_vec().into()).collect();
    v1::CaPins { sha256 }
}

/// A certificate for loopback that expired in 1970: agents with a pin ignore dates.
pub(crate) fn tls_config(authority: &CertificateAuthority) -> Arc<ServerConfig> {
    let past = SystemTime::UNIX_EPOCH..SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let issued = authority.issue(&["127.0.0.1".to_owned()], past).unwrap();
    server_config(issued.chain, issued.key, &[b"h2"], ClientKeys::Accept).unwrap()
}

async fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    connections: mpsc::Sender<io::Result<FakeConnection>>,
) {
    let acceptor = TlsAcceptor::from(config);
    while let Ok((tcp, _)) = listener.accept().await {
        let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_secs(10), acceptor.accept(tcp)).await
        else {
            continue;
        };
        if connections.send(Ok(FakeConnection(stream))).await.is_err() {
            return;
        }
    }
}

#[derive(Debug)]
struct FakeConnection(TlsStream<TcpStream>);

impl Connected for FakeConnection {
    type ConnectInfo = PeerKey;

    fn connect_info(&self) -> PeerKey {
        let certificates = self.0.get_ref().1.peer_certificates();
        PeerKey(certificates.map(|certificates| fingerprint_of(&certificates[0]).unwrap()))
    }
}

impl AsyncRead for FakeConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for FakeConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[tonic::async_trait]
impl AgentEnrolment for Fake<FakeEnrolment> {
    async fn enrol(
        &self,
        request: Request<v1::EnrolRequest>,
    ) -> Result<Response<v1::EnrolResponse>, Status> {
        let key = request.extensions().get::<PeerKey>().and_then(|key| key.0);
        let (answer, answered) = oneshot::channel();
        let enrolment = FakeEnrolment { request: request.into_inner(), key, answer };
        self.0.send(enrolment).await.map_err(|_| Status::unavailable("the test is over"))?;
        answered.await.map(Response::new).map_err(|_| Status::unavailable("the answer is lost"))
    }
}

/// The files of an agent, which is started and stopped several times.
pub(crate) struct ClientMachine {
    folder: TempDir,
}

/// An agent that runs.
pub(crate) struct RunningAgent {
    stop: CancellationToken,
    ended: oneshot::Receiver<anyhow::Result<()>>,
    _lifecycle: Lifecycle,
}

impl ClientMachine {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("data.txt"), "data").unwrap();
        Self { folder }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Returns the settings of an agent with this invite and these files.
    pub(crate) fn invited(&self, invite: Invite) -> Config {
        let shares = Shares::new(&self.folder.path().join("data.txt"), []).unwrap();
        let config = Config::invited(ClientId::parse("client4").unwrap(), invite, shares);
        Config { state_dir: Some(self.state()), ..config }
    }

    /// Returns the same settings after the invite was removed from them.
    pub(crate) fn enrolled(&self, server: &TlsServer) -> Config {
        Config { invite: None, ..self.invited(server.invite()) }
    }

    /// Returns the settings of an agent without an invite.
    pub(crate) fn keyless(&self, server: &str) -> Config {
        let shares = Shares::new(&self.folder.path().join("data.txt"), []).unwrap();
        let server = ServerAddr::parse(server).unwrap();
        let config = Config::new(ClientId::parse("client4").unwrap(), server, shares);
        Config { state_dir: Some(self.state()), ..config }
    }

    /// Returns what `filepull-agent status` prints, as text and as JSON.
    pub(crate) fn status(&self) -> String {
        let report = StatusReport::read(&[self.state()], None);
        report.as_text() + &report.as_json().unwrap()
    }

    /// Waits until the status contains a text.
    pub(crate) async fn wait_for_status(&self, part: &str) -> String {
        let waiting = async {
            loop {
                let status = self.status();
                if status.contains(part) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(30), waiting).await {
            Ok(status) => status,
            Err(_) => panic!("{part} is not in {}", self.status()),
        }
    }

    /// Returns the names of the files in the state folder, sorted.
    pub(crate) fn state_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub(crate) fn start(config: Config) -> RunningAgent {
    let stop = CancellationToken::new();
    let (sender, ended) = oneshot::channel();
    let lifecycle = Lifecycle::new();
    let agent = Agent::new(config).run_until(stop.clone().cancelled_owned());
    lifecycle.spawn(async move {
        let _ = sender.send(agent.await);
    });
    RunningAgent { stop, ended, _lifecycle: lifecycle }
}

impl RunningAgent {
    /// Stops the agent, and waits until it has released its state folder.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        soon(self.ended).await.unwrap().unwrap();
    }

    /// Returns the error with which the agent ends by itself.
    pub(crate) async fn error(self) -> String {
        soon(self.ended).await.unwrap().unwrap_err().to_string()
    }
}

/// A proxy for CONNECT, such as squid. Each connection is served by itself.
pub(crate) struct FakeProxy {
    pub(crate) addr: SocketAddr,
    /// The request lines and the credentials that arrived.
    pub(crate) requests: mpsc::Receiver<String>,
    _lifecycle: Lifecycle,
}

impl FakeProxy {
    /// Starts a proxy that wants this header, such as `Basic dXNlcjpwdw==`, if one is given.
    pub(crate) async fn start(login: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel(64);
        let lifecycle = Lifecycle::new();
        let ended = lifecycle.stop().clone();
        let connections = lifecycle.clone();
        lifecycle.spawn(async move {
            while let Some(Ok((client, _))) = ended.run_until_cancelled(listener.accept()).await {
                let sender = sender.clone();
                let ended = ended.clone();
                connections.spawn(async move {
                    ended.run_until_cancelled(tunnel(client, login, sender)).await;
                });
            }
        });
        Self { addr, requests, _lifecycle: lifecycle }
    }
}

async fn tunnel(mut client: TcpStream, login: Option<&str>, requests: mpsc::Sender<String>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = client.read_u8().await else { return };
        head.push(byte);
    }
    let request = String::from_utf8(head).unwrap();
    let _ = requests.try_send(request.clone());
    let is_allowed = login.is_none_or(|login| request.contains(login));
    if !is_allowed {
        client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.ok();
        return;
    }
    let target = request.split(' ').nth(1).unwrap();
    match TcpStream::connect(target).await {
        Ok(mut server) => {
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.ok();
            tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
        }
        Err(_) => {
            client.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await.ok();
        }
    }
}

/// Answers each connection with some bytes after the first ones of the client arrived.
pub(crate) async fn answering(bytes: &'static [u8]) -> (SocketAddr, Lifecycle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let lifecycle = Lifecycle::new();
    let ended = lifecycle.stop().clone();
    lifecycle.spawn(async move {
        while let Some(Ok((mut client, _))) = ended.run_until_cancelled(listener.accept()).await {
            let mut first = [0; 1024];
            let _n_read = client.read(&mut first).await.unwrap_or_default();
            client.write_all(bytes).await.ok();
            client.shutdown().await.ok();
            // Until the client closes: a reset could discard the answer.
            while client.read(&mut first).await.is_ok_and(|len| 0 < len) {}
        }
    });
    (addr, lifecycle)
}
