//! The table of the promises. A new promise is a file in `promises/` with a `PROMISE`, and an entry here.

mod dead_links_noticed;
mod durable_answers;
mod every_trigger_answered;
mod failing_disks;
mod fleet_returns;
mod fresh_means_fresh;
mod never_mixed;
mod no_overwrite;
mod nothing_wrong_published;
mod one_id_many_agents;
mod one_result;
mod one_transfer;
mod restart_loses_nothing;
mod resume_is_cheap;
mod verify_finds_damage;
mod whole_or_absent;

use crate::promise::Promise;

/// What `all` runs, in the order of the table in RELIABILITY.md.
pub(crate) const ALL: &[Promise] = &[
    whole_or_absent::PROMISE,
    no_overwrite::PROMISE,
    durable_answers::PROMISE,
    one_result::PROMISE,
    nothing_wrong_published::PROMISE,
    never_mixed::PROMISE,
    fresh_means_fresh::PROMISE,
    one_transfer::PROMISE,
    every_trigger_answered::PROMISE,
    resume_is_cheap::PROMISE,
    dead_links_noticed::PROMISE,
    one_id_many_agents::PROMISE,
    failing_disks::PROMISE,
    restart_loses_nothing::PROMISE,
    fleet_returns::PROMISE,
    verify_finds_damage::PROMISE,
];

/// Runs only when named: these take too long for every change.
pub(crate) const LONG: &[Promise] = &[dead_links_noticed::SLOW];
