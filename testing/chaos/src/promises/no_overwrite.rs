//! R2: a clock that stands still or jumps, many clients, and an intruder that takes the next names.

mod clock_jumps;
mod intruder;
mod stopped_clock;

use std::time::Duration;

use futures::FutureExt as _;

use crate::promise::Promise;
use crate::tool::Requirement;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R2",
    statement: "No file is ever overwritten, for any clock, name or number of writers.",
    requirements: &[Requirement::Program("faketime", "faketime")],
    limit: Duration::from_secs(40),
    run: |trial| run(trial).boxed_local(),
};

async fn run(trial: &Trial) -> anyhow::Result<()> {
    tokio::try_join!(stopped_clock::run(trial), intruder::run(trial), clock_jumps::run(trial))?;
    Ok(())
}
