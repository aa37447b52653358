//! A separate sshd with its own keys, for the peers that copy through ssh.

use std::fs;
use std::path::{Path, PathBuf};

use filepull_testkit::{DEADLINE, Process, process};

use super::{find, free_port, version};

/// Supported by the CPUs of the last ten years; faster than the default.
const CIPHER: &str = "aes128-gcm@openssh.com";

/// A server for ssh that accepts one key.
pub(super) struct Sshd {
    pub(super) daemon: Process,
    pub(super) port: u16,
    pub(super) version: String,
    key: PathBuf,
}

impl Sshd {
    /// Starts the server with the keys that it creates in `home`.
    pub(super) async fn start(home: &Path) -> anyhow::Result<Self> {
        let ssh = find("ssh")?;
        let sshd = find("sshd")?;
        let keygen = find("ssh-keygen")?;
        for key in ["host_key", "user_key"] {
            let mut command = process::command(&keygen);
            command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(home.join(key));
            process::finish(command, DEADLINE).await?;
        }
        let port = free_port()?;
        let config_path = home.join("sshd_config");
        fs::write(&config_path, config(home, port))?;
        if rustix::process::getuid().is_root() {
            // sshd does not run as root without this empty folder, which its service creates.
            fs::create_dir_all("/run/sshd")?;
        }
        let mut command = process::command(&sshd);
        command.args(["-D", "-e", "-f"]).arg(&config_path);
        let daemon = Process::spawn(command)?;
        daemon.listens_on(port).await?;
        let version = version(&ssh, "-V", 1).await?;
        Ok(Self { daemon, port, version, key: home.join("user_key") })
    }

    /// Returns the options of ssh and scp, except for the port.
    pub(super) fn options(&self) -> Vec<String> {
        let fixed = ["-F", "/dev/null", "-c", CIPHER, "-o", "StrictHostKeyChecking=no"];
        let more = ["-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes"];
        let last = ["-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-i"];
        let options = fixed.into_iter().chain(more).chain(last).map(str::to_owned);
        options.chain([self.key.display().to_string()]).collect()
    }
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
