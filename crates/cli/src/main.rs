//! The binary `filepull`. Its code is in the library, so that tests can run the same program.

fn main() -> std::process::ExitCode {
    filepull_cli::main()
}
