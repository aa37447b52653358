//! Reports on agents that run, hang, have ended, or have no readable status.

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

/// Writes the status of each agent, and returns the folders and one without a status.
fn folders(machine: &TempDir, agents: &[Status]) -> Vec<PathBuf> {
    let folder = |agent: &Status| {
        let dir = machine.path().join(&agent.client_id);
        StateDir::open(&dir).unwrap().0.write(agent, 1).unwrap();
        dir
    };
    [machine.path().join("none")].into_iter().chain(agents.iter().map(folder)).collect()
}

/// Checks the start of the report, whether an agent is known, and whether all are connected.
fn check(
    agents: &[Status],
    client: Option<&str>,
    expected: &str,
    known: bool,
    all_connected: bool,
) {
    let machine = TempDir::new().unwrap();
    let report = StatusReport::read(&folders(&machine, agents), client);
    let text = report.as_text();
    assert!(text.starts_with(expected), "{text}");
    assert_eq!((report.is_known(), report.is_connected()), (known, all_connected), "{text}");
}

#[test]
fn only_a_running_and_responding_agent_with_a_session_is_connected() {
    let check = |status: Status, expected, healthy| check(&[status], None, expected, true, healthy);
    check(connected("client4"), "client4 is connected to server:50051 for", true);
    check(Status::example("client4", AgentState::Connecting), "client4 is not connected to", false);
    check(Status::example("client4", AgentState::Stopped), "client4 is stopping.", false);
    check(ended("client4"), "client4 is not running.", false);
    let pid = std::process::id();
    let expected = format!("client4 does not respond: process {pid} has written nothing for 1 min");
    check(frozen("client4"), &expected, false);
    let mut before_the_boot = connected("client4");
    before_the_boot.process.boot_id = "another".to_owned();
    check(before_the_boot, "client4 is not running.", false);
}

#[test]
fn the_only_agent_is_found_without_its_id() {
    check(&[connected("lyon-2")], None, "lyon-2 is connected to server:50051 for", true, true);
    check(&[], None, "The state of an agent is unknown: there is no /", false, false);
    let nowhere = StatusReport::read(&[], None);
    assert_eq!(nowhere.as_text(), "There is no folder for status.json: set STATE_DIR.\n");
}

#[test]
fn an_id_selects_one_of_several_agents_and_without_it_all_are_listed() {
    let both = [connected("lyon-2"), ended("lyon-3")];
    check(&both, Some("lyon-2"), "lyon-2 is connected", true, true);
    check(&both, Some("lyon-3"), "lyon-3 is not running.", true, false);
    check(&both, Some("lyon-4"), "No agent lyon-4 has run here, but:\nlyon-2 is", false, false);
    check(&[connected("lyon-2"), connected("lyon-3")], None, "lyon-2 is connected", true, true);
    let machine = TempDir::new().unwrap();
    let report = StatusReport::read(&folders(&machine, &both), None);
    let text = report.as_text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("lyon-2 is connected to"), "{text}");
    assert_eq!(lines[1], "lyon-3 is not running.");
    let hint = "To see one of them, set CLIENT_ID: CLIENT_ID=lyon-2 filepull-agent status";
    assert_eq!((lines[2], lines.len(), report.is_connected()), (hint, 3, false));
}

#[test]
fn an_unreadable_status_is_unknown_and_does_not_block() {
    let machine = TempDir::new().unwrap();
    let [garbage, pipe, folder] =
        ["garbage", "pipe", "folder"].map(|name| machine.path().join(name));
    for dir in [&garbage, &pipe, &folder] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(status::file_in(&garbage), b"\x00\xff{garbage").unwrap();
    let path = status::file_in(&pipe);
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
    fs::create_dir(status::file_in(&folder)).unwrap();
    for (dir, reason) in
        [(&garbage, "does not write such a file"), (&pipe, "not a file"), (&folder, "not a file")]
    {
        let report = StatusReport::read(std::slice::from_ref(dir), None);
        let text = report.as_text();
        assert!(text.starts_with("The state of the agent of /"), "{text}");
        assert!(text.contains(reason) && !report.is_known(), "{text}");
    }
}

#[test]
fn the_json_report_has_the_health_of_each_agent() {
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
fn the_last_ten_log_lines_are_reported_in_order() {
    let mut status = connected("client4");
    for n in 0..12 {
        status.add_line(format!("line {n}"));
    }
    let text = ReportedAgent::new(status).as_text();
    let reported: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
    assert_eq!((reported[0], reported[9], reported.len()), ("line 2", "line 11", 10));
}
