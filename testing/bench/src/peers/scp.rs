//! scp from a separate sshd, with the fastest common cipher.

use std::path::Path;

use filepull_testkit::process;

use super::sshd::Sshd;
use super::{Facts, Peer, find, folders};
use crate::source::SourceFile;
use crate::targets;

/// Starts the peer. The target depends on whether filepull encrypts too.
pub(crate) async fn start(folder: &Path, is_encrypted: bool) -> anyhow::Result<Peer> {
    let scp = find("scp")?;
    let (home, inbox) = folders(folder, "ssh")?;
    let sshd = Sshd::start(&home).await?;
    let facts = Facts {
        name: "scp",
        version: sshd.version.clone(),
        guarantees: "encrypted, not synced",
        target: Some(if is_encrypted { targets::TLS_OVER_SCP } else { targets::OVER_SCP }),
    };
    let options = sshd.options();
    let port = sshd.port.to_string();
    let target = inbox.clone();
    let copy = move |source: &SourceFile, name: &str| {
        let mut command = process::command(&scp);
        command.args(["-q", "-P", &port]).args(&options);
        command.arg(format!("127.0.0.1:{}", source.path.display())).arg(target.join(name));
        command
    };
    Ok(Peer { facts, inbox, daemon: Some(sshd.daemon), copy: Box::new(copy) })
}
