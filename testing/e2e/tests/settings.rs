//! Settings that are wrong: whoever typed them is told, in words, where they look.

use std::fs;
use std::path::Path;

use filepull_testkit::{HttpClient, Process, Programs, TestServer, test_data};

/// Waits until `filepull-agent status` prints `text` for the state in `dir`. The status is written
/// separately from the log.
async fn status_says(dir: &Path, text: &str) -> anyhow::Result<String> {
    filepull_testkit::soon(text, async {
        loop {
            let said = status(dir).await?;
            if said.contains(text) {
                return Ok(said);
            }
        }
    })
    .await?
}

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
    let bed = TestServer::start_process().await?;
    let state = bed.data_dir().with_file_name("state").join("client4");
    let mut client = bed.client("client4", b"data")?;
    let file = client.data().display().to_string();
    fs::remove_file(&file)?;
    client.connect().await?;
    let missing =
        format!("FILE_PATH: there is no file at {file}. A pull without a path will fail.");
    assert!(client.agent()?.says("WARN").await?.ends_with(&missing));
    status_says(&state, &missing).await?;
    let file_of = async || bed.json("/api/v1/clients/client4").await;
    assert_eq!(file_of().await?["default_file_error"], "file-missing");
    client.take_agent()?.kill().await?;
    fs::create_dir(&file)?;
    client.connect().await?;
    let folder = format!("FILE_PATH: {file} is a directory.");
    assert!(client.agent()?.says("WARN").await?.contains(&folder));
    status_says(&state, &folder).await?;
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
    let mended = status_says(&state, "Last sent: data.txt").await?;
    assert!(mended.contains("client4 is connected") && !mended.contains("Last looked"), "{mended}");
    Ok(())
}

#[tokio::test]
async fn a_second_agent_leaves_the_state_of_the_first_alone() -> anyhow::Result<()> {
    let bed = TestServer::start_process().await?;
    let first = bed.connect("client4", b"data").await?;
    let mut second = bed.client("client4", b"data")?;
    second.start()?;
    let pid = first.agent()?.pid();
    second.agent()?.says(&format!("an agent already runs here, process {pid}: ")).await?;
    assert_eq!(second.take_agent()?.ended().await?.code(), Some(2));
    let state = bed.data_dir().with_file_name("state").join("client4");
    status_says(&state, "client4 is connected to").await?;
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
    let found = filepull_testkit::soon("the status", async {
        loop {
            let mut status = Process::start(
                &[],
                "e2e-filepull-agent",
                "status",
                std::slice::from_ref(&state_home),
            )?;
            status.ended().await?;
            if let Some(line) = status.said().into_iter().find(|line| line.contains("lyon-2")) {
                return anyhow::Ok(line);
            }
        }
    });
    let found = found.await??;
    assert!(found.starts_with("lyon-2 is not connected to 127.0.0.1:1"), "{found}");
    Ok(())
}

#[tokio::test]
async fn the_http_port_is_not_where_agents_dial() -> anyhow::Result<()> {
    let bed = TestServer::start_process().await?;
    let mut client = bed.client("client4", b"data")?.dialling(bed.http());
    client.start()?;
    client.agent()?.says("does SERVER_ADDR point at the HTTP port").await?;
    Ok(())
}

