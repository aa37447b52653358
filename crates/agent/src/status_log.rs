//! What the agent reports: each message goes to the log and to the status, which
//! [`keeper`](crate::keeper) writes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use filepull_core::human;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::dial::ServerAddr;
use crate::process_id::ProcessId;
use crate::status::{AgentState, FileProblem, LastTransfer, Status};

/// A handle on the one journal of an agent.
#[derive(Clone, Debug)]
pub(crate) struct StatusLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `client4: `, where several agents share a log.
    name: String,
    /// The status has changed since it was last read for writing.
    changed: Notify,
    now: Mutex<CurrentStatus>,
}

#[derive(Debug)]
struct CurrentStatus {
    status: Status,
    /// The number of open sessions. Briefly two when the server has requested a new session.
    n_lines: usize,
}

/// An open session. The agent is connected while at least one session is open.
#[derive(Debug)]
pub(crate) struct SessionHandle(StatusLog);

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.0.lines_changed(|n_lines| n_lines - 1);
    }
}

impl StatusLog {
    /// The journal of an agent that has not dialled yet.
    pub(crate) fn new(config: &Config) -> Self {
        let status = Status {
            process: ProcessId::own(),
            heartbeat: Utc::now(),
            heartbeat_uptime_ms: 0,
            client_id: config.client.to_string(),
            server: config.server.to_string(),
            state: AgentState::Connecting,
            since: Utc::now(),
            file_problem: None,
            last_transfer: None,
            lines: VecDeque::new(),
        };
        Self(Arc::new(Inner {
            name: if config.name_in_log { format!("{}: ", config.client) } else { String::new() },
            changed: Notify::new(),
            now: Mutex::new(CurrentStatus { status, n_lines: 0 }),
        }))
    }

    /// Resolves when the status has changed since the previous call resolved. For one caller.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Returns the current status with a fresh heartbeat.
    pub(crate) fn status(&self) -> Status {
        self.with_status(|status| {
            status.beat();
            status.clone()
        })
    }

    /// The default file was looked at; `problem` says why it cannot be sent. Is that news?
    pub(crate) fn looked(&self, problem: Option<&str>) -> bool {
        let news = self.with_status(|status| {
            let known = status.file_problem.as_ref().map(|known| known.text.as_str());
            let news = known != problem;
            let at = Utc::now();
            status.file_problem = problem.map(|text| FileProblem { text: text.to_owned(), at });
            news
        });
        if news || problem.is_some() {
            self.0.changed.notify_one();
        }
        news
    }

    pub(crate) fn starting(&self, server: &ServerAddr) {
        let (version, protection) = (env!("CARGO_PKG_VERSION"), server.protection());
        let client = self.with_status(|status| status.client_id.clone());
        self.info(&format!("agent {version} starting, {client}, server {server} ({protection})"));
    }

    /// Counts a session as open until the returned guard is dropped.
    pub(crate) fn line_up(&self) -> SessionHandle {
        self.lines_changed(|n_lines| n_lines + 1);
        SessionHandle(self.clone())
    }

    fn lines_changed(&self, change: impl FnOnce(usize) -> usize) {
        let mut now = self.now();
        now.n_lines = change(now.n_lines);
        let state = if now.n_lines == 0 { AgentState::Connecting } else { AgentState::Connected };
        now.turn(state);
        drop(now);
        self.0.changed.notify_one();
    }

    pub(crate) fn stopped(&self) {
        self.now().turn(AgentState::Stopped);
        self.info("agent stopped");
    }

    pub(crate) fn sent(&self, name: &str, stored_as: &str, len_bytes: u64, took: Duration) {
        let stored_as = human::printable(stored_as, 255);
        let last = LastTransfer { name: name.to_owned(), stored_as, at: Utc::now() };
        self.with_status(|status| status.last_transfer = Some(last));
        self.info(&format!("sent {name} in {}", human::took_for(took, len_bytes)));
    }

    /// One line when something begins or ends.
    pub(crate) fn info(&self, text: &str) {
        info!("{}{text}", self.0.name);
        self.note("INFO ", text);
    }

    /// Odd, and dealt with.
    pub(crate) fn warn(&self, text: &str) {
        warn!("{}{text}", self.0.name);
        self.note("WARN ", text);
    }

    /// A person must act.
    pub(crate) fn error(&self, text: &str) {
        error!("{}{text}", self.0.name);
        self.note("ERROR", text);
    }

    fn note(&self, level: &str, text: &str) {
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
        self.with_status(|status| status.note(format!("{now} {level} {text}")));
        self.0.changed.notify_one();
    }

    fn with_status<T>(&self, act: impl FnOnce(&mut Status) -> T) -> T {
        act(&mut self.now().status)
    }

    fn now(&self) -> std::sync::MutexGuard<'_, CurrentStatus> {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CurrentStatus {
    fn turn(&mut self, state: AgentState) {
        // The final state is fixed: sessions that end later do not change it.
        if self.status.state != state && self.status.state != AgentState::Stopped {
            (self.status.state, self.status.since) = (state, Utc::now());
        }
    }
}
