//! Single system calls of a server that runs fail: with "no space", "input/output error" or
//! "read-only file system". A sync that has failed is never tried again on the same descriptor.

use std::collections::HashSet;
use std::fs;

use anyhow::Context as _;
use fastrand::Rng;

use super::{VICTIM, begin, ordered, over};
use crate::attached::Attached;
use crate::scenario::Scenario;
use crate::trial::Trial;

/// An error, and the code of a transfer that failed of it.
const ERRORS: [(&str, &str); 3] =
    [("ENOSPC", "server-full"), ("EIO", "storage-failed"), ("EROFS", "storage-failed")];
/// Those of the partial, of its folder, and of the records.
const CALLS: [&str; 6] = ["fallocate", "fsync", "fdatasync", "renameat2", "fchmod", "pwrite64"];
/// Of each thread.
const MOST: u32 = 3;

pub(super) async fn lane(trial: &Trial, n: u32, count: u32) -> anyhow::Result<()> {
    let mut stage = Scenario::set(trial, &[]).await?;
    let mut dice = trial.dice(&format!("r13-calls-{n}"));
    let tried = rounds(trial, &mut stage, count, &mut dice).await;
    stage.explain("calls that fail", tried)
}

async fn rounds(
    trial: &Trial,
    stage: &mut Scenario,
    count: u32,
    dice: &mut Rng,
) -> anyhow::Result<()> {
    begin(stage).await?;
    for _ in 0..count {
        let call = CALLS[dice.usize(0..CALLS.len())];
        let (error, code) = ERRORS[dice.usize(0..ERRORS.len())];
        let nth = dice.u32(1..=MOST);
        // Each one from the nth on, or the nth alone.
        let when = if dice.bool() { format!("{nth}+") } else { nth.to_string() };
        let fault = format!("inject={call}:error={error}:when={when}");
        round(trial, stage, &fault, code).await.with_context(|| fault.clone())?;
    }
    stage.audit(true).await?;
    stage.strike().await
}

async fn round(trial: &Trial, stage: &mut Scenario, fault: &str, code: &str) -> anyhow::Result<()> {
    let folder = stage.bed.folder().to_owned();
    let pid = stage.bed.server()?.pid();
    let attached = Attached::failing(&trial.ground, pid, &folder, fault).await?;
    let ordered = ordered(stage, VICTIM, code).await;
    attached.detach().await?;
    let log = fs::read_to_string(folder.join("attached"))?;
    let failed = log.lines().filter(|line| line.contains("(INJECTED)")).count();
    trial.tally.faults("calls that failed", failed as u64);
    let again = synced_again(&log);
    anyhow::ensure!(again.is_empty(), "synced again after a failure: {}", again.join("; "));
    over(stage, ordered?.as_deref(), code).await
}

/// The syncs of a partial on a descriptor on which an earlier one has failed.
fn synced_again(log: &str) -> Vec<String> {
    let (mut failed, mut again) = (HashSet::new(), Vec::new());
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
    fn a_sync_after_a_failed_one_is_seen_until_the_file_is_closed() {
        let failed = "7 fsync(9</d/a-1.tmp>) = -1 EIO (Input/output error) (INJECTED)\n";
        let again = "8 fdatasync(9</d/a-1.tmp>) = 0\n";
        let closed = "8 close(9</d/a-1.tmp>) = 0\n";
        assert_eq!(synced_again(&format!("{failed}{again}")).len(), 1);
        assert!(synced_again(&format!("{failed}{closed}{again}")).is_empty());
        assert!(synced_again(again).is_empty());
    }
}
