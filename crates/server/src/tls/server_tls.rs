//! TLS of this server: opened at the start, and kept up to date by one task.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use filepull_process::Lifecycle;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::error;

use super::CaPins;
use super::acceptor::{Alpn, TlsAcceptor};
use super::authority_folder::AuthorityFolder;
use super::ca_rotation::CaRotation;
use super::certificate_files::{CertificateFiles, CertificatePaths};
use super::expiry::{ExpiryWarnings, TlsStatus, WatchedCertificate};
use super::own_authority::OwnAuthority;

/// How often the files are checked for changes. A change is used at the next check after it.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// What the server presents to agents and to operators.
#[derive(Debug)]
pub(crate) struct ServerTls {
    agents: CertificateForAgents,
    operators: Option<CertificateFiles>,
}

/// The certificate of the listener for agents.
#[derive(Debug)]
enum CertificateForAgents {
    /// Plain text.
    None,
    /// Issued by the server's own authority.
    Own(OwnAuthority),
    /// Of the operator.
    Files(Box<CertificateFiles>),
}

/// Where the certificate for agents comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AgentTls {
    /// Plain text.
    Off,
    /// The server's own authority.
    Own,
    /// Files of the operator.
    Files(CertificatePaths),
}

/// Where the certificates of both listeners come from.
#[derive(Clone, Debug)]
pub(crate) struct TlsSources {
    pub(crate) agents: AgentTls,
    /// None: plain text.
    pub(crate) operators: Option<CertificatePaths>,
    /// The folder of the own authority.
    pub(crate) folder: PathBuf,
    /// The names by which agents reach the server.
    pub(crate) hosts: Vec<String>,
    pub(crate) grpc_addr: SocketAddr,
}

impl ServerTls {
    /// Opens the certificates, and creates the authority at the first start.
    ///
    /// # Errors
    /// The files of the authority or of the operator cannot be used.
    pub(crate) async fn open(sources: TlsSources) -> anyhow::Result<Self> {
        let TlsSources { agents, operators, folder, hosts, grpc_addr } = sources;
        let agents = match agents {
            AgentTls::Off => CertificateForAgents::None,
            AgentTls::Own => {
                let folder = AuthorityFolder::new(folder);
                let names = own_names(hosts, grpc_addr);
                CertificateForAgents::Own(
                    OwnAuthority::open(folder, names, SystemTime::now()).await?,
                )
            }
            AgentTls::Files(paths) => {
                let files = open_files(paths, hosts, Alpn::Http2).await?;
                CertificateForAgents::Files(Box::new(files))
            }
        };
        let operators = match operators {
            Some(paths) => Some(open_files(paths, Vec::new(), Alpn::Http1).await?),
            None => None,
        };
        Ok(Self { agents, operators })
    }

    /// Returns the acceptor of the listener for agents. None: plain text.
    pub(crate) fn agents(&self) -> Option<TlsAcceptor> {
        let presented = match &self.agents {
            CertificateForAgents::None => return None,
            CertificateForAgents::Own(authority) => authority.presented(),
            CertificateForAgents::Files(files) => files.presented(),
        };
        Some(TlsAcceptor::new(presented, Alpn::Http2))
    }

    /// Returns the acceptor of the listener for operators. None: plain text.
    pub(crate) fn operators(&self) -> Option<TlsAcceptor> {
        let presented = self.operators.as_ref()?.presented();
        Some(TlsAcceptor::new(presented, Alpn::Http1))
    }

    /// Returns what agents pin.
    pub(crate) fn pins(&self) -> CaPins {
        match &self.agents {
            CertificateForAgents::None => CaPins::none(),
            CertificateForAgents::Own(authority) => authority.pins(),
            CertificateForAgents::Files(files) => files.pins(),
        }
    }

    /// Returns the server's own authority, if it has one.
    pub(crate) fn authority(&self) -> Option<OwnAuthority> {
        match &self.agents {
            CertificateForAgents::Own(authority) => Some(authority.clone()),
            CertificateForAgents::None | CertificateForAgents::Files(_) => None,
        }
    }

    /// Returns what operators see, also while the certificates change.
    pub(crate) fn status(&self) -> TlsStatus {
        let of_files = |files: &CertificateFiles| WatchedCertificate {
            source: files.paths().settings[0],
            is_own: false,
            presented: files.presented(),
        };
        let agents = match &self.agents {
            CertificateForAgents::None => None,
            CertificateForAgents::Own(authority) => Some(WatchedCertificate {
                source: "own authority",
                is_own: true,
                presented: authority.presented(),
            }),
            CertificateForAgents::Files(files) => Some(of_files(files)),
        };
        let operators = self.operators.as_ref().map(of_files);
        TlsStatus {
            certificates: agents.into_iter().chain(operators).collect(),
            authority: self.authority(),
        }
    }

    /// Renews and reloads certificates, switches to an authority that every client pins, and warns
    /// before a certificate ends. Ends when the server drains.
    pub(crate) async fn maintain(mut self, rotation: Option<CaRotation>, lifecycle: Lifecycle) {
        let mut warnings = ExpiryWarnings::new(self.status());
        let mut checks = interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let drain = lifecycle.drain().clone();
        while drain.run_until_cancelled(checks.tick()).await.is_some() {
            let now = SystemTime::now();
            if let CertificateForAgents::Own(authority) = &self.agents
                && let Err(error) = authority.renew(now).await
            {
                error!(
                    event = "certificate.renewal_failed", %error,
                    "cannot renew the server's certificate"
                );
            }
            if let Some(rotation) = &rotation
                && let Err(error) = rotation.switch_if_all_have_it().await
            {
                error!(
                    event = "authority.failed", %error,
                    "cannot switch to the next certificate authority"
                );
            }
            // Reading files blocks. A process that stops does not need them any more.
            let Ok(reloaded) = spawn_blocking(|| self.reload()).await else { return };
            self = reloaded;
            warnings.check(now);
        }
    }

    fn reload(mut self) -> Self {
        if let CertificateForAgents::Files(files) = &mut self.agents {
            files.reload();
        }
        if let Some(files) = &mut self.operators {
            files.reload();
        }
        self
    }
}

async fn open_files(
    paths: CertificatePaths,
    names: Vec<String>,
    alpn: Alpn,
) -> anyhow::Result<CertificateFiles> {
    Ok(spawn_blocking(move || CertificateFiles::open(paths, names, alpn)).await??)
}

/// Returns the names in a certificate of the own authority: also the addresses of this machine, because a
/// browser and `openssl` check them.
fn own_names(hosts: Vec<String>, grpc_addr: SocketAddr) -> Vec<String> {
    let mut names = hosts;
    names.push("localhost".to_owned());
    names.extend(["127.0.0.1", "::1"].map(str::to_owned));
    if !grpc_addr.ip().is_unspecified() {
        names.push(grpc_addr.ip().to_canonical().to_string());
    }
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}
