//! The commands that install an agent with its invite.

use crate::invite::InstallTarget;

/// Returns commands to paste on the new client. The agent needs no other setting than the invite and the
/// file to share.
pub(crate) fn command(target: InstallTarget, invite: &str) -> String {
    match target {
        // A here-document: the secret is not on a command line.
        InstallTarget::Linux => format!(
            "# As root, with filepull-agent in /usr/local/bin and filepull-agent.service in /etc/systemd/system:\n\
             install -D -m 600 /dev/stdin /etc/filepull/agent.env <<'END'\n\
             INVITE={invite}\n\
             FILE_PATH=/pos/menu.txt\n\
             END\n\
             systemctl daemon-reload && systemctl enable --now filepull-agent"
        ),
        // The volume keeps the agent's key: without it a new container is a new, unknown client.
        InstallTarget::Docker => format!(
            "# /pos is the folder of the file to share; the volume keeps the key of the client:\n\
             docker run -d --name filepull-agent --restart unless-stopped \\\n\
             \x20 -e INVITE={invite} \\\n\
             \x20 -e FILE_PATH=/pos/menu.txt -v /pos:/pos:ro \\\n\
             \x20 -e STATE_DIR=/var/lib/filepull-agent -v filepull-agent:/var/lib/filepull-agent \\\n\
             \x20 filepull-client"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_carry_the_invite_and_keep_the_key() {
        let linux = command(InstallTarget::Linux, "fp1.abc");
        assert!(linux.contains("\nINVITE=fp1.abc\n") && linux.contains("-m 600"), "{linux}");
        let docker = command(InstallTarget::Docker, "fp1.abc");
        assert!(
            docker.contains("-e INVITE=fp1.abc \\\n")
                && docker.contains(":/var/lib/filepull-agent"),
            "{docker}"
        );
    }
}
