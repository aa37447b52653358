//! `filepull`, built by this package so that its tests can start it.

fn main() -> std::process::ExitCode {
    filepull_cli::main()
}
