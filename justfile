# Short names for people; .ci/run and CONTRIBUTING.md spell the same commands out.

# Everything a change must pass before it is proposed, tests last.
check:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace
    cargo test --workspace

test *ARGS:
    cargo test --workspace {{ARGS}}

# A server and five clients in one process; files in client-data/, downloads in server-data/
demo:
    cargo run --release -- demo

bench *ARGS:
    cargo run --release -p filepull-bench -- {{ARGS}}
