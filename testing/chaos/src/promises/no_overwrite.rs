//! R2: a clock that stands still or jumps, many clients, and an intruder who takes the next names.

mod frozen;
mod intruder;
mod jumps;

use std::time::Duration;

use futures::FutureExt as _;

use crate::promise::Promise;
use crate::tool::Requirement;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R2",
    promised: "Nothing is ever overwritten, whatever the clock, the name or the number of writers.",
    needs: &[Requirement::Program("faketime", "faketime")],
    limit: Duration::from_secs(40),
    attempt: |trial| attempt(trial).boxed(),
};

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    tokio::try_join!(frozen::attempt(trial), intruder::attempt(trial), jumps::attempt(trial))?;
    Ok(())
}
