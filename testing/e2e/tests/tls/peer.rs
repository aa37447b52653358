//! A peer that speaks TLS, the pins that a server has on disk, and certificates of an operator.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use filepull_core::fingerprint::Fingerprint;
use filepull_testkit::TestServer;
use filepull_trust::{AgentKey, CertificateAuthority, ServerTrust, client_config};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A connection after its handshake.
pub(crate) type Peer = TlsStream<TcpStream>;

/// Connects as an agent with these pins does.
pub(crate) async fn connect(
    server: SocketAddr,
    pins: &[Fingerprint],
    key: Option<&AgentKey>,
) -> anyhow::Result<Peer> {
    let trust = ServerTrust::Pins(pins.to_vec());
    connect_with(server, client_config(&trust, key)?).await
}

async fn connect_with(server: SocketAddr, config: Arc<ClientConfig>) -> anyhow::Result<Peer> {
    let stream = TcpStream::connect(server).await?;
    let name = ServerName::try_from("filepull.test")?;
    Ok(TlsConnector::from(config).connect(name, stream).await?)
}

/// Returns the folder of the server's authority.
pub(crate) fn tls_folder(server: &TestServer) -> PathBuf {
    server.data_dir().join(".filepull/tls")
}

/// Returns the pins of the server, the current one first.
pub(crate) fn pins_of(server: &TestServer) -> anyhow::Result<Vec<Fingerprint>> {
    let text = std::fs::read_to_string(tls_folder(server).join("authority.json"))?;
    let state: Value = serde_json::from_str(&text)?;
    let found = ["current", "next", "previous"].into_iter().filter_map(|name| state[name].as_str());
    found.map(|pin| Fingerprint::parse(pin).context("not a fingerprint")).collect()
}

/// Sends a GET request over HTTPS, and returns the whole response.
pub(crate) async fn https_get(
    server: SocketAddr,
    authority: &CertificateAuthority,
    path: &str,
) -> anyhow::Result<String> {
    let trust = ServerTrust::Pins(vec![authority.fingerprint()]);
    let mut config = Arc::unwrap_or_clone(client_config(&trust, None)?);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut peer = connect_with(server, Arc::new(config)).await?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    peer.write_all(head.as_bytes()).await?;
    let mut response = String::new();
    peer.read_to_string(&mut response).await?;
    Ok(response)
}

/// A certificate and its key in files.
pub(crate) struct CertificatePair {
    certificate: String,
    key: String,
}

impl CertificatePair {
    /// Issues a certificate for `localhost`, and writes it into `folder`.
    pub(crate) fn issue(folder: &Path, authority: &CertificateAuthority) -> anyhow::Result<Self> {
        let now = SystemTime::now();
        let year = now..now + Duration::from_secs(365 * 24 * 60 * 60);
        let issued = authority.issue(&["localhost".to_owned()], year)?;
        let path = |name: &str| folder.join(name).display().to_string();
        let pair = Self { certificate: path("cert.pem"), key: path("key.pem") };
        let key = pem("PRIVATE KEY", issued.key.secret_der());
        write_private(&pair.key, &key)?;
        let chain: String =
            issued.chain.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect();
        std::fs::write(&pair.certificate, chain)?;
        Ok(pair)
    }

    /// Returns the path of the certificate.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Returns the path of the key.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{encoded}\n-----END {label}-----\n")
}

fn write_private(path: &str, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text)?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
}
