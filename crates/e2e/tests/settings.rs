//! Settings that are wrong: whoever typed them is told, in words, where they look.

use std::fs;
use std::path::Path;

use filepull_e2e::{Process, TestBed, made};

/// `filepull-agent status`, as it is said of the state in `dir`.
async fn status(dir: &Path) -> anyhow::Result<String> {
    let settings = [("STATE_DIR", dir.display().to_string())];
    let mut status = Process::start(&[], "e2e-filepull-agent", "status", &settings)?;
    let said = status.says("client").await?;
    status.ended().await?;
    Ok(format!("{said}\n{}", status.said().join("\n")))
}

#[tokio::test]
async fn a_level_that_does_not_exist_is_refused_aloud() -> anyhow::Result<()> {
    for (program, command) in [("e2e-filepull-agent", "run"), ("e2e-filepull", "server")] {
        let settings = [("LOG_LEVEL", "warning".to_owned())];
        let mut process = Process::start(&[], program, command, &settings)?;
        process.says("LOG_LEVEL: \"warning\" is not a level. Did you mean warn?").await?;
        assert_eq!(process.ended().await?.code(), Some(2), "{program}");
    }
    Ok(())
}

#[tokio::test]
async fn a_default_file_that_cannot_be_sent_is_told_where_it_was_set() -> anyhow::Result<()> {
    let bed = TestBed::start().await?;
    let state = bed.data_dir().with_file_name("state").join("client4");
    let mut client = bed.client("client4", b"data")?;
    let file = client.data().display().to_string();
    fs::remove_file(&file)?;
    client.connect().await?;
    let missing =
        format!("FILE_PATH: there is no file at {file}. A pull without a path will fail.");
    assert!(client.agent()?.says("WARN").await?.ends_with(&missing));
    assert!(status(&state).await?.contains(&missing));
    let file_of = async || bed.json("/api/v1/clients/client4").await;
    assert_eq!(file_of().await?["default_file_error"], "file-missing");
    client.take_agent()?.kill().await?;
    fs::create_dir(&file)?;
    client.connect().await?;
    let folder = format!("FILE_PATH: {file} is a directory.");
    assert!(client.agent()?.says("WARN").await?.contains(&folder));
    assert!(status(&state).await?.contains(&folder));
    assert_eq!(file_of().await?["default_file_error"], "not-a-file");
    let page = bed.get("/clients").await?.text();
    assert!(page.contains("not-a-file"), "{page}");
    // Once it has been sent, nothing is wrong any more.
    fs::remove_dir(&file)?;
    fs::write(&file, "data")?;
    bed.pull("client4").await?;
    client.agent()?.says("sent data.txt").await?;
    let mended = file_of().await?;
    assert_eq!(
        (&mended["default_file"]["size"], &mended["default_file_error"]),
        (&4.into(), &().into())
    );
    let mended = status(&state).await?;
    assert!(mended.contains("client4 is connected") && !mended.contains("Last looked"), "{mended}");
    Ok(())
}

#[tokio::test]
async fn a_second_agent_leaves_the_state_of_the_first_alone() -> anyhow::Result<()> {
    let bed = TestBed::start().await?;
    let first = bed.connected("client4", b"data").await?;
    let mut second = bed.client("client4", b"data")?;
    second.start()?;
    let pid = first.agent()?.pid()?;
    second.agent()?.says(&format!("an agent already runs here, process {pid}: ")).await?;
    assert_eq!(second.take_agent()?.ended().await?.code(), Some(2));
    let state = bed.data_dir().with_file_name("state").join("client4");
    assert!(status(&state).await?.contains("client4 is connected to"));
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
    let status = Process::start(&[], "e2e-filepull-agent", "status", &[state_home])?;
    status.says("lyon-2 is not connected to 127.0.0.1:1").await?;
    Ok(())
}

#[tokio::test]
async fn the_http_port_is_not_where_agents_dial() -> anyhow::Result<()> {
    let bed = TestBed::start().await?;
    let mut client = bed.client("client4", b"data")?.dialling(bed.http());
    client.start()?;
    client.agent()?.says("is SERVER_ADDR the HTTP port").await?;
    Ok(())
}

