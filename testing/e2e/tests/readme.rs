//! What the README shows is what happens.

use std::path::Path;

use filepull_testkit::{HttpClient, Process, TestServer};

/// The repository, seen from this package.
fn readme() -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    Ok(std::fs::read_to_string(path)?)
}

/// Every line a person would type in a `console` block.
fn commands(readme: &str) -> Vec<&str> {
    let blocks = readme.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("$ ")).collect()
}

/// The demo, with small files on free ports, and what the README types next.
#[tokio::test]
async fn the_commands_of_the_readme_do_what_it_says() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let settings = [
        ("HTTP_ADDR", "127.0.0.1:0".to_owned()),
        ("GRPC_ADDR", "127.0.0.1:0".to_owned()),
        ("DATA_DIR", path("server-data")),
        ("CLIENT_DIR", path("client-data")),
        ("SIZE", "1MiB".to_owned()),
        ("LOG_LEVEL", "info".to_owned()),
    ];
    let mut demo = Process::start(&[], "e2e-filepull", "demo", &settings)?;
    let address = demo.says("http_addr=127.0.0.1:").await?;
    let http = address.split("http_addr=").nth(1).and_then(|rest| rest.split(' ').next());
    let http = http.ok_or_else(|| anyhow::anyhow!("no address in {address}"))?;
    demo.says("/trigger?id=client4&wait").await?;
    let readme = readme()?;
    let demo_commands = commands(&readme);
    assert!(demo_commands.contains(&"cargo run --release -- demo"), "{demo_commands:?}");
    let curl = r#"curl "localhost:8080/trigger?id=client4&wait""#;
    assert!(demo_commands.contains(&curl), "{demo_commands:?}");
    // Not by curl itself: a machine that only builds and tests need not have it.
    let response = HttpClient::new(http.parse()?).get("/trigger?id=client4&wait").await?;
    let said = response.text();
    assert!(said.starts_with("Done: client4 sent data.txt, 1.0 MiB in "), "{said}");
    let compare = "sha256sum server-data/client4/download-*.txt client-data/client4/data.txt";
    assert!(demo_commands.contains(&compare), "{demo_commands:?}");
    let ran = tokio::process::Command::new("sh")
        .args(["-c", compare])
        .current_dir(folder.path())
        .output()
        .await?;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let digests: Vec<_> = said.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(digests.len() == 2 && digests[0] == digests[1], "{said}");
    demo.terminate()?;
    assert!(demo.ended().await?.success());
    Ok(())
}

/// Every URL of the table "Commands you will use" is answered, and every option is known.
#[tokio::test]
async fn every_command_of_the_table_is_answered() -> anyhow::Result<()> {
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
            continue; // cancelling has a test of its own
        }
        let path = command.split("localhost:8080").nth(1).unwrap_or_default().trim_matches('"');
        let response = server.get(path).await?;
        assert!(response.status < 300, "{command}: {} {}", response.status, response.text());
    }
    Ok(())
}