#[tokio::test]
async fn a_small_file_has_no_rate() -> anyhow::Result<()> {
    let bed = TestServer::start_process().await?;
    let client = bed.connect("client4", b"").await?;
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
    filepull_testkit::soon("the first file", async {
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
    fs::write(&own, test_data("own", 2048))?;
    let settings = demo_settings(folder.path(), "1MiB");
    let mut demo = Process::start(&[], "e2e-filepull", "demo", &settings)?;
    demo.says("/trigger?id=client4&wait").await?;
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
async fn the_demo_prints_the_next_command_last_and_when_it_works() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = demo_settings(folder.path(), "1MiB");
    let demo = Process::start(&[], "e2e-filepull", "demo", &settings)?;
    let command = demo.says("/trigger?id=client4&wait").await?;
    let (http, path) = command
        .trim_matches([' ', '"'])
        .trim_start_matches("curl \"localhost")
        .split_once('/')
        .ok_or_else(|| anyhow::anyhow!("no URL in {command}"))?;
    let http = format!("127.0.0.1{http}").parse()?;
    let reply = HttpClient::new(http).get(&format!("/{path}")).await?;
    assert!(reply.text().starts_with("Done: client4 sent data.txt"), "{}", reply.text());
    // After a whole pull it is still the last line of the screen.
    assert_eq!(demo.said().last(), Some(&command));
    Ok(())
}

#[tokio::test]
async fn no_variable_opens_the_demo_to_other_machines() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for (index, addr) in [(0, "0.0.0.0:0"), (1, "[::]:0")] {
        let mut settings = demo_settings(folder.path(), "1MiB");
        settings[index].1 = addr.to_owned();
        let mut demo = Process::start(&[], "e2e-filepull", "demo", &settings)?;
        demo.says("the demo listens on this machine only. Write 127.0.0.1:0").await?;
        assert_eq!(demo.ended().await?.code(), Some(2));
    }
    assert_eq!(fs::read_dir(folder.path())?.count(), 0);
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_names_who_holds_it() -> anyhow::Result<()> {
    let bed = TestServer::start_process().await?;
    let folder = tempfile::tempdir()?;
    let mut settings = demo_settings(folder.path(), "1MiB");
    settings[0].1 = bed.http().to_string();
    let mut second = Process::start(&[], "e2e-filepull", "server", &settings)?;
    let (http, pid) = (bed.http(), bed.server()?.pid());
    let said = second.says(&format!("listening on HTTP_ADDR={http}: ")).await?;
    assert!(said.contains(&format!("the port is in use by process {pid} (")), "{said}");
    let next = format!("To end it: kill {pid}. Or set HTTP_ADDR=127.0.0.1:{}", http.port() + 1);
    assert!(said.ends_with(&next), "{said}");
    assert_eq!(second.ended().await?.code(), Some(1));
    Ok(())
}

/// Only root can act as two users.
#[tokio::test]
async fn a_folder_of_another_user_is_named_with_what_to_type() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let bed = TestServer::start_process().await?;
    bed.open_to_all()?;
    let mut bed = bed;
    drop(bed.take_server()?);
    let data_dir = bed.data_dir();
    std::os::unix::fs::chown(&data_dir, Some(65534), Some(65534))?;
    let other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let other: Vec<String> = other.map(str::to_owned).to_vec();
    let mut settings = demo_settings(bed.folder(), "1MiB");
    settings[2].1 = data_dir.display().to_string();
    let program = bed.folder().join("filepull");
    fs::copy(filepull_testkit::process::test_program("e2e-filepull")?, &program)?;
    let mut server = Process::start(&other, &program, "server", &settings)?;
    let said = server.says("may not write there").await?;
    let records = data_dir.join(".filepull");
    let expected = format!(
        "{} belongs to user 0, and user 65534, who runs this program, may not write there. \
         Run: sudo chown -R 65534 {}",
        records.display(),
        data_dir.display()
    );
    assert!(said.ends_with(&expected), "{said}");
    assert_eq!(server.ended().await?.code(), Some(1));
    // The records are there: it is not "no records" (2).
    let mut verify = Process::start(&other, &program, "verify", &settings)?;
    verify.says(&expected).await?;
    assert_eq!(verify.ended().await?.code(), Some(1));
    Ok(())
}

#[tokio::test]
async fn a_data_folder_that_is_a_file_is_told_as_one() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut settings = demo_settings(folder.path(), "1MiB");
    settings[2].1 = folder.path().join("file").display().to_string();
    fs::write(&settings[2].1, "x")?;
    let mut server = Process::start(&[], "e2e-filepull", "server", &settings)?;
    server.says(&format!("Set DATA_DIR to a folder: {} is not a folder", settings[2].1)).await?;
    assert_eq!(server.ended().await?.code(), Some(1));
    Ok(())
}

#[tokio::test]
async fn a_first_start_is_told_from_one_on_records() -> anyhow::Result<()> {
    let mut bed = TestServer::start_process().await?;
    bed.server()?.says("no records yet").await?;
    let mut first = bed.take_server()?;
    first.terminate()?;
    assert!(first.ended().await?.success());
    bed.start_server().await?;
    bed.server()?.says("Ready.").await?;
    let said = bed.server()?.said().join("\n");
    assert!(!said.contains("no records yet"), "{said}");
    Ok(())
}

