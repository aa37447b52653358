//! The settings of both programs: wrong values are rejected with a reason, unknown names with a
//! hint.

use std::fs;

use filepull_testkit::{Process, TestServer, settings_in};
use serde_json::Value;

#[tokio::test]
async fn an_unknown_log_level_is_rejected_with_a_suggestion() -> anyhow::Result<()> {
    for (program, command) in [("e2e-filepull-agent", "run"), ("e2e-filepull", "server")] {
        let settings = [("LOG_LEVEL", "warning".to_owned())];
        let process = Process::start(&[], program, command, &settings)?;
        let reason = "LOG_LEVEL: \"warning\" is not a level. Did you mean warn?";
        process.fails_with(2, reason).await?;
    }
    Ok(())
}

#[tokio::test]
async fn all_numbers_out_of_range_are_reported_with_their_ranges() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let max = u64::MAX.to_string();
    let numbers = [("MAX_RUNNING", &*max), ("MAX_WAITING", &max), ("HEARTBEAT", "1ns")];
    let settings = settings_in(folder.path(), &numbers);
    let mut server = Process::start(&[], "e2e-filepull", "server", &settings)?;
    assert_eq!(server.ended().await?.code(), Some(2));
    for range in
        ["MAX_RUNNING is ", "it must be from 1 to 10,000", "MAX_WAITING is ", "HEARTBEAT is 1ns"]
    {
        server.says(range).await?;
    }
    assert_eq!(fs::read_dir(folder.path())?.count(), 0);
    Ok(())
}

/// Compose files and env files often set a variable to nothing.
#[tokio::test]
async fn an_empty_variable_of_the_server_counts_as_not_set() -> anyhow::Result<()> {
    let names = ["MAX_RUNNING", "MAX_WAITING", "HTTP_AUTH", "AGENT_AUTH", "MAX_FILE_SIZE"];
    let more = ["MIN_FREE", "STALL_TIMEOUT", "KEEP_RECORDS", "LOG_LEVEL", "SHUTDOWN_GRACE"];
    let empty: Vec<_> = names.into_iter().chain(more).map(|name| (name, "")).collect();
    let server = TestServer::process_with(&empty).await?;
    let settings = server.json("/api/v1/server").await?["settings"].take();
    assert_eq!(settings["max_running"], 20, "{settings}");
    assert_eq!(settings["min_free"], 1 << 30, "{settings}");
    assert_eq!(settings["log_level"], "info", "{settings}");
    // The rule also holds for the demo.
    let folder = tempfile::tempdir()?;
    let more = [("SIZE", "1MiB"), ("MAX_RUNNING", ""), ("CLIENTS", "")];
    let settings = settings_in(folder.path(), &more);
    let demo = Process::start(&[], "e2e-filepull", "demo", &settings)?;
    demo.says("A server and 5 clients run here").await?;
    Ok(())
}

#[tokio::test]
async fn a_misspelt_variable_of_the_server_gets_a_hint() -> anyhow::Result<()> {
    let misspelt = [("HTTPADDR", "127.0.0.1:1"), ("MAX_RUNING", "3"), ("HOME", "/x")];
    let server = TestServer::process_with(&misspelt).await?;
    let process = server.server()?;
    for (found, meant) in [("HTTPADDR", "HTTP_ADDR"), ("MAX_RUNING", "MAX_RUNNING")] {
        let hint = format!("{found} is set, but there is no such setting. Did you mean {meant}?");
        let event: Value = serde_json::from_str(&process.says(&hint).await?)?;
        assert_eq!(
            (&event["level"], &event["event"]),
            (&"WARN".into(), &"setting.misspelt".into())
        );
    }
    assert_eq!(process.count("setting.misspelt"), 2, "{}", process.last_output());
    Ok(())
}

#[tokio::test]
async fn a_value_that_an_env_file_has_broken_is_rejected() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let broken = [
        ("DATA_DIR", "\"/srv/data\"", "quotes"),
        ("DATA_DIR", "~/data", "whole path"),
        ("HTTP_AUTH", "none\r", "carriage return"),
        ("LOG_LEVEL", "in\u{1b}fo", "control character"),
        ("MAX_RUNNING", "'20'", "quotes"),
    ];
    for (name, value, reason) in broken {
        let settings = settings_in(folder.path(), &[(name, value)]);
        let server = Process::start(&[], "e2e-filepull", "server", &settings)?;
        let line = server.fails_with(2, &format!("{name}: ")).await?;
        assert!(line.contains(reason), "{name}={value:?}: {line}");
    }
    assert_eq!(fs::read_dir(folder.path())?.count(), 0);
    Ok(())
}

#[tokio::test]
async fn the_server_shows_its_settings() -> anyhow::Result<()> {
    let server = TestServer::with(&[("MAX_FILE_SIZE", "1GiB"), ("STALL_TIMEOUT", "90s")]).await?;
    let settings = server.json("/api/v1/server").await?["settings"].take();
    assert_eq!(settings["http_addr"], server.http().to_string(), "{settings}");
    assert_eq!(settings["grpc_addr"], server.grpc().to_string(), "{settings}");
    assert_eq!((&settings["http_auth"], &settings["agent_auth"]), (&"auto".into(), &"auto".into()));
    assert_eq!((&settings["log_level"], &settings["log_format"]), (&"info".into(), &"json".into()));
    assert_eq!(settings["max_file_size"], 1 << 30, "{settings}");
    assert_eq!(settings["stall_timeout"], 90, "{settings}");
    let page = server.get("/server").await?.text();
    assert!(page.contains("1.0 GiB") && page.contains("1 min 30 s"), "{page}");
    Ok(())
}
