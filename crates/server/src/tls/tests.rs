//! The handshake and the rotation, with real sockets and a clock of the test.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use filepull_core::fingerprint::Fingerprint;
use filepull_trust::{AgentKey, ServerTrust, client_config};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::acceptor::Alpn;
use super::authority_folder::AuthorityFolder;
use super::own_authority::{OwnAuthority, OwnAuthorityError, RotationStep};
use super::rotation::RotationState;
use super::{HandshakeError, PeerStream, TlsAcceptor};

const DAY: Duration = Duration::from_hours(24);

/// An authority in a folder, and its acceptor.
struct TestAuthority {
    folder: TempDir,
    authority: OwnAuthority,
    acceptor: TlsAcceptor,
    now: SystemTime,
}

impl TestAuthority {
    async fn open() -> Self {
        Self::open_in(tempfile::tempdir().unwrap(), SystemTime::now()).await
    }

    async fn open_in(folder: TempDir, now: SystemTime) -> Self {
        let files = AuthorityFolder::new(tls_folder(&folder));
        let opened = OwnAuthority::open(files, vec!["localhost".to_owned()], now).await;
        let authority = opened.unwrap();
        let acceptor = TlsAcceptor::new(authority.presented(), Alpn::Http2);
        Self { folder, authority, acceptor, now }
    }

    /// Opens the authority again, as another process does.
    async fn restart(self) -> Self {
        Self::open_in(self.folder, self.now).await
    }

    async fn step(&self, step: RotationStep) -> Result<RotationState, OwnAuthorityError> {
        Ok(self.authority.prepare(step, self.now).await?.commit().await?.state)
    }

    fn pins(&self) -> Vec<Fingerprint> {
        self.authority.pins().current().to_vec()
    }

    /// Returns whether an agent with this pin accepts the server.
    async fn is_accepted_with(&self, pin: Fingerprint) -> bool {
        handshake(&self.acceptor, config(&[pin], None)).await.is_ok()
    }
}

fn tls_folder(folder: &TempDir) -> PathBuf {
    folder.path().join("tls")
}

fn config(pins: &[Fingerprint], key: Option<&AgentKey>) -> Arc<ClientConfig> {
    client_config(&ServerTrust::Pins(pins.to_vec()), key).unwrap()
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = TcpStream::connect(listener.local_addr().unwrap());
    let (client, server) = tokio::join!(connect, listener.accept());
    (client.unwrap(), server.unwrap().0)
}

/// Performs a handshake over a socket, and returns both ends.
async fn handshake(
    acceptor: &TlsAcceptor,
    config: Arc<ClientConfig>,
) -> io::Result<(PeerStream, TlsStream<TcpStream>)> {
    let (client, server) = sockets().await;
    let name = ServerName::try_from("another.name").unwrap();
    let connect = TlsConnector::from(config).connect(name, client);
    let (accepted, connected) = tokio::join!(acceptor.accept(server), connect);
    let connected = connected?;
    Ok((accepted.map_err(io::Error::other)?, connected))
}

#[tokio::test]
async fn a_resumed_session_has_the_key_of_the_first_one() {
    let test = TestAuthority::open().await;
    let key = AgentKey::generate();
    let agent = config(&test.pins(), Some(&key));
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (mut server, mut client) = handshake(&test.acceptor, agent.clone()).await.unwrap();
        assert_eq!(server.peer_key(), Some(key.fingerprint()), "{kind:?}");
        assert!(server.is_tls());
        // The ticket arrives with the first bytes of the server.
        server.write_all(b"x").await.unwrap();
        server.flush().await.unwrap();
        client.read_u8().await.unwrap();
        assert_eq!(client.get_ref().1.handshake_kind(), Some(kind));
    }
    let (without_key, _) = handshake(&test.acceptor, config(&test.pins(), None)).await.unwrap();
    assert_eq!(without_key.peer_key(), None);
}

#[tokio::test]
async fn a_certificate_is_renewed_and_its_authority_stays() {
    let test = TestAuthority::open().await;
    let presented = test.authority.presented();
    let first = presented.borrow().fingerprint;
    test.authority.renew(test.now + 59 * DAY).await.unwrap();
    assert_eq!(presented.borrow().fingerprint, first);
    // A clock that jumps by a year, and back.
    for now in [test.now + 61 * DAY, test.now + 365 * DAY, test.now] {
        let before = presented.borrow().fingerprint;
        test.authority.renew(now).await.unwrap();
        assert_ne!(presented.borrow().fingerprint, before);
        assert!(test.is_accepted_with(test.pins()[0]).await);
    }
}

