//! `filepull`: the server, the demo, and what an operator types.

mod demo;
mod health;
mod made_file;
mod server;
mod verify;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use filepull_core::human;
use filepull_process::telemetry::{self, LogError};
use filepull_server::VERSION;
use filepull_server::config::ConfigError;

/// Pull files on demand from machines that nobody can reach from outside.
#[derive(Debug, Parser)]
#[command(name = "filepull", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: agents dial it, operators curl it.
    Server(Box<filepull_server::Args>),
    /// Run a server and five clients with made files in one process, to try things.
    Demo(demo::Args),
    /// Say whether the server on this machine is ready; exits with 0 if it is.
    Health(health::Args),
    /// Read the downloads again and say which of them are not what arrived; needs no server.
    Verify(verify::Args),
    /// Print the version.
    Version,
}

/// Does what was typed; the exit code says how it went.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) if error.is::<ConfigError>() || error.is::<LogError>() => {
            say_error(&error);
            ExitCode::from(2)
        }
        Err(error) => {
            say_error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(perform(command));
    // A job may wait for a disk that hangs: the process does not wait for it.
    runtime.shutdown_timeout(Duration::from_millis(500));
    done
}

async fn perform(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Server(args) => {
            telemetry::start(&args.log_level, args.log_format)?;
            server::run(*args).await?;
        }
        Command::Demo(args) => {
            telemetry::start(&args.log_level, telemetry::LogFormat::Text)?;
            demo::run(args).await?;
        }
        Command::Health(args) => return health::run(&args).await,
        Command::Verify(args) => return verify::run(args).await,
        Command::Version => say(&format!("filepull {VERSION}")),
    }
    Ok(ExitCode::SUCCESS)
}

/// What was asked for goes to standard output. Whoever read it may be gone: the exit code still
/// says how it went.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Talk goes to standard error.
fn say_error(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "filepull: {error:#}");
}

/// "812.4 GiB free", or the reason why that is unknown.
async fn free(server: &filepull_server::Server) -> String {
    match server.free_bytes().await {
        Ok(free) => format!("{} free", human::size(free)),
        Err(error) => error.to_string(),
    }
}
