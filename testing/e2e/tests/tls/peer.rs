//! A peer of the listener for agents that speaks TLS, and the pins that a server has on disk.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use filepull_core::fingerprint::Fingerprint;
use filepull_testkit::TestServer;
use filepull_trust::{AgentKey, ServerTrust, client_config};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
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

/// Connects with a configuration of the test.
pub(crate) async fn connect_with(
    server: SocketAddr,
    config: Arc<ClientConfig>,
) -> anyhow::Result<Peer> {
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
