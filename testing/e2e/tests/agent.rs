//! The environment of an agent: its state folder, its limits, its settings and its folders.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use filepull_testkit::{Process, TestServer};
use rustix::process::Signal;
use serde_json::Value;

/// Returns what `filepull-agent status` prints of the state in `dir`, and its exit code.
async fn status(dir: &Path, flags: &[&str]) -> anyhow::Result<(String, Option<i32>)> {
    let program = filepull_testkit::process::test_program("e2e-filepull-agent")?;
    let output = tokio::process::Command::new(program)
        .arg("status")
        .args(flags)
        .env_clear()
        .env("STATE_DIR", dir)
        .output()
        .await?;
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code()))
}

/// Waits until the status of the state in `dir` contains `says`. Returns its exit code with
/// `--check`.
async fn checked(dir: &Path, says: &str) -> anyhow::Result<Option<i32>> {
    filepull_testkit::soon(says, async {
        loop {
            let (text, code) = status(dir, &["--check"]).await?;
            if text.contains(says) {
                return Ok(code);
            }
        }
    })
    .await?
}

/// Checks that the status of the state in `dir` is not connected and starts with `says`.
async fn check(dir: &Path, says: &str) -> anyhow::Result<()> {
    let (text, code) = status(dir, &["--check"]).await?;
    assert!(text.starts_with(says), "{text}");
    assert_eq!(code, Some(1), "{text}");
    Ok(())
}

/// Changes `status.json` as if an agent had written it.
fn rewrite(dir: &Path, change: impl FnOnce(&mut Value)) -> anyhow::Result<()> {
    let path = dir.join("status.json");
    let mut written = serde_json::from_slice(&fs::read(&path)?)?;
    change(&mut written);
    fs::write(&path, serde_json::to_vec(&written)?)?;
    Ok(())
}

#[tokio::test]
async fn only_an_agent_that_lives_and_responds_is_connected() -> anyhow::Result<()> {
    let bed = TestServer::start_process().await?;
    let mut client = bed.connect("client4", b"data").await?;
    let state = client.state();
    assert_eq!(checked(&state, "client4 is connected to").await?, Some(0));
    let (json, code) = status(&state, &["--json", "--check"]).await?;
    let json: Value = serde_json::from_str(&json)?;
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
    check(&state, "client4 does not respond: process").await?;
    client.agent()?.signal(Signal::CONT)?;
    client.take_agent()?.kill().await?;
    check(&state, "client4 is not running").await?;
    // The recorded PID belongs to another process now: this test.
    rewrite(&state, |status| {
        status["pid"] = std::process::id().into();
        status["heartbeat_uptime_ms"] = u64::MAX.into();
    })?;
    check(&state, "client4 is not running").await?;
    let nobody = state.with_file_name("nobody");
    check(&nobody, "The state of an agent is unknown").await?;
    assert_eq!(status(&nobody, &[]).await?.1, Some(1));
    Ok(())
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_written_stops_no_agent() -> anyhow::Result<()> {
    let bed = TestServer::start_process().await?;
    let file = bed.folder().join("a-file");
    fs::write(&file, "")?;
    let file = file.display().to_string();
    let mut client = bed.client("client4", b"data")?.setting("STATE_DIR", &file);
    client.connect().await?;
    let warned = client.agent()?.says("STATE_DIR: ").await?;
    assert!(
        warned.contains("The agent works, but `filepull-agent status` cannot know"),
        "{warned}"
    );
    bed.pull("client4").await?;
    let (text, code) = status(Path::new(&file), &[]).await?;
    assert!(text.starts_with("The state of the agent of"), "{text}");
    assert_eq!(code, Some(1));
    Ok(())
}

#[tokio::test]
async fn a_connection_that_ends_after_a_drain_is_no_connection() -> anyhow::Result<()> {
    let mut bed = TestServer::start_process().await?;
    let client = bed.connect("client4", b"data").await?;
    assert_eq!(checked(&client.state(), "client4 is connected to").await?, Some(0));
    let mut server = bed.take_server()?;
    // The server drains its agents first.
    server.terminate()?;
    assert!(server.ended().await?.success());
    assert_eq!(checked(&client.state(), "client4 is not connected to").await?, Some(1));
    Ok(())
}

#[tokio::test]
async fn the_folder_of_a_share_that_becomes_a_link_leaks_nothing() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let mut client = bed.client("client4", b"data")?.setting("SHARE", "logs/*.log");
    let outside = bed.folder().join("outside");
    for folder in [client.files.join("logs"), outside.clone()] {
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("a.log"), "SECRET")?;
        fs::write(folder.join("data.txt"), "SECRET")?;
    }
    client.connect().await?;
    fs::remove_dir_all(client.files.join("logs"))?;
    symlink(&outside, client.files.join("logs"))?;
    let refused = bed.get("/trigger?id=client4&path=logs/a.log&wait=20s").await?;
    assert!(refused.first_line().contains("leads outside the shared folder"), "{}", refused.text());
    fs::rename(&client.files, bed.folder().join("moved"))?;
    symlink(&outside, &client.files)?;
    let refused = bed.get("/trigger?id=client4&wait=20s").await?;
    assert!(refused.first_line().contains("at first and leads to"), "{}", refused.text());
    assert!(bed.downloads("client4").unwrap_or_default().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_file_of_unknown_size_is_published_whole() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let mut client = bed.client("client4", b"data")?.setting("FILE_PATH", "/proc/version");
    client.connect().await?;
    let download = bed.pull("client4").await?;
    assert_eq!(fs::read(download)?, fs::read("/proc/version")?);
    Ok(())
}

