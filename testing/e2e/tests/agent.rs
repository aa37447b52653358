//! The settings of an agent, its shared folders, and the limits of its process.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use filepull_testkit::process::test_program;
use filepull_testkit::{Process, TestClient, TestServer};
use serde_json::Value;

#[tokio::test]
async fn the_folder_of_a_share_that_becomes_a_link_leaks_nothing() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let mut client = server.client("client4", b"data")?.setting("SHARE", "logs/*.log");
    let outside = server.folder().join("outside");
    for folder in [client.files.join("logs"), outside.clone()] {
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("a.log"), "SECRET")?;
        fs::write(folder.join("data.txt"), "SECRET")?;
    }
    client.connect().await?;
    fs::remove_dir_all(client.files.join("logs"))?;
    symlink(&outside, client.files.join("logs"))?;
    let below = server.get("/trigger?id=client4&path=logs/a.log&wait=20s").await?;
    assert!(below.first_line().contains("leads outside the shared folder"), "{}", below.text());
    fs::rename(&client.files, server.folder().join("moved"))?;
    symlink(&outside, &client.files)?;
    let above = server.get("/trigger?id=client4&wait=20s").await?;
    assert!(above.first_line().contains("at first and leads to"), "{}", above.text());
    assert!(server.downloads("client4").unwrap_or_default().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_file_of_unknown_size_is_published_whole() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.client("client4", b"data")?.setting("FILE_PATH", "/proc/version");
    let _client = client.connected().await?;
    let download = server.pull("client4").await?;
    assert_eq!(fs::read(download)?, fs::read("/proc/version")?);
    Ok(())
}

#[tokio::test]
async fn a_list_of_shares_is_explained_where_it_was_set() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let shares = "logs/*.{log,txt},none/*";
    let mut client = server.client("client4", b"data")?.as_process().setting("SHARE", shares);
    fs::create_dir(client.files.join("logs"))?;
    fs::write(client.files.join("logs/a.txt"), "a")?;
    client.connect().await?;
    client.agent()?.says("SHARE: none/* matches no file beneath").await?;
    let pulled = server.get("/trigger?id=client4&path=logs/a.txt&wait=20s").await?;
    assert!(pulled.first_line().starts_with("Done"), "{}", pulled.text());
    for (share, message) in [("logs/", "logs/* for its files"), ("~/x", "~ is not replaced here")] {
        client.set("SHARE", share);
        client.start()?;
        client.agent()?.says(message).await?;
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
    let names = [
        "FILE_PATH",
        "SHARE",
        "MAX_RATE",
        "MAX_CPU",
        "CONSISTENCY",
        "STATE_DIR",
        "DATA_CONN",
        "SANDBOX",
        "LOG_LEVEL",
        "LOG_FORMAT",
    ];
    agent(&[], &names.map(|name| (name, "")))?.says("cannot connect: refused").await?;
    Ok(())
}

#[tokio::test]
async fn a_misspelt_variable_gets_a_hint_and_a_mangled_value_a_reason() -> anyhow::Result<()> {
    let misspelt = agent(&[], &[("SERVER_ADRR", "x"), ("CLIENTID", "y")])?;
    for (found, meant) in [("SERVER_ADRR", "SERVER_ADDR"), ("CLIENTID", "CLIENT_ID")] {
        let hint = format!("{found} is set, but there is no such setting. Did you mean {meant}?");
        misspelt.says(&hint).await?;
    }
    for (value, reason) in [
        ("\"x\"", "FILE_PATH: it is in quotes"),
        ("x\r", "FILE_PATH: it ends with a carriage return"),
        ("~/x", "FILE_PATH: ~ is not replaced here, only by a shell"),
    ] {
        let mut rejected = agent(&[], &[("FILE_PATH", value)])?;
        rejected.says(reason).await?;
        assert_eq!(rejected.ended().await?.code(), Some(2), "{value}");
    }
    Ok(())
}

#[tokio::test]
async fn too_few_open_files_stop_an_agent_at_its_start() -> anyhow::Result<()> {
    let mut agent = agent(&["prlimit", "--nofile=16:16"], &[])?;
    agent.says("may open only 16 files and connections and needs 24. Allow more:").await?;
    assert_eq!(agent.ended().await?.code(), Some(1));
    Ok(())
}

/// The limit counts all threads of a user and is not enforced for root, so the test uses its own
/// user.
#[tokio::test]
async fn an_agent_needs_one_more_thread() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let server = TestServer::start().await?;
    server.open_to_all()?;
    let state = server.folder().join("writable-state");
    fs::create_dir(&state)?;
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777))?;
    let program = server.folder().join("filepull-agent");
    fs::copy(test_program("e2e-filepull-agent")?, &program)?;
    let client = server.client("client4", b"data")?;
    let start = |n_threads: u32| {
        let limit = format!("--nproc={n_threads}:{n_threads}");
        let launcher = ["prlimit", &limit, "setpriv", "--reuid=64124", "--clear-groups"];
        let settings = [
            ("CLIENT_ID", "client4".to_owned()),
            ("SERVER_ADDR", server.grpc().to_string()),
            ("FILE_PATH", client.data().display().to_string()),
            ("STATE_DIR", state.display().to_string()),
        ];
        Process::start(&launcher.map(str::to_owned), &program, "run", &settings)
    };
    let mut single = start(1)?;
    single.says("may start only 0 more threads and needs 1").await?;
    assert_eq!(single.ended().await?.code(), Some(1));
    let agent = start(2)?;
    agent.says("files are sent one at a time").await?;
    agent.says("connected in").await?;
    server.pull("client4").await?;
    Ok(())
}

