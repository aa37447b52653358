//! `filepull-agent`. The code is in the library, so that tests can build the same program.

fn main() -> std::process::ExitCode {
    filepull_agent::main()
}
