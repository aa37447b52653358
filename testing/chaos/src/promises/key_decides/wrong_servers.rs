//! Servers that an agent must not trust: one with another authority, and one without TLS. Neither may see
//! the secret of an invite.

use std::time::Duration;

use anyhow::Context as _;
use filepull_core::invite::Invite;
use filepull_trust::AgentKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::scenario::Scenario;
use crate::trial::Trial;

/// What an agent logs about a server without a pinned key.
const REJECTS_SERVER: &str = "the key of the server is not the one that this machine trusts";
/// The first byte of a TLS handshake (RFC 8446, section 5.1).
const HANDSHAKE_BYTE: u8 = 0x16;
/// An agent dials within this time.
const DIAL_LIMIT: Duration = Duration::from_secs(20);

/// Runs real agents with a pin of another authority, and with the address of a server without TLS. With the
/// right server the same invite then works: no secret was spent.
pub(super) async fn run(trial: &Trial, scenario: &mut Scenario, round: u32) -> anyhow::Result<()> {
    let id = format!("careful{round}");
    let invite = scenario.server.invite_client(&id).await?;
    let index = scenario.add_client(&id, 1000, &[])?;
    let wrong_pins = vec![AgentKey::generate().fingerprint()];
    let addresses = invite.addresses().to_vec();
    let invitee = invite.invitee().clone();
    let expires = invite.expires_at().timestamp().cast_unsigned();
    let changed = Invite::new(addresses, invitee, wrong_pins, invite.secret().clone(), expires);
    let forged = changed.context("an invite with one pin is valid")?;
    scenario.client_setting(index, "INVITE", &forged.encode());
    scenario.start_agent(index)?;
    let rejected = timeout(DIAL_LIMIT, scenario.agent(index)?.says(REJECTS_SERVER)).await;
    rejected.context("the agent does not reject a server with another key")??;
    scenario.kill_agent(index).await;
    trial.counters.fault("servers with another key");

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    scenario.client_setting(index, "INVITE", &invite.encode());
    let proxy = scenario.proxy.addr().to_string();
    scenario.client_setting(index, "SERVER_ADDR", &listener.local_addr()?.to_string());
    scenario.start_agent(index)?;
    let sent = plain_server(listener).await?;
    anyhow::ensure!(sent.first() == Some(&HANDSHAKE_BYTE), "the agent sends plain text");
    let secret = invite.secret().as_bytes();
    let shown = sent.windows(secret.len()).any(|window| window == secret);
    anyhow::ensure!(!shown, "the agent sends its secret to a server that it does not know");
    scenario.kill_agent(index).await;
    trial.counters.fault("servers without TLS");

    scenario.client_setting(index, "SERVER_ADDR", &proxy);
    scenario.connect(index).await?;
    super::clones::run(trial, scenario, index).await?;
    scenario.kill_agent(index).await;
    scenario.server.forget(&id).await.map(drop)
}

/// Accepts one connection, answers as a plain HTTP/2 server does, and returns what the agent sends.
async fn plain_server(listener: TcpListener) -> anyhow::Result<Vec<u8>> {
    let (mut stream, _) = timeout(DIAL_LIMIT, listener.accept()).await??;
    // An empty SETTINGS frame.
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
    let mut sent = vec![0; 64 << 10];
    let len = timeout(DIAL_LIMIT, stream.read(&mut sent)).await??;
    sent.truncate(len);
    Ok(sent)
}
