//! `filepull-agent status`: how the agents of this machine are doing, in words.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use filepull_core::human;
use rustix::process::{Pid, test_kill_process};

use crate::status::{FileProblem, LastTransfer, State, Status};

/// What is known of the agents whose state lies in `dirs`, and whether all is well. With a `client`
/// others are left out: whoever asks without one may have forgotten how the agent was started.
pub fn report(dirs: &[PathBuf], client: Option<&str>) -> (String, bool) {
    let mut found = Vec::new();
    let mut damaged = String::new();
    for dir in dirs {
        match Status::read(dir) {
            Ok(status) => found.push(status),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => _ = writeln!(damaged, "{} cannot be read: {error}", shown(dir)),
        }
    }
    let is_meant = |status: &Status| client.is_none_or(|client| client == status.client_id);
    let (meant, others): (Vec<_>, Vec<_>) = found.into_iter().partition(is_meant);
    match (&meant[..], client) {
        ([status], _) => (in_words(status, Utc::now()), is_healthy(status)),
        ([], _) if !damaged.is_empty() => (damaged, false),
        ([], Some(client)) if !others.is_empty() => {
            (format!("No agent {client} has run here, but:\n{}", list(&others)), false)
        }
        ([], _) => (nobody(dirs), false),
        (several, _) => {
            let (list, first) = (list(several), &several[0].client_id);
            let how = format!("CLIENT_ID={first} filepull-agent status");
            (format!("{list}To see one of them, set CLIENT_ID: {how}\n"), false)
        }
    }
}

fn nobody(dirs: &[PathBuf]) -> String {
    if dirs.is_empty() {
        return "There is no folder for status.json: set STATE_DIR.\n".to_owned();
    }
    let files: Vec<String> = dirs.iter().map(|dir| shown(dir)).collect();
    let files = files.join(" and no ");
    format!(
        "No agent has run here: there is no {files}.\n\
         Set CLIENT_ID or STATE_DIR if the agent was started with one, by the same user.\n"
    )
}

fn shown(dir: &Path) -> String {
    dir.join("status.json").display().to_string()
}

fn list(agents: &[Status]) -> String {
    agents.iter().map(|status| headline(status, Utc::now())).collect()
}

/// Whether the process that wrote it still lives and has a line.
fn is_healthy(status: &Status) -> bool {
    status.state == State::Connected && is_alive(status)
}

fn is_alive(status: &Status) -> bool {
    let pid = i32::try_from(status.pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| match test_kill_process(pid) {
        Ok(()) => true,
        // It lives, and belongs to somebody else.
        Err(error) => error == rustix::io::Errno::PERM,
    })
}

/// One agent in a line.
fn headline(status: &Status, now: DateTime<Utc>) -> String {
    let since = human::span((now - status.since).to_std().unwrap_or_default());
    let (client, server) = (&status.client_id, &status.server);
    match status.state {
        _ if !is_alive(status) => format!("{client} is not running.\n"),
        State::Stopped => format!("{client} is stopping.\n"),
        State::Connected => format!("{client} is connected to {server} for {since}.\n"),
        State::Connecting => format!("{client} is not connected to {server} for {since}.\n"),
    }
}

/// All there is to say of one agent.
fn in_words(status: &Status, now: DateTime<Utc>) -> String {
    let mut text = headline(status, now);
    if let Some(FileProblem { text: problem, at }) = &status.file_problem {
        let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let _ = writeln!(text, "{problem} Last looked at {at}.");
    }
    if let Some(LastTransfer { name, stored_as, at }) = &status.last_transfer {
        let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let _ = writeln!(text, "Last sent: {name} at {at}, stored as {stored_as}.");
    }
    for line in status.lines.iter().rev() {
        let _ = writeln!(text, "  {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tempfile::TempDir;

    use super::*;

    /// No system gives a process this number.
    const NOBODY: u32 = 0x7fff_fff0;

    fn status(client: &str, pid: u32, state: State) -> Status {
        let (client_id, server) = (client.to_owned(), "server:50051".to_owned());
        let (since, last_transfer, file_problem) = (Utc::now(), None, None);
        let lines = VecDeque::new();
        Status { pid, client_id, server, state, since, file_problem, last_transfer, lines }
    }

    /// Folders of these agents, and of one that has none.
    fn folders(machine: &TempDir, agents: &[Status]) -> Vec<PathBuf> {
        let folder = |agent: &Status| {
            let dir = machine.path().join(&agent.client_id);
            std::fs::create_dir(&dir).unwrap();
            agent.write(&dir).unwrap();
            dir
        };
        [machine.path().join("none")].into_iter().chain(agents.iter().map(folder)).collect()
    }

    fn check(agents: &[Status], client: Option<&str>, says: &str, healthy: bool) {
        let machine = TempDir::new().unwrap();
        let (text, found) = report(&folders(&machine, agents), client);
        assert!(text.starts_with(says), "{text}");
        assert_eq!(found, healthy);
    }

    #[test]
    fn only_a_live_process_with_a_line_is_healthy() {
        let check = |pid, state, says, healthy| {
            check(&[status("client4", pid, state)], None, says, healthy);
        };
        let here = std::process::id();
        check(here, State::Connected, "client4 is connected to server:50051 for", true);
        check(here, State::Connecting, "client4 is not connected to", false);
        check(NOBODY, State::Connected, "client4 is not running.", false);
    }

    #[test]
    fn the_only_agent_is_found_without_its_id() {
        let agent = status("lyon-2", std::process::id(), State::Connected);
        check(&[agent], None, "lyon-2 is connected to server:50051 for", true);
        check(&[], None, "No agent has run here: there is no /", false);
        assert_eq!(report(&[], None).0, "There is no folder for status.json: set STATE_DIR.\n");
    }

    #[test]
    fn of_several_agents_one_is_told_by_its_id_and_without_it_all_are_listed() {
        let (one, other) = (
            status("lyon-2", std::process::id(), State::Connected),
            status("lyon-3", NOBODY, State::Connected),
        );
        let both = [one, other];
        check(&both, Some("lyon-2"), "lyon-2 is connected", true);
        check(&both, Some("lyon-3"), "lyon-3 is not running.", false);
        check(&both, Some("lyon-4"), "No agent lyon-4 has run here, but:\nlyon-2 is con", false);
        let machine = TempDir::new().unwrap();
        let (text, healthy) = report(&folders(&machine, &both), None);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("lyon-2 is connected to"), "{text}");
        assert_eq!(lines[1], "lyon-3 is not running.");
        let how = "To see one of them, set CLIENT_ID: CLIENT_ID=lyon-2 filepull-agent status";
        assert_eq!((lines[2], lines.len(), healthy), (how, 3, false));
    }

    #[test]
    fn the_last_ten_lines_are_kept_and_told_in_order() {
        let mut status = status("client4", std::process::id(), State::Connected);
        for n in 0..12 {
            status.note(format!("line {n}"));
        }
        let text = in_words(&status, Utc::now());
        let told: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
        assert_eq!((told[0], told[9], told.len()), ("line 2", "line 11", 10));
    }
}
