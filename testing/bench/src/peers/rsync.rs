//! An rsync daemon. The complete file is pulled under a new name, without delta and compression.

use std::fs;
use std::path::Path;

use filepull_testkit::process::{self, Process};

use super::{Facts, Peer, find, folders, free_port, version};
use crate::source::SourceFile;
use crate::targets::Target;

pub(super) async fn start(folder: &Path) -> anyhow::Result<Peer> {
    let program = find("rsync")?;
    let (home, inbox) = folders(folder, "rsync")?;
    let port = free_port()?;
    // As root, rsync would switch to an unprivileged user, who may not read this folder.
    let user = if rustix::process::getuid().is_root() { "uid = 0\ngid = 0\n" } else { "" };
    let shared = folder.display();
    let config = format!(
        "address = 127.0.0.1\nport = {port}\nuse chroot = no\n{user}\
         [files]\npath = {shared}\nread only = yes\n"
    );
    let config_path = home.join("rsyncd.conf");
    fs::write(&config_path, config)?;
    let mut command = process::command(&program);
    command.args(["--daemon", "--no-detach"]).arg(format!("--config={}", config_path.display()));
    let daemon = Process::spawn(command)?;
    daemon.listens_on(port).await?;

    let facts = Facts {
        name: "rsync daemon",
        version: version(&program, "--version", 3).await?,
        guarantees: "its own checksum, not synced",
        target: Some(Target::AtLeast(1.3)),
    };
    let root = folder.to_owned();
    let target = inbox.clone();
    let copy = move |source: &SourceFile, name: &str| {
        let path = source.path.strip_prefix(&root).unwrap_or(&source.path);
        let mut command = process::command(&program);
        command
            .arg("--whole-file")
            .arg(format!("rsync://127.0.0.1:{port}/files/{}", path.display()));
        command.arg(target.join(name));
        command
    };
    Ok(Peer { facts, inbox, daemon: Some(daemon), copy: Box::new(copy) })
}
