//! The commands of the README work as it says.

use std::path::Path;

use anyhow::Context as _;
use filepull_testkit::{HttpClient, Process, TestServer, settings_in};

fn readme() -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    Ok(std::fs::read_to_string(path)?)
}

/// Returns the commands in the `console` blocks.
fn commands(readme: &str) -> Vec<&str> {
    let blocks = readme.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("$ ")).collect()
}

/// Runs the demo with small files on free ports, and then the next commands of the README.
#[tokio::test]
async fn the_commands_of_the_readme_do_what_it_says() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = settings_in(folder.path(), &[("SIZE", "1MiB"), ("LOG_LEVEL", "info")]);
    let mut demo = Process::start(&[], "e2e-filepull", "demo", &settings)?;
    let address = demo.says("http_addr=127.0.0.1:").await?;
    let http = address.split("http_addr=").nth(1).and_then(|rest| rest.split(' ').next());
    demo.says("/trigger?id=client4&wait").await?;
    let readme = readme()?;
    let demo_commands = commands(&readme);
    assert!(demo_commands.contains(&"cargo run --release -- demo"), "{demo_commands:?}");
    let curl = r#"curl "localhost:8080/trigger?id=client4&wait""#;
    assert!(demo_commands.contains(&curl), "{demo_commands:?}");
    // Without `curl`, which a build machine may not have.
    let response = HttpClient::new(http.context("no address")?.parse()?)
        .get("/trigger?id=client4&wait")
        .await?;
    let text = response.text();
    assert!(text.starts_with("Done: client4 sent data.txt, 1.0 MiB "), "{text}");
    let compare = "sha256sum server-data/client4/download-*.txt client-data/client4/data.txt";
    assert!(demo_commands.contains(&compare), "{demo_commands:?}");
    let output = tokio::process::Command::new("sh")
        .args(["-c", compare])
        .current_dir(folder.path())
        .output()
        .await?;
    let digest_lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let digests: Vec<_> = digest_lines.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(digests.len() == 2 && digests[0] == digests[1], "{digest_lines}");
    demo.terminate()?;
    assert!(demo.ended().await?.success());
    Ok(())
}

/// Requests every URL of the table "Commands you will use".
#[tokio::test]
async fn every_command_of_the_table_succeeds() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let mut client = server.client("client1", b"data")?.setting("SHARE", "logs/*.log");
    std::fs::create_dir(client.files.join("logs"))?;
    std::fs::write(client.files.join("logs/pos.log"), "log")?;
    client.connect().await?;
    server.pull("client1").await?;
    let readme = readme()?;
    let table: Vec<_> =
        readme.lines().filter(|line| line.starts_with("| ") && line.contains("curl ")).collect();
    assert!(8 < table.len(), "{table:?}");
    for row in table {
        let command = row.split('`').nth(1).unwrap_or_default();
        if command.contains("-X POST") {
            continue; // `transfers` tests a cancel
        }
        let path = command.split("localhost:8080").nth(1).unwrap_or_default().trim_matches('"');
        let response = server.get(path).await?;
        assert!(response.status < 300, "{command}: {} {}", response.status, response.text());
    }
    Ok(())
}
