//! `filepull verify` reports exactly the downloads that differ from the records.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use filepull_testkit::process::{command, test_program};
use filepull_testkit::{TestServer, test_data};
use serde_json::Value;

/// Runs `filepull verify` on a data folder. Returns its exit code and its output.
async fn verify(data_dir: &Path) -> anyhow::Result<(Option<i32>, Vec<String>)> {
    verify_with(data_dir, &[]).await
}

async fn verify_with(
    data_dir: &Path,
    options: &[&str],
) -> anyhow::Result<(Option<i32>, Vec<String>)> {
    let mut command = command(test_program("e2e-filepull")?);
    let output = command.arg("verify").args(options).env("DATA_DIR", data_dir).output().await?;
    let text = String::from_utf8([output.stdout, output.stderr].concat())?;
    Ok((output.status.code(), text.lines().map(str::to_owned).collect()))
}

/// Changes a download without a change of its mode and its time of modification.
fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> anyhow::Result<()> {
    let stat = fs::metadata(path)?;
    let mut bytes = fs::read(path)?;
    change(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o640))?;
    fs::write(path, bytes)?;
    fs::set_permissions(path, stat.permissions())?;
    fs::File::open(path)?.set_modified(stat.modified()?)?;
    Ok(())
}

/// Pulls from a few clients until there are 200 downloads.
async fn two_hundred(server: &TestServer) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for client in 0..4 {
        let id = format!("client{client}");
        let _client = server.connect(&id, &test_data(&id, 70_000)).await?;
        for _ in 0..50 {
            paths.push(server.pull(&id).await?);
        }
    }
    Ok(paths)
}

#[tokio::test]
async fn one_flipped_bit_in_two_hundred_downloads_is_found() -> anyhow::Result<()> {
    let mut server = TestServer::start().await?;
    let paths = two_hundred(&server).await?;
    let (code, lines) = verify(&server.data_dir()).await?;
    assert_eq!((code, lines.len()), (Some(0), 1), "{lines:?}");
    assert!(lines[0].starts_with("200 downloads: 200 as they arrived. 13.4 MiB read"), "{lines:?}");

    change(&paths[123], |bytes| bytes[40_000] ^= 0b100)?;
    let (code, lines) = verify(&server.data_dir()).await?;
    let named = format!("changed     {}  its SHA-256 is ", paths[123].display());
    assert_eq!((code, lines.len()), (Some(1), 2), "{lines:?}");
    assert!(lines[0].starts_with(&named) && lines[0].contains("; its BLAKE3 is "), "{lines:?}");
    assert!(lines[1].starts_with("200 downloads: 199 as they arrived, 1 changed. "), "{lines:?}");

    // More damage, without a running server.
    server.stop().await?;
    change(&paths[3], |bytes| bytes.reverse())?;
    fs::remove_file(&paths[60])?;
    fs::write(paths[60].with_file_name("notes.txt"), "mine")?;
    let (code, lines) = verify_with(&server.data_dir(), &["--json"]).await?;
    let report: Value = serde_json::from_str(&lines.join("\n"))?;
    let findings = report["findings"].as_array().into_iter().flatten();
    let found: Vec<_> = findings.map(|finding| (&finding["kind"], &finding["path"])).collect();
    let path = |path: &Path| Value::from(path.display().to_string());
    let changed = Value::from("changed");
    let missing = Value::from("missing");
    let foreign = (Value::from("foreign"), path(&paths[60].with_file_name("notes.txt")));
    let expected = [
        (&changed, &path(&paths[3])),
        (&missing, &path(&paths[60])),
        (&foreign.0, &foreign.1),
        (&changed, &path(&paths[123])),
    ];
    assert_eq!((code, found), (Some(1), expected.to_vec()), "{report}");
    assert_eq!((&report["same"], &report["downloads"]), (&197.into(), &200.into()));

    let (code, lines) = verify_with(&server.data_dir(), &["--client", "client3"]).await?;
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(lines[0].starts_with("50 downloads: 50 as they arrived. "), "{lines:?}");
    let (code, lines) = verify_with(&server.data_dir(), &["--client", "client9"]).await?;
    assert_eq!(code, Some(4), "{lines:?}");
    Ok(())
}

