//! Agents of a machine, as they left their state.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::state_dir::StateDir;

fn connected(client: &str) -> Status {
    Status::example(client, AgentState::Connected)
}

/// An agent whose process has ended, and whose PID belongs to another process.
fn ended(client: &str) -> Status {
    let mut status = connected(client);
    status.process.started -= 1;
    status
}

/// An agent that was stopped with SIGSTOP a minute ago.
fn frozen(client: &str) -> Status {
    let mut status = connected(client);
    status.heartbeat_uptime_ms = uptime_ms().saturating_sub(60_000);
    status
}

/// Folders of these agents, and of one that has none.
fn folders(machine: &TempDir, agents: &[Status]) -> Vec<PathBuf> {
    let folder = |agent: &Status| {
        let dir = machine.path().join(&agent.client_id);
        StateDir::take(&dir).unwrap().0.write(agent, 1).unwrap();
        dir
    };
    [machine.path().join("none")].into_iter().chain(agents.iter().map(folder)).collect()
}

/// Returns the report on these agents, whether it is known, and whether all are connected.
fn check(agents: &[Status], client: Option<&str>, says: &str, known: bool, all_connected: bool) {
    let machine = TempDir::new().unwrap();
    let report = StatusReport::read(&folders(&machine, agents), client);
    let text = report.in_words();
    assert!(text.starts_with(says), "{text}");
    assert_eq!((report.is_known(), report.is_connected()), (known, all_connected), "{text}");
}

#[test]
fn only_a_process_that_lives_responds_and_has_a_line_is_connected() {
    let check = |status: Status, says, healthy| check(&[status], None, says, true, healthy);
    check(connected("client4"), "client4 is connected to server:50051 for", true);
    check(Status::example("client4", AgentState::Connecting), "client4 is not connected to", false);
    check(Status::example("client4", AgentState::Stopped), "client4 is stopping.", false);
    check(ended("client4"), "client4 is not running.", false);
    let pid = std::process::id();
    let says = format!("client4 does not respond: process {pid} has written nothing for 1 min");
    check(frozen("client4"), &says, false);
    let mut before_the_boot = connected("client4");
    before_the_boot.process.boot_id = "another".to_owned();
    check(before_the_boot, "client4 is not running.", false);
}

#[test]
fn the_only_agent_is_found_without_its_id() {
    check(&[connected("lyon-2")], None, "lyon-2 is connected to server:50051 for", true, true);
    check(&[], None, "It is not known how an agent is doing: there is no /", false, false);
    let nowhere = StatusReport::read(&[], None);
    assert_eq!(nowhere.in_words(), "There is no folder for status.json: set STATE_DIR.\n");
}

#[test]
fn of_several_agents_one_is_told_by_its_id_and_without_it_all_are_listed() {
    let both = [connected("lyon-2"), ended("lyon-3")];
    check(&both, Some("lyon-2"), "lyon-2 is connected", true, true);
    check(&both, Some("lyon-3"), "lyon-3 is not running.", true, false);
    check(&both, Some("lyon-4"), "No agent lyon-4 has run here, but:\nlyon-2 is", false, false);
    check(&[connected("lyon-2"), connected("lyon-3")], None, "lyon-2 is connected", true, true);
    let machine = TempDir::new().unwrap();
    let report = StatusReport::read(&folders(&machine, &both), None);
    let text = report.in_words();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("lyon-2 is connected to"), "{text}");
    assert_eq!(lines[1], "lyon-3 is not running.");
    let how = "To see one of them, set CLIENT_ID: CLIENT_ID=lyon-2 filepull-agent status";
    assert_eq!((lines[2], lines.len(), report.is_connected()), (how, 3, false));
}

#[test]
fn a_status_that_cannot_be_read_is_unknown_and_blocks_nothing() {
    let machine = TempDir::new().unwrap();
    let [text, pipe, folder] = ["text", "pipe", "folder"].map(|name| machine.path().join(name));
    for dir in [&text, &pipe, &folder] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(status::file_in(&text), b"\x00\xff{garbage").unwrap();
    let path = status::file_in(&pipe);
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
    fs::create_dir(status::file_in(&folder)).unwrap();
    for (dir, why) in [(&text, "what an agent"), (&pipe, "not a file"), (&folder, "not a file")] {
        let report = StatusReport::read(std::slice::from_ref(dir), None);
        let words = report.in_words();
        assert!(words.starts_with("It is not known how the agent of /"), "{words}");
        assert!(words.contains(why) && !report.is_known(), "{words}");
    }
}

#[test]
fn a_machine_reads_the_same_as_json() {
    let machine = TempDir::new().unwrap();
    let report =
        StatusReport::read(&folders(&machine, &[connected("a"), frozen("b"), ended("c")]), None);
    let json: serde_json::Value = serde_json::from_str(&report.as_json().unwrap()).unwrap();
    let agents = json["agents"].as_array().unwrap();
    let health: Vec<_> = agents.iter().map(|agent| agent["health"].to_string()).collect();
    assert_eq!(health, ["\"running\"", "\"unresponsive\"", "\"not-running\""]);
    assert_eq!(agents[0]["connected"], true);
    assert_eq!(agents[1]["connected"], false);
    assert_eq!(agents[0]["pid"], std::process::id());
}

#[test]
fn the_last_ten_lines_are_kept_and_told_in_order() {
    let mut status = connected("client4");
    for n in 0..12 {
        status.note(format!("line {n}"));
    }
    let text = ReportedAgent::new(status).in_words();
    let told: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
    assert_eq!((told[0], told[9], told.len()), ("line 2", "line 11", 10));
}
