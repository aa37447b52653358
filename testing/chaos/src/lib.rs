//! The promises of RELIABILITY.md, each with the trial that would break it.
//!
//! ```text
//! cargo build --release -p filepull-cli -p filepull-agent
//! cargo run --release -p filepull-chaos -- list
//! cargo run --release -p filepull-chaos -- R1 R3 --seed 7
//! cargo run --release -p filepull-chaos -- all --skip R2
//! cargo run --release -p filepull-chaos -- mutations
//! ```
//!
//! A trial runs the real release programs as processes and does to them what the world does: kills
//! and stops them, cuts their wires, takes the power from their disks, fills them, turns the clock.
//! After each fault the [`oracle`] looks: at every file, at every answer, at all it has seen before.
//! One wrong file ends the trial, and the verdict shows which, with the seed that brought it about.
//!
//! All chance comes from the seed: the same seed does the same things at the same bytes. What the
//! programs make of it depends on their threads too, so a rare failure may need `--count`.
//!
//! It needs root and Debian's `strace xfsprogs e2fsprogs nbdkit nbdkit-plugin-python libnbd-bin fuse3
//! faketime iproute2 nftables iptables procps python3 patch git`. What is missing fails the run with
//! exit code 2, unless `--skip` names the promise. Everything a run makes lies on its [`ground`] and
//! goes with it: at the end, at Ctrl-C, or at the start of the next run; what runs ends with the run
//! itself, even if that is killed ([`alone`]).
//!
//! # To add a promise
//!
//! Write `promises/r9.rs` with a `pub(super) const PROMISE: Promise` and put `r9` into the table in
//! [`promises`]. It gets a [`trial::Trial`]: programs, ground, tally, seed. [`stage::Stage`] is a
//! server with clients and a wire; the rooms below are the tools. Then plant the bug that it must
//! catch, as a patch in `mutations/`.
//!
//! # To plant a bug
//!
//! `mutations/NAME.patch` is a diff against the workspace whose first lines name what catches it: a
//! trial (`Caught-by: R3 --count 10`) or one test (`Caught-by: cargo test -p filepull-e2e --test
//! limits NAME`). `filepull-chaos mutations` applies each to a copy, builds it, runs that command there
//! and demands that it fails.

pub mod alone;
pub mod attached;
pub mod cli;
pub mod clock;
pub mod counters;
pub mod dir_watcher;
pub mod disk;
pub mod failing;
pub mod mutations;
pub mod networked_scenario;
pub mod oracle;
pub mod promise;
pub mod promises;
pub mod recorder;
pub mod report;
pub mod sandbox;
pub mod scenario;
pub mod test_pattern;
pub mod tool;
pub mod trial;
pub mod write_order;
