//! Room for a fleet: descriptors.

use filepull_process::open_files;
use rustix::process::{Resource, Rlimit, setrlimit};

/// Kept back from the clients, in either process.
const OWN: u64 = 256;

/// Raises the limit of this process, which those that it starts inherit, until `n_clients` fit: as
/// far as it goes, and further where that is allowed. Returns what to know about it.
pub fn make_room(n_clients: u32) -> anyhow::Result<String> {
    let at_rest = u64::from(n_clients) + OWN;
    // After a pull a client keeps a second connection for a minute.
    let pulling = u64::from(n_clients) * 2 + OWN;
    let mut allowed = open_files::raise_limit()?;
    let more = Rlimit { current: Some(pulling), maximum: Some(pulling) };
    if allowed < pulling && setrlimit(Resource::Nofile, more).is_ok() {
        allowed = pulling;
    }
    anyhow::ensure!(
        at_rest <= allowed,
        "{n_clients} clients need {pulling} open files, and {allowed} are allowed; see ulimit -Hn"
    );
    let short = if allowed < pulling { ", too few for all second connections at once" } else { "" };
    Ok(format!("each process may open {allowed} files{short}"))
}
