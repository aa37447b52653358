//! `filepull-agent status`: its output, its exit code, and the state folder that it reads.

use std::fs;
use std::path::Path;

use filepull_testkit::process::{Process, command, test_program};
use filepull_testkit::{TestServer, poll};
use rustix::process::Signal;
use serde_json::Value;

/// Returns the output of `filepull-agent status` for the state folder `dir`, and its exit code.
async fn status(dir: &Path, flags: &[&str]) -> anyhow::Result<(String, Option<i32>)> {
    let mut command = command(test_program("e2e-filepull-agent")?);
    let output = command.arg("status").args(flags).env("STATE_DIR", dir).output().await?;
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code()))
}

/// Waits until the output of `filepull-agent status --check` contains `text`. Returns the output
/// and the exit code. The agent writes its status later than its log.
async fn wait_for_status(dir: &Path, text: &str) -> anyhow::Result<(String, Option<i32>)> {
    let probe = async || {
        let status = status(dir, &["--check"]).await?;
        Ok(Some(status).filter(|(output, _)| output.contains(text)))
    };
    poll(text, probe).await
}

/// Checks that the status begins with `start` and that `--check` fails.
async fn check_not_connected(dir: &Path, start: &str) -> anyhow::Result<()> {
    let (output, code) = status(dir, &["--check"]).await?;
    assert!(output.starts_with(start), "{output}");
    assert_eq!(code, Some(1), "{output}");
    Ok(())
}

/// Changes `status.json` as if an agent had written it.
fn rewrite(dir: &Path, change: impl FnOnce(&mut Value)) -> anyhow::Result<()> {
    let path = dir.join("status.json");
    let mut status = serde_json::from_slice(&fs::read(&path)?)?;
    change(&mut status);
    fs::write(&path, serde_json::to_vec(&status)?)?;
    Ok(())
}

#[tokio::test]
async fn only_an_agent_that_lives_and_responds_is_connected() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let mut client = server.client("client4", b"data")?.as_process().connected().await?;
    let state = client.state();
    assert_eq!(wait_for_status(&state, "client4 is connected to").await?.1, Some(0));
    let (output, code) = status(&state, &["--json", "--check"]).await?;
    let json: Value = serde_json::from_str(&output)?;
    let agent = &json["agents"][0];
    assert_eq!(
        (&agent["connected"], &agent["health"], code),
        (&true.into(), &"running".into(), Some(0))
    );
    // Stopped for a minute.
    client.agent()?.signal(Signal::STOP)?;
    rewrite(&state, |status| {
        let heartbeat = status["heartbeat_uptime_ms"].as_u64().unwrap_or_default();
        status["heartbeat_uptime_ms"] = heartbeat.saturating_sub(60_000).into();
    })?;
    check_not_connected(&state, "client4 does not respond: process").await?;
    client.agent()?.signal(Signal::CONT)?;
    client.kill().await?;
    check_not_connected(&state, "client4 is not running").await?;
    // The recorded PID belongs to another process now: this test.
    rewrite(&state, |status| {
        status["pid"] = std::process::id().into();
        status["heartbeat_uptime_ms"] = u64::MAX.into();
    })?;
    check_not_connected(&state, "client4 is not running").await?;
    let missing = state.with_file_name("missing");
    check_not_connected(&missing, "The state of an agent is unknown").await?;
    assert_eq!(status(&missing, &[]).await?.1, Some(1));
    Ok(())
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_written_stops_no_agent() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let file = server.folder().join("a-file");
    fs::write(&file, "")?;
    let setting = file.display().to_string();
    let stopped = server.client("client4", b"data")?.as_process().setting("STATE_DIR", &setting);
    let client = stopped.connected().await?;
    let warning = client.agent()?.says("STATE_DIR: ").await?;
    assert!(
        warning.contains("The agent works, but `filepull-agent status` cannot know"),
        "{warning}"
    );
    server.pull("client4").await?;
    let (output, code) = status(&file, &[]).await?;
    assert!(output.starts_with("The state of the agent of"), "{output}");
    assert_eq!(code, Some(1));
    Ok(())
}

#[tokio::test]
async fn an_agent_is_not_connected_after_a_drain() -> anyhow::Result<()> {
    let mut server = TestServer::start().await?;
    let client = server.connect("client4", b"data").await?;
    assert_eq!(wait_for_status(&client.state(), "client4 is connected to").await?.1, Some(0));
    // The server drains its agents before it closes the connections.
    server.stop().await?;
    assert_eq!(wait_for_status(&client.state(), "client4 is not connected to").await?.1, Some(1));
    Ok(())
}

#[tokio::test]
async fn a_default_file_that_cannot_be_sent_is_reported_to_both_sides() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let mut client = server.client("client4", b"data")?.as_process();
    let file = client.data().display().to_string();
    fs::remove_file(&file)?;
    client.connect().await?;
    let missing =
        format!("FILE_PATH: there is no file at {file}. A pull without a path will fail.");
    assert!(client.agent()?.says("WARN").await?.ends_with(&missing));
    wait_for_status(&client.state(), &missing).await?;
    let shown = async || server.json("/api/v1/clients/client4").await;
    assert_eq!(shown().await?["default_file_error"], "file-missing");
    client.kill().await?;
    fs::create_dir(&file)?;
    client.connect().await?;
    let directory = format!("FILE_PATH: {file} is a directory.");
    assert!(client.agent()?.says("WARN").await?.contains(&directory));
    wait_for_status(&client.state(), &directory).await?;
    assert_eq!(shown().await?["default_file_error"], "not-a-file");
    let page = server.get("/clients").await?.text();
    assert!(page.contains("not-a-file"), "{page}");
    // A successful upload clears the error.
    fs::remove_dir(&file)?;
    fs::write(&file, "data")?;
    server.pull("client4").await?;
    client.agent()?.says("sent data.txt").await?;
    let fixed = shown().await?;
    assert_eq!(
        (&fixed["default_file"]["size"], &fixed["default_file_error"]),
        (&4.into(), &().into())
    );
    let (output, _) = wait_for_status(&client.state(), "Last sent: data.txt").await?;
    assert!(output.contains("client4 is connected") && !output.contains("Last looked"), "{output}");
    Ok(())
}

#[tokio::test]
async fn a_second_agent_leaves_the_state_of_the_first_unchanged() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let first = server.client("client4", b"data")?.as_process().connected().await?;
    let mut second = server.client("client4", b"data")?.as_process();
    second.start()?;
    let pid = first.agent()?.pid();
    second.agent()?.says(&format!("an agent already runs here, process {pid}: ")).await?;
    assert_eq!(second.take_agent()?.ended().await?.code(), Some(2));
    wait_for_status(&first.state(), "client4 is connected to").await?;
    Ok(())
}

#[tokio::test]
async fn the_status_of_an_agent_is_found_without_its_id() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let state_home = ("XDG_STATE_HOME", home.path().display().to_string());
    let settings = [
        ("CLIENT_ID", "lyon-2".to_owned()),
        ("SERVER_ADDR", "127.0.0.1:1".to_owned()),
        state_home.clone(),
    ];
    let agent = Process::start(&[], "e2e-filepull-agent", "run", &settings)?;
    agent.says("cannot connect: refused").await?;
    let probe = async || {
        let settings = std::slice::from_ref(&state_home);
        let mut status = Process::start(&[], "e2e-filepull-agent", "status", settings)?;
        status.ended().await?;
        Ok(status.find("lyon-2"))
    };
    let line = poll("the status", probe).await?;
    assert!(line.starts_with("lyon-2 is not connected to 127.0.0.1:1"), "{line}");
    Ok(())
}
