//! R11: connections that fail silently: the router forgets or drops them, or a peer is frozen.

mod silent_faults;
mod slow_link;

use std::time::Duration;

use futures::FutureExt as _;

use crate::promise::Promise;
use crate::tool::NETWORKS;

pub(super) use slow_link::SLOW;

pub(super) const PROMISE: Promise = Promise {
    id: "R11",
    statement: "No silent failure: both sides notice within 45 s and reconnect within 15 s.",
    requirements: NETWORKS,
    limit: Duration::from_secs(180),
    run: |trial| silent_faults::run(trial).boxed_local(),
};
