//! The messages of the agent. Each one goes to the log and to the status, which
//! [`keeper`](crate::keeper) writes to `status.json`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use filepull_core::human;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::diagnosis::Diagnosis;
use crate::process_id::ProcessId;
use crate::sandbox::{SandboxLevel, SandboxState};
use crate::status::{AgentState, ConnectionFailure, FileProblem, LastTransfer, Status};

/// A handle on the log and the status of one agent.
#[derive(Clone, Debug)]
pub(crate) struct StatusLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `client4: ` if several agents share a log, otherwise empty.
    prefix: String,
    /// The status has changed since it was last read for writing.
    changed: Notify,
    current: Mutex<CurrentStatus>,
}

#[derive(Debug)]
struct CurrentStatus {
    status: Status,
    /// The number of open sessions. Briefly two when the server has requested a new session.
    n_sessions: usize,
}

/// An open session. The agent is connected while at least one session is open.
#[derive(Debug)]
pub(crate) struct ConnectedGuard(StatusLog);

/// The sizes of one upload, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentSizes {
    /// The complete file.
    pub(crate) file: u64,
    /// The part from the offset of the upload to the end of the file.
    pub(crate) upload: u64,
    /// What was sent for that part.
    pub(crate) sent: u64,
}

impl SentSizes {
    fn text(self, took: Duration) -> String {
        let Self { file, upload, sent } = self;
        if upload <= sent {
            return human::took_for(took, upload);
        }
        let took = human::took(took);
        format!("{took} ({} file, {} sent)", human::size(file), human::size(sent))
    }
}

impl Drop for ConnectedGuard {
    fn drop(&mut self) {
        self.0.change_n_sessions(|n_sessions| n_sessions - 1);
    }
}

impl StatusLog {
    /// Creates the status of an agent that has not dialed yet.
    pub(crate) fn new(config: &Config, sandbox: SandboxState) -> Self {
        let status = Status {
            process: ProcessId::own(),
            heartbeat: Utc::now(),
            heartbeat_uptime_ms: 0,
            client_id: config.client.to_string(),
            server: config.servers[0].to_string(),
            state: AgentState::Connecting,
            since: Utc::now(),
            failure: None,
            file_problem: None,
            sandbox: Some(sandbox),
            last_transfer: None,
            lines: VecDeque::new(),
        };
        Self(Arc::new(Inner {
            prefix: if config.name_in_log { format!("{}: ", config.client) } else { String::new() },
            changed: Notify::new(),
            current: Mutex::new(CurrentStatus { status, n_sessions: 0 }),
        }))
    }

    /// Resolves when the status has changed since the previous call resolved. For one caller.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Returns the current status with a fresh heartbeat.
    pub(crate) fn status(&self) -> Status {
        self.with_status(|status| {
            status.update_heartbeat();
            status.clone()
        })
    }

    /// Records why the default file cannot be sent. Returns whether the problem is another one than
    /// before.
    pub(crate) fn set_file_problem(&self, problem: Option<&str>) -> bool {
        let is_new = self.with_status(|status| {
            let known = status.file_problem.as_ref().map(|known| known.text.as_str());
            let is_new = known != problem;
            let at = Utc::now();
            status.file_problem = problem.map(|text| FileProblem { text: text.to_owned(), at });
            is_new
        });
        if is_new || problem.is_some() {
            self.0.changed.notify_one();
        }
        is_new
    }

    /// Records why there is no session. The caller logs it, perhaps less often.
    pub(crate) fn set_failure(&self, failure: &Diagnosis) {
        let Diagnosis { code, text } = failure.clone();
        self.with_status(|status| {
            status.failure = Some(ConnectionFailure { code, text, at: Utc::now() });
        });
        self.0.changed.notify_one();
    }

    /// Logs the start. `protection` says how connections are protected.
    pub(crate) fn log_start(&self, protection: &str) {
        let version = env!("CARGO_PKG_VERSION");
        let (client, server) =
            self.with_status(|status| (status.client_id.clone(), status.server.clone()));
        self.info(&format!("agent {version} starting, {client}, server {server} ({protection})"));
    }

    /// Logs what the sandbox of the program enforces.
    pub(crate) fn log_sandbox(&self) {
        let Some(sandbox) = self.with_status(|status| status.sandbox.clone()) else { return };
        let text = format!("sandbox {sandbox}");
        match sandbox.level {
            SandboxLevel::Full | SandboxLevel::Off => self.info(&text),
            SandboxLevel::Partial | SandboxLevel::NotSupported => self.warn(&text),
        }
    }

    /// Counts a session as open until the returned guard is dropped.
    pub(crate) fn open_session(&self) -> ConnectedGuard {
        self.change_n_sessions(|n_sessions| n_sessions + 1);
        ConnectedGuard(self.clone())
    }

    fn change_n_sessions(&self, change: impl FnOnce(usize) -> usize) {
        let mut current = self.lock();
        current.n_sessions = change(current.n_sessions);
        let is_connected = current.n_sessions > 0;
        if is_connected {
            current.status.failure = None;
        }
        current.set_state(if is_connected {
            AgentState::Connected
        } else {
            AgentState::Connecting
        });
        drop(current);
        self.0.changed.notify_one();
    }

    pub(crate) fn log_stop(&self) {
        self.lock().set_state(AgentState::Stopped);
        self.info("agent stopped");
    }

    /// Logs a file that was sent.
    pub(crate) fn log_sent(&self, name: &str, stored_as: &str, bytes: SentSizes, took: Duration) {
        let stored_as = human::printable(stored_as, 255);
        let last = LastTransfer { name: name.to_owned(), stored_as, at: Utc::now() };
        self.with_status(|status| status.last_transfer = Some(last));
        self.info(&format!("sent {name} in {}", bytes.text(took)));
    }

    /// Logs a start or an end.
    pub(crate) fn info(&self, text: &str) {
        info!("{}{text}", self.0.prefix);
        self.note("INFO ", text);
    }

    /// Logs an unexpected event that the agent handles.
    pub(crate) fn warn(&self, text: &str) {
        warn!("{}{text}", self.0.prefix);
        self.note("WARN ", text);
    }

    /// Logs an error that only a person can fix.
    pub(crate) fn error(&self, text: &str) {
        error!("{}{text}", self.0.prefix);
        self.note("ERROR", text);
    }

    fn note(&self, level: &str, text: &str) {
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
        self.with_status(|status| status.add_line(format!("{now} {level} {text}")));
        self.0.changed.notify_one();
    }

    fn with_status<T>(&self, act: impl FnOnce(&mut Status) -> T) -> T {
        act(&mut self.lock().status)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, CurrentStatus> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CurrentStatus {
    fn set_state(&mut self, state: AgentState) {
        // A session that ends after `Stopped` does not change the state.
        if self.status.state != state && self.status.state != AgentState::Stopped {
            self.status.state = state;
            self.status.since = Utc::now();
        }
    }
}
