//! The listener for agents: wire in, domain out. Generated types do not leave this module.

mod admission;
mod agent_rejection;
mod authentication;
mod enrol;
mod frames;
mod incoming;
mod key_exchange;
mod rejection_log;
mod session;
mod shutdown;
mod streams;
mod upload;
mod wire;

use std::time::Duration;

use filepull_core::backoff::ReconnectPolicy;
use filepull_process::Lifecycle;
use filepull_proto::v1::agent_control_server::{AgentControl, AgentControlServer};
use filepull_proto::v1::agent_enrolment_server::{AgentEnrolment, AgentEnrolmentServer};
use filepull_proto::v1::agent_transfer_server::{AgentTransfer, AgentTransferServer};
use filepull_proto::v1::{
    AgentMessage, EnrolRequest, EnrolResponse, ServerMessage, UploadRequest, UploadResponse,
};
use futures::stream::BoxStream;
use tokio::time::Instant;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::config::AgentAccess;
use crate::records::Records;
use crate::registry::Registry;
use crate::rejection_audit::RejectionAudit;
use crate::tls::CaPins;
use crate::transfers::Transfers;

pub(crate) use enrol::EnrolmentLimit;
pub(crate) use incoming::AgentListener;
pub(crate) use rejection_log::RejectionLog;
pub(crate) use shutdown::GrpcShutdown;

/// Timing of sessions and the window of uploads.
#[derive(Clone, Copy, Debug)]
pub struct SessionSettings {
    /// Mean interval between two pings of an agent.
    pub heartbeat: Duration,
    /// A session without a message for this long has ended, for the server and for the agent.
    pub dead_after: Duration,
    /// When disconnected agents dial again.
    pub reconnect: ReconnectPolicy,
    /// Flow-control window of an upload, in bytes: its throughput is this over the round trip.
    pub stream_window: u32,
}

/// The parts of the server that both services use.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    pub(crate) registry: Registry,
    pub(crate) records: Records,
    pub(crate) transfers: Transfers,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) session: SessionSettings,
    /// The heartbeats of all sessions are counted from this time.
    pub(crate) started: Instant,
    pub(crate) rejections: RejectionLog,
    pub(crate) audit: RejectionAudit,
    /// The authorities that an agent pins.
    pub(crate) ca_pins: CaPins,
    /// Which agents get a session.
    pub(crate) access: AgentAccess,
    /// Maximum number of known clients.
    pub(crate) max_clients: u64,
    /// An agent whose key is older is asked for a new one.
    pub(crate) key_max_age: Duration,
    pub(crate) enrolments: EnrolmentLimit,
}

/// Time limit for the first message of an agent, and for every step before it.
const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// Serves agents until `shutdown` ends all connections.
pub(crate) async fn serve(
    gateway: Gateway,
    agents: AgentListener,
    shutdown: GrpcShutdown,
) -> Result<(), tonic::transport::Error> {
    let stream_window = gateway.session.stream_window;
    let control = AgentControlServer::new(gateway.clone()).max_decoding_message_size(64 * 1024);
    let enrolment = AgentEnrolmentServer::new(gateway.clone())
        .max_decoding_message_size(enrol::MAX_REQUEST_LEN);
    let transfer = frames::Raw(AgentTransferServer::new(gateway));
    let incoming = agents.incoming(shutdown.clone());
    let serving = Server::builder()
        .initial_stream_window_size(stream_window)
        // Headroom, so that a stalled upload on a shared connection cannot block the session.
        .initial_connection_window_size(stream_window + (4 << 20))
        // A chunk and its framing fit into one frame and one write.
        .max_frame_size(128 * 1024)
        // tonic's default is no limit (CVE-2023-44487).
        .max_concurrent_streams(16)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .http2_max_pending_accept_reset_streams(Some(20))
        // tonic passes "no limit" on (RUSTSEC-2024-0003).
        .http2_max_local_error_reset_streams(Some(128))
        .http2_max_header_list_size(16 * 1024)
        // Applies until the response headers only: it ends no stream.
        .timeout(Duration::from_secs(15))
        .layer(streams::CountStreams)
        .add_service(control)
        .add_service(transfer)
        .add_service(enrolment)
        .serve_with_incoming_shutdown(incoming, shutdown.finish.cancelled_owned());
    tokio::select! {
        served = serving => served,
        () = shutdown.abort.cancelled() => Ok(()),
    }
}

#[tonic::async_trait]
impl AgentControl for Gateway {
    type SessionStream = BoxStream<'static, Result<ServerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        session::open(self.clone(), request).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl AgentTransfer for Gateway {
    type UploadStream = BoxStream<'static, Result<UploadResponse, Status>>;

    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<Self::UploadStream>, Status> {
        upload::open(self, request).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl AgentEnrolment for Gateway {
    async fn enrol(
        &self,
        request: Request<EnrolRequest>,
    ) -> Result<Response<EnrolResponse>, Status> {
        enrol::enrol(self, request).await.map(Response::new)
    }
}
