//! Whether the server can take a pull and store a file, and if not, why.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use filepull_core::human;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::registry::Registry;
use crate::store::Store;
use crate::transfers::Transfers;

/// A disk that has not answered by then is not one to store files on.
const DISK_LIMIT: Duration = Duration::from_secs(2);

/// Looks at what must hold.
#[derive(Clone, Debug)]
pub struct Readiness {
    pub(crate) transfers: Transfers,
    pub(crate) registry: Registry,
    pub(crate) store: Store,
    pub(crate) grpc_addr: SocketAddr,
}

/// One thing that must hold, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// It holds.
    pub ok: bool,
    /// Its name.
    pub name: &'static str,
    /// What was found, in words.
    pub finding: String,
}

impl Readiness {
    /// Looks at everything. The server is ready if all of it is ok.
    pub async fn check(&self) -> [Check; 4] {
        [self.data_folder().await, self.storing(), self.grpc(), self.draining()]
    }

    /// What was received reaches the disk and the records.
    fn storing(&self) -> Check {
        let (ok, finding) = match self.transfers.n_waiting_for_us() {
            0 => (true, "works".to_owned()),
            1 => (false, "1 transfer waits for the disk or the records".to_owned()),
            n => (false, format!("{n} transfers wait for the disk or the records")),
        };
        Check { ok, name: "storing", finding }
    }

    async fn data_folder(&self) -> Check {
        let (store, min_free) = (self.store.clone(), self.transfers.limits().min_free);
        let looked = timeout(DISK_LIMIT, spawn_blocking(move || look(&store))).await;
        let (ok, finding) = match looked {
            Ok(Ok(Ok(free))) => judge(free, min_free),
            Ok(Ok(Err(error))) => (false, format!("not writable: {error}")),
            Ok(Err(error)) => (false, error.to_string()),
            Err(_) => (false, format!("does not answer within {}", human::span(DISK_LIMIT))),
        };
        Check { ok, name: "data folder", finding }
    }

    /// Both listeners are bound before either answers, and both end with the process.
    fn grpc(&self) -> Check {
        let (addr, (online, known)) = (self.grpc_addr, self.registry.counts());
        let finding = format!("listening on {addr}, {online} of {known} clients online");
        Check { ok: true, name: "grpc", finding }
    }

    fn draining(&self) -> Check {
        let ok = !self.transfers.is_stopping();
        let finding = if ok {
            "no".to_owned()
        } else {
            let n_running = self.transfers.counts().running;
            let running = if n_running == 1 { "transfer" } else { "transfers" };
            format!("shutdown requested, {n_running} {running} still running")
        };
        Check { ok, name: "draining", finding }
    }
}

fn look(store: &Store) -> io::Result<u64> {
    store.check_writable()?;
    store.free()
}

fn judge(free: u64, min_free: u64) -> (bool, String) {
    let (ok, said) = (min_free <= free, human::size(free));
    let must = format!("; {} must stay free", human::size(min_free));
    (ok, format!("writable, {said} free{}", if ok { String::new() } else { must }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_almost_full_is_told_with_both_numbers() {
        assert_eq!(judge(812 << 30, 1 << 30), (true, "writable, 812.0 GiB free".to_owned()));
        let almost_full = "writable, 1.0 MiB free; 1.0 GiB must stay free";
        assert_eq!(judge(1 << 20, 1 << 30), (false, almost_full.to_owned()));
    }
}
