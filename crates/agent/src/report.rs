//! `filepull-agent status`: the state of the agents of this machine, as text or as JSON.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use filepull_core::human;
use serde::{Serialize, Serializer};

use crate::process_id::uptime_ms;
use crate::status::{
    self, AgentState, ConnectionFailure, FileProblem, LastTransfer, Status, UNRESPONSIVE_AFTER,
};

/// The agents that have a status on this machine.
#[derive(Debug, Serialize)]
pub struct StatusReport {
    /// The agents that the caller selected.
    agents: Vec<ReportedAgent>,
    /// One sentence for each status that cannot be read.
    unreadable: Vec<String>,
    /// The agents that the caller did not select.
    #[serde(skip)]
    others: Vec<ReportedAgent>,
    /// The client id that the caller selected.
    #[serde(skip)]
    selected: Option<String>,
    /// The folders that were read.
    #[serde(skip)]
    dirs: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct ReportedAgent {
    health: Health,
    connected: bool,
    #[serde(flatten)]
    status: Status,
}

/// The state of an agent's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Running,
    /// The agent has not written its status for this long.
    Unresponsive(Duration),
    NotRunning,
}

impl Serialize for Health {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Running => "running",
            Self::Unresponsive(_) => "unresponsive",
            Self::NotRunning => "not-running",
        })
    }
}

impl StatusReport {
    /// Reads the status in each of `dirs`. With a `client` only its agents are selected. Without
    /// one all are, because the caller may not know how the agent was started.
    pub fn read(dirs: &[PathBuf], client: Option<&str>) -> Self {
        let mut found = Vec::new();
        let mut unreadable = Vec::new();
        for dir in dirs {
            match Status::read(dir) {
                Ok(status) => found.push(ReportedAgent::new(status)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => unreadable.push(cannot_read(dir, &error)),
            }
        }
        let is_selected =
            |agent: &ReportedAgent| client.is_none_or(|client| client == agent.status.client_id);
        let (agents, others) = found.into_iter().partition(is_selected);
        let selected = client.map(str::to_owned);
        Self { agents, unreadable, others, selected, dirs: dirs.to_owned() }
    }

    /// Returns whether the state of any selected agent is known.
    pub fn is_known(&self) -> bool {
        !self.agents.is_empty()
    }

    /// Returns whether an agent is selected, and all selected agents run, respond and are
    /// connected.
    pub fn is_connected(&self) -> bool {
        self.is_known() && self.agents.iter().all(|agent| agent.connected)
    }

    /// Returns one JSON object and a newline.
    ///
    /// # Errors
    /// The report cannot be serialized: a bug.
    pub fn as_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Returns the report as sentences, each with a newline.
    pub fn as_text(&self) -> String {
        let unreadable: String = self.unreadable.iter().map(|text| format!("{text}\n")).collect();
        let known = match (&self.agents[..], &self.selected) {
            ([agent], _) => return agent.as_text() + &unreadable,
            ([], Some(client)) if !self.others.is_empty() => {
                format!("No agent {client} has run here, but:\n{}", list(&self.others))
            }
            ([], _) if !unreadable.is_empty() => String::new(),
            ([], _) => no_status_text(&self.dirs),
            (several, _) => {
                let client = &several[0].status.client_id;
                format!(
                    "{}To see one of them, set CLIENT_ID: CLIENT_ID={client} filepull-agent status\n",
                    list(several)
                )
            }
        };
        known + &unreadable
    }
}

fn no_status_text(dirs: &[PathBuf]) -> String {
    if dirs.is_empty() {
        return "There is no folder for status.json: set STATE_DIR.\n".to_owned();
    }
    let files: Vec<String> = dirs.iter().map(|dir| status_file(dir)).collect();
    format!(
        "The state of an agent is unknown: there is no {}.\n\
         If the agent was started with CLIENT_ID or STATE_DIR, set the same value and run this as \
         the same user. An agent that cannot write its status logs a warning.\n",
        files.join(" and no ")
    )
}

fn cannot_read(dir: &Path, error: &io::Error) -> String {
    let file = status_file(dir);
    if error.kind() == io::ErrorKind::PermissionDenied {
        return format!(
            "The state of the agent of {file} is unknown: this user may not read the file. Run this \
             as the user of the agent."
        );
    }
    format!("The state of the agent of {file} is unknown: {error}.")
}

fn status_file(dir: &Path) -> String {
    status::file_in(dir).display().to_string()
}

fn list(agents: &[ReportedAgent]) -> String {
    agents.iter().map(ReportedAgent::headline).collect()
}

impl ReportedAgent {
    fn new(status: Status) -> Self {
        let silent_ms = uptime_ms().saturating_sub(status.heartbeat_uptime_ms);
        let silent = Duration::from_millis(silent_ms);
        let health = if status.process.has_ended() {
            Health::NotRunning
        } else if UNRESPONSIVE_AFTER <= silent {
            Health::Unresponsive(silent)
        } else {
            Health::Running
        };
        let connected = health == Health::Running && status.state == AgentState::Connected;
        Self { health, connected, status }
    }

    /// Summarizes the agent in one line.
    fn headline(&self) -> String {
        let Status { client_id: client, server, since, state, .. } = &self.status;
        let since = human::span((Utc::now() - since).to_std().unwrap_or_default());
        match (self.health, state) {
            (Health::NotRunning, _) => format!("{client} is not running.\n"),
            (Health::Unresponsive(silent), _) => {
                let silent = human::span(silent);
                let pid = self.status.process.pid;
                format!(
                    "{client} does not respond: process {pid} has written nothing for {silent}.\n"
                )
            }
            (Health::Running, AgentState::Stopped) => format!("{client} is stopping.\n"),
            (Health::Running, AgentState::Connected) => {
                format!("{client} is connected to {server} for {since}.\n")
            }
            (Health::Running, AgentState::Connecting) => {
                format!("{client} is not connected to {server} for {since}.\n")
            }
        }
    }

    /// Returns the headline, the problem of the default file, the last transfer, and the last log
    /// lines.
    fn as_text(&self) -> String {
        let mut text = self.headline();
        if let Some(ConnectionFailure { code, text: reason, at }) = &self.status.failure {
            let code = code.name();
            let _ = writeln!(text, "Why: {reason} ({code}, at {}).", to_the_second(at));
        }
        if let Some(FileProblem { text: problem, at }) = &self.status.file_problem {
            let _ = writeln!(text, "{problem} Last checked at {}.", to_the_second(at));
        }
        if let Some(sandbox) = &self.status.sandbox {
            let _ = writeln!(text, "Sandbox {sandbox}");
        }
        if let Some(LastTransfer { name, stored_as, at }) = &self.status.last_transfer {
            let at = to_the_second(at);
            let _ = writeln!(text, "Last sent: {name} at {at}, stored as {stored_as}.");
        }
        for line in self.status.lines.iter().rev() {
            let _ = writeln!(text, "  {line}");
        }
        text
    }
}

fn to_the_second(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests;
