//! What the arguments mean: the defaults that come from the invite, the identity of an enrolled machine,
//! and the host.

use std::env;
use std::path::{Path, PathBuf};

use filepull_core::cpu_budget::CpuShare;
use filepull_core::human;
use filepull_core::id::ClientId;
use filepull_core::invite::{Invite, Invitee};

use crate::config::Args;
use crate::dial::{ProxyRules, ServerAddr};
use crate::key_store::{AgentIdentity, KeyStore};
use crate::share::split;

/// Who the agent is, and which server it dials.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) client: ClientId,
    /// At least one.
    pub(crate) servers: Vec<ServerAddr>,
    pub(crate) invite: Option<Invite>,
    pub(crate) state_dir: Option<PathBuf>,
}

impl Args {
    /// Decides who the agent is: by `CLIENT_ID`, the invite, the identity in the state folder, or the
    /// host name. Returns all mistakes.
    pub(crate) fn membership(&self, proxy: &ProxyRules) -> Result<Membership, Vec<String>> {
        let mut mistakes = Vec::new();
        let invite = note(self.invite(), &mut mistakes).flatten();
        let client = note(self.client(invite.as_ref()), &mut mistakes);
        let state_dir = client.as_ref().and_then(|client| self.state_dir_of(client));
        let stored_identity = state_dir.as_deref().map_or(Ok(None), identity_in);
        let identity = note(stored_identity, &mut mistakes).flatten();
        if let (Some(client), Some(identity)) = (&client, &identity) {
            note(check_same_client(client, identity, invite.as_ref()), &mut mistakes);
        }
        let servers = note(self.servers(invite.as_ref(), identity.as_ref()), &mut mistakes);
        let flaw = servers.iter().flatten().find_map(|server| proxy.flaw(server));
        mistakes.extend(flaw);
        match (client, servers) {
            (Some(client), Some(servers)) if mistakes.is_empty() => {
                Ok(Membership { client, servers, invite, state_dir })
            }
            _ => Err(mistakes),
        }
    }

    /// Returns the decoded `INVITE`.
    pub(crate) fn invite(&self) -> Result<Option<Invite>, String> {
        let text = self.invite.as_ref().map(|text| text.0.as_str());
        let Some(text) = non_empty(text) else { return Ok(None) };
        let mistake = |error: filepull_core::invite::InviteError| {
            format!("INVITE: {error}; {}", error.next_step())
        };
        Invite::parse(text).map(Some).map_err(mistake)
    }

    fn client(&self, invite: Option<&Invite>) -> Result<ClientId, String> {
        let parsed = non_empty(self.client_id.as_deref()).map(ClientId::parse).transpose();
        let chosen = parsed.map_err(|error| format!("CLIENT_ID: {error}"))?;
        let invited = match invite.map(Invite::invitee) {
            Some(Invitee::Client(invited)) => Some(invited.clone()),
            Some(Invitee::Group(_)) | None => None,
        };
        match (chosen, invited) {
            (Some(chosen), Some(invited)) if chosen != invited => {
                Err(format!("CLIENT_ID is {chosen}, but INVITE is for {invited}: remove CLIENT_ID"))
            }
            (Some(client), _) | (None, Some(client)) => Ok(client),
            (None, None) => match self.enrolled_client()? {
                Some(client) => Ok(client),
                None => id_of_host(&host_name()),
            },
        }
    }

    /// Returns the id of the enrolled agent whose settings were removed, or never needed.
    fn enrolled_client(&self) -> Result<Option<ClientId>, String> {
        if let Some(dir) = self.fixed_state_dir() {
            return Ok(identity_in(&dir)?.map(|identity| identity.client));
        }
        if non_empty(self.server_addr.as_deref()).is_some() || self.invite.is_some() {
            return Ok(None);
        }
        let found = user_state_dirs().filter_map(|dir| identity_in(&dir).ok().flatten());
        let mut clients: Vec<ClientId> = found.map(|identity| identity.client).collect();
        match clients.len() {
            0 | 1 => Ok(clients.pop()),
            _ => {
                let ids: Vec<String> = clients.iter().map(ToString::to_string).collect();
                let names = ids.join(", ");
                Err(format!("CLIENT_ID is not set, and several agents are enrolled here: {names}"))
            }
        }
    }

    fn servers(
        &self,
        invite: Option<&Invite>,
        identity: Option<&AgentIdentity>,
    ) -> Result<Vec<ServerAddr>, String> {
        if let Some(text) = non_empty(self.server_addr.as_deref()) {
            let server = ServerAddr::parse(text).map_err(|error| error.to_string())?;
            return Ok(vec![server]);
        }
        let invited = invite.map(Invite::addresses);
        let addresses = invited.or_else(|| Some(identity?.servers.as_slice())).ok_or(
            "SERVER_ADDR is not set; write for example SERVER_ADDR=pull.example.com:50051, or set \
             INVITE",
        )?;
        Ok(addresses.iter().cloned().map(ServerAddr::from).collect())
    }

    pub(crate) fn shares(&self) -> impl Iterator<Item = &str> {
        self.share.iter().flat_map(|list| split(list))
    }

