//! `filepull-chaos` tests the promises of RELIABILITY.md by injecting the faults that could break
//! them.
//!
//! ```text
//! cargo build --release -p filepull-cli -p filepull-agent
//! cargo run --release -p filepull-chaos -- list
//! cargo run --release -p filepull-chaos -- R1 R3 --seed 7
//! cargo run --release -p filepull-chaos -- all --skip R2
//! cargo run --release -p filepull-chaos -- mutations
//! ```
//!
//! A trial runs the release programs as processes and injects faults: it kills and stops programs,
//! cuts connections, cuts the power of disks, fills disks and changes the clock. After each fault
//! the [`oracle`] checks every file and every answer against all earlier ones. One wrong file ends
//! the trial; the report names the file and the seed.
//!
//! All random choices come from the seed: the same seed injects the same faults at the same bytes.
//! The programs also depend on the timing of their threads, so a rare failure may need `--count`.
//!
//! A run needs root and Debian's `strace xfsprogs e2fsprogs nbdkit nbdkit-plugin-python libnbd-bin
//! fuse3 faketime iproute2 nftables iptables procps python3 patch git`. A missing tool fails the run
//! with exit code 2, unless `--skip` names the promise. All files of a run are in its [`sandbox`],
//! which is removed at the end, on Ctrl-C, or when the next run starts. All processes of a run end
//! with it, even if it is killed ([`isolation`]).
//!
//! # Add a promise
//!
//! Write `promises/NAME.rs` with a `pub(super) const PROMISE: Promise` and add it to the table in
//! [`promises`]. It gets a [`trial::Trial`]: programs, sandbox, counters, seed. A
//! [`scenario::Scenario`] is a server with clients and a proxy; the other modules inject and check.
//! Then add a mutation that the promise must catch.
//!
//! # Add a mutation
//!
//! `mutations/NAME.patch` is a diff of the workspace that adds one bug. Its first lines name what
//! catches the bug: a promise (`Caught-by: R3 --count 10`) or one test (`Caught-by: cargo test -p
//! filepull-e2e --test limits NAME`). `filepull-chaos mutations` applies each patch to a copy of the
//! workspace, builds it, runs that command and requires that it fails.

mod cli;
mod clock;
mod counters;
mod dir_watcher;
mod disk;
mod failing_disk;
mod fake_server;
mod isolation;
mod mutations;
mod networked_scenario;
mod oracle;
mod promise;
mod promises;
mod raw_http2;
mod recorder;
mod report;
mod sandbox;
mod scenario;
mod scripted_scenario;
mod strace_session;
mod test_pattern;
mod tool;
mod trial;
mod trial_file;
mod write_order;

fn main() -> std::process::ExitCode {
    cli::main()
}
