//! The program: what `main` does, kept in the library so that tests can build the same program.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use filepull_process::telemetry::{self, LogError};
use filepull_process::{environment, open_files, signal, threads};
use tokio::runtime;
use tracing::{error, warn};

use crate::Agent;
use crate::config::{Action, Args, Config, ConfigError};
use crate::report::StatusReport;
use crate::state_dir::StateLockError;
use crate::status::HEARTBEAT_EVERY;

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
            let settings = error.is::<ConfigError>() || error.is::<StateLockError>();
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
    match args.command.unwrap_or(Action::Run) {
        Action::Run => run(Config::try_from(args)?),
        Action::Status { check, json } => {
            let report = StatusReport::read(&args.status_dirs(), args.asked_client());
            let text = if json { report.as_json()? } else { report.in_words() };
            write!(out, "{text}")?;
            let good = if check { report.is_connected() } else { report.is_known() };
            Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Action::Version => {
            writeln!(out, "filepull-agent {}", env!("CARGO_PKG_VERSION"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Open files that an agent needs: the runtime, two connections, the state folder, and two source
/// files.
const OPEN_FILES: u64 = 24;

fn run(config: Config) -> anyhow::Result<ExitCode> {
    open_files::require(OPEN_FILES)?;
    threads::require(1)?;
    if let Err(few) = threads::require(2) {
        warn!("files are sent one at a time, and the status waits meanwhile: {few}");
    }
    if config.state_dir.is_none() {
        warn!("no folder for status.json, so `filepull-agent status` cannot know: set STATE_DIR");
    }
    // One thread for the network, and one for the disk while a file is read: measured faster than
    // several, and a till has other things to do.
    let mut builder = runtime::Builder::new_current_thread();
    // Each heartbeat uses a blocking thread, so the keep-alive retains one of them: at the limit of
    // threads a new one could not be started.
    let runtime = builder.enable_all().thread_keep_alive(HEARTBEAT_EVERY * 4).build()?;
    let ended = runtime.block_on(async {
        let asked_to_stop = signal::shutdown()?;
        Agent::new(config).run_until(asked_to_stop).await
    });
    // A reader may hang in a dead network drive: the process does not wait for it.
    runtime.shutdown_timeout(Duration::from_millis(500));
    ended.map(|()| ExitCode::SUCCESS)
}
