//! What the agent says: each sentence goes to the log and to `status.json`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use filepull_core::human;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::dial::ServerAddr;
use crate::status::{AlreadyRuns, Claim, FileProblem, LastTransfer, State, Status};

/// A handle on the one journal of an agent.
#[derive(Clone, Debug)]
pub(crate) struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `client4: `, where several agents share a log.
    name: String,
    dir: Option<PathBuf>,
    _claim: Option<Claim>,
    dir_failed: AtomicBool,
    status: Mutex<Status>,
}

impl Journal {
    /// The journal of an agent that has not dialled yet.
    pub(crate) fn open(config: &Config) -> Result<Self, AlreadyRuns> {
        // Before the first word: it would take the place of the other agent's status.
        let claim = config.state_dir.as_deref().map(Claim::take).transpose()?;
        let status = Status {
            pid: std::process::id(),
            client_id: config.client.to_string(),
            server: config.server.to_string(),
            state: State::Connecting,
            since: Utc::now(),
            file_problem: None,
            last_transfer: None,
            lines: std::collections::VecDeque::new(),
        };
        Ok(Self(Arc::new(Inner {
            name: if config.name_in_log { format!("{}: ", config.client) } else { String::new() },
            dir: config.state_dir.clone(),
            _claim: claim.flatten(),
            dir_failed: AtomicBool::new(false),
            status: Mutex::new(status),
        })))
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
        // Each order asks, and somebody waits for its answer: what has not changed is not written.
        if news || problem.is_some() {
            self.save();
        }
        news
    }

    pub(crate) fn starting(&self, server: &ServerAddr) {
        let (version, protection) = (env!("CARGO_PKG_VERSION"), server.protection());
        let client = self.with_status(|status| status.client_id.clone());
        self.info(&format!("agent {version} starting, {client}, server {server} ({protection})"));
    }

    pub(crate) fn connected(&self, text: &str) {
        self.turned(State::Connected);
        self.info(text);
    }

    /// There is no line. Whether that is worth a sentence is not decided here.
    pub(crate) fn connecting(&self) {
        self.turned(State::Connecting);
        self.save();
    }

    pub(crate) fn stopped(&self) {
        self.turned(State::Stopped);
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
        self.save();
    }

    fn turned(&self, state: State) {
        self.with_status(|status| {
            if status.state != state {
                (status.state, status.since) = (state, Utc::now());
            }
        });
    }

    fn with_status<T>(&self, act: impl FnOnce(&mut Status) -> T) -> T {
        act(&mut self.0.status.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A kilobyte, some ten times a day, not synced: not worth a thread.
    fn save(&self) {
        let Some(dir) = &self.0.dir else { return };
        let saved = self.with_status(|status| status.write(dir));
        if let Err(error) = saved
            && !self.0.dir_failed.swap(true, Ordering::Relaxed)
        {
            warn!("{}no status.json in {}: {error}", self.0.name, dir.display());
        }
    }
}
