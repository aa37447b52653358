//! The server: agents dial it, operators curl it.
//!
//! [`Server::bind`] prepares everything for the first request. [`Server::run_until`] serves until a
//! future resolves, then shuts down in order.

pub mod access;
pub mod audit;
pub mod client;
mod client_admin;
pub mod config;
mod connection_limit;
pub mod data_folder;
mod disk_sampler;
mod grpc;
mod guarded_body;
mod http;
mod known_clients;
mod listener;
mod open_file_limits;
mod port;
mod read_budget;
pub mod readiness;
mod receive;
pub mod records;
mod registry;
mod rejection_audit;
mod retention;
pub mod scope;
mod scrubber;
mod settings_audit;
mod store;
mod tls;
mod transfers;
pub mod verify;

use std::net::SocketAddr;
use std::time::Duration;

use chrono::Utc;
use filepull_core::backoff::{Backoff, ReconnectPolicy};
use filepull_process::Lifecycle;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use access::TokensKeeper;
use client_admin::{ClientAdmin, public_addresses};
pub use config::{Args, Config};
use disk_sampler::{DiskSampler, SampleError};
use grpc::{AgentListener, EnrolmentLimit, Gateway, GrpcShutdown, RejectionLog};
pub use http::{Access, RouteRule, route_rules};
use known_clients::KnownClients;
use open_file_limits::ConnectionLimits;
use readiness::Readiness;
use records::Records;
use registry::{EndReason, Message, Registry};
use rejection_audit::RejectionAudit;
use store::Store;
use tls::{CaRotation, ServerTls};
use transfers::Transfers;

/// The version of this build, such as `0.4.0`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long sessions and connections may take to close after the last transfer. Then they are aborted.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A server that listens and does not serve yet.
#[derive(Debug)]
pub struct Server {
    config: Config,
    http: TcpListener,
    grpc: TcpListener,
    tls: ServerTls,
    limits: ConnectionLimits,
    registry: Registry,
    records: Records,
    rejections: RejectionAudit,
    store: Store,
    transfers: Transfers,
    /// Keeps the API tokens; none if every caller may do everything.
    tokens: Option<TokensKeeper>,
    /// Runs the tasks of transfers.
    work: Lifecycle,
    /// Runs the tasks of connections, which outlive the transfers that use them.
    connections: Lifecycle,
}

impl Server {
    /// Opens the data folder and the records, resumes the unfinished transfers of an earlier process,
    /// and listens. Port 0 takes a free port.
    ///
    /// # Errors
    /// The folder or an address is in use, or the disk failed.
    pub async fn bind(mut config: Config) -> anyhow::Result<Self> {
        let tokens = access::startup::open(&config.access, config.http_addr).await?;
        let limits = ConnectionLimits::from_open_files();
        let (store, records) = data_folder::open(&config.data_dir).await?;
        let listen = |setting, addr| {
            listener::listen(addr).map_err(|error| port::explained(setting, addr, error))
        };
        let http = listen("HTTP_ADDR", config.http_addr)?;
        let grpc = listen("GRPC_ADDR", config.grpc_addr)?;
        settings_audit::record(&records, &config.settings()).await?;
        if let Some(tokens) = &tokens {
            tokens.record(&records).await?;
        }
        // The settings show the actual address, also for port 0.
        config.http_addr = http.local_addr()?;
        config.grpc_addr = grpc.local_addr()?;
        let tls = ServerTls::open(config.tls_sources()).await?;
        let registry = Registry::new();
        let work = Lifecycle::new();
        let connections = Lifecycle::new();
        let transfers = Transfers::start(
            records.clone(),
            registry.clone(),
            store.clone(),
            DiskSampler::start(store.clone(), &connections),
            work.clone(),
            config.limits,
        )
        .await?;
        let rejections = RejectionAudit::new(records.clone(), connections.clone());
        Ok(Self {
            rejections,
            config,
            http,
            grpc,
            tls,
            limits,
            registry,
            records,
            store,
            transfers,
            tokens,
            work,
            connections,
        })
    }

    /// Returns the address for operators.
    ///
    /// # Errors
    /// The system does not report it.
    pub fn http_addr(&self) -> std::io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Returns the address for agents.
    ///
    /// # Errors
    /// The system does not report it.
    pub fn grpc_addr(&self) -> std::io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    /// Returns a handle that checks whether pulls can be accepted, also while the server runs.
    ///
    /// # Errors
    /// The address of a listener cannot be read.
    pub fn readiness(&self) -> std::io::Result<Readiness> {
        Ok(Readiness {
            transfers: self.transfers.clone(),
            clients: KnownClients::new(self.registry.clone(), self.records.clone()),
            grpc_addr: self.grpc_addr()?,
            tls: self.tls.status(),
        })
    }

    /// Returns the free bytes of the data folder.
    ///
    /// # Errors
    /// The file system does not report them in time.
    pub async fn free_bytes(&self) -> Result<u64, SampleError> {
        let space = self.transfers.disk().space(Duration::MAX).await?;
        Ok(space.bytes)
    }

