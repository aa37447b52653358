//! R14: restarts during transfers, with 1,000 unfinished transfers, and with damaged records.

mod damaged_records;
mod many_open_transfers;
mod restarts;

use std::time::Duration;

use futures::FutureExt as _;

use crate::promise::Promise;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R14",
    statement: "Restarts lose nothing: quick start, transfers resume, damage is found and not served.",
    requirements: &[],
    limit: Duration::from_secs(120),
    run: |trial| run(trial).boxed_local(),
};

async fn run(trial: &Trial) -> anyhow::Result<()> {
    // One after another, because the restarts are timed.
    many_open_transfers::run(trial).await?;
    restarts::run(trial).await?;
    damaged_records::run(trial).await
}