#[tokio::test]
async fn a_list_of_shares_is_explained_where_it_was_set() -> anyhow::Result<()> {
    let bed = TestServer::start_process().await?;
    let mut client = bed.client("client4", b"data")?.setting("SHARE", "logs/*.{log,txt},none/*");
    fs::create_dir(client.files.join("logs"))?;
    fs::write(client.files.join("logs/a.txt"), "a")?;
    client.connect().await?;
    client.agent()?.says("SHARE: none/* matches no file beneath").await?;
    let pulled = bed.get("/trigger?id=client4&path=logs/a.txt&wait=20s").await?;
    assert!(pulled.first_line().starts_with("Done"), "{}", pulled.text());
    for (share, says) in [("logs/", "logs/* for its files"), ("~/x", "~ is not replaced here")] {
        client.set("SHARE", share);
        client.start()?;
        client.agent()?.says(says).await?;
        assert_eq!(client.take_agent()?.ended().await?.code(), Some(2), "{share}");
    }
    Ok(())
}

/// Starts an agent with these settings and the required ones. It dials an address without a
/// listener.
fn agent(launcher: &[&str], settings: &[(&str, &str)]) -> anyhow::Result<Process> {
    let mut all = vec![
        ("CLIENT_ID", "client4".to_owned()),
        ("SERVER_ADDR", "127.0.0.1:1".to_owned()),
        ("HOME", "/nowhere".to_owned()),
    ];
    all.retain(|(name, _)| settings.iter().all(|(other, _)| name != other));
    all.extend(settings.iter().map(|&(name, value)| (name, value.to_owned())));
    let launcher: Vec<String> = launcher.iter().map(|&word| word.to_owned()).collect();
    Process::start(&launcher, "e2e-filepull-agent", "run", &all)
}

#[tokio::test]
async fn an_empty_variable_is_not_set() -> anyhow::Result<()> {
    let names = ["FILE_PATH", "SHARE", "MAX_RATE", "CONSISTENCY", "STATE_DIR", "DATA_CONN"];
    let names = names.into_iter().chain(["LOG_LEVEL", "LOG_FORMAT"]);
    let settings: Vec<_> = names.map(|name| (name, "")).collect();
    agent(&[], &settings)?.says("cannot connect: refused").await?;
    Ok(())
}

#[tokio::test]
async fn a_misspelt_variable_gets_a_hint_and_a_mangled_value_a_reason() -> anyhow::Result<()> {
    let hinted = agent(&[], &[("SERVER_ADRR", "x"), ("CLIENTID", "y")])?;
    hinted
        .says("SERVER_ADRR is set, but there is no such setting. Did you mean SERVER_ADDR?")
        .await?;
    hinted.says("CLIENTID is set, but there is no such setting. Did you mean CLIENT_ID?").await?;
    for (value, says) in [
        ("\"x\"", "FILE_PATH: it is in quotes"),
        ("x\r", "FILE_PATH: it ends with a carriage return"),
        ("~/x", "FILE_PATH: ~ is not replaced here, only by a shell"),
    ] {
        let mut refused = agent(&[], &[("FILE_PATH", value)])?;
        refused.says(says).await?;
        assert_eq!(refused.ended().await?.code(), Some(2), "{value}");
    }
    Ok(())
}

#[tokio::test]
async fn too_few_open_files_are_told_at_the_start() -> anyhow::Result<()> {
    let mut agent = agent(&["prlimit", "--nofile=16:16"], &[])?;
    agent.says("may open only 16 files and connections and needs 24. Allow more:").await?;
    assert_eq!(agent.ended().await?.code(), Some(1));
    Ok(())
}

/// The limit of threads counts those of a user and is not enforced for root, so the test uses its
/// own user.
#[tokio::test]
async fn with_one_more_thread_an_agent_sends_and_without_it_says_so() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let bed = TestServer::start_process().await?;
    bed.open_to_all()?;
    let state = bed.folder().join("state-of-all");
    fs::create_dir(&state)?;
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777))?;
    let program = bed.folder().join("filepull-agent");
    fs::copy(filepull_testkit::process::test_program("e2e-filepull-agent")?, &program)?;
    let client = bed.client("client4", b"data")?;
    let start = |n_threads: u32| {
        let limit = format!("--nproc={n_threads}:{n_threads}");
        let launcher = ["prlimit", &limit, "setpriv", "--reuid=64124", "--clear-groups"];
        let settings = [
            ("CLIENT_ID", "client4".to_owned()),
            ("SERVER_ADDR", bed.grpc().to_string()),
            ("FILE_PATH", client.data().display().to_string()),
            ("STATE_DIR", state.display().to_string()),
        ];
        Process::start(&launcher.map(str::to_owned), &program, "run", &settings)
    };
    let mut alone = start(1)?;
    alone.says("may start only 0 more threads and needs 1").await?;
    assert_eq!(alone.ended().await?.code(), Some(1));
    let agent = start(2)?;
    agent.says("files are sent one at a time").await?;
    agent.says("connected in").await?;
    bed.pull("client4").await?;
    Ok(())
}
