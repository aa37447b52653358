//! `filepull demo`, and the script that starts it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use filepull_testkit::{HttpClient, Process, poll, settings_in, test_data};

/// Starts the demo on free ports with its folders in `folder`.
fn demo(folder: &Path, settings: &[(&str, &str)]) -> anyhow::Result<Process> {
    Process::start(&[], "e2e-filepull", "demo", &settings_in(folder, settings))
}

const SMALL: (&str, &str) = ("SIZE", "1MiB");

#[tokio::test]
async fn a_stopped_demo_leaves_no_incomplete_file() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    // Large enough to be stopped before the first file is complete.
    let mut demo = demo(folder.path(), &[("SIZE", "1GiB")])?;
    let incomplete = folder.path().join("client-data/client1/data.part");
    poll("the first file", async || Ok(incomplete.exists().then_some(()))).await?;
    demo.terminate()?;
    assert!(demo.ended().await?.success());
    assert_eq!(fs::read_dir(folder.path().join("client-data/client1"))?.count(), 0);
    Ok(())
}

#[tokio::test]
async fn a_demo_ends_without_a_warning_and_names_the_files_it_kept() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let own = folder.path().join("client-data/client2/data.txt");
    fs::create_dir_all(own.parent().unwrap_or(folder.path()))?;
    fs::write(&own, test_data("own", 2048))?;
    let mut demo = demo(folder.path(), &[SMALL])?;
    demo.says("/trigger?id=client4&wait").await?;
    demo.says(&format!("kept {}: it has 2.0 KiB; remove it", own.display())).await?;
    demo.terminate()?;
    assert!(demo.ended().await?.success());
    let data_dir = folder.path().join("server-data");
    demo.says(&format!("The files stay in {}/.", data_dir.display())).await?;
    assert_eq!(demo.count("WARN"), 0, "{}", demo.last_output());
    Ok(())
}

#[tokio::test]
async fn the_last_line_of_the_demo_is_a_command_that_works() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let demo = demo(folder.path(), &[SMALL])?;
    let command = demo.says("/trigger?id=client4&wait").await?;
    let (port, path) = command
        .trim_matches([' ', '"'])
        .trim_start_matches("curl \"localhost:")
        .split_once('/')
        .ok_or_else(|| anyhow::anyhow!("no URL in {command}"))?;
    let http = HttpClient::new(format!("127.0.0.1:{port}").parse()?);
    let response = http.get(&format!("/{path}")).await?;
    assert!(response.text().starts_with("Done: client4 sent data.txt"), "{}", response.text());
    // A pull prints nothing after it.
    assert_eq!(demo.said().last(), Some(&command));
    Ok(())
}

#[tokio::test]
async fn no_variable_opens_the_demo_to_other_machines() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for exposed in [("HTTP_ADDR", "0.0.0.0:0"), ("GRPC_ADDR", "[::]:0")] {
        let reason = "the demo listens on this machine only. Write 127.0.0.1:0";
        demo(folder.path(), &[exposed])?.fails_with(2, reason).await?;
    }
    assert_eq!(fs::read_dir(folder.path())?.count(), 0);
    Ok(())
}

#[tokio::test]
async fn a_demo_that_cannot_listen_creates_no_file() -> anyhow::Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let folder = tempfile::tempdir()?;
    let http_addr = listener.local_addr()?.to_string();
    let demo = demo(folder.path(), &[("HTTP_ADDR", &http_addr)])?;
    demo.fails_with(1, "listening on HTTP_ADDR=").await?;
    assert!(!folder.path().join("client-data").exists());
    Ok(())
}

#[tokio::test]
async fn the_demo_names_a_folder_that_it_cannot_create() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let demo = demo(folder.path(), &[SMALL, ("CLIENT_DIR", "/proc/filepull")])?;
    demo.fails_with(1, "/proc/filepull/client1/data.txt: ").await?;
    Ok(())
}

/// Runs `setup.sh` with a `cargo` that only prints its arguments.
#[tokio::test]
async fn a_local_setup_obeys_the_size_and_the_number_of_clients() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../setup.sh");
    fs::copy(script, folder.path().join("setup.sh"))?;
    for program in ["cargo", "cc"] {
        let path = folder.path().join(program);
        fs::write(&path, "#!/bin/sh\necho \"$*, CLIENTS=$CLIENTS SIZE=$SIZE\"\n")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let output = tokio::process::Command::new("sh")
        .args(["./setup.sh", "--local"])
        .current_dir(folder.path())
        .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
        .env("SIZE_MB", "10")
        .env("CLIENTS", "3")
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text, "run --release -- demo, CLIENTS=3 SIZE=10MiB\n", "{output:?}");
    Ok(())
}
