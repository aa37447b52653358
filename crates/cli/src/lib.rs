//! `filepull`: the server, the demo, and the commands of an operator.

mod api;
mod audit;
mod ca;
mod demo;
mod demo_file;
mod health;
mod invite;
mod manage;
mod output;
mod receipt;
mod server;
mod token;
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
use output::{print, print_error};
use tokio::runtime::Builder;

/// Pull files on demand from machines that accept no connections from outside.
#[derive(Debug, Parser)]
#[command(name = "filepull", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: OperatorCommand,
}

#[derive(Debug, Subcommand)]
enum OperatorCommand {
    /// Run the server: agents connect to it, operators send it HTTP requests.
    Server(Box<filepull_server::Args>),
    /// Try filepull: run a server and five clients with generated files in one process.
    Demo(demo::Args),
    /// Make the string that enrols a new client.
    Invite(Box<invite::Args>),
    /// Admit a client that waits, or list the clients that wait.
    Approve(manage::ApproveArgs),
    /// Remove a client: its key stops working at once.
    Forget(manage::ForgetArgs),
    /// Let a client change its key over its session.
    Rotate(manage::RotateArgs),
    /// Show or rotate the certificate authority that agents pin.
    Ca(ca::Args),
    /// Print whether the server on this machine is ready; exits with 0 if it is.
    Health(health::Args),
    /// Read every download and report those that have changed since they arrived; needs no server.
    Verify(verify::Args),
    /// Check that no record of the audit was changed, removed or inserted; needs no server.
    Audit(audit::Args),
    /// Check a file against the receipt that an agent signed; needs no server.
    Receipt(receipt::Args),
    /// Create, list and revoke the tokens of the HTTP API; needs no server.
    Token(token::Args),
    /// Print the version of filepull.
    Version,
}

/// Runs the command of the command line. Exits with 2 if the settings are invalid.
pub fn main() -> ExitCode {
    match run(environment::parse::<Cli>().command) {
        Ok(code) => code,
        Err(error) => {
            print_error(&error);
            let is_invalid = error.is::<ConfigError>() || error.is::<LogError>();
            if is_invalid { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(command: OperatorCommand) -> anyhow::Result<ExitCode> {
    let serves = matches!(command, OperatorCommand::Server(_) | OperatorCommand::Demo(_));
    let built = if serves {
        let workers = thread::available_parallelism().map_or(1, NonZero::get);
        open_files::require(OPEN_FILES)?;
        threads::require(workers + OTHER_THREADS)?;
        Builder::new_multi_thread().worker_threads(workers).enable_all().build()
    } else {
        Builder::new_current_thread().enable_all().build()
    };
    let runtime = built.context("starting the runtime")?;
    let result = runtime.block_on(perform(command));
    // Bounded, because a blocking job may wait for a disk that hangs.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

/// Minimum number of open files for a server with one client: its listeners, records and signals
/// take about 24 (`limits::a_server_with_too_few_open_files_says_so_and_ends`).
const OPEN_FILES: u64 = 32;

/// Threads besides the workers of the runtime, for the records and the disk.
const OTHER_THREADS: usize = 5;

async fn perform(command: OperatorCommand) -> anyhow::Result<ExitCode> {
    match command {
        OperatorCommand::Server(args) => {
            telemetry::start(&args.log_level, args.log_format)?;
            environment::warn_misspelt::<Cli>();
            server::run(*args).await?;
        }
        OperatorCommand::Demo(args) => {
            telemetry::start(&args.log_level, telemetry::LogFormat::Text)?;
            environment::warn_misspelt::<Cli>();
            demo::run(args).await?;
        }
        OperatorCommand::Invite(args) => return invite::run(&args).await,
        OperatorCommand::Approve(args) => return manage::approve(&args).await,
        OperatorCommand::Forget(args) => return manage::forget(&args).await,
        OperatorCommand::Rotate(args) => return manage::rotate(&args).await,
        OperatorCommand::Ca(args) => return ca::run(&args).await,
        OperatorCommand::Health(args) => return health::run(&args).await,
        OperatorCommand::Verify(args) => return verify::run(args).await,
        OperatorCommand::Audit(args) => return audit::run(args).await,
        OperatorCommand::Receipt(args) => return receipt::run(args),
        OperatorCommand::Token(args) => return token::run(args).await,
        OperatorCommand::Version => print(&format!("filepull {VERSION}"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns "812.4 GiB free", or the reason why the free space is unknown.
async fn free_space_text(server: &filepull_server::Server) -> String {
    match server.free_bytes().await {
        Ok(free) => format!("{} free", human::size(free)),
        Err(error) => error.to_string(),
    }
}
