//! TLS of both listeners, as a peer sees it: TLS 1.3 only, with keys, pins and limits.

mod tls {
    pub(crate) mod peer;
}

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use filepull_core::fingerprint::Fingerprint;
use filepull_testkit::{DEADLINE, TestServer, poll, soon};
use filepull_trust::{AgentKey, CertificateAuthority, ServerTrust, client_config};
use rustls::{NamedGroup, ProtocolVersion};
use tls::peer::{Peer, connect, pins_of};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The settings of a server whose agents need an invite, and that therefore speaks TLS.
const INVITE: [(&str, &str); 1] = [("AGENT_AUTH", "invite")];

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
