//! Which server an agent talks to, through which proxy, and what it says if it does not.

#![allow(clippy::unwrap_used, reason = "the functions of a test fail it")]

mod fake;

use std::fs;
use std::time::{Duration, SystemTime};

use fake::trust::{ClientMachine, FakeProxy, TlsServer, answering, start};
use fake::{FakeServer, soon};
use filepull_agent::config::Config;
use filepull_agent::dial::ProxyRules;
use filepull_trust::{CertificateAuthority, ClientKeys, server_config};

/// `user:pa ss` in base64.
const LOGIN: &str = "Basic dXNlcjpwYSBzcw==";

fn with_proxy(config: Config, proxy: &str) -> Config {
    Config { proxy: ProxyRules::new(proxy, ""), ..config }
}

#[tokio::test]
async fn an_agent_enrols_and_works_through_a_proxy_with_a_login() {
    let mut server = TlsServer::start().await;
    for (login, user) in [(None, ""), (Some(LOGIN), "user:pa%20ss@")] {
        let mut proxy = FakeProxy::start(login).await;
        let machine = ClientMachine::new();
        let url = format!("http://{user}{}", proxy.addr);
        let agent = start(with_proxy(machine.invited(server.invite()), &url));
        server.enrol().await;
        server.open_session("first").await.check_alive().await;
        let request = soon(proxy.requests.recv()).await.unwrap();
        assert!(request.starts_with(&format!("CONNECT {} HTTP/1.1", server.addr)), "{request}");
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_proxy_that_wants_another_login_is_named() {
    let mut server = TlsServer::start().await;
    let proxy = FakeProxy::start(Some(LOGIN)).await;
    for (user, part) in [
        ("", "requires a login (407)"),
        ("user:wrong-pass@", "rejects the user or the password of HTTPS_PROXY (407)"),
    ] {
        let machine = ClientMachine::new();
        let url = format!("http://{user}{}", proxy.addr);
        let agent = start(with_proxy(machine.invited(server.invite()), &url));
        let status = machine.wait_for_status("proxy-login").await;
        assert!(status.contains(part) && status.contains("NO_PROXY"), "{status}");
        assert!(!status.contains("wrong-pass"), "{status}");
        agent.stop().await;
    }
    server.expect_silence();
}

#[tokio::test]
async fn a_proxy_that_opens_no_connection_is_named() {
    let server = TlsServer::start().await;
    let (forbidding, _forbidding) = answering(b"HTTP/1.1 403 Forbidden\r\n\r\n").await;
    let (closed, lifecycle) = answering(b"").await;
    drop(lifecycle);
    for (proxy, part) in [(forbidding, "allow CONNECT"), (closed, "cannot be used")] {
        let machine = ClientMachine::new();
        let config = with_proxy(machine.invited(server.invite()), &format!("http://{proxy}"));
        let agent = start(config);
        let status = machine.wait_for_status("proxy-failed").await;
        assert!(status.contains(part) && status.contains(&proxy.to_string()), "{status}");
        agent.stop().await;
    }
}

#[tokio::test]
async fn an_agent_with_plain_text_is_told_that_the_server_requires_tls() {
    let server = TlsServer::start().await;
    let machine = ClientMachine::new();
    let agent = start(machine.keyless(&format!("http://{}", server.addr)));
    let status = machine.wait_for_status("server-with-tls").await;
    assert!(status.contains("remove http://"), "{status}");
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_with_tls_is_told_that_the_server_uses_plain_text() {
    let server = FakeServer::start().await;
    let (_file, ca_file) = root_file(&CertificateAuthority::generate("roots").unwrap());
    let machine = ClientMachine::new();
    let config = machine.keyless(&format!("https://{}", server.addr));
    let agent = start(Config { ca_file, ..config });
    machine.wait_for_status("server-without-tls").await;
    agent.stop().await;
}

#[tokio::test]
async fn a_server_without_tls_1_3_is_named() {
    // The alert `protocol_version`, as OpenSSL sends it.
    let (old, _old) = answering(&[21, 3, 3, 0, 2, 2, 70]).await;
    let machine = ClientMachine::new();
    let pins = [CertificateAuthority::generate("CA").unwrap().fingerprint()];
    let invite = fake::trust::invite(old, "client4", &pins, fake::trust::SECRET);
    let agent = start(machine.invited(invite));
    let status = machine.wait_for_status("tls-too-old").await;
    assert!(status.contains("offers no TLS 1.3"), "{status}");
    agent.stop().await;
}

#[tokio::test]
async fn a_server_that_speaks_http_1_only_is_named_with_and_without_tls() {
    let (plain, _plain) = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let machine = ClientMachine::new();
    let agent = start(machine.keyless(&plain.to_string()));
    let status = machine.wait_for_status("not-http2").await;
    assert!(status.contains("does SERVER_ADDR point at the HTTP port"), "{status}");
    agent.stop().await;

    for alpn in [&[b"http/1.1".as_slice()][..], &[]] {
        let authority = CertificateAuthority::generate("CA").unwrap();
        let issued = authority.issue(&["127.0.0.1".to_owned()], today()).unwrap();
        let config = server_config(issued.chain, issued.key, alpn, ClientKeys::Accept).unwrap();
        let mut server = TlsServer::start_with(authority, config).await;
        let machine = ClientMachine::new();
        let agent = start(machine.invited(server.invite()));
        machine.wait_for_status("not-http2").await;
        server.expect_silence();
        agent.stop().await;
    }
}

fn today() -> std::ops::Range<SystemTime> {
    let day = Duration::from_secs(24 * 60 * 60);
    SystemTime::now() - day..SystemTime::now() + day
}

fn root_file(
    authority: &CertificateAuthority,
) -> (tempfile::NamedTempFile, Option<std::path::PathBuf>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), authority.certificate_pem()).unwrap();
    let path = file.path().to_owned();
    (file, Some(path))
}

async fn server_for(name: &str, validity: std::ops::Range<SystemTime>) -> TlsServer {
    let authority = CertificateAuthority::generate("Corporate firewall").unwrap();
    let issued = authority.issue(&[name.to_owned()], validity).unwrap();
    let config = server_config(issued.chain, issued.key, &[b"h2"], ClientKeys::Accept).unwrap();
    TlsServer::start_with(authority, config).await
}

#[tokio::test]
async fn without_an_invite_the_roots_the_name_and_the_clock_decide() {
    let mut server = server_for("127.0.0.1", today()).await;
    let (_file, ca_file) = root_file(&server.authority);
    let machine = ClientMachine::new();
    let config = machine.keyless(&format!("https://{}", server.addr));
    let agent = start(Config { ca_file, ..config });
    let session = server.open_session("roots").await;
    assert_eq!(session.key, None);
    agent.stop().await;

    let past = SystemTime::UNIX_EPOCH..SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let cases = [
        (server_for("127.0.0.1", past).await, true, "\"clock\"", "the clock shows"),
        (server_for("other.example.com", today()).await, true, "other-name", "another name"),
        (server_for("127.0.0.1", today()).await, false, "unknown-issuer", "Corporate firewall"),
    ];
    for (mut server, is_root, code, part) in cases {
        let own = CertificateAuthority::generate("own roots").unwrap();
        let (_file, ca_file) = root_file(if is_root { &server.authority } else { &own });
        let machine = ClientMachine::new();
        let config = machine.keyless(&format!("https://{}", server.addr));
        let agent = start(Config { ca_file, ..config });
        let status = machine.wait_for_status(code).await;
        assert!(status.contains(part), "{status}");
        server.expect_silence();
        agent.stop().await;
    }
}

#[tokio::test]
async fn the_second_address_of_an_invite_is_tried() {
    let mut server = TlsServer::start().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let machine = ClientMachine::new();
    let mut config = machine.invited(server.invite());
    let dead = filepull_agent::dial::ServerAddr::parse(&closed.to_string()).unwrap();
    config.servers.insert(0, dead);
    let agent = start(config);
    server.enrol().await;
    server.open_session("second").await.check_alive().await;
    agent.stop().await;
}
