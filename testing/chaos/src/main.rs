//! `filepull-chaos`: tries to break every promise.

fn main() -> std::process::ExitCode {
    filepull_chaos::cli::main()
}
