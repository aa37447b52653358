//! TLS of both listeners, as a peer sees it: TLS 1.3 only, with pins, limits, reload and rotation.

#[path = "tls/peer.rs"]
mod peer;

use std::fs;

use anyhow::Context as _;
use filepull_core::fingerprint::Fingerprint;
use filepull_testkit::process::{command, test_program};
use filepull_testkit::{TestServer, soon};
use filepull_trust::{CertificateAuthority, fingerprint_of};
use peer::{CertificatePair, connect, https_get, pins_of, tls_folder};
use rustls::{NamedGroup, ProtocolVersion};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The settings of a server whose agents need an invite, and that therefore speaks TLS.
const INVITE: [(&str, &str); 1] = [("AGENT_AUTH", "invite")];

/// The first bytes of an HTTP/2 client in plain text.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A message of TLS that announces more bytes than it has.
const HALF_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

#[tokio::test]
async fn the_first_start_makes_an_authority_and_agents_get_tls_1_3_with_the_hybrid_group()
-> anyhow::Result<()> {
    let mut server = TestServer::with(&INVITE).await?;
    let pins = pins_of(&server)?;
    let peer = connect(server.grpc(), &pins, None).await?;
    let (_, session) = peer.get_ref();
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(session.alpn_protocol(), Some(b"h2".as_slice()));
    let group = session.negotiated_key_exchange_group().map(|group| group.name());
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
    // Another start uses the same authority.
    server.stop().await?;
    server.start_server().await?;
    assert_eq!(pins_of(&server)?, pins);
    connect(server.grpc(), &pins, None).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_without_the_certificate_of_its_authority_does_not_start() -> anyhow::Result<()> {
    let mut server = TestServer::with(&INVITE).await?;
    server.stop().await?;
    let pin = pins_of(&server)?[0].digest().to_string();
    let certificate = tls_folder(&server).join(format!("ca-{}/ca.pem", &pin[..16]));
    fs::remove_file(&certificate)?;
    let error = server.start_server().await.err().context("it started")?;
    let text = format!("{error:#}");
    assert!(text.contains(&format!("ca-key.pem lies there without {}", certificate.display())));
    assert!(text.contains("Restore the folder .filepull/tls"), "{text}");
    Ok(())
}

#[tokio::test]
async fn plain_text_to_tls_and_the_reverse_are_closed_at_once_and_logged() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = CertificateAuthority::generate("test")?;
    let pair = CertificatePair::issue(folder.path(), &authority)?;
    let mut settings = INVITE.to_vec();
    settings.extend([("HTTP_TLS_CERT", pair.certificate()), ("HTTP_TLS_KEY", pair.key())]);
    let encrypted = TestServer::process_with(&settings).await?;
    let plain = TestServer::start_process().await?;
    let begun = Instant::now();
    assert_eq!(answer(encrypted.grpc(), PREFACE).await?, "");
    let told = answer(encrypted.http(), b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    assert!(told.starts_with("HTTP/1.1 400 ") && told.contains("Write https://"), "{told}");
    answer(plain.grpc(), HALF_HELLO).await?;
    answer(plain.http(), HALF_HELLO).await?;
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    for listener in ["agents", "operators"] {
        let logged = encrypted.server()?.says(&format!("\"listener\":\"{listener}\"")).await?;
        assert!(logged.contains("speaks plain text, and this port speaks TLS"), "{logged}");
        let logged = plain.server()?.says(&format!("\"listener\":\"{listener}\"")).await?;
        assert!(logged.contains("speaks TLS, and this port speaks plain text"), "{logged}");
    }
    Ok(())
}

#[tokio::test]
async fn half_handshakes_delay_no_agent_and_are_closed_in_ten_seconds() -> anyhow::Result<()> {
    let server = TestServer::with(&INVITE).await?;
    let pins = pins_of(&server)?;
    let begun = Instant::now();
    let mut half = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(server.grpc()).await?;
        // Silent, one byte, and half a hello.
        stream.write_all(&HALF_HELLO[..[0, 1, HALF_HELLO.len()][number % 3]]).await?;
        half.push(stream);
    }
    let connecting = Instant::now();
    connect(server.grpc(), &pins, None).await?;
    assert!(connecting.elapsed().as_secs() < 2, "{:?}", connecting.elapsed());
    for stream in &mut half {
        soon("the end of half a handshake", stream.read(&mut [0; 64])).await?.ok();
    }
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn half_handshakes_at_the_connection_limit_lock_no_agent_out() -> anyhow::Result<()> {
    // With this limit of open files a server has 64 connections for agents.
    let server = TestServer::launched_by(&["prlimit", "--nofile=128:128"], &INVITE).await?;
    let pins = pins_of(&server)?;
    let mut half = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(server.grpc()).await?;
        stream.write_all(HALF_HELLO).await?;
        half.push(stream);
    }
    connect(server.grpc(), &pins, None).await?;
    server.server()?.says("connection_limit.reached").await?;
    Ok(())
}

#[tokio::test]
async fn a_new_certificate_is_used_without_a_restart() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = CertificateAuthority::generate("test")?;
    let pair = CertificatePair::issue(folder.path(), &authority)?;
    let settings = [("TLS_CERT", pair.certificate()), ("TLS_KEY", pair.key())];
    let server = TestServer::process_with(&settings).await?;
    let pins = [authority.fingerprint()];
    let first = presented(&server, &pins).await?;
    fs::write(pair.certificate(), "half a file")?;
    server.server()?.says("certificate.reload_failed").await?;
    assert_eq!(presented(&server, &pins).await?, first);
    CertificatePair::issue(folder.path(), &authority)?;
    server.server()?.says("certificate.reloaded").await?;
    assert_ne!(presented(&server, &pins).await?, first);
    Ok(())
}

