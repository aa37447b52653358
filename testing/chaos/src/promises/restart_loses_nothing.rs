//! R14: restarts under running transfers, with 1,000 open ones, and with damaged records.

mod damage;
mod restarts;
mod thousand;

use std::time::Duration;

use futures::FutureExt as _;

use crate::promise::Promise;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R14",
    promised: "Restart is boring: it is quick, everything resumes, and damage is found, not served.",
    needs: &[],
    limit: Duration::from_secs(120),
    attempt: |trial| attempt(trial).boxed(),
};

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    // Times are promised here: what is timed has the machine for itself.
    thousand::attempt(trial).await?;
    restarts::attempt(trial).await?;
    damage::attempt(trial).await
}
