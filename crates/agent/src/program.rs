//! The program: what `main` does, kept in the library so that tests can build the same program.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use filepull_process::telemetry::{self, LogError};
use filepull_process::{environment, signal, threads};
use tokio::runtime;
use tracing::error;

use crate::Agent;
use crate::config::{Args, Command, Config, ConfigError};
use crate::report::report;
use crate::status::AlreadyRuns;

/// Parses the arguments, starts the log, and does what is asked. Exits with 2 for bad settings.
pub fn main() -> ExitCode {
    let args: Args = environment::parse();
    if let Err(error) = telemetry::start(&args.log_level, args.log_format.into()) {
        return no_log(&error);
    }
    environment::warn_misspelt::<Args>();
    match start(args) {
        Ok(code) => code,
        Err(error) => {
            error!("{error:#}");
            // What nobody can retry away: a supervisor shall show red, not start us anew.
            let settings = error.is::<ConfigError>() || error.is::<AlreadyRuns>();
            ExitCode::from(if settings { 2 } else { 1 })
        }
    }
}

/// Without a log there is one place left to say why.
fn no_log(error: &LogError) -> ExitCode {
    let _ = writeln!(io::stderr(), "filepull-agent: {error}");
    ExitCode::from(2)
}

fn start(args: Args) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout();
    match args.command.unwrap_or(Command::Run) {
        Command::Run => run(Config::try_from(args)?),
        Command::Status { check } => {
            let (text, healthy) = report(&args.status_dirs(), args.asked_client());
            write!(out, "{text}")?;
            Ok(if check && !healthy { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Command::Version => {
            writeln!(out, "filepull-agent {}", env!("CARGO_PKG_VERSION"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run(config: Config) -> anyhow::Result<ExitCode> {
    // One thread for the network, and one for the disk while a file is read: measured faster than
    // several, and a till has other things to do.
    threads::require(1)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let asked_to_stop = signal::shutdown()?;
        Agent::new(config).run_until(asked_to_stop).await
    });
    // A reader may hang in a dead network drive: the process does not wait for it.
    runtime.shutdown_timeout(Duration::from_millis(500));
    ended.map(|()| ExitCode::SUCCESS)
}
