//! An rsync daemon. The complete file is pulled under a new name, without delta and compression.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use filepull_testkit::process::{self, Process};

use super::{Facts, Peer, find, folders, free_port, version};
use crate::source::SourceFile;
use crate::targets;

/// The name of the shared folder.
pub(crate) const MODULE: &str = "files";

/// Starts the daemon for clients with default settings.
pub(crate) async fn start(folder: &Path) -> anyhow::Result<Peer> {
    let facts = Facts {
        name: "rsync daemon",
        version: String::new(),
        guarantees: "its own checksum, not synced",
        target: Some(targets::OVER_RSYNC),
    };
    start_as(facts, &["--whole-file"], folder, "rsync").await
}

/// Starts the daemon for clients that sync their copy.
pub(crate) async fn start_synced(folder: &Path) -> anyhow::Result<Peer> {
    let facts = Facts {
        name: "rsync daemon, --fsync",
        version: String::new(),
        guarantees: "its own checksum, synced",
        target: Some(targets::OVER_SYNCED_RSYNC),
    };
    start_as(facts, &["--whole-file", "--fsync"], folder, "rsync-fsync").await
}

async fn start_as(
    facts: Facts,
    options: &'static [&str],
    folder: &Path,
    home: &str,
) -> anyhow::Result<Peer> {
    let program = find("rsync")?;
    let (home, inbox) = folders(folder, home)?;
    let port = free_port()?;
    let config_path = home.join("rsyncd.conf");
    fs::write(&config_path, config("127.0.0.1", port, folder))?;
    let mut command = process::command(&program);
    command.args(["--daemon", "--no-detach"]).arg(format!("--config={}", config_path.display()));
    let daemon = Process::spawn(command)?;
    daemon.listens_on(port).await?;

    let facts = Facts { version: version(&program, "--version", 3).await?, ..facts };
    let root = folder.to_owned();
    let target = inbox.clone();
    let copy = move |source: &SourceFile, name: &str| {
        let path = source.path.strip_prefix(&root).unwrap_or(&source.path);
        let mut command = process::command(&program);
        command.args(options);
        command.arg(format!("rsync://127.0.0.1:{port}/{MODULE}/{}", path.display()));
        command.arg(target.join(name));
        command
    };
    Ok(Peer { facts, inbox, daemon: Some(daemon), copy: Box::new(copy) })
}

/// Returns the configuration of a daemon that shares the folder `shared` as [`MODULE`]. The daemon
/// does not look up the names of its clients: without a name server, that takes seconds.
pub(crate) fn config(address: impl Display, port: u16, shared: &Path) -> String {
    // As root, rsync would switch to an unprivileged user, who may not read this folder.
    let user = if rustix::process::getuid().is_root() { "uid = 0\ngid = 0\n" } else { "" };
    let shared = shared.display();
    format!(
        "address = {address}\nport = {port}\nuse chroot = no\nreverse lookup = no\n{user}\
         [{MODULE}]\npath = {shared}\nread only = yes\n"
    )
}
