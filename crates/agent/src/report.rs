//! `filepull-agent status`: the state of the agents of this machine, as text or as JSON.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use filepull_core::human;
use serde::{Serialize, Serializer};

use crate::process_id::uptime_ms;
use crate::status::{self, AgentState, FileProblem, LastTransfer, Status, UNRESPONSIVE_AFTER};

/// The known agents of this machine.
#[derive(Debug, Serialize)]
pub struct StatusReport {
    /// The agents that the caller selected.
    agents: Vec<ReportedAgent>,
    /// What cannot be read, one sentence each.
    unreadable: Vec<String>,
    /// The agents that were left out, and the client id that was requested.
    #[serde(skip)]
    others: Vec<ReportedAgent>,
    #[serde(skip)]
    asked: Option<String>,
    /// The folders that were searched.
    #[serde(skip)]
    dirs: Vec<PathBuf>,
}

/// One agent.
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
    /// The process has not written its status for this long.
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
    /// Reads the state in `dirs`. With a `client`, other agents are left out. Without one, all
    /// are reported, because the caller may have forgotten how the agent was started.
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
        let is_meant =
            |agent: &ReportedAgent| client.is_none_or(|client| client == agent.status.client_id);
        let (agents, others) = found.into_iter().partition(is_meant);
        let asked = client.map(str::to_owned);
        Self { agents, unreadable, others, asked, dirs: dirs.to_owned() }
    }

    /// Returns whether the state of any requested agent is known.
    pub fn is_known(&self) -> bool {
        !self.agents.is_empty()
    }

    /// Returns whether there is an agent, and every agent runs, responds and is connected.
    pub fn is_connected(&self) -> bool {
        self.is_known() && self.agents.iter().all(|agent| agent.connected)
    }

    /// Returns one JSON object and a line break.
    ///
    /// # Errors
    /// No error is known.
    pub fn as_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Returns the report as text.
    pub fn in_words(&self) -> String {
        let unreadable: String = self.unreadable.iter().map(|why| format!("{why}\n")).collect();
        let known = match (&self.agents[..], &self.asked) {
            ([agent], _) => return agent.in_words() + &unreadable,
            ([], Some(client)) if !self.others.is_empty() => {
                format!("No agent {client} has run here, but:\n{}", list(&self.others))
            }
            ([], _) if !unreadable.is_empty() => String::new(),
            ([], _) => nobody(&self.dirs),
            (several, _) => {
                let how =
                    format!("CLIENT_ID={} filepull-agent status", several[0].status.client_id);
                format!("{}To see one of them, set CLIENT_ID: {how}\n", list(several))
            }
        };
        known + &unreadable
    }
}

fn nobody(dirs: &[PathBuf]) -> String {
    if dirs.is_empty() {
        return "There is no folder for status.json: set STATE_DIR.\n".to_owned();
    }
    let files: Vec<String> = dirs.iter().map(|dir| shown(dir)).collect();
    let files = files.join(" and no ");
    format!(
        "It is not known how an agent is doing: there is no {files}.\n\
         Set CLIENT_ID or STATE_DIR if the agent was started with one, by the same user. An agent \
         that cannot write there says so in its log.\n"
    )
}

fn cannot_read(dir: &Path, error: &io::Error) -> String {
    let file = shown(dir);
    if error.kind() == io::ErrorKind::PermissionDenied {
        return format!(
            "It is not known how the agent of {file} is doing: this user may not read it. Ask as the \
             user of the agent."
        );
    }
    format!("It is not known how the agent of {file} is doing: {error}.")
}

fn shown(dir: &Path) -> String {
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
                let (silent, pid) = (human::span(silent), self.status.process.pid);
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

    /// Describes the agent in full.
    fn in_words(&self) -> String {
        let mut text = self.headline();
        if let Some(FileProblem { text: problem, at }) = &self.status.file_problem {
            let _ = writeln!(text, "{problem} Last looked at {}.", to_the_second(at));
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
