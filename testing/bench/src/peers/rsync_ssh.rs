//! rsync through ssh. The complete file is pulled under a new name, without delta and compression.

use std::path::Path;

use filepull_testkit::process;

use super::sshd::Sshd;
use super::{Facts, Peer, find, folders, version};
use crate::source::SourceFile;
use crate::targets;

pub(crate) async fn start(folder: &Path) -> anyhow::Result<Peer> {
    let rsync = find("rsync")?;
    let ssh = find("ssh")?;
    let (home, inbox) = folders(folder, "rsync-ssh")?;
    let sshd = Sshd::start(&home).await?;
    let facts = Facts {
        name: "rsync via ssh",
        version: version(&rsync, "--version", 3).await?,
        guarantees: "encrypted, not synced",
        target: Some(targets::TLS_OVER_RSYNC_SSH),
    };
    let shell = format!("{} -p {} {}", ssh.display(), sshd.port, sshd.options().join(" "));
    let target = inbox.clone();
    let copy = move |source: &SourceFile, name: &str| {
        let mut command = process::command(&rsync);
        command.args(["--whole-file", "-e", &shell]);
        command.arg(format!("127.0.0.1:{}", source.path.display())).arg(target.join(name));
        command
    };
    Ok(Peer { facts, inbox, daemon: Some(sshd.daemon), copy: Box::new(copy) })
}
