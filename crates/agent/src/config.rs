//! The settings: [`Args`] as parsed by clap, [`Config`] after validation. Only this module reads
//! the environment.

use std::env;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use filepull_core::human;
use filepull_core::id::ClientId;
use filepull_core::source::Consistency;
use filepull_process::environment;
use filepull_process::telemetry::LogFormat;

use crate::dial::ServerAddr;
use crate::share::{Shares, split};

/// Sends the files that this machine shares to a filepull server, when the server orders one.
#[derive(Clone, Debug, Parser)]
#[command(name = "filepull-agent", version)]
pub struct Args {
    /// The command to run [default: run].
    #[command(subcommand)]
    pub(crate) command: Option<Action>,
    /// The id of this machine [default: its host name; invalid characters become dashes].
    #[arg(long, env, global = true)]
    pub(crate) client_id: Option<String>,
    /// The server: host, host:port or http://host:port; the default port is 50051.
    #[arg(long, env, global = true)]
    pub(crate) server_addr: Option<String>,
    /// The file to send when an operator requests no path.
    #[arg(long, env, global = true, default_value = "client-data/data.txt")]
    pub(crate) file_path: PathBuf,
    /// More files that may be requested: comma-separated paths or globs, such as
    /// `logs/*.{log,txt},logs/**`. A relative one lies beneath the folder of FILE_PATH. Write a
    /// comma in a name as `[,]`.
    #[arg(long, env, global = true)]
    pub(crate) share: Vec<String>,
    /// Maximum rate of an upload, such as 10MiB/s; at least 1KiB/s [default: unlimited].
    #[arg(long, env, global = true)]
    pub(crate) max_rate: Option<String>,
    /// How to detect that a file changes while it is read.
    #[arg(long, env, global = true, value_enum, default_value = "double-read")]
    pub(crate) consistency: ConsistencyArg,
    /// The folder of status.json [default: /var/lib/filepull-agent, or a folder of the user].
    #[arg(long, env, global = true)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Whether files are sent on a separate connection.
    #[arg(long, env, global = true, value_enum, default_value = "separate")]
    pub(crate) data_conn: DataConn,
    /// Whether the kernel closes the disk to the agent, except for its shares and its state.
    #[arg(long, env, global = true, value_enum, default_value = "auto")]
    pub(crate) sandbox: SandboxMode,
    /// Minimum log level: error, warn, info, debug, trace, or a filter.
    #[arg(long, env, global = true, default_value = "info")]
    pub(crate) log_level: String,
    /// The format of the log.
    #[arg(long, env, global = true, value_enum, default_value = "text")]
    pub(crate) log_format: LogFormatArg,
}

/// The commands of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Action {
    /// Dial the server and stay connected.
    Run,
    /// Print the state of the agents on this machine. The exit code is 1 if no state is known.
    Status {
        /// Exit with 0 only if every agent runs, responds and is connected.
        #[arg(long)]
        check: bool,
        /// Print the state as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print who took which file of this machine, and when.
    Log {
        /// Print one JSON object for each transfer.
        #[arg(long)]
        json: bool,
        /// How many transfers to print, the newest ones.
        #[arg(short = 'n', long = "number", value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Print the version of the agent.
    Version,
}

/// How to detect that a file changes while it is read, as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConsistencyArg {
    /// Compare size and times, then read the file again and compare.
    DoubleRead,
    /// Compare size and times only. A file that grows meanwhile is not sent.
    Stat,
}

/// Whether the agent enters its sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SandboxMode {
    /// As far as the kernel supports it.
    Auto,
    /// Never: for a shared folder that is replaced or mounted while the agent runs.
    Off,
    /// Do not start unless the kernel enforces every rule.
    Required,
}

/// The format of the log, as an argument. The default is text, because installers read the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormatArg {
    /// One sentence in each line.
    #[value(alias = "auto")]
    Text,
    /// One JSON object in each line.
    Json,
}

impl From<LogFormatArg> for LogFormat {
    fn from(arg: LogFormatArg) -> Self {
        match arg {
            LogFormatArg::Text => Self::Text,
            LogFormatArg::Json => Self::Json,
        }
    }
}

/// The connection on which files are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DataConn {
    /// A separate connection, dialed when needed: a file never delays an order.
    Separate,
    /// The connection of the session: for firewalls that allow only one.
    Shared,
}

/// The settings of an agent, after validation.
#[derive(Clone, Debug)]
pub struct Config {
    /// The id of this machine, from `CLIENT_ID`.
    pub client: ClientId,
    /// The server to dial, from `SERVER_ADDR`.
    pub server: ServerAddr,
    /// The address to dial from; `None` lets the system choose. Not a setting: an address has at
    /// most 28,000 ports, and the bench runs more agents than that on loopback.
    pub source_addr: Option<IpAddr>,
    /// The files that may be requested.
    pub shares: Shares,
    /// Maximum rate of each upload, in bytes per second; `None` is unlimited.
    pub max_rate: Option<u64>,
    /// How to detect that a file changes while it is read.
    pub consistency: Consistency,
    /// The connection on which files are sent.
    pub data_conn: DataConn,
    /// The folder of `status.json`; `None` writes no status.
    pub state_dir: Option<PathBuf>,
    /// Whether the program enters its sandbox. An agent inside another process never does.
    pub sandbox: SandboxMode,
    /// Starts each log line with the client id: for a process that runs several agents.
    pub name_in_log: bool,
}

