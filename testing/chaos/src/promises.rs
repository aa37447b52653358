//! The table of the promises. A new promise is a file in `promises/` with a `PROMISE`, and an entry here.

mod bad_agent_costs_itself;
mod dead_links_noticed;
mod durable_answers;
mod every_act_recorded;
mod every_trigger_answered;
mod failing_disks;
mod fleet_returns;
mod fresh_means_fresh;
mod hostile_bytes;
mod invite_works_once;
mod key_decides;
mod keys_rotate;
mod least_privilege;
mod logs_cannot_be_forged;
mod names_cannot_escape;
mod never_mixed;
mod no_browser_triggers;
mod no_overwrite;
mod nothing_wrong_published;
mod one_id_many_agents;
mod one_result;
mod one_transfer;
mod only_shared_files;
mod restart_loses_nothing;
mod resume_is_cheap;
mod revocation_bites;
mod secrets_never_show;
mod slow_connections_bounded;
mod supply_chain;
mod tls_or_nothing;
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
    key_decides::PROMISE,
    invite_works_once::PROMISE,
    revocation_bites::PROMISE,
    names_cannot_escape::PROMISE,
    only_shared_files::PROMISE,
    bad_agent_costs_itself::PROMISE,
    slow_connections_bounded::PROMISE,
    no_browser_triggers::PROMISE,
    tls_or_nothing::PROMISE,
    secrets_never_show::PROMISE,
    logs_cannot_be_forged::PROMISE,
    hostile_bytes::PROMISE,
    least_privilege::PROMISE,
    supply_chain::PROMISE,
    every_act_recorded::PROMISE,
    keys_rotate::PROMISE,
];

/// Runs only when named: it takes too long for every change.
pub(crate) const LONG: &[Promise] = &[dead_links_noticed::SLOW];
