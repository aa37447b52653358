//! Invites, and connections that carry the key of an agent.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use filepull_core::invite::{Invite, ServerAddress};
use filepull_proto::v1::agent_enrolment_client::AgentEnrolmentClient;
use filepull_proto::v1::enrol_response::Result as Outcome;
use filepull_proto::v1::{EnrolRequest, Enrolled, Error};
use filepull_trust::{AgentKey, ServerTrust, client_config};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::TestServer;

/// Connects to a server as an agent with this invite and this key does.
pub async fn trusted_channel(invite: &Invite, key: Option<&AgentKey>) -> anyhow::Result<Channel> {
    let trust = ServerTrust::Pins(invite.ca_pins().to_vec());
    channel_with(address_of(invite)?, client_config(&trust, key)?).await
}

/// Connects to a server with any configuration of TLS.
pub async fn channel_with(
    server: SocketAddr,
    config: Arc<ClientConfig>,
) -> anyhow::Result<Channel> {
    let connector = service_fn(move |_: Uri| {
        let connector = TlsConnector::from(Arc::clone(&config));
        async move {
            let stream = TcpStream::connect(server).await?;
            stream.set_nodelay(true)?;
            // The pin decides, not the name.
            let name = ServerName::try_from("filepull.test").map_err(std::io::Error::other)?;
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{server}"))?;
    Ok(endpoint.connect_with_connector(connector).await?)
}

/// Redeems an invite on a connection that carries the key. Returns the error with which the server
/// rejects it.
pub async fn enrol(
    channel: Channel,
    invite: &Invite,
    client: &str,
) -> anyhow::Result<Result<Enrolled, Error>> {
    let request = EnrolRequest {
        secret: invite.secret().as_bytes().to_vec().into(),
        client_id: client.to_owned(),
        hostname: format!("pos-{client}"),
        ..EnrolRequest::default()
    };
    let response = AgentEnrolmentClient::new(channel).enrol(request).await?.into_inner();
    match response.result.context("an answer without a result")? {
        Outcome::Enrolled(enrolled) => Ok(Ok(enrolled)),
        Outcome::Error(error) => Ok(Err(error)),
    }
}

impl TestServer {
    /// Makes one invite. `request` is the body for `/api/v1/invites`.
    pub async fn invite(&self, request: &Value) -> anyhow::Result<Invite> {
        let answer = self.post("/api/v1/invites", request).await?;
        parse_invite(&answer.success_json()?)
    }

    /// Makes an invite for each client of a list. `request` is the body for `/api/v1/invites`.
    pub async fn invites(&self, request: &Value) -> anyhow::Result<Vec<Invite>> {
        let response = self.post("/api/v1/invites", request).await?;
        let answer = response.success_json()?;
        answer["items"].as_array().context("no items")?.iter().map(parse_invite).collect()
    }

    /// Invites a client, and enrols a new key for it.
    pub async fn enrol(&self, client: &str) -> anyhow::Result<(Invite, AgentKey)> {
        let invite = self.invite(&serde_json::json!({ "client": client })).await?;
        let key = AgentKey::generate();
        let channel = trusted_channel(&invite, Some(&key)).await?;
        let enrolled = enrol(channel, &invite, client).await?;
        enrolled.map_err(|error| anyhow::anyhow!("{client} was not enrolled: {error:?}"))?;
        Ok((invite, key))
    }
}

fn parse_invite(answer: &Value) -> anyhow::Result<Invite> {
    Ok(Invite::parse(answer["invite"].as_str().context("no invite")?)?)
}

fn address_of(invite: &Invite) -> anyhow::Result<SocketAddr> {
    let [address, ..] = invite.addresses() else { anyhow::bail!("no address") };
    Ok(SocketAddr::new(ServerAddress::host(address).parse()?, address.port()))
}