#[tokio::test]
async fn verify_without_downloads_succeeds() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    let (code, lines) = verify(&server.data_dir()).await?;
    let none = "0 downloads: 0 as they arrived. 0 B read in ";
    assert_eq!((code, lines.len()), (Some(0), 1), "{lines:?}");
    assert!(lines[0].starts_with(none), "{lines:?}");
    // `verify` also reads the write-ahead log of a killed server.
    let path = {
        let _client = server.connect("client4", b"data").await?;
        server.pull("client4").await?
    };
    server.kill().await?;
    fs::remove_file(&path)?;
    let (code, lines) = verify(&server.data_dir()).await?;
    assert_eq!((code, lines.len()), (Some(1), 2), "{lines:?}");
    assert!(lines[0].starts_with(&format!("missing     {}", path.display())), "{lines:?}");
    server.start_server().await?;
    let elsewhere = server.data_dir().join("elsewhere");
    let (code, lines) = verify(&elsewhere).await?;
    assert_eq!(code, Some(2), "{lines:?}");
    assert!(lines[0].starts_with("filepull: no records in DATA_DIR="), "{lines:?}");
    assert!(!elsewhere.exists());
    Ok(())
}

/// Downloads that are published during a run are not reported, and no pull fails.
#[tokio::test]
async fn verify_beside_a_busy_server_reports_nothing() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let _client = server.connect("client4", &test_data("client4", 300_000)).await?;
    let pulls = async {
        for _ in 0..30 {
            server.pull("client4").await?;
        }
        anyhow::Ok(())
    };
    tokio::pin!(pulls);
    let mut rounds = 0;
    loop {
        let data_dir = server.data_dir();
        let verifying = verify(&data_dir);
        tokio::pin!(verifying);
        let pulled = tokio::select! {
            pulled = &mut pulls => Some(pulled),
            verified = &mut verifying => {
                let (code, lines) = verified?;
                assert_eq!((code, lines.len()), (Some(0), 1), "{lines:?}");
                rounds += 1;
                None
            }
        };
        if let Some(pulled) = pulled {
            pulled?;
            break;
        }
    }
    assert_ne!(rounds, 0, "no run ended before the pulls");
    let (code, lines) = verify(&server.data_dir()).await?;
    assert!(code == Some(0) && lines[0].starts_with("30 downloads: 30 as"), "{lines:?}");
    Ok(())
}

#[tokio::test]
async fn a_foreign_entry_is_reported_with_its_kind() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let _linked = server.connect("linked", b"linked").await?;
    let _client = server.connect("client4", b"client4").await?;
    let download = server.pull("linked").await?;
    server.pull("client4").await?;
    let folder = server.data_dir();
    fs::write(folder.join("README.md"), "hello")?;
    std::os::unix::fs::symlink("/tmp", folder.join("disk2"))?;
    let (code, lines) = verify(&folder).await?;
    assert_eq!((code, lines.len()), (Some(0), 3), "{lines:?}");
    let foreign = |name: &str, what: &str| {
        let line = format!("foreign     {}  {what}", folder.join(name).display());
        assert!(lines.iter().any(|found| found.starts_with(&line)), "{name}: {lines:?}");
    };
    foreign("README.md", "not a folder");
    foreign("disk2", "a symbolic link, which filepull does not follow");
    assert!(lines[2].starts_with("2 downloads: 2 as they arrived, 2 foreign."), "{lines:?}");
    // The downloads of a folder that was moved and linked are unreadable.
    fs::rename(folder.join("linked"), server.folder().join("moved"))?;
    std::os::unix::fs::symlink(server.folder().join("moved"), folder.join("linked"))?;
    server.get("/trigger?id=linked&wait=100s&fresh").await?;
    let message = "linked: it is a symbolic link, which filepull does not follow";
    server.server()?.says(message).await?;
    let (code, lines) = verify_with(&folder, &["--client", "linked"]).await?;
    assert_eq!(code, Some(1), "{lines:?}");
    let lost =
        lines.iter().find(|line| line.starts_with("unreadable")).cloned().unwrap_or_default();
    assert!(lost.contains(&download.display().to_string()), "{lines:?}");
    assert!(
        lost.contains("the folder of linked is a symbolic link, which filepull does not follow"),
        "{lost}"
    );
    Ok(())
}
