//! R13: the server's disk is full, has no inode left, fails single system calls, or fails as a
//! whole under its file system; the records lie on the same disk, mostly. Whatever fails, fails with the right words, and what comes after it succeeds.

mod calls;
mod device;
mod full;

use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use serde_json::Value;
use tokio::time::timeout;

use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::tool::LOOP_DISKS;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R13",
    promised: "A full or failing disk is a clean failure: no false success, and no restart needed.",
    needs: LOOP_DISKS,
    limit: Duration::from_secs(120),
    attempt: |trial| attempt(trial).boxed(),
};

/// Of each kind.
const FULL: u32 = 12;
const CALLS: u32 = 60;
const DEVICES: u32 = 8;
const LANES: u32 = 3;
const VICTIM: usize = 0;
const OTHER: usize = 1;
const VICTIM_LEN: usize = 512 << 10;
/// There is time to do something while a file comes.
const RATE: &str = "2MiB/s";
const OTHER_LEN: usize = 4 << 10;
/// What can end while the fault lasts has ended by then.
const WHILE_IT_LASTS: Duration = Duration::from_millis(1_500);

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let mut lanes: Vec<BoxFuture<'_, anyhow::Result<()>>> = Vec::new();
    for kind in full::FullDiskKind::ALL {
        lanes.push(full::lane(trial, kind, trial.times(FULL)).boxed());
    }
    for under in device::DeviceLayer::ALL {
        lanes.push(device::lane(trial, under, trial.times(DEVICES)).boxed());
    }
    for n in 0..LANES {
        lanes.push(calls::lane(trial, n, trial.share(CALLS, LANES)).boxed());
    }
    try_join_all(lanes).await.map(drop)
}

/// The code of a transfer that ends because the disk fails.
const STORAGE_CODE: &str = "storage-failed";

/// The code of an order that is rejected because the records fail.
const RECORDS_CODE: &str = "records-failed";

/// Both clients are there.
async fn begin(stage: &mut Scenario) -> anyhow::Result<()> {
    stage.start_server().await?;
    for (id, len) in [("victim", VICTIM_LEN), ("other", OTHER_LEN)] {
        let index = stage.add_client(id, len, &[("MAX_RATE", RATE)])?;
        stage.connect(index).await?;
    }
    Ok(())
}

/// Asks for a client's file while the disk fails: the transfer, if the server took the order.
async fn ordered(
    stage: &mut Scenario,
    client: usize,
    code: &str,
) -> anyhow::Result<Option<String>> {
    match stage.order(client).await {
        Ok(id) => {
            let _ = timeout(WHILE_IT_LASTS, stage.finished(&id)).await;
            Ok(Some(id))
        }
        // SQLite has one error for every sync that fails, whatever the reason.
        Err(error)
            if [code, STORAGE_CODE, RECORDS_CODE].iter().any(|c| error.to_string().contains(c)) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.context(format!("refused, but not with {code}"))),
    }
}

/// A transfer has failed: with this code, in the answer and in the log.
fn told(stage: &Scenario, transfer: &Value, code: &str) -> anyhow::Result<()> {
    let (id, found) = (transfer["id"].as_str().unwrap_or_default(), &transfer["error"]["code"]);
    anyhow::ensure!(found == code, "failed with {found}, not {code}: {transfer}");
    let said = stage.bed.server()?.said();
    let is_it = |line: &&String| line.contains("transfer.failed") && line.contains(id);
    let line = said.iter().find(is_it).context("the log does not tell of the failure")?;
    anyhow::ensure!(line.contains(code), "the log has another code: {line}");
    Ok(())
}

/// The fault is over: the transfer ends, with this code if it failed, and the next ones succeed.
async fn over(stage: &mut Scenario, id: Option<&str>, code: &str) -> anyhow::Result<()> {
    if let Some(id) = id {
        let transfer = stage.finished(id).await?;
        if transfer["state"] != "done" {
            told(stage, &transfer, code)?;
        }
    }
    next_ones(stage).await
}

/// All is well again: what is open ends, and so does what is asked for now.
async fn next_ones(stage: &mut Scenario) -> anyhow::Result<()> {
    // What was ordered and refused may be open still: it ends too.
    for open in stage.transfers().await? {
        stage.finished(open["id"].as_str().unwrap_or_default()).await?;
    }
    for client in [VICTIM, OTHER] {
        stage.new_version(client)?;
        stage.connect(client).await?;
        let next = stage.order(client).await?;
        stage.done(&next).await?;
    }
    stage.audit(false).await?;
    let transfers = stage.transfers().await?;
    stage.oracle.partials(&stage.data_dir(), &transfers)?;
    stage.oracle.retire(&stage.data_dir(), 0)
}
