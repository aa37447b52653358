//! `status.json`: the state of an agent, for `filepull-agent status` and for health checks.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::diagnosis::DiagnosisCode;
use crate::process_id::{ProcessId, uptime_ms};
use crate::sandbox::SandboxState;

/// How often an agent writes `status.json`, even if nothing changes.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// An agent that has not written for this long is unresponsive: the process or its disk hangs, or
/// the process was stopped.
pub(crate) const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(45);

/// The content of `status.json` as the agent writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    #[serde(flatten)]
    pub(crate) process: ProcessId,
    /// When the agent wrote this status. Written at least once every [`HEARTBEAT_INTERVAL`].
    pub(crate) heartbeat: DateTime<Utc>,
    /// The same time in milliseconds since the boot: setting the wall clock does not change it.
    pub(crate) heartbeat_uptime_ms: u64,
    pub(crate) client_id: String,
    pub(crate) server: String,
    pub(crate) state: AgentState,
    /// When the agent got into this state.
    pub(crate) since: DateTime<Utc>,
    /// Why there is no session; unset while one is open.
    #[serde(default)]
    pub(crate) failure: Option<ConnectionFailure>,
    /// Why the default file could not be sent when it was last checked.
    #[serde(default)]
    pub(crate) file_problem: Option<FileProblem>,
    /// What the kernel enforces. Older agents do not report it.
    #[serde(default)]
    pub(crate) sandbox: Option<SandboxState>,
    /// The last file that was stored by the server.
    pub(crate) last_transfer: Option<LastTransfer>,
    /// The last ten lines of the log, newest first.
    pub(crate) lines: VecDeque<String>,
}

/// The state of an agent that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AgentState {
    /// There is no session; the agent dials.
    Connecting,
    /// At least one session is open.
    Connected,
    /// The agent has ended, or is about to end.
    Stopped,
}

/// Why the last dial or session failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionFailure {
    pub(crate) code: DiagnosisCode,
    /// What happened, then what to do next.
    pub(crate) text: String,
    /// When it failed.
    pub(crate) at: DateTime<Utc>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileProblem {
    /// One sentence that names `FILE_PATH`.
    pub(crate) text: String,
    /// When the file was last checked.
    pub(crate) at: DateTime<Utc>,
}

/// A file that the server has stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastTransfer {
    pub(crate) name: String,
    /// The name of the download on the server.
    pub(crate) stored_as: String,
    /// When the server confirmed it.
    pub(crate) at: DateTime<Utc>,
}

const MAX_LINES: usize = 10;

impl Status {
    pub(crate) fn add_line(&mut self, line: String) {
        self.lines.truncate(MAX_LINES - 1);
        self.lines.push_front(line);
    }

    pub(crate) fn update_heartbeat(&mut self) {
        self.heartbeat = Utc::now();
        self.heartbeat_uptime_ms = uptime_ms();
    }

    /// Reads the status of the agent whose state folder is `dir`.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        // A status needs a few KiB. An agent never writes a longer file.
        const MAX_LEN: u64 = 256 * 1024;
        // O_NONBLOCK: do not block on a pipe with that name.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(file_in(dir))?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let mut text = Vec::new();
        file.take(MAX_LEN).read_to_end(&mut text)?;
        serde_json::from_slice(&text)
            .map_err(|_| io::Error::other("this version of the agent does not write such a file"))
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
            failure: None,
            file_problem: None,
            sandbox: None,
            last_transfer: None,
            lines: VecDeque::new(),
        }
    }
}
