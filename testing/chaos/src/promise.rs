//! A promise: its statement, its requirements and its trial.

use std::time::Duration;

use futures::future::LocalBoxFuture;

use crate::tool::Requirement;
use crate::trial::Trial;

/// One promise of RELIABILITY.md, and the trial that tests it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    /// The id in RELIABILITY.md, such as `R1`.
    pub(crate) id: &'static str,
    pub(crate) statement: &'static str,
    /// Without these the trial cannot run.
    pub(crate) requirements: &'static [Requirement],
    /// Maximum time of a trial with the counts of CI, on two cores.
    pub(crate) limit: Duration,
    /// Runs the trial. An error means that the promise is broken, and is the evidence.
    pub(crate) run: RunTrial,
}

pub(crate) type RunTrial = for<'a> fn(&'a Trial) -> LocalBoxFuture<'a, anyhow::Result<()>>;
