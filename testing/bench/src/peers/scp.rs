//! scp from a separate sshd with its own keys, and the fastest common cipher.

use std::fs;
use std::path::Path;

use filepull_testkit::{DEADLINE, Process, process};

use super::{Facts, Peer, find, folders, free_port, version};
use crate::source::SourceFile;
use crate::targets::Target;

/// Supported by the CPUs of the last ten years; faster than the default.
const CIPHER: &str = "aes128-gcm@openssh.com";

pub(super) async fn start(folder: &Path) -> anyhow::Result<Peer> {
    let scp = find("scp")?;
    let ssh = find("ssh")?;
    let sshd = find("sshd")?;
    let keygen = find("ssh-keygen")?;
    let (home, inbox) = folders(folder, "ssh")?;
    for key in ["host_key", "user_key"] {
        let mut command = process::command(&keygen);
        command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(home.join(key));
        process::finish(command, DEADLINE).await?;
    }
    let port = free_port()?;
    let config_path = home.join("sshd_config");
    fs::write(&config_path, config(&home, port))?;
    if rustix::process::getuid().is_root() {
        // sshd does not run as root without this empty folder, which its service creates.
        fs::create_dir_all("/run/sshd")?;
    }
    let mut command = process::command(&sshd);
    command.args(["-D", "-e", "-f"]).arg(&config_path);
    let daemon = Process::spawn(command)?;
    daemon.listens_on(port).await?;

    let facts = Facts {
        name: "scp",
        version: version(&ssh, "-V", 1).await?,
        guarantees: "encrypted, not synced",
        target: Some(Target::AtLeast(3.0)),
    };
    let key = home.join("user_key");
    let target = inbox.clone();
    let copy = move |source: &SourceFile, name: &str| {
        let mut command = process::command(&scp);
        command.args(["-q", "-B", "-F", "/dev/null", "-c", CIPHER, "-P", &port.to_string()]);
        command.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        command.args(["-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"]).arg("-i").arg(&key);
        command.arg(format!("127.0.0.1:{}", source.path.display())).arg(target.join(name));
        command
    };
    Ok(Peer { facts, inbox, daemon: Some(daemon), copy: Box::new(copy) })
}

fn config(home: &Path, port: u16) -> String {
    let home = home.display();
    format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {home}/host_key\nPidFile none\n\
         AuthorizedKeysFile {home}/user_key.pub\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nPermitRootLogin prohibit-password\nLogLevel ERROR\n\
         Subsystem sftp internal-sftp\n"
    )
}
