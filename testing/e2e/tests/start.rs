//! The start of a server: the conditions that stop it, and the message for each.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use filepull_testkit::process::test_program;
use filepull_testkit::{Process, TestServer, settings_in};

/// Starts a server on free ports with its folders in `folder`.
fn start(launcher: &[&str], folder: &Path, settings: &[(&str, &str)]) -> anyhow::Result<Process> {
    let launcher: Vec<String> = launcher.iter().map(|&word| word.to_owned()).collect();
    Process::start(&launcher, "e2e-filepull", "server", &settings_in(folder, settings))
}

#[tokio::test]
async fn a_server_that_can_accept_pulls_prints_ready() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    server.server()?.says("Ready.").await?;
    Ok(())
}

#[tokio::test]
async fn the_first_start_in_a_folder_is_marked() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    server.server()?.says("no records yet").await?;
    server.stop().await?;
    server.start_server().await?;
    let process = server.server()?;
    process.says("Ready.").await?;
    assert_eq!(process.count("no records yet"), 0, "{}", process.last_output());
    Ok(())
}

#[tokio::test]
async fn one_folder_serves_one_server() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let data_dir = server.data_dir().display().to_string();
    let pid = server.server()?.pid();
    let second = start(&[], server.folder(), &[])?;
    second.fails_with(1, &format!("{data_dir} is in use by process {pid}")).await?;
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_is_reported_with_its_process() -> anyhow::Result<()> {
    let server = TestServer::start_process().await?;
    let folder = tempfile::tempdir()?;
    let http = server.http();
    let pid = server.server()?.pid();
    let second = start(&[], folder.path(), &[("HTTP_ADDR", &http.to_string())])?;
    let line = second.fails_with(1, &format!("listening on HTTP_ADDR={http}: ")).await?;
    assert!(line.contains(&format!("the port is in use by process {pid} (")), "{line}");
    let next = format!("To end it: kill {pid}. Or set HTTP_ADDR=127.0.0.1:{}", http.port() + 1);
    assert!(line.ends_with(&next), "{line}");
    Ok(())
}

/// Only root can act as two users.
#[tokio::test]
async fn a_folder_of_another_user_is_reported_with_a_command() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mut server = TestServer::start().await?;
    server.open_to_all()?;
    server.stop().await?;
    let data_dir = server.data_dir();
    chown(&data_dir, Some(65534), Some(65534))?;
    let program = server.folder().join("filepull");
    fs::copy(test_program("e2e-filepull")?, &program)?;
    let expected = format!(
        "{} belongs to user 0, and user 65534, who runs this program, may not write there. \
         Run: sudo chown -R 65534 {}",
        data_dir.join(".filepull").display(),
        data_dir.display()
    );
    // The records exist, so `verify` must not report "no records" (2).
    for command in ["server", "verify"] {
        let launcher = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let settings = settings_in(server.folder(), &[]);
        let process = Process::start(&launcher.map(str::to_owned), &program, command, &settings)?;
        let line = process.fails_with(1, "may not write there").await?;
        assert!(line.ends_with(&expected), "{command}: {line}");
    }
    Ok(())
}

#[tokio::test]
async fn a_data_folder_that_is_a_file_is_rejected() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("server-data");
    fs::write(&file, "x")?;
    let reason = format!("Set DATA_DIR to a folder: {} is not a folder", file.display());
    start(&[], folder.path(), &[])?.fails_with(1, &reason).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_listens_for_other_machines_only_if_told_to() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let exposed = start(&[], folder.path(), &[("HTTP_ADDR", "0.0.0.0:0")])?;
    exposed.fails_with(2, "HTTP_AUTH=none").await?;
    assert_eq!(fs::read_dir(folder.path())?.count(), 0);
    Ok(())
}

#[tokio::test]
async fn a_server_does_not_start_with_too_few_open_files() -> anyhow::Result<()> {
    for limit in ["6", "20", "31"] {
        let folder = tempfile::tempdir()?;
        let server = start(&["prlimit", &format!("--nofile={limit}:{limit}")], folder.path(), &[])?;
        let reason = format!("may open only {limit} files and connections and needs 32");
        server.fails_with(1, &reason).await?;
        assert_eq!(fs::read_dir(folder.path())?.count(), 0);
    }
    Ok(())
}

/// The limit counts all threads of a user and is not enforced for root, so the test uses its own
/// user.
#[tokio::test]
async fn a_server_does_not_start_with_too_few_threads() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
    let program = folder.path().join("filepull");
    fs::copy(test_program("e2e-filepull")?, &program)?;
    for n_threads in 1..6 {
        let limit = format!("--nproc={n_threads}:{n_threads}");
        let launcher = ["prlimit", &limit, "setpriv", "--reuid=64123", "--clear-groups"];
        let settings = settings_in(folder.path(), &[]);
        let mut server =
            Process::start(&launcher.map(str::to_owned), &program, "server", &settings)?;
        server.says("more threads and needs ").await?;
        assert_eq!(server.ended().await?.code(), Some(1));
        assert_ne!(server.count("TasksMax="), 0, "{}", server.last_output());
        assert_eq!(server.count("panicked"), 0, "{}", server.last_output());
    }
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
        let strace = format!("strace -f -qq -o /dev/null -e trace={calls} {faults}");
        let launcher: Vec<&str> = strace.split(' ').collect();
        let Ok(server) = start(&launcher, folder.path(), &[]) else {
            println!("skipped: no strace");
            return Ok(());
        };
        let line = server.fails_with(1, expected).await?;
        let data_dir = folder.path().join("server-data");
        assert!(line.contains(&format!("DATA_DIR={} (", data_dir.display())), "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn a_disk_that_refuses_direct_writes_is_used_through_the_page_cache() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let probe = "trace=pwrite64 -e inject=pwrite64:error=EINVAL:when=1";
    let path = folder.path().join("server-data/.probe-from");
    let strace = format!("strace -f -qq -o /dev/null -P {} -e {probe}", path.display());
    let launcher: Vec<&str> = strace.split(' ').collect();
    let Ok(server) = start(&launcher, folder.path(), &[]) else {
        println!("skipped: no strace");
        return Ok(());
    };
    let ready = server.says("server.ready").await?;
    assert!(ready.contains("buffered"), "{ready}");
    Ok(())
}

#[tokio::test]
async fn a_command_reports_output_that_it_cannot_write() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let http_addr = server.http().to_string();
    let settings = settings_in(server.folder(), &[("HTTP_ADDR", &http_addr)]);
    for command in ["verify", "health", "version"] {
        let full = ["sh", "-c", "exec \"$0\" \"$@\" >/dev/full"].map(str::to_owned);
        let lost = Process::start(&full, "e2e-filepull", command, &settings)?;
        lost.fails_with(1, "writing to standard output: No space left on device").await?;
        // If the reader is closed, the exit code still reports the outcome.
        let no_reader = ["sh", "-c", "{ \"$0\" \"$@\"; echo \"exit $?\" >&2; } | true"];
        let unread =
            Process::start(&no_reader.map(str::to_owned), "e2e-filepull", command, &settings)?;
        unread.says("exit 0").await?;
        assert_eq!(unread.count("panicked"), 0, "{}", unread.last_output());
    }
    Ok(())
}
