//! R5: bits flip on the wire and in partials, and agents lie. Nothing wrong is ever published.

mod hand;
mod lies;
mod partial;
mod wire;

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};

use crate::promise::Promise;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R5",
    promised: "End to end: a flipped bit, on the wire or in the partial, is never published.",
    needs: &[],
    limit: Duration::from_secs(60),
    attempt: |trial| attempt(trial).boxed(),
};

/// 1,000 in all.
const ON_THE_WIRE: u32 = 400;
const BEFORE_THE_COMMIT: u32 = 250;
const BEFORE_A_RESUME: u32 = 250;
const BEFORE_A_RESTART: u32 = 100;
/// And these, which are no flips.
const LIES: u32 = 200;
/// Side by side: much of a flip is waiting for the next order.
const LANES: u32 = 3;

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let mut lanes: Vec<BoxFuture<'_, anyhow::Result<()>>> = Vec::new();
    for n in 0..LANES {
        let share = |ci| trial.share(ci, LANES);
        lanes.push(wire::attempt(trial, n, share(ON_THE_WIRE)).boxed());
        lanes.push(lies::attempt(trial, n, share(LIES)).boxed());
        lanes.push(partial::before_the_commit(trial, n, share(BEFORE_THE_COMMIT)).boxed());
        lanes.push(partial::before_a_resume(trial, n, share(BEFORE_A_RESUME)).boxed());
        lanes.push(partial::before_a_restart(trial, n, share(BEFORE_A_RESTART)).boxed());
    }
    try_join_all(lanes).await.map(drop)
}
