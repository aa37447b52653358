//! The `main` function of `filepull-agent`. Tests build the same program from the library.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use filepull_process::telemetry::{self, LogError};
use filepull_process::{environment, open_files, signal, threads};
use tokio::runtime;
use tracing::{error, warn};

use crate::Agent;
use crate::config::{Action, Args, Config, ConfigError, InviteAction};
use crate::credentials::CredentialsError;
use crate::invite_show::invite_text;
use crate::report::StatusReport;
use crate::sandbox::{FileSandbox, SandboxError};
use crate::state_dir::StateLockError;
use crate::status::HEARTBEAT_INTERVAL;
use crate::transfer_log::LogReport;

/// Parses the arguments, starts the log, and runs the command. The exit code is 2 for invalid
/// settings, and 1 for other errors.
pub fn main() -> ExitCode {
    filepull_trust::install_provider();
    let args: Args = environment::parse();
    if let Err(error) = telemetry::start(&args.log_level, args.log_format.into()) {
        return print_log_error(&error);
    }
    environment::warn_misspelt::<Args>();
    match start(args) {
        Ok(code) => code,
        Err(error) => {
            error!("{error:#}");
            // A restart does not help, so a process supervisor must not try one.
            let is_permanent = error.is::<ConfigError>()
                || error.is::<StateLockError>()
                || error.is::<SandboxError>()
                || error.is::<CredentialsError>();
            ExitCode::from(if is_permanent { 2 } else { 1 })
        }
    }
}

/// Prints why there is no log.
fn print_log_error(error: &LogError) -> ExitCode {
    let _ = writeln!(io::stderr(), "filepull-agent: {error}");
    ExitCode::from(2)
}

fn start(args: Args) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout();
    match args.command.clone().unwrap_or(Action::Run) {
        Action::Run => run(Config::try_from(args)?),
        Action::Status { check, json } => {
            let report = StatusReport::read(&args.status_dirs(), args.selected_client());
            let text = if json { report.as_json()? } else { report.as_text() };
            write!(out, "{text}")?;
            let succeeded = if check { report.is_connected() } else { report.is_known() };
            Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Action::Log { json, limit } => {
            let report = LogReport::read(&args.status_dirs(), args.selected_client(), limit);
            write!(out, "{}", if json { report.as_json()? } else { report.as_text() })?;
            write!(io::stderr(), "{}", report.problems())?;
            Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Action::Invite(InviteAction::Show { text }) => {
            let shown = text.or(args.invite).ok_or("write the invite after `show`, or set INVITE");
            match shown.map_err(str::to_owned).and_then(|text| invite_text(&text.0)) {
                Ok(text) => {
                    write!(out, "{text}")?;
                    Ok(ExitCode::SUCCESS)
                }
                Err(reason) => {
                    writeln!(io::stderr(), "{reason}")?;
                    Ok(ExitCode::from(2))
                }
            }
        }
        Action::Version => {
            writeln!(out, "filepull-agent {}", env!("CARGO_PKG_VERSION"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Number of open files that an agent needs: for the runtime, two connections, the state folder,
/// and two source files.
const MIN_OPEN_FILES: u64 = 24;

fn run(config: Config) -> anyhow::Result<ExitCode> {
    open_files::require(MIN_OPEN_FILES)?;
    threads::require(1)?;
    if let Err(error) = threads::require(2) {
        warn!("files are sent one at a time, and the status waits meanwhile: {error}");
    }
    if config.state_dir.is_none() {
        warn!("no folder for status.json, so `filepull-agent status` cannot report: set STATE_DIR");
    }
    // Before the first thread and the first connection: threads inherit the sandbox.
    let sandbox = FileSandbox::new(&config).enter()?;
    // One thread for the network, and one for the disk while a file is read. More threads were
    // slower in a measurement, and a small machine has other work.
    let mut builder = runtime::Builder::new_current_thread();
    // Each heartbeat uses a blocking thread, so the keep-alive keeps one of them: at the limit of
    // threads no new one could be started.
    let runtime = builder.enable_all().thread_keep_alive(HEARTBEAT_INTERVAL * 4).build()?;
    let result = runtime.block_on(async {
        let stop = signal::shutdown()?;
        Agent::in_sandbox(config, sandbox).run_until(stop).await
    });
    // A reader may hang on a network drive. The process does not wait for it.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result.map(|()| ExitCode::SUCCESS)
}