    /// Serves until `stop` resolves. Then rejects new work, drains the agents, lets running transfers
    /// finish within the grace period, and stops the rest. The partials of unfinished transfers stay.
    ///
    /// # Errors
    /// The address of a listener cannot be read, or the records cannot be closed.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let app = self.app()?;
        let gateway = self.gateway();
        let rotation = self.rotation();
        let Self {
            config,
            http,
            grpc,
            tls,
            limits,
            registry,
            records,
            store,
            tokens,
            work,
            connections,
            ..
        } = self;
        if let Some(tokens) = tokens {
            let drain = connections.drain().clone();
            connections.spawn(tokens.run(records.clone(), drain));
        }
        let writes = store.write_mode().as_str();
        let copies = store.copy_mode().as_str();
        let drain = work.drain().clone();
        let keep = config.keep_records;
        work.spawn(retention::run(records.clone(), store.clone(), keep, drain.clone()));
        work.spawn(scrubber::run(records.clone(), store, config.scrub_every, drain));
        let shutdown = GrpcShutdown::default();
        let router = http::router(app);
        let operators = http::OperatorListener {
            listener: http,
            limit: limits.operators,
            tls: tls.operators(),
            lifecycle: connections.clone(),
        };
        connections.spawn(operators.serve(router));
        let agents = AgentListener {
            listener: grpc,
            limit: limits.agents,
            tls: tls.agents(),
            lifecycle: connections.clone(),
        };
        connections.spawn(tls.maintain(rotation, connections.clone()));
        connections.spawn(serve_agents(gateway, agents, shutdown.clone()));
        let Config { http_addr, grpc_addr, .. } = config;
        info!(
            event = "server.ready", %http_addr, %grpc_addr, version = VERSION, writes, copies,
            "server ready"
        );
        stop.await;
        let grace = config.shutdown_grace;
        info!(event = "server.stopping", grace_seconds = grace.as_secs(), "server stopping");
        shutdown.stop_accepting.cancel();
        drain_agents(&registry, config.session.reconnect);
        if let Err(timeout) = work.shut_down(grace).await {
            warn!(
                event = "server.drain_timed_out", %timeout,
                "transfers will resume after the restart"
            );
        }
        for session in registry.sessions() {
            session.end(EndReason::Stopping);
        }
        shutdown.finish.cancel();
        // Connections that are aborted here carry no transfer any more.
        let _ = connections.shut_down(CLOSE_LIMIT).await;
        shutdown.abort.cancel();
        match timeout(CLOSE_LIMIT, records.close()).await {
            Ok(closed) => closed?,
            Err(_) => error!(event = "records.failed", "the records do not close: the disk hangs"),
        }
        info!(event = "server.stopped", "server stopped");
        Ok(())
    }

    fn app(&self) -> std::io::Result<http::App> {
        let about = http::About {
            version: VERSION,
            started_at: Utc::now(),
            http_addr: self.http_addr()?,
            grpc_addr: self.grpc_addr()?,
            data_dir: self.config.data_dir.display().to_string(),
            settings: self.config.settings(),
        };
        let tokens = self.tokens.as_ref().map(TokensKeeper::tokens);
        Ok(http::App::from(http::AppParts {
            gate: http::Gate::new(&self.config.access, tokens),
            trigger_get: self.config.access.trigger_get,
            admin: self.client_admin()?,
            transfers: self.transfers.clone(),
            clients: KnownClients::new(self.registry.clone(), self.records.clone()),
            records: self.records.clone(),
            rejections: self.rejections.clone(),
            store: self.store.clone(),
            rotation: self.rotation(),
            tls: self.tls.status(),
            lifecycle: self.connections.clone(),
            about,
        }))
    }

    fn client_admin(&self) -> std::io::Result<ClientAdmin> {
        Ok(ClientAdmin {
            records: self.records.clone(),
            registry: self.registry.clone(),
            clients: KnownClients::new(self.registry.clone(), self.records.clone()),
            transfers: self.transfers.clone(),
            ca_pins: self.tls.pins(),
            addresses: public_addresses(&self.config.public_addr, self.grpc_addr()?),
            max_clients: self.config.max_clients,
            access: self.config.agent_access(),
        })
    }

    fn rotation(&self) -> Option<CaRotation> {
        let authority = self.tls.authority()?;
        Some(CaRotation::new(authority, self.records.clone()))
    }

    fn gateway(&self) -> Gateway {
        Gateway {
            registry: self.registry.clone(),
            records: self.records.clone(),
            transfers: self.transfers.clone(),
            lifecycle: self.connections.clone(),
            session: self.config.session,
            started: Instant::now(),
            rejections: RejectionLog::default(),
            audit: self.rejections.clone(),
            ca_pins: self.tls.pins(),
            access: self.config.agent_access(),
            max_clients: self.config.max_clients,
            key_max_age: self.config.key_max_age,
            enrolments: EnrolmentLimit::default(),
        }
    }
}

/// Ends when all connections have ended after `finish`, or when the process stops.
async fn serve_agents(gateway: Gateway, agents: AgentListener, shutdown: GrpcShutdown) {
    let stop = gateway.lifecycle.stop().clone();
    let serving = grpc::serve(gateway, agents, shutdown.clone());
    tokio::select! {
        served = serving => if let Err(error) = served {
            error!(event = "grpc.failed", %error, "the listener for agents failed");
        },
        () = stop.cancelled() => shutdown.abort.cancel(),
    }
}

/// Requests that every agent dials again soon: another server, or this one after its restart.
fn drain_agents(registry: &Registry, reconnect: ReconnectPolicy) {
    for session in registry.sessions() {
        // An agent whose outbox is full notices that the connection is closed.
        let _ = session.send(Message::Drain { min: Backoff::FLOOR, max: reconnect.spread });
    }
}
