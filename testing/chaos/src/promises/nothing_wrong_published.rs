//! R5: bits flip on the connection, in partials and in old copies, and agents lie. No wrong file is ever
//! published.

mod connection_flips;
mod lying_agent;
mod old_copies;
mod partial_flips;

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, try_join_all};

use crate::promise::Promise;
use crate::scripted_scenario::CHUNK_LEN;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "R5",
    statement: "End to end: a flipped bit is never published. In partials that needs READ_BACK=always, \
                or a restart.",
    requirements: &[],
    limit: Duration::from_secs(60),
    run: |trial| run(trial).boxed_local(),
};

/// The shortest file of a scripted agent: three chunks.
const MIN_LEN: usize = 3 * CHUNK_LEN;
/// The first four numbers of flips add up to 1,000.
const ON_THE_CONNECTION: u32 = 400;
const BEFORE_THE_COMMIT: u32 = 250;
const BEFORE_A_RESUME: u32 = 250;
const BEFORE_A_RESTART: u32 = 100;
/// Downloads that are damaged before or while an upload copies from them.
const IN_OLD_COPIES: u32 = 1_000;
/// Additional lies, which flip no bit.
const LIES: u32 = 200;
/// Concurrent workers: a flip mostly waits for the next order.
const WORKERS: u32 = 3;

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut workers: Vec<LocalBoxFuture<'_, anyhow::Result<()>>> = Vec::new();
    for n in 0..WORKERS {
        let share = |ci| trial.share(ci, WORKERS);
        workers.push(connection_flips::run(trial, n, share(ON_THE_CONNECTION)).boxed_local());
        workers.push(old_copies::run(trial, n, share(IN_OLD_COPIES)).boxed_local());
        workers.push(lying_agent::run(trial, n, share(LIES)).boxed_local());
        workers.push(
            partial_flips::before_the_commit(trial, n, share(BEFORE_THE_COMMIT)).boxed_local(),
        );
        workers
            .push(partial_flips::before_a_resume(trial, n, share(BEFORE_A_RESUME)).boxed_local());
        workers
            .push(partial_flips::before_a_restart(trial, n, share(BEFORE_A_RESTART)).boxed_local());
    }
    try_join_all(workers).await.map(drop)
}
