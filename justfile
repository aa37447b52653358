# Short names for the commands that people use. CONTRIBUTING.md lists them in full.

# List the recipes.
default:
    @just --list --unsorted

# Every check of a pull request that needs no root and no Docker.
ci: lint deny typos test

# Formatting, clippy and the documentation.
lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace

# Licences, sources and duplicates of the dependencies (cargo install cargo-deny).
deny:
    cargo deny check bans licenses sources

# Spelling (pip install typos, or cargo install typos-cli).
typos:
    typos

# All tests, or some: just test -p filepull-core.
test *ARGS:
    cargo test --workspace {{ARGS}}

# Try a promise on the release programs, as root: just chaos R1, just chaos all.
chaos *ARGS: programs
    cargo build --release -p filepull-chaos
    "${CARGO_TARGET_DIR:-target}/release/filepull-chaos" {{ARGS}}

# Prove that every mutation is caught, or one: just mutations no-joining.
mutations *ARGS: programs
    cargo run --release -p filepull-chaos -- mutations {{ARGS}}

# Fuzz each target for a number of seconds, or one: just fuzz 60, just fuzz 600 http.
fuzz SECONDS *TARGETS:
    fuzz/run {{SECONDS}} {{TARGETS}}

# Measure: just bench throughput, just bench fleet --clients 1000.
bench *ARGS: programs
    cargo run --release -p filepull-bench -- {{ARGS}}

# A server and five clients in one process; files in client-data/, downloads in server-data/.
demo:
    cargo run --release -- demo

[private]
programs:
    cargo build --release -p filepull-cli -p filepull-agent
