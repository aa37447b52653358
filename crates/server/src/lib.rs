//! The server: agents dial it, operators curl it.
//!
//! [`Server::bind`] makes everything that must exist before the first request;
//! [`Server::run_until`] serves until a future says stop, then ends what runs in order.

pub mod client;
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
mod retention;
mod store;
mod transfers;
pub mod verify;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use chrono::Utc;
use filepull_core::backoff::{Backoff, ReconnectPolicy};
use filepull_process::Lifecycle;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

pub use config::{Args, Config};
use connection_limit::ConnectionLimit;
use data_folder::RECORDS_FOLDER;
use disk_sampler::{DiskSampler, SampleError};
use grpc::{Gateway, GrpcShutdown, RejectionLog};
use known_clients::KnownClients;
use open_file_limits::ConnectionLimits;
use readiness::Readiness;
use records::Records;
use registry::{EndReason, Message, Registry};
use store::{DataFolderError, Store};
use transfers::Transfers;

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Once nothing runs any more, lines and connections that do not end by themselves are cut.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A server that listens and does not serve yet.
#[derive(Debug)]
pub struct Server {
    config: Config,
    http: TcpListener,
    grpc: TcpListener,
    room: ConnectionLimits,
    registry: Registry,
    records: Records,
    store: Store,
    transfers: Transfers,
    /// The tasks of transfers.
    work: Lifecycle,
    /// The tasks of connections, which outlive the transfers that use them.
    lines: Lifecycle,
}

impl Server {
    /// Opens the data folder and the records, takes up what an earlier process left unfinished,
    /// and listens. Port 0 takes a free one.
    ///
    /// # Errors
    /// The folder is in use, an address is taken, or the disk failed.
    pub async fn bind(mut config: Config) -> anyhow::Result<Self> {
        let room = ConnectionLimits::make();
        let (store, records) = open_data(&config.data_dir).await?;
        let listen = |setting, addr| {
            listener::listen(addr).map_err(|error| port::explained(setting, addr, error))
        };
        let http = listen("HTTP_ADDR", config.http_addr)?;
        let grpc = listen("GRPC_ADDR", config.grpc_addr)?;
        // What is shown as a setting is where one can connect, also when any port would do.
        (config.http_addr, config.grpc_addr) = (http.local_addr()?, grpc.local_addr()?);
        let registry = Registry::new();
        let (work, lines) = (Lifecycle::new(), Lifecycle::new());
        let transfers = Transfers::start(
            records.clone(),
            registry.clone(),
            store.clone(),
            DiskSampler::start(store.clone(), &lines),
            work.clone(),
            config.limits,
        )
        .await?;
        Ok(Self { config, http, grpc, room, registry, records, store, transfers, work, lines })
    }

    /// Where operators curl.
    ///
    /// # Errors
    /// The system does not say.
    pub fn http_addr(&self) -> std::io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Where agents dial.
    ///
    /// # Errors
    /// The system does not say.
    pub fn grpc_addr(&self) -> std::io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    /// Tells whether pulls can be taken, now and while the server runs.
    ///
    /// # Errors
    /// The address of a listener cannot be read.
    pub fn readiness(&self) -> std::io::Result<Readiness> {
        Ok(Readiness {
            transfers: self.transfers.clone(),
            clients: KnownClients::new(self.registry.clone(), self.records.clone()),
            grpc_addr: self.grpc_addr()?,
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

    /// Serves until `stop` resolves; then takes no new work, sends the agents away, lets running
    /// transfers finish within the grace of the settings, and ends the rest. Their bytes stay.
    ///
    /// # Errors
    /// The address of a listener cannot be read.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let (http_addr, grpc_addr) = (self.http_addr()?, self.grpc_addr()?);
        let about = http::About {
            version: VERSION,
            started_at: Utc::now(),
            http_addr,
            grpc_addr,
            data_dir: self.config.data_dir.display().to_string(),
            settings: self.config.settings(),
        };
        let app = http::App {
            transfers: self.transfers.clone(),
            clients: KnownClients::new(self.registry.clone(), self.records.clone()),
            records: self.records.clone(),
            store: self.store.clone(),
            lifecycle: self.lines.clone(),
            about,
        };
        let gateway = Gateway {
            registry: self.registry.clone(),
            records: self.records.clone(),
            transfers: self.transfers.clone(),
            lifecycle: self.lines.clone(),
            session: self.config.session,
            started: Instant::now(),
            rejections: RejectionLog::default(),
        };
        let (records, store) = (self.records.clone(), self.store.clone());
        let drain = self.work.drain().clone();
        self.work.spawn(retention::run(records, store, self.config.keep_records, drain));
        let shutdown = GrpcShutdown::default();
        let ConnectionLimits { agents, operators } = self.room;
        self.lines.spawn(http::serve(self.http, http::router(app), operators, self.lines.clone()));
        self.lines.spawn(serve_agents(gateway, self.grpc, agents, shutdown.clone()));
        info!(event = "server.ready", %http_addr, %grpc_addr, version = VERSION, "server ready");
        stop.await;
        let grace = self.config.shutdown_grace;
        info!(event = "server.stopping", grace_seconds = grace.as_secs(), "server stopping");
        shutdown.stop_accepting.cancel();
        send_away(&self.registry, self.config.session.reconnect);
        if let Err(cut_short) = self.work.shut_down(grace).await {
            warn!(event = "server.stopping", %cut_short, "transfers will resume after the restart");
        }
        for session in self.registry.sessions() {
            session.end(EndReason::Stopping);
        }
        shutdown.finish.cancel();
        // What is cut here is idle: nothing of a transfer depends on it any more.
        let _ = self.lines.shut_down(CLOSE_LIMIT).await;
        shutdown.abort.cancel();
        match timeout(CLOSE_LIMIT, self.records.close()).await {
            Ok(closed) => closed?,
            Err(_) => warn!(event = "records.failed", "the records do not close: the disk hangs"),
        }
        info!(event = "server.stopped", "server stopped");
        Ok(())
    }
}

async fn open_data(data_dir: &Path) -> anyhow::Result<(Store, Records)> {
    let opened = async {
        let folder = data_dir.to_owned();
        let store = spawn_blocking(move || Store::open_checked(&folder)).await??;
        anyhow::Ok((store, Records::open(&data_dir.join(RECORDS_FOLDER)).await?))
    };
    opened.await.map_err(|error| match error.downcast_ref() {
        // Do not query a disk again that does not answer.
        Some(DataFolderError::Unsuitable { .. } | DataFolderError::Unresponsive { .. }) => error,
        Some(DataFolderError::Store(_)) | None => data_folder::explained(data_dir, error),
    })
}

/// Ends when the shutdown are cut, or shut and every connection has ended.
async fn serve_agents(
    gateway: Gateway,
    listener: TcpListener,
    limit: ConnectionLimit,
    shutdown: GrpcShutdown,
) {
    let stop = gateway.lifecycle.stop().clone();
    let serving = grpc::serve(gateway, listener, limit, shutdown.clone());
    tokio::select! {
        served = serving => if let Err(error) = served {
            error!(event = "grpc.failed", %error, "the door for agents failed");
        },
        () = stop.cancelled() => shutdown.abort.cancel(),
    }
}

/// Asks every agent to dial again soon: another server, or this one once it is back.
fn send_away(registry: &Registry, reconnect: ReconnectPolicy) {
    for session in registry.sessions() {
        // An agent that does not hear it finds the line closed soon.
        let _ = session.send(Message::Drain { min: Backoff::FLOOR, max: reconnect.spread });
    }
}
