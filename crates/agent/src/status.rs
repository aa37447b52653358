//! `status.json`: how the agent is doing, for `filepull-agent status` and for health checks.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use filepull_core::human;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// What an agent says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The process that wrote it.
    pub pid: u32,
    /// Whose machine this is.
    pub client_id: String,
    /// Whom it dials.
    pub server: String,
    /// What it is doing.
    pub state: State,
    /// Since when.
    pub since: DateTime<Utc>,
    /// The last file it sent.
    pub last_transfer: Option<LastTransfer>,
    /// The last ten lines of its log.
    pub lines: VecDeque<String>,
}

/// What an agent is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There is no line; it dials.
    Connecting,
    /// The line is up.
    Connected,
    /// It has ended.
    Stopped,
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

    /// Replaces `status.json` in `dir`: a reader finds the old one or the new one, whole.
    ///
    /// It is not synced: after a power cut nobody asks how the agent was doing.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let temporary = dir.join("status.json.tmp");
        fs::write(&temporary, serde_json::to_vec_pretty(self)?)?;
        fs::rename(temporary, file_in(dir))
    }

    /// Whether the process that wrote it still lives and has a line.
    fn is_healthy(&self) -> bool {
        self.state == State::Connected && self.is_alive()
    }

    fn is_alive(&self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| match test_kill_process(pid) {
            Ok(()) => true,
            // It lives, and belongs to somebody else.
            Err(error) => error == rustix::io::Errno::PERM,
        })
    }

    fn in_words(&self, now: DateTime<Utc>) -> String {
        let since = human::span((now - self.since).to_std().unwrap_or_default());
        let (client, server) = (&self.client_id, &self.server);
        let mut text = match self.state {
            _ if !self.is_alive() => format!("{client} is not running.\n"),
            State::Stopped => format!("{client} is stopping.\n"),
            State::Connected => format!("{client} is connected to {server} for {since}.\n"),
            State::Connecting => format!("{client} is not connected to {server} for {since}.\n"),
        };
        if let Some(LastTransfer { name, stored_as, at }) = &self.last_transfer {
            let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
            let _ = writeln!(text, "Last sent: {name} at {at}, stored as {stored_as}.");
        }
        for line in self.lines.iter().rev() {
            let _ = writeln!(text, "  {line}");
        }
        text
    }
}

fn file_in(dir: &Path) -> PathBuf {
    dir.join("status.json")
}

/// What `filepull-agent status` prints, and whether all is well.
pub fn report(dir: Option<&Path>) -> (String, bool) {
    let Some(dir) = dir else {
        return ("There is no folder for status.json: set STATE_DIR.\n".to_owned(), false);
    };
    let file = file_in(dir);
    let read = fs::read(&file).and_then(|bytes| Ok(serde_json::from_slice::<Status>(&bytes)?));
    match read {
        Ok(status) => (status.in_words(Utc::now()), status.is_healthy()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (format!("No agent has run here: there is no {}.\n", file.display()), false)
        }
        Err(error) => (format!("{} cannot be read: {error}\n", file.display()), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pid: u32, state: State) -> Status {
        let (client_id, server) = ("client4".to_owned(), "server:50051".to_owned());
        let (since, last_transfer, lines) = (Utc::now(), None, VecDeque::new());
        Status { pid, client_id, server, state, since, last_transfer, lines }
    }

    fn check(status: &Status, says: &str, healthy: bool) {
        let dir = tempfile::TempDir::new().unwrap();
        status.write(dir.path()).unwrap();
        let (text, found) = report(Some(dir.path()));
        assert!(text.starts_with(says), "{text}");
        assert_eq!(found, healthy);
    }

    #[test]
    fn only_a_live_process_with_a_line_is_healthy() {
        let here = std::process::id();
        check(&status(here, State::Connected), "client4 is connected to server:50051 for", true);
        check(&status(here, State::Connecting), "client4 is not connected to", false);
        // No system gives a process this number.
        check(&status(0x7fff_fff0, State::Connected), "client4 is not running.", false);
        let dir = tempfile::TempDir::new().unwrap();
        assert!(report(Some(dir.path())).0.starts_with("No agent has run here"));
    }

    #[test]
    fn the_last_ten_lines_are_kept_and_told_in_order() {
        let mut status = status(std::process::id(), State::Connected);
        for n in 0..12 {
            status.note(format!("line {n}"));
        }
        let text = status.in_words(Utc::now());
        let told: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
        assert_eq!((told[0], told[9], told.len()), ("line 2", "line 11", 10));
    }
}
