//! The limit of open files that a fleet needs.

use filepull_process::open_files;
use rustix::process::{Resource, Rlimit, setrlimit};

/// Open files of either process beside the connections of clients. The server reserves 512.
const RESERVED: u64 = 1024;

/// Raises the limit of open files of this process for `n_clients`, beyond the hard limit if the
/// user may do so. Processes that start later inherit the limit. Returns a sentence for the report.
///
/// A client has one connection, and a second one for a minute after it has sent a file of more than
/// one chunk.
pub fn make_room(n_clients: u32) -> anyhow::Result<String> {
    let needed = u64::from(n_clients) + RESERVED;
    let mut allowed = open_files::raise_limit()?;
    let higher = Rlimit { current: Some(needed), maximum: Some(needed) };
    if allowed < needed && setrlimit(Resource::Nofile, higher).is_ok() {
        allowed = needed;
    }
    anyhow::ensure!(
        needed <= allowed,
        "{n_clients} clients need {needed} open files, and {allowed} are allowed; see ulimit -Hn"
    );
    Ok(format!("each process may open {allowed} files"))
}