    pub(crate) fn max_rate(&self) -> Result<Option<u64>, String> {
        let parsed = non_empty(self.max_rate.as_deref()).map(human::parse_rate).transpose();
        match parsed.map_err(|error| format!("MAX_RATE: {error}"))? {
            Some(rate) if rate < MIN_RATE => {
                let rate = human::size(rate);
                Err(format!(
                    "MAX_RATE: {rate}/s is too slow to send a file. Write at least 1KiB/s."
                ))
            }
            rate => Ok(rate),
        }
    }

    pub(crate) fn max_cpu(&self) -> Result<Option<CpuShare>, String> {
        let parsed = non_empty(self.max_cpu.as_deref()).map(CpuShare::parse).transpose();
        parsed.map_err(|error| format!("MAX_CPU: {error}"))
    }

    /// Returns the state folder of a client: `STATE_DIR`, else the package's folder if it is writable,
    /// else a folder of this user and client.
    fn state_dir_of(&self, client: &ClientId) -> Option<PathBuf> {
        // A user may run several agents by hand. Each has its own folder.
        self.fixed_state_dir().or_else(|| Some(user_state_dir()?.join(client.as_str())))
    }

    /// Returns the state folder that does not depend on the client.
    fn fixed_state_dir(&self) -> Option<PathBuf> {
        if let Some(dir) = &self.state_dir {
            return Some(dir.clone());
        }
        let is_writable =
            rustix::fs::access(PACKAGE_STATE_DIR, rustix::fs::Access::WRITE_OK).is_ok();
        is_writable.then(|| PathBuf::from(PACKAGE_STATE_DIR))
    }

    /// Returns the folders that may have a `status.json` of an agent on this machine.
    pub(crate) fn status_dirs(&self) -> Vec<PathBuf> {
        if let Some(dir) = &self.state_dir {
            return vec![dir.clone()];
        }
        let mut dirs: Vec<_> = user_state_dirs().collect();
        dirs.sort();
        // Included even if it does not exist, so that the report can name it.
        let client = self.invite().and_then(|invite| self.client(invite.as_ref())).ok();
        let own = client
            .and_then(|client| self.state_dir_of(&client))
            .filter(|dir| !dirs.contains(dir) && dir != Path::new(PACKAGE_STATE_DIR));
        [PathBuf::from(PACKAGE_STATE_DIR)].into_iter().chain(dirs).chain(own).collect()
    }

    /// Returns the client that `status` reports; `None` is every client.
    pub(crate) fn selected_client(&self) -> Option<&str> {
        // `STATE_DIR` selects a folder, with any client id in it.
        non_empty(self.client_id.as_deref()).filter(|_| self.state_dir.is_none())
    }
}

/// Minimum of `MAX_RATE`, in bytes per second. A slower upload looks stalled to the server.
const MIN_RATE: u64 = 1024;

/// The state folder of the packaged agent.
const PACKAGE_STATE_DIR: &str = "/var/lib/filepull-agent";

/// Returns the trimmed text. An empty value counts as not set.
fn non_empty(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

/// Returns the folder with one folder for each agent that this user runs by hand.
fn user_state_dir() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    Some(state?.join("filepull-agent"))
}

/// Returns the folders of the agents that this user runs by hand.
fn user_state_dirs() -> impl Iterator<Item = PathBuf> {
    let entries = user_state_dir().and_then(|dir| dir.read_dir().ok()).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

fn identity_in(dir: &Path) -> Result<Option<AgentIdentity>, String> {
    KeyStore::new(dir).identity().map_err(|error| error.to_string())
}

/// Rejects an id that is not the one under which this machine is enrolled. An invite for another client
/// has its own message.
fn check_same_client(
    client: &ClientId,
    identity: &AgentIdentity,
    invite: Option<&Invite>,
) -> Result<(), String> {
    let enrolled = &identity.client;
    if client == enrolled {
        return Ok(());
    }
    let setting = if invite.is_some() { "INVITE" } else { "CLIENT_ID" };
    Err(format!(
        "{setting} is for {client}, but this machine is enrolled as {enrolled}: remove {setting}, or set \
         another STATE_DIR to run a second agent"
    ))
}

/// Returns the value, or adds the mistake to `mistakes`.
fn note<T>(parsed: Result<T, String>, mistakes: &mut Vec<String>) -> Option<T> {
    parsed.map_err(|mistake| mistakes.push(mistake)).ok()
}

/// Returns the host name of this machine.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn id_of_host(host: &str) -> Result<ClientId, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let replaced: String = host.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    let start = replaced.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let shortened = &start[..start.len().min(ClientId::MAX_LEN)];
    ClientId::parse(shortened.trim_end_matches(['.', '-']))
        .map_err(|_| format!("CLIENT_ID is not set, and the host name {host:?} is no valid id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_becomes_a_valid_id() {
        let check = |host: &str, id: &str| {
            assert_eq!(id_of_host(host).map(|id| id.to_string()), Ok(id.to_owned()));
        };
        check("till-7.example.com", "till-7.example.com");
        check("_kasse 3.", "kasse-3");
        check(&"a".repeat(99), &"a".repeat(64));
        assert!(id_of_host("").is_err());
    }
}