#[tokio::test]
async fn a_small_file_has_no_rate() -> anyhow::Result<()> {
    let bed = TestBed::start().await?;
    let client = bed.connected("client4", b"").await?;
    bed.pull("client4").await?;
    let said = client.agent()?.says("sent data.txt in").await?;
    assert!(!said.contains("/s)") && !said.contains(" 0.0 s"), "{said}");
    Ok(())
}

/// A demo whose files are large enough to be stopped in the middle of them.
#[tokio::test]
async fn a_demo_that_is_stopped_leaves_no_half_of_a_file() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = demo_settings(folder.path(), "1GiB");
    let mut demo = Process::start(&[], "e2e-filepull", "demo", &settings)?;
    let unfinished = folder.path().join("client-data/client1/data.part");
    filepull_e2e::soon("the first file", async {
        while !unfinished.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    demo.terminate()?;
    assert!(demo.ended().await?.success());
    assert_eq!(fs::read_dir(folder.path().join("client-data/client1"))?.count(), 0);
    Ok(())
}

#[tokio::test]
async fn a_demo_ends_without_a_complaint_and_says_what_it_kept() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let own = folder.path().join("client-data/client2/data.txt");
    fs::create_dir_all(own.parent().unwrap_or(folder.path()))?;
    fs::write(&own, made("own", 2048))?;
    let settings = demo_settings(folder.path(), "1MiB");
    let mut demo = Process::start(&[], "e2e-filepull", "demo", &settings)?;
    for client in 1..=5 {
        demo.says(&format!("client{client}: connected in")).await?;
    }
    demo.says(&format!("kept {}: it has 2.0 KiB; remove it", own.display())).await?;
    demo.terminate()?;
    assert!(demo.ended().await?.success());
    demo.says(&format!("The files stay in {}/.", folder.path().join("server-data").display()))
        .await?;
    let said = demo.said().join("\n");
    assert!(!said.contains("WARN"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_demo_that_cannot_begin_makes_no_file() -> anyhow::Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let folder = tempfile::tempdir()?;
    let mut settings = demo_settings(folder.path(), "1MiB");
    settings[0].1 = taken.local_addr()?.to_string();
    let mut demo = Process::start(&[], "e2e-filepull", "demo", &settings)?;
    demo.says("listening on HTTP_ADDR=").await?;
    assert_eq!(demo.ended().await?.code(), Some(1));
    assert!(!folder.path().join("client-data").exists());
    Ok(())
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut settings = demo_settings(folder.path(), "1MiB");
    settings[3].1 = "/proc/filepull".to_owned();
    let mut demo = Process::start(&[], "e2e-filepull", "demo", &settings)?;
    demo.says("making /proc/filepull/client1/data.txt: ").await?;
    assert_eq!(demo.ended().await?.code(), Some(1));
    Ok(())
}

fn demo_settings(folder: &Path, size: &str) -> [(&'static str, String); 5] {
    let path = |name: &str| folder.join(name).display().to_string();
    [
        ("HTTP_ADDR", "127.0.0.1:0".to_owned()),
        ("GRPC_ADDR", "127.0.0.1:0".to_owned()),
        ("DATA_DIR", path("server-data")),
        ("CLIENT_DIR", path("client-data")),
        ("SIZE", size.to_owned()),
    ]
}

/// `setup.sh` is run with a `cargo` that only says how it was called.
#[tokio::test]
async fn a_local_setup_obeys_the_size_and_the_number_of_clients() -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../setup.sh");
    fs::copy(script, folder.path().join("setup.sh"))?;
    for program in ["cargo", "cc"] {
        let path = folder.path().join(program);
        fs::write(&path, "#!/bin/sh\necho \"$*, CLIENTS=$CLIENTS SIZE=$SIZE\"\n")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let ran = tokio::process::Command::new("sh")
        .args(["./setup.sh", "--local"])
        .current_dir(folder.path())
        .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
        .env("SIZE_MB", "10")
        .env("CLIENTS", "3")
        .output()
        .await?;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert_eq!(said, "run --release -- demo, CLIENTS=3 SIZE=10MiB\n", "{ran:?}");
    Ok(())
}
