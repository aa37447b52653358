//! Checks whether the server can accept a pull and store a file.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use filepull_core::human;

use crate::disk_sampler::SampleError;
use crate::known_clients::{ClientCounts, KnownClients};
use crate::scope::Scope;
use crate::store::FreeSpace;
use crate::tls::{CertificateView, Expiry, TlsStatus};
use crate::transfers::{Transfers, shortage};

/// Counting damaged downloads stops here.
const MAX_DAMAGED: u32 = 1000;

/// Runs the checks of `/readyz`.
#[derive(Clone, Debug)]
pub struct Readiness {
    pub(crate) transfers: Transfers,
    pub(crate) clients: KnownClients,
    pub(crate) grpc_addr: SocketAddr,
    pub(crate) tls: TlsStatus,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyCheck {
    /// Whether the check has passed.
    pub ok: bool,
    /// The name of the check, such as `data folder`.
    pub name: &'static str,
    /// The result as text, such as `writable, 812.0 GiB free`.
    pub finding: String,
}

impl Readiness {
    /// Runs all checks. The server is ready if all of them pass.
    pub async fn check(&self) -> Vec<ReadyCheck> {
        let mut checks = vec![
            self.data_folder().await,
            self.storing(),
            self.downloads().await,
            self.grpc().await,
        ];
        checks.extend(self.certificates());
        checks.push(self.draining().await);
        checks
    }

    /// Returns the number of connected clients.
    pub fn clients_online(&self) -> usize {
        self.clients.n_online()
    }

    /// Checks that the records are not known to be damaged, and that no transfer waits for the disk
    /// or the records.
    fn storing(&self) -> ReadyCheck {
        let problem = self.transfers.storing_problem();
        let ok = problem.is_none();
        ReadyCheck { ok, name: "storing", finding: problem.unwrap_or_else(|| "works".to_owned()) }
    }

    /// Reports damaged downloads. The server stays ready: a new pull does not depend on an old file,
    /// and is the remedy for it.
    async fn downloads(&self) -> ReadyCheck {
        let finding = match self.transfers.n_damaged_downloads(MAX_DAMAGED + 1).await {
            Ok(0) => "none is damaged".to_owned(),
            Ok(n_damaged) => {
                let more = if u64::from(MAX_DAMAGED) < n_damaged { "more than " } else { "" };
                let n_shown = n_damaged.min(MAX_DAMAGED.into());
                format!("{more}{n_shown} damaged, listed at /transfers?download=damaged")
            }
            Err(error) => format!("unknown: {error}"),
        };
        ReadyCheck { ok: true, name: "downloads", finding }
    }

    async fn data_folder(&self) -> ReadyCheck {
        let disk = self.transfers.disk();
        let measured = match disk.check_writable().await {
            Ok(()) => disk.space(Duration::ZERO).await,
            Err(error) => Err(error),
        };
        let (ok, finding) = judge(measured, self.transfers.limits().min_free);
        ReadyCheck { ok, name: "data folder", finding }
    }

    /// Reports the listener for agents. It is bound before the first check and until the process ends.
    async fn grpc(&self) -> ReadyCheck {
        let addr = self.grpc_addr;
        let ClientCounts { online, known } = self.clients.within(&Scope::Everything).counts().await;
        let finding = format!("listening on {addr}, {online} of {known} clients online");
        ReadyCheck { ok: true, name: "grpc", finding }
    }

    /// Checks that no certificate has ended. Empty for a server without TLS.
    fn certificates(&self) -> Vec<ReadyCheck> {
        let views = self.tls.views(SystemTime::now());
        views.into_iter().map(certificate_check).collect()
    }

    async fn draining(&self) -> ReadyCheck {
        let ok = !self.transfers.is_stopping();
        let finding = if ok {
            "no".to_owned()
        } else {
            let n_running = self.transfers.counts(&Scope::Everything).await.running;
            let running = if n_running == 1 { "transfer" } else { "transfers" };
            format!("shutdown requested, {n_running} {running} still running")
        };
        ReadyCheck { ok, name: "draining", finding }
    }
}

/// A certificate of the operator that has ended locks out agents without pins. One that is about to end is
/// reported, and the server stays ready. Agents that pin the authority ignore its dates.
fn certificate_check(view: CertificateView) -> ReadyCheck {
    let is_over = view.expiry == Expiry::Over && view.source != "authority";
    let finding = view.warning.unwrap_or(view.text);
    ReadyCheck { ok: !is_over, name: "certificate", finding }
}

fn judge(measured: Result<FreeSpace, SampleError>, min_free: u64) -> (bool, String) {
    let space = match measured {
        Ok(space) => space,
        Err(SampleError::Failed(reason)) => return (false, format!("not writable: {reason}")),
        Err(error @ SampleError::Unresponsive(_)) => return (false, error.to_string()),
    };
    let free = human::size(space.bytes);
    match shortage(space, 0, min_free) {
        None => (true, format!("writable, {free} free")),
        Some(_) if space.bytes < min_free => {
            let min_free = human::size(min_free);
            (false, format!("writable, {free} free; {min_free} must stay free"))
        }
        Some(shortage) => (false, format!("writable, {free} free. {shortage}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_almost_full_disk_is_reported_with_both_numbers() {
        let judge = |bytes, inodes, min_free| judge(Ok(FreeSpace { bytes, inodes }), min_free);
        let enough = (true, "writable, 812.0 GiB free".to_owned());
        assert_eq!(judge(812 << 30, None, 1 << 30), enough);
        let almost_full = "writable, 1.0 MiB free; 1.0 GiB must stay free";
        assert_eq!(judge(1 << 20, Some(9), 1 << 30), (false, almost_full.to_owned()));
        let no_inodes = "writable, 812.0 GiB free. The server's disk has no inodes left: \
                         it can hold no more files.";
        assert_eq!(judge(812 << 30, Some(0), 1 << 30), (false, no_inodes.to_owned()));
    }

    #[test]
    fn a_disk_that_hangs_is_reported_with_the_time_since() {
        let hangs = SampleError::Unresponsive(Duration::from_secs(12));
        let finding = "the disk has not answered for 12 s".to_owned();
        assert_eq!(judge(Err(hangs), 0), (false, finding));
    }
}
