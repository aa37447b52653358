//! A promise: what is promised, what trying it needs, and how it is tried.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::tool::Requirement;
use crate::trial::Trial;

/// One promise of RELIABILITY.md, and the trial that would break it.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// Its number there, such as `R1`.
    pub id: &'static str,
    /// What is promised, in one sentence.
    pub promised: &'static str,
    /// What a trial cannot do without.
    pub needs: &'static [Requirement],
    /// How long a trial at CI counts may take on two cores.
    pub limit: Duration,
    /// Tries to break it. An error is the evidence that it broke.
    pub attempt: Attempt,
}

/// How a promise is tried.
pub type Attempt = for<'a> fn(&'a Trial) -> BoxFuture<'a, anyhow::Result<()>>;
