//! R13: the server's disk is full, has no free inode, fails in single system calls, or fails
//! completely. The records are mostly on the same disk. Every failure has the right problem code,
//! and later transfers succeed.

mod failing_calls;
mod failing_device;
mod full_disk;

use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, try_join_all};
use serde_json::Value;
use tokio::time::timeout;

use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::tool::LOOP_DISKS;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R13",
    statement: "A full or failing disk fails cleanly: no false success, and no restart needed.",
    requirements: LOOP_DISKS,
    limit: Duration::from_secs(120),
    run: |trial| run(trial).boxed_local(),
};

const FULL: u32 = 12;
const CALLS: u32 = 60;
const DEVICES: u32 = 8;
const WORKERS: u32 = 3;
const VICTIM: usize = 0;
const OTHER: usize = 1;
const VICTIM_LEN: usize = 512 << 10;
/// Slow enough that a fault can be injected during a file.
const RATE: &str = "2MiB/s";
const OTHER_LEN: usize = 4 << 10;
/// Transfers that can end during the fault have ended after this time.
const DURING_FAULT: Duration = Duration::from_millis(1_500);

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut workers: Vec<LocalBoxFuture<'_, anyhow::Result<()>>> = Vec::new();
    for kind in full_disk::FullDiskKind::ALL {
        workers.push(full_disk::run_worker(trial, kind, trial.times(FULL)).boxed_local());
    }
    for under in failing_device::DeviceLayer::ALL {
        workers.push(failing_device::run_worker(trial, under, trial.times(DEVICES)).boxed_local());
    }
    for n in 0..WORKERS {
        workers
            .push(failing_calls::run_worker(trial, n, trial.share(CALLS, WORKERS)).boxed_local());
    }
    try_join_all(workers).await.map(drop)
}

/// The code of a transfer that failed because of the disk.
const STORAGE_CODE: &str = "storage-failed";

/// The code of a trigger that is rejected because of the records.
const RECORDS_CODE: &str = "records-failed";

async fn begin(scenario: &mut Scenario) -> anyhow::Result<()> {
    scenario.start_server().await?;
    for (id, len) in [("victim", VICTIM_LEN), ("other", OTHER_LEN)] {
        let index = scenario.add_client(id, len, &[("MAX_RATE", RATE)])?;
        scenario.connect(index).await?;
    }
    Ok(())
}

/// Triggers a pull while the disk fails. Returns the transfer unless the trigger was rejected.
async fn trigger_during_fault(
    scenario: &mut Scenario,
    client: usize,
    code: &str,
) -> anyhow::Result<Option<String>> {
    match scenario.trigger(client).await {
        Ok(id) => {
            let _ = timeout(DURING_FAULT, scenario.wait_until_final(&id)).await;
            Ok(Some(id))
        }
        // SQLite has one error for every failed fsync.
        Err(error)
            if [code, STORAGE_CODE, RECORDS_CODE].iter().any(|c| error.to_string().contains(c)) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.context(format!("rejected, but not with {code}"))),
    }
}

/// Checks the problem code of a failed transfer, in the answer and in the log.
fn check_failure(scenario: &Scenario, transfer: &Value, code: &str) -> anyhow::Result<()> {
    let id = transfer["id"].as_str().unwrap_or_default();
    let found = &transfer["error"]["code"];
    anyhow::ensure!(found == code, "failed with {found}, expected {code}: {transfer}");
    let lines = scenario.server_process()?.said();
    let is_failure = |line: &&String| line.contains("transfer.failed") && line.contains(id);
    let line = lines.iter().find(is_failure).context("the failure is not in the log")?;
    anyhow::ensure!(line.contains(code), "the log shows another code: {line}");
    Ok(())
}

/// After the fault: the transfer ends, with this code if it failed, and later transfers succeed.
async fn check_after_fault(
    scenario: &mut Scenario,
    id: Option<&str>,
    code: &str,
) -> anyhow::Result<()> {
    if let Some(id) = id {
        let transfer = scenario.wait_until_final(id).await?;
        if transfer["state"] != "done" {
            check_failure(scenario, &transfer, code)?;
        }
    }
    check_next_transfers(scenario).await
}

/// Checks that unfinished and new transfers end well.
async fn check_next_transfers(scenario: &mut Scenario) -> anyhow::Result<()> {
    // A rejected trigger may have left an unfinished transfer.
    for open in scenario.transfers().await? {
        scenario.wait_until_final(open["id"].as_str().unwrap_or_default()).await?;
    }
    for client in [VICTIM, OTHER] {
        scenario.new_version(client)?;
        scenario.connect(client).await?;
        let next = scenario.trigger(client).await?;
        scenario.wait_until_done(&next).await?;
    }
    scenario.audit(false).await?;
    let transfers = scenario.transfers().await?;
    scenario.oracle.check_partials(&scenario.data_dir(), &transfers)?;
    scenario.oracle.delete_old_downloads(&scenario.data_dir(), 0)
}