#[tokio::test]
async fn a_key_that_every_user_can_read_and_a_certificate_for_another_name_are_warnings()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = CertificateAuthority::generate("test")?;
    let pair = CertificatePair::issue(folder.path(), &authority)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(pair.key(), mode)?;
    let mut settings = vec![("TLS_CERT", pair.certificate()), ("TLS_KEY", pair.key())];
    settings.push(("PUBLIC_ADDR", "localhost,pull.example.com:50051"));
    let server = TestServer::process_with(&settings).await?;
    let warning = server.server()?.says("chmod").await?;
    assert!(warning.contains("config.warning"), "{warning}");
    assert!(warning.contains("every user of this machine can read TLS_KEY="), "{warning}");
    let warning = server.server()?.says("is not for").await?;
    assert!(warning.contains("config.warning"), "{warning}");
    assert!(warning.contains("is not for pull.example.com: agents without pins"), "{warning}");
    Ok(())
}

#[tokio::test]
async fn the_api_speaks_https_and_its_commands_say_so() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = CertificateAuthority::generate("test")?;
    let pair = CertificatePair::issue(folder.path(), &authority)?;
    let settings = [("HTTP_TLS_CERT", pair.certificate()), ("HTTP_TLS_KEY", pair.key())];
    let server = TestServer::with(&settings).await?;
    let page = https_get(server.http(), &authority, "/").await?;
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    assert!(page.contains("curl https://localhost"), "{page}");
    let ready = https_get(server.http(), &authority, "/readyz?verbose").await?;
    assert!(ready.contains("[+] certificate   HTTP_TLS_CERT, ends 2"), "{ready}");
    let about = https_get(server.http(), &authority, "/server").await?;
    assert!(about.contains("HTTP_TLS_CERT, ends 2"), "{about}");
    Ok(())
}

#[tokio::test]
async fn the_health_check_speaks_https_to_its_own_server_only() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = CertificateAuthority::generate("test")?;
    let pair = CertificatePair::issue(folder.path(), &authority)?;
    let settings = [("HTTP_TLS_CERT", pair.certificate()), ("HTTP_TLS_KEY", pair.key())];
    let server = TestServer::with(&settings).await?;
    let addr = server.http().to_string();
    let health = async |certificate: &str| {
        let mut command = command(test_program("e2e-filepull")?);
        command.args(["health", "--http-addr", &addr, "--http-tls-cert", certificate]);
        soon("the health check", command.output()).await?.map_err(anyhow::Error::from)
    };
    let ready = health(pair.certificate()).await?;
    assert!(ready.status.success(), "{ready:?}");
    let other = tempfile::tempdir()?;
    let stranger = CertificateAuthority::generate("another")?;
    let pair = CertificatePair::issue(other.path(), &stranger)?;
    assert!(!health(pair.certificate()).await?.status.success());
    Ok(())
}

#[tokio::test]
async fn the_authority_is_rotated_over_restarts() -> anyhow::Result<()> {
    let mut server = TestServer::with(&INVITE).await?;
    let old = pins_of(&server)?[0];
    let ca = server.json("/api/v1/ca").await?;
    assert_eq!((&ca["state"], &ca["current"]["fingerprint"]), (&"steady".into(), &shown(old)));
    let rejected = server.post("/api/v1/ca/retire", &json!({})).await?;
    assert_eq!(rejected.status, 409, "{}", rejected.text());
    let announced = server.post("/api/v1/ca/rotate", &json!({})).await?;
    assert_eq!(announced.status, 200, "{}", announced.text());
    let new = announced.json()?["next"]["fingerprint"].clone();
    server.stop().await?;
    server.start_server().await?;
    // No client is enrolled, so every client has the new pin.
    let switched = |ca: &Value| ca["state"] == "switched";
    let ca = server.until("/api/v1/ca", switched).await?;
    assert_eq!(
        (&ca["current"]["fingerprint"], &ca["previous"]["fingerprint"]),
        (&new, &shown(old))
    );
    server.stop().await?;
    server.start_server().await?;
    connect(server.grpc(), &[old], None).await?;
    let retired = server.post("/api/v1/ca/retire", &json!({})).await?;
    assert_eq!(
        (&retired.json()?["state"], &retired.json()?["previous"]),
        (&"steady".into(), &Value::Null)
    );
    assert!(connect(server.grpc(), &[old], None).await.is_err());
    assert_eq!(shown(pins_of(&server)?[0]), new);
    let audit = server.get("/audit").await?.text();
    for action in ["ca.rotated", "ca.switched", "ca.retired"] {
        assert!(audit.contains(action), "{audit}");
    }
    Ok(())
}

fn shown(fingerprint: Fingerprint) -> Value {
    fingerprint.to_string().into()
}

/// Returns the key of the certificate that the server presents to agents.
async fn presented(server: &TestServer, pins: &[Fingerprint]) -> anyhow::Result<Fingerprint> {
    let peer = connect(server.grpc(), pins, None).await?;
    let chain = peer.get_ref().1.peer_certificates().context("no certificate")?;
    Ok(fingerprint_of(&chain[0])?)
}

/// Sends bytes, and returns what arrives until the server closes the connection.
async fn answer(addr: std::net::SocketAddr, bytes: &[u8]) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(bytes).await?;
    let mut received = Vec::new();
    // A reset is an end too.
    soon("the end of the connection", stream.read_to_end(&mut received)).await?.ok();
    Ok(String::from_utf8_lossy(&received).into_owned())
}