#[tokio::test]
async fn an_agent_with_either_pin_connects_until_the_old_authority_is_retired() {
    let mut test = TestAuthority::open().await;
    let old = test.pins()[0];
    assert!(matches!(test.step(RotationStep::Switch).await, Err(OwnAuthorityError::Step(_))));
    assert_eq!(test.step(RotationStep::Announce).await.unwrap(), RotationState::Announced);
    let [current, new] = test.pins()[..] else { panic!("{:?}", test.pins()) };
    assert_eq!(current, old);
    for _ in 0..2 {
        assert_eq!(test.pins(), [old, new]);
        assert!(test.is_accepted_with(old).await);
        assert!(!test.is_accepted_with(new).await, "the successor signs nothing yet");
        test = test.restart().await;
    }
    assert_eq!(test.step(RotationStep::Switch).await.unwrap(), RotationState::Switched);
    for _ in 0..2 {
        assert_eq!(test.pins(), [new, old]);
        assert!(test.is_accepted_with(old).await, "an agent that was off comes back");
        assert!(test.is_accepted_with(new).await);
        test = test.restart().await;
    }
    assert_eq!(test.step(RotationStep::Retire).await.unwrap(), RotationState::Steady);
    for _ in 0..2 {
        assert_eq!(test.pins(), [new]);
        assert!(!test.is_accepted_with(old).await);
        assert!(test.is_accepted_with(new).await);
        test = test.restart().await;
    }
    let authorities = std::fs::read_dir(tls_folder(&test.folder)).unwrap().flatten();
    let names = authorities.map(|entry| entry.file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("ca-")).count(), 1);
}

#[tokio::test]
async fn a_step_that_is_not_committed_has_no_effect() {
    let test = TestAuthority::open().await;
    drop(test.authority.prepare(RotationStep::Announce, test.now).await.unwrap());
    assert_eq!(test.pins().len(), 1);
    let test = test.restart().await;
    assert_eq!(test.authority.view().state, RotationState::Steady);
    assert_eq!(test.step(RotationStep::Announce).await.unwrap(), RotationState::Announced);
}

#[tokio::test]
async fn a_peer_that_speaks_another_protocol_is_named() {
    let test = TestAuthority::open().await;
    let check = async |sent: &[u8], expected: &str| {
        let (mut client, server) = sockets().await;
        client.write_all(sent).await.unwrap();
        let error = test.acceptor.accept(server).await.map(drop).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        error
    };
    check(b"PRI * HTTP/2.0\r\n\r\n", "plain text").await;
    check(b"GET / HTTP/1.1\r\n\r\n", "plain text").await;
    check(&hello_of_tls_1_2(), "TLS 1.3").await;
    check(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "handshake failed").await;
    let mut http = Arc::unwrap_or_clone(config(&test.pins(), None));
    for protocols in [vec![b"http/1.1".to_vec()], Vec::new()] {
        http.alpn_protocols = protocols;
        let (client, server) = sockets().await;
        let name = ServerName::try_from("localhost").unwrap();
        let connect = TlsConnector::from(Arc::new(http.clone())).connect(name, client);
        let (accepted, _) = tokio::join!(test.acceptor.accept(server), connect);
        assert!(matches!(accepted, Err(HandshakeError::OtherProtocol)), "{accepted:?}");
    }
}

// The clock is paused: nothing else happens while the acceptor waits, so the time jumps to its limit.
#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_end_takes_ten_seconds() {
    let test = TestAuthority::open().await;
    for sent in [&b""[..], b"\x16", &hello_of_tls_1_2()[..20]] {
        let (mut client, server) = sockets().await;
        client.write_all(sent).await.unwrap();
        let begun = tokio::time::Instant::now();
        let accepted = test.acceptor.accept(server).await;
        assert!(matches!(accepted, Err(HandshakeError::TooLate)), "{accepted:?}");
        assert!(begun.elapsed() < Duration::from_secs(11), "{:?}", begun.elapsed());
    }
}

/// Returns the first message of a client that knows TLS 1.2 only (RFC 5246, section 7.4.1.2).
fn hello_of_tls_1_2() -> Vec<u8> {
    let extensions = [
        &b"\x00\x0a\x00\x04\x00\x02\x00\x1d"[..], // supported_groups: X25519
        b"\x00\x0b\x00\x02\x01\x00",              // ec_point_formats: uncompressed
        b"\x00\x0d\x00\x04\x00\x02\x04\x03",      // signature_algorithms: ECDSA with SHA-256
    ]
    .concat();
    let mut body = b"\x03\x03".to_vec();
    body.extend([7; 32]); // random
    body.extend(b"\x00\x00\x02\xc0\x2b\x01\x00"); // no session, one cipher suite, no compression
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut message = b"\x01\x00".to_vec();
    message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    let mut record = b"\x16\x03\x01".to_vec();
    record.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    record.extend(message);
    record
}
