//! Single system calls of a running server fail with `ENOSPC`, `EIO` or `EROFS`. After a failed
//! fsync, the server must not call fsync again on the same file descriptor.

use std::collections::HashSet;
use std::fs;

use anyhow::Context as _;
use fastrand::Rng;

use super::{VICTIM, begin, check_after_fault, trigger_during_fault};
use crate::scenario::Scenario;
use crate::strace_session::{self, StraceSession};
use crate::trial::Trial;

/// An error, and the problem code of a transfer that fails because of it.
const ERRORS: [(&str, &str); 3] =
    [("ENOSPC", "server-full"), ("EIO", "storage-failed"), ("EROFS", "storage-failed")];
/// Calls on the partial, its folder and the records.
const CALLS: [&str; 6] = ["fallocate", "fsync", "fdatasync", "renameat2", "fchmod", "pwrite64"];
/// The fault starts at one of the first calls of each thread.
const MAX_NTH: u32 = 3;

pub(super) async fn run_worker(trial: &Trial, n: u32, count: u32) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    let mut rng = trial.rng(&format!("r13-calls-{n}"));
    let tried = rounds(trial, &mut scenario, count, &mut rng).await;
    scenario.explain("failing calls", tried)
}

async fn rounds(
    trial: &Trial,
    scenario: &mut Scenario,
    count: u32,
    rng: &mut Rng,
) -> anyhow::Result<()> {
    begin(scenario).await?;
    for _ in 0..count {
        let call = CALLS[rng.usize(0..CALLS.len())];
        let (error, code) = ERRORS[rng.usize(0..ERRORS.len())];
        let nth = rng.u32(1..=MAX_NTH);
        // All calls from the nth, or only the nth.
        let when = if rng.bool() { format!("{nth}+") } else { nth.to_string() };
        let fault = format!("inject={call}:error={error}:when={when}");
        round(trial, scenario, &fault, code).await.with_context(|| fault.clone())?;
    }
    scenario.audit(true).await?;
    scenario.teardown().await
}

async fn round(
    trial: &Trial,
    scenario: &mut Scenario,
    fault: &str,
    code: &str,
) -> anyhow::Result<()> {
    let folder = scenario.server.folder().to_owned();
    let pid = scenario.server_process()?.pid();
    let session = StraceSession::failing(&trial.sandbox, pid, &folder, fault).await?;
    let triggered = trigger_during_fault(scenario, VICTIM, code).await;
    session.detach().await?;
    let log = fs::read_to_string(folder.join(strace_session::LOG))?;
    let failed = log.lines().filter(|line| line.contains("(INJECTED)")).count();
    trial.counters.faults("failed calls", failed as u64);
    let again = repeated_syncs(&log);
    anyhow::ensure!(again.is_empty(), "fsync repeated after a failure: {}", again.join("; "));
    check_after_fault(scenario, triggered?.as_deref(), code).await
}

/// Returns the calls of fsync for a partial on a file descriptor whose earlier fsync failed.
fn repeated_syncs(log: &str) -> Vec<String> {
    let mut failed = HashSet::new();
    let mut again = Vec::new();
    for line in log.lines() {
        let Some((_, call)) = line.trim_start().split_once(' ') else { continue };
        let Some((name, rest)) = call.trim_start().split_once('(') else { continue };
        let Some((descriptor, _)) = rest.split_once([')', ' ', ',']) else { continue };
        if !descriptor.ends_with(".tmp>") {
            continue;
        }
        match name {
            "close" => _ = failed.remove(descriptor),
            "fsync" | "fdatasync" if failed.contains(descriptor) => again.push(line.to_owned()),
            "fsync" | "fdatasync" if line.contains("= -1") => {
                failed.insert(descriptor.to_owned());
            }
            _ => {}
        }
    }
    again
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_fsync_is_found_until_the_file_is_closed() {
        let failed = "7 fsync(9</d/a-1.tmp>) = -1 EIO (Input/output error) (INJECTED)\n";
        let again = "8 fdatasync(9</d/a-1.tmp>) = 0\n";
        let closed = "8 close(9</d/a-1.tmp>) = 0\n";
        assert_eq!(repeated_syncs(&format!("{failed}{again}")).len(), 1);
        assert!(repeated_syncs(&format!("{failed}{closed}{again}")).is_empty());
        assert!(repeated_syncs(again).is_empty());
    }
}