/// All mistakes in the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad settings: {}", mistakes.join("; "))]
pub struct ConfigError {
    /// One sentence for each mistake. The sentence names the setting.
    pub mistakes: Vec<String>,
}

impl Config {
    /// Creates the default settings of an agent inside another process: without a status file, and
    /// with the client id in each log line.
    pub fn new(client: ClientId, server: ServerAddr, shares: Shares) -> Self {
        Self {
            client,
            server,
            source_addr: None,
            shares,
            max_rate: None,
            consistency: Consistency::DoubleRead,
            data_conn: DataConn::Separate,
            state_dir: None,
            sandbox: SandboxMode::Off,
            name_in_log: true,
        }
    }
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, Self::Error> {
        let mut mistakes = Vec::new();
        let client = or_note(args.client(), &mut mistakes);
        let server = or_note(args.server(), &mut mistakes);
        let shares = or_note(Shares::new(&args.file_path, args.shares()), &mut mistakes);
        let max_rate = or_note(args.max_rate(), &mut mistakes);
        let path_check = args.state_dir.as_deref().map_or(Ok(()), environment::check_path);
        or_note(path_check.map_err(|error| format!("STATE_DIR: {error}")), &mut mistakes);
        let (Some(client), Some(server), Some(shares), Some(max_rate)) =
            (client, server, shares, max_rate)
        else {
            return Err(ConfigError { mistakes });
        };
        if !mistakes.is_empty() {
            return Err(ConfigError { mistakes });
        }
        let consistency = match args.consistency {
            ConsistencyArg::DoubleRead => Consistency::DoubleRead,
            ConsistencyArg::Stat => Consistency::Stat,
        };
        let state_dir = args.status_dir();
        let Args { data_conn, sandbox, .. } = args;
        let config = Self::new(client, server, shares);
        let name_in_log = false;
        Ok(Self { max_rate, consistency, data_conn, state_dir, sandbox, name_in_log, ..config })
    }
}

/// Returns the value, or adds the mistake to `mistakes`, so that all of them are reported at once.
fn or_note<T>(parsed: Result<T, String>, mistakes: &mut Vec<String>) -> Option<T> {
    parsed.map_err(|mistake| mistakes.push(mistake)).ok()
}

impl Args {
    fn client(&self) -> Result<ClientId, String> {
        match non_empty(self.client_id.as_deref()) {
            Some(text) => ClientId::parse(text).map_err(|error| format!("CLIENT_ID: {error}")),
            None => id_of_host(&host_name()),
        }
    }

    fn server(&self) -> Result<ServerAddr, String> {
        let text = non_empty(self.server_addr.as_deref()).ok_or(
            "SERVER_ADDR is not set; write for example SERVER_ADDR=pull.example.com:50051",
        )?;
        ServerAddr::parse(text).map_err(|error| error.to_string())
    }

    fn shares(&self) -> impl Iterator<Item = &str> {
        self.share.iter().flat_map(|list| split(list))
    }

    fn max_rate(&self) -> Result<Option<u64>, String> {
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

    /// Returns the folder of `status.json`: `STATE_DIR`, else the package's folder if it is
    /// writable, else a folder of this user and client.
    pub(crate) fn status_dir(&self) -> Option<PathBuf> {
        if let Some(dir) = &self.state_dir {
            return Some(dir.clone());
        }
        if rustix::fs::access(PACKAGE_STATE_DIR, rustix::fs::Access::WRITE_OK).is_ok() {
            return Some(PathBuf::from(PACKAGE_STATE_DIR));
        }
        // A user may run several agents by hand. Each has its own folder.
        Some(user_state_dir()?.join(self.client().ok()?.as_str()))
    }

    /// Returns the folders that may have a `status.json` of an agent on this machine.
    pub(crate) fn status_dirs(&self) -> Vec<PathBuf> {
        if let Some(dir) = &self.state_dir {
            return vec![dir.clone()];
        }
        let entries = user_state_dir().and_then(|dir| dir.read_dir().ok()).into_iter().flatten();
        let mut dirs: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        dirs.sort();
        // Included even if it does not exist, so that the report can name it.
        let own = self
            .status_dir()
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

    fn parse(flags: &[&str]) -> Result<Config, ConfigError> {
        let args = Args::try_parse_from(["filepull-agent"].iter().chain(flags)).unwrap();
        Config::try_from(args)
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let flags =
            ["--client-id=a/b", "--server-addr=https://x", "--share=../x,[", "--max-rate=0"];
        let mistakes = parse(&flags).unwrap_err().mistakes;
        assert_eq!(mistakes.len(), 4, "{mistakes:#?}");
        for (mistake, setting) in
            mistakes.iter().zip(["CLIENT_ID", "SERVER_ADDR", "SHARE", "MAX_RATE"])
        {
            assert!(mistake.starts_with(setting), "{mistake}");
        }
    }

    #[test]
    fn arguments_become_settings() {
        let flags = ["--client-id=client4", "--server-addr=server", "--max-rate=10MiB/s"];
        let config =
            parse(&[&flags[..], &["--consistency=stat", "--state-dir=/s"]].concat()).unwrap();
        assert_eq!(config.client.as_str(), "client4");
        assert_eq!(config.max_rate, Some(10 << 20));
        assert_eq!(config.consistency, Consistency::Stat);
        assert_eq!(config.data_conn, DataConn::Separate);
        assert_eq!(config.state_dir, Some(PathBuf::from("/s")));
    }

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
