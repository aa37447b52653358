//! Room for a fleet: descriptors.

use filepull_process::open_files;
use rustix::process::{Resource, Rlimit, setrlimit};

/// Kept back from the clients, in either process: the server alone keeps 512 for itself.
const OWN: u64 = 1024;

/// Raises the limit of this process, which those that it starts inherit, until `n_clients` fit: as
/// far as it goes, and further where that is allowed. Returns what to know about it.
///
/// A client has one connection. A file of more than one chunk takes a second one for a minute.
pub fn make_room(n_clients: u32) -> anyhow::Result<String> {
    let needed = u64::from(n_clients) + OWN;
    let mut allowed = open_files::raise_limit()?;
    let more = Rlimit { current: Some(needed), maximum: Some(needed) };
    if allowed < needed && setrlimit(Resource::Nofile, more).is_ok() {
        allowed = needed;
    }
    anyhow::ensure!(
        needed <= allowed,
        "{n_clients} clients need {needed} open files, and {allowed} are allowed; see ulimit -Hn"
    );
    Ok(format!("each process may open {allowed} files"))
}
