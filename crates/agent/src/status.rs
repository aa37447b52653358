//! `status.json`: how the agent is doing, for `filepull-agent status` and for health checks.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::process_id::{ProcessId, uptime_ms};

/// An agent writes `status.json` this often, even if nothing happens.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

/// An agent that has not written for this long is unresponsive: the process or its disk hangs, or
/// the process is stopped.
pub(crate) const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(45);

/// What an agent says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The process that wrote it.
    #[serde(flatten)]
    pub process: ProcessId,
    /// When the agent wrote this status, at least once every [`HEARTBEAT_EVERY`].
    pub heartbeat: DateTime<Utc>,
    /// The time of the heartbeat since the boot: setting the wall clock does not change it.
    pub heartbeat_uptime_ms: u64,
    /// Whose machine this is.
    pub client_id: String,
    /// Whom it dials.
    pub server: String,
    /// What it is doing.
    pub state: AgentState,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why the default file could not be sent when it was last looked at.
    #[serde(default)]
    pub file_problem: Option<FileProblem>,
    /// The last file it sent.
    pub last_transfer: Option<LastTransfer>,
    /// The last ten lines of its log.
    pub lines: VecDeque<String>,
}

/// What an agent is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// There is no line; it dials.
    Connecting,
    /// The line is up.
    Connected,
    /// The agent has ended, or is about to end.
    Stopped,
}

/// What was wrong with the default file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileProblem {
    /// In words.
    pub text: String,
    /// When it was last looked at.
    pub at: DateTime<Utc>,
}

/// A file that arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastTransfer {
    /// Its name here.
    pub name: String,
    /// Its name in the client's folder on the server.
    pub stored_as: String,
    /// When.
    pub at: DateTime<Utc>,
}

const LINES: usize = 10;

impl Status {
    pub(crate) fn note(&mut self, line: String) {
        self.lines.truncate(LINES - 1);
        self.lines.push_front(line);
    }

    /// Updates the heartbeat.
    pub(crate) fn beat(&mut self) {
        (self.heartbeat, self.heartbeat_uptime_ms) = (Utc::now(), uptime_ms());
    }

    /// Reads what an agent whose folder is `dir` last wrote.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        // A status takes a few KiB. An agent never writes a longer file.
        const MAX_LEN: u64 = 256 * 1024;
        // Do not block on a pipe with that name.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(file_in(dir))?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let mut text = Vec::new();
        file.take(MAX_LEN).read_to_end(&mut text)?;
        serde_json::from_slice(&text)
            .map_err(|_| io::Error::other("it is not what an agent of this version writes"))
    }
}

pub(crate) fn file_in(dir: &Path) -> PathBuf {
    dir.join("status.json")
}

#[cfg(test)]
impl Status {
    /// Returns the status of an agent that runs in this process.
    pub(crate) fn example(client: &str, state: AgentState) -> Self {
        Self {
            process: ProcessId::own(),
            heartbeat: Utc::now(),
            heartbeat_uptime_ms: uptime_ms(),
            client_id: client.to_owned(),
            server: "server:50051".to_owned(),
            state,
            since: Utc::now(),
            file_problem: None,
            last_transfer: None,
            lines: VecDeque::new(),
        }
    }
}
