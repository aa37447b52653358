//! `filepull`: the server, the demo, and what an operator types.

mod demo;
mod demo_file;
mod health;
mod output;
mod server;
mod verify;

use std::num::NonZero;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use filepull_core::human;
use filepull_process::telemetry::{self, LogError};
use filepull_process::{environment, open_files, threads};
use filepull_server::VERSION;
use filepull_server::config::ConfigError;
use output::{print, say_error};
use tokio::runtime::Builder;

/// Pull files on demand from machines that nobody can reach from outside.
#[derive(Debug, Parser)]
#[command(name = "filepull", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
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
    match run(environment::parse::<Cli>().command) {
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

fn run(command: Action) -> anyhow::Result<ExitCode> {
    let runtime = match command {
        Action::Server(_) | Action::Demo(_) => {
            let workers = thread::available_parallelism().map_or(1, NonZero::get);
            open_files::require(OPEN_FILES)?;
            threads::require(workers + OTHER_THREADS)?;
            Builder::new_multi_thread().worker_threads(workers).enable_all().build()
        }
        Action::Health(_) | Action::Verify(_) | Action::Version => {
            Builder::new_current_thread().enable_all().build()
        }
    };
    let runtime = runtime.context("starting the runtime")?;
    let done = runtime.block_on(perform(command));
    // A job may wait for a disk that hangs: the process does not wait for it.
    runtime.shutdown_timeout(Duration::from_millis(500));
    done
}

/// Minimum number of open files for a server with one client: its listeners, records and signals
/// take about 24 (`limits::a_server_with_too_few_open_files_says_so_and_ends`).
const OPEN_FILES: u64 = 32;

/// Threads besides the workers of the runtime: those of the records, and some for the disk.
const OTHER_THREADS: usize = 5;

async fn perform(command: Action) -> anyhow::Result<ExitCode> {
    match command {
        Action::Server(args) => {
            telemetry::start(&args.log_level, args.log_format)?;
            environment::warn_misspelt::<Cli>();
            server::run(*args).await?;
        }
        Action::Demo(args) => {
            telemetry::start(&args.log_level, telemetry::LogFormat::Text)?;
            environment::warn_misspelt::<Cli>();
            demo::run(args).await?;
        }
        Action::Health(args) => return health::run(&args).await,
        Action::Verify(args) => return verify::run(args).await,
        Action::Version => print(&format!("filepull {VERSION}"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// "812.4 GiB free", or the reason why that is unknown.
async fn free(server: &filepull_server::Server) -> String {
    match server.free_bytes().await {
        Ok(free) => format!("{} free", human::size(free)),
        Err(error) => error.to_string(),
    }
}