#[tokio::test]
async fn numbers_out_of_range_are_all_told_with_their_ranges() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let [http, grpc, data, ..] = demo_settings(folder.path(), "");
    let most = u64::MAX.to_string();
    let settings = [
        http,
        grpc,
        data,
        ("MAX_RUNNING", most.clone()),
        ("MAX_WAITING", most),
        ("HEARTBEAT", "1ns".into()),
    ];
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

#[tokio::test]
async fn a_server_that_may_open_too_few_files_says_so_and_ends() -> anyhow::Result<()> {
    for limit in ["6", "20", "31"] {
        let folder = tempfile::tempdir()?;
        let launcher = ["prlimit".to_owned(), format!("--nofile={limit}:{limit}")];
        let settings = demo_settings(folder.path(), "1MiB");
        let mut server = Process::start(&launcher, "e2e-filepull", "server", &settings)?;
        server.says(&format!("may open only {limit} files and connections and needs 32")).await?;
        assert_eq!(server.ended().await?.code(), Some(1));
        assert_eq!(fs::read_dir(folder.path())?.count(), 0);
    }
    Ok(())
}

/// The limit of threads counts those of a user and is not enforced for root, so the test uses its
/// own user.
#[tokio::test]
async fn a_server_that_may_start_too_few_threads_says_so_and_ends() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
    let program = folder.path().join("filepull");
    fs::copy(filepull_testkit::process::test_program("e2e-filepull")?, &program)?;
    for n_threads in 1..6 {
        let launcher = [
            "prlimit".to_owned(),
            format!("--nproc={n_threads}:{n_threads}"),
            "setpriv".to_owned(),
            "--reuid=64123".to_owned(),
            "--clear-groups".to_owned(),
        ];
        let settings = demo_settings(folder.path(), "1MiB");
        let mut server = Process::start(&launcher, &program, "server", &settings)?;
        server.says("more threads and needs ").await?;
        assert_eq!(server.ended().await?.code(), Some(1));
        let said = server.said().join("\n");
        assert!(said.contains("TasksMax=") && !said.contains("panicked"), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn what_a_command_prints_is_never_lost_in_silence() -> anyhow::Result<()> {
    let bed = TestServer::start().await?;
    let settings =
        [("HTTP_ADDR", bed.http().to_string()), ("DATA_DIR", bed.data_dir().display().to_string())];
    for command in ["verify", "health", "version"] {
        let full = ["sh", "-c", "exec \"$0\" \"$@\" >/dev/full"].map(str::to_owned);
        let mut lost = Process::start(&full, "e2e-filepull", command, &settings)?;
        lost.says("writing to standard output: No space left on device").await?;
        assert_eq!(lost.ended().await?.code(), Some(1), "{command}");
        // The reader is closed: the exit code reports the outcome.
        let gone =
            ["sh", "-c", "{ \"$0\" \"$@\"; echo \"exit $?\" >&2; } | true"].map(str::to_owned);
        let gone = Process::start(&gone, "e2e-filepull", command, &settings)?;
        gone.says("exit 0").await?;
        assert!(!gone.said().join("\n").contains("panicked"), "{:?}", gone.said());
    }
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

/// Every setting of the server, with typical mistakes of compose files and env files.
#[tokio::test]
async fn an_empty_variable_of_the_server_counts_as_not_set() -> anyhow::Result<()> {
    let names = ["MAX_RUNNING", "MAX_WAITING", "HTTP_AUTH", "AGENT_AUTH", "MAX_FILE_SIZE"];
    let more = ["MIN_FREE", "STALL_TIMEOUT", "KEEP_RECORDS", "LOG_LEVEL", "SHUTDOWN_GRACE"];
    let empty: Vec<_> = names.into_iter().chain(more).map(|name| (name, "")).collect();
    let bed = TestServer::process_with(&empty).await?;
    let settings = bed.json("/api/v1/server").await?["settings"].take();
    assert_eq!(settings["max_running"], 20, "{settings}");
    assert_eq!(settings["min_free"], 1 << 30, "{settings}");
    assert_eq!(settings["log_level"], "info", "{settings}");
    // The demo and the probe of an image follow the same rule.
    let folder = tempfile::tempdir()?;
    let demo = demo_settings(folder.path(), "1MiB").into_iter();
    let demo: Vec<_> =
        demo.chain([("MAX_RUNNING", String::new()), ("CLIENTS", String::new())]).collect();
    let demo = Process::start(&[], "e2e-filepull", "demo", &demo)?;
    demo.says("A server and 5 clients run here").await?;
    Ok(())
}

#[tokio::test]
async fn a_misspelt_variable_of_the_server_is_warned_of() -> anyhow::Result<()> {
    let bed = TestServer::process_with(&[
        ("HTTPADDR", "127.0.0.1:1"),
        ("MAX_RUNING", "3"),
        ("HOME", "/x"),
    ])
    .await?;
    let server = bed.server()?;
    for (found, meant) in [("HTTPADDR", "HTTP_ADDR"), ("MAX_RUNING", "MAX_RUNNING")] {
        let message =
            format!("{found} is set, but there is no such setting. Did you mean {meant}?");
        let line = server.says(&message).await?;
        let line: serde_json::Value = serde_json::from_str(&line)?;
        assert_eq!((&line["level"], &line["event"]), (&"WARN".into(), &"config.warning".into()));
    }
    let warnings = server.said().iter().filter(|line| line.contains("config.warning")).count();
    assert_eq!(warnings, 2, "{:?}", server.said());
    Ok(())
}

#[tokio::test]
async fn a_value_of_the_server_that_an_env_file_spoilt_is_rejected() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let spoilt = [
        ("DATA_DIR", "\"/srv/data\"", "quotes"),
        ("DATA_DIR", "~/data", "whole path"),
        ("HTTP_AUTH", "none\r", "carriage return"),
        ("LOG_LEVEL", "in\u{1b}fo", "control character"),
        ("MAX_RUNNING", "'20'", "quotes"),
    ];
    for (name, value, says) in spoilt {
        let mut settings = demo_settings(folder.path(), "1MiB").to_vec();
        settings.retain(|(other, _)| *other != name);
        settings.push((name, value.to_owned()));
        let mut server = Process::start(&[], "e2e-filepull", "server", &settings)?;
        let line = server.says(&format!("{name}: ")).await?;
        assert!(line.contains(says), "{name}={value:?}: {line}");
        assert_eq!(server.ended().await?.code(), Some(2), "{name}");
    }
    assert_eq!(fs::read_dir(folder.path())?.count(), 0);
    Ok(())
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

/// On such a disk a download could replace another file, or be lost in a power cut.
#[tokio::test]
async fn a_disk_that_cannot_publish_safely_is_rejected_at_the_start() -> anyhow::Result<()> {
    let names = "-e inject=renameat2:error=EINVAL -e inject=linkat:error=EPERM";
    let cases = [
        ("renameat2,linkat", names, "cannot rename a file without replacing another"),
        ("fsync", "-e inject=fsync:error=EINVAL", "cannot sync folders"),
    ];
    for (calls, faults, expected) in cases {
        let folder = tempfile::tempdir()?;
        let data_dir = folder.path().join("data").display().to_string();
        let launcher = format!("strace -f -qq -o /dev/null -e trace={calls} {faults}");
        let launcher: Vec<_> = launcher.split(' ').map(str::to_owned).collect();
        let settings = [
            ("HTTP_ADDR", "127.0.0.1:0".to_owned()),
            ("GRPC_ADDR", "127.0.0.1:0".to_owned()),
            ("DATA_DIR", data_dir.clone()),
        ];
        let Ok(mut server) =
            Process::start(&launcher, Programs::default().server, "server", &settings)
        else {
            println!("skipped: no strace");
            return Ok(());
        };
        let said = server.says(expected).await?;
        assert!(said.contains(&format!("DATA_DIR={data_dir} (")), "{said}");
        assert_eq!(server.ended().await?.code(), Some(1));
    }
    Ok(())
}
