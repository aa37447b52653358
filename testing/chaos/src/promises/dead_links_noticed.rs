//! R11: lines that die without a word: a router that forgets or swallows, a peer that is frozen.

mod deaths;
mod slow;

use std::time::Duration;

use futures::FutureExt as _;

use crate::promise::Promise;
use crate::tool::NETWORKS;

pub(super) use slow::SLOW;

pub(super) const PROMISE: Promise = Promise {
    id: "R11",
    promised: "No silent death: both sides notice within 45 s, and are back within 15 s.",
    needs: NETWORKS,
    limit: Duration::from_secs(180),
    attempt: |trial| deaths::attempt(trial).boxed(),
};