#[tokio::test]
async fn an_agent_that_dials_the_http_port_gets_a_hint() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let mut client = server.client("client4", b"data")?.dialling(server.http()).as_process();
    client.start()?;
    client.agent()?.says("does SERVER_ADDR point at the HTTP port").await?;
    Ok(())
}

#[tokio::test]
async fn the_log_shows_no_rate_for_an_empty_file() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.client("client4", b"")?.as_process().connected().await?;
    server.pull("client4").await?;
    let line = client.agent()?.says("sent data.txt in").await?;
    assert!(!line.contains("/s)") && !line.contains(" 0.0 s"), "{line}");
    Ok(())
}

/// Runs an agent on a kernel without Landlock.
const WITHOUT_LANDLOCK: [&str; 6] =
    ["strace", "-f", "-o", "/dev/null", "-e", "inject=landlock_create_ruleset:error=ENOSYS"];

/// Returns the `sandbox` of the agent's `status.json`.
fn sandbox(client: &TestClient) -> anyhow::Result<Value> {
    let status: Value = serde_json::from_slice(&fs::read(client.state().join("status.json"))?)?;
    Ok(status["sandbox"].clone())
}

#[allow(clippy::print_stderr, reason = "a skipped test must be seen")]
fn skipped(reason: &str) {
    eprintln!("SKIPPED: {reason}");
}

#[tokio::test]
async fn an_agent_enters_its_sandbox_and_reports_it() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.client("client4", b"data")?.as_process().connected().await?;
    client.agent()?.says("sandbox ").await?;
    server.pull("client4").await?;
    let sandbox = sandbox(&client)?;
    // A CI machine may have an older kernel.
    let level = sandbox["level"].as_str().unwrap_or_default();
    assert!(["full", "partial", "not-supported"].contains(&level), "{sandbox}");
    if level == "not-supported" {
        skipped(&format!("this kernel has no sandbox: {sandbox}"));
        return Ok(());
    }
    let files = client.files.display();
    let text = sandbox["text"].as_str().unwrap_or_default();
    assert!(text.starts_with(&format!("the agent can read {files} and system files")), "{text}");
    Ok(())
}

#[tokio::test]
async fn an_agent_runs_without_a_sandbox_where_the_kernel_has_none() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let launched = server.client("client4", b"data")?.launched_by(&WITHOUT_LANDLOCK);
    let mut client = launched.connected().await?;
    client.agent()?.says("sandbox not supported: this kernel, or the container").await?;
    server.pull("client4").await?;
    assert_eq!(sandbox(&client)?["level"], "not-supported");
    client.set("SANDBOX", "off");
    client.connect().await?;
    client.agent()?.says("sandbox off: SANDBOX=off").await?;
    client.set("SANDBOX", "required");
    client.start()?;
    client.agent()?.says("SANDBOX=required: this kernel, or the container").await?;
    assert_eq!(client.take_agent()?.ended().await?.code(), Some(2));
    Ok(())
}

/// Runs `filepull-agent log` with these arguments. Returns its exit code and its output.
fn agent_log(client: &TestClient, args: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let program = test_program("e2e-filepull-agent")?;
    let mut command = std::process::Command::new(program);
    let output = command.arg("log").args(args).env("STATE_DIR", client.state()).output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8(text)?))
}

#[tokio::test]
async fn the_owner_of_a_machine_reads_who_took_what() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let client = server.client("client4", b"data")?.as_process();
    let (code, text) = agent_log(&client, &[])?;
    assert!(code == Some(0) && text.starts_with("No file is on record in "), "{text}");
    let mut client = client.connected().await?;
    server.pull("client4").await?;
    server.get("/trigger?id=client4&path=/etc/passwd&wait=20s").await?;
    client.stop().await?;
    let (code, text) = agent_log(&client, &[])?;
    assert_eq!(code, Some(0), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[1].contains(" sent ") && lines[1].ends_with("data.txt"), "{text}");
    assert!(lines[2].contains(" refused ") && lines[2].contains("/etc/passwd ("), "{text}");
    let (_, json) = agent_log(&client, &["--json", "-n", "1"])?;
    let record: Value = serde_json::from_str(&json)?;
    assert_eq!((&record["event"], &record["path"]), (&"refused".into(), &"/etc/passwd".into()));
    Ok(())
}
