//! The settings: [`Args`] as they were typed, [`Config`] as they are meant. Nobody else reads the
//! environment.

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

/// Sends the files this machine shares to a filepull server, when the server asks for one.
#[derive(Clone, Debug, Parser)]
#[command(name = "filepull-agent", version)]
pub struct Args {
    /// What to do; run when left out.
    #[command(subcommand)]
    pub command: Option<Action>,
    /// This machine's id [default: its host name, made valid].
    #[arg(long, env, global = true)]
    pub client_id: Option<String>,
    /// The server: host, host:port (50051 when left out) or http://host:port.
    #[arg(long, env, global = true)]
    pub server_addr: Option<String>,
    /// The file to send when no path is asked for.
    #[arg(long, env, global = true, default_value = "client-data/data.txt")]
    pub file_path: PathBuf,
    /// More that may be asked for: paths or globs, comma separated, beneath the folder of FILE_PATH
    /// unless absolute; `logs/*.{log,txt}`, `logs/**`. A comma in a name is written `[,]`.
    #[arg(long, env, global = true)]
    pub share: Vec<String>,
    /// The most that uploads may use of the line, such as 10MiB/s; at least 1KiB/s [default: unlimited].
    #[arg(long, env, global = true)]
    pub max_rate: Option<String>,
    /// How to find out that a file changes while it is read.
    #[arg(long, env, global = true, value_enum, default_value = "double-read")]
    pub consistency: ConsistencyArg,
    /// Where status.json lives [default: /var/lib/filepull-agent, or a folder of the user].
    #[arg(long, env, global = true)]
    pub state_dir: Option<PathBuf>,
    /// Whether files travel on a connection of their own.
    #[arg(long, env, global = true, value_enum, default_value = "separate")]
    pub data_conn: DataConn,
    /// Least level that is logged: error, warn, info, debug, trace, or a filter.
    #[arg(long, env, global = true, default_value = "info")]
    pub log_level: String,
    /// How log lines look.
    #[arg(long, env, global = true, value_enum, default_value = "text")]
    pub log_format: LogFormatArg,
}

/// What the program is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Action {
    /// Dial the server and stay connected.
    Run,
    /// Say in words how the agent on this machine is doing. Exits with 1 if that is not known.
    Status {
        /// Exit with 0 only if it runs, responds and is connected; of several, each of them.
        #[arg(long)]
        check: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print the version.
    Version,
}

/// How to find out that a file changes while it is read, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConsistencyArg {
    /// Compare size and times, then read the file again and compare.
    DoubleRead,
    /// Compare size and times only: a file that grows meanwhile is not sent.
    Stat,
}

/// How log lines look, as typed. Its readers are installers: text, unless somebody asks for JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArg {
    /// One sentence a line.
    #[value(alias = "auto")]
    Text,
    /// One object a line.
    Json,
}

impl From<LogFormatArg> for LogFormat {
    fn from(typed: LogFormatArg) -> Self {
        match typed {
            LogFormatArg::Text => Self::Text,
            LogFormatArg::Json => Self::Json,
        }
    }
}

/// Which connection files travel on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DataConn {
    /// One of their own, dialled when needed: a file never delays an order.
    Separate,
    /// The line itself: for firewalls that allow only one.
    Shared,
}

/// The settings as they are meant.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this machine is.
    pub client: ClientId,
    /// Whom to dial.
    pub server: ServerAddr,
    /// The address to dial from; none lets the system choose. Not a setting: one machine has at most
    /// 28,000 ports for one address, and the bench runs more agents than that on loopback.
    pub source_addr: Option<IpAddr>,
    /// What may be asked for.
    pub shares: Shares,
    /// Bytes per second, for each upload.
    pub max_rate: Option<u64>,
    /// How hard to look for a file that changes while it is read.
    pub consistency: Consistency,
    /// Which connection files travel on.
    pub data_conn: DataConn,
    /// Where `status.json` is kept; none keeps none.
    pub state_dir: Option<PathBuf>,
    /// Puts the client's id before each log line: for a process that runs several agents.
    pub name_in_log: bool,
}

/// Everything that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad settings: {}", mistakes.join("; "))]
pub struct ConfigError {
    /// One sentence each.
    pub mistakes: Vec<String>,
}

impl Config {
    /// The defaults, for an agent inside another process: no status file, named in the log.
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
            name_in_log: true,
        }
    }
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, Self::Error> {
        let mut mistakes = Vec::new();
        let client = keep(args.client(), &mut mistakes);
        let server = keep(args.server(), &mut mistakes);
        let shares = keep(Shares::new(&args.file_path, args.shares()), &mut mistakes);
        let max_rate = keep(args.max_rate(), &mut mistakes);
        let checked = args.state_dir.as_deref().map_or(Ok(()), environment::check_path);
        keep(checked.map_err(|error| format!("STATE_DIR: {error}")), &mut mistakes);
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
        let Args { data_conn, .. } = args;
        let config = Self::new(client, server, shares);
        Ok(Self { max_rate, consistency, data_conn, state_dir, name_in_log: false, ..config })
    }
}

/// Notes what is wrong and goes on, so that all mistakes are reported at once.
fn keep<T>(parsed: Result<T, String>, mistakes: &mut Vec<String>) -> Option<T> {
    parsed.map_err(|mistake| mistakes.push(mistake)).ok()
}

impl Args {
    fn client(&self) -> Result<ClientId, String> {
        match set(self.client_id.as_deref()) {
            Some(text) => ClientId::parse(text).map_err(|error| format!("CLIENT_ID: {error}")),
            None => id_of_host(&host_name()),
        }
    }

    fn server(&self) -> Result<ServerAddr, String> {
        let text = set(self.server_addr.as_deref()).ok_or(
            "SERVER_ADDR is not set; write for example SERVER_ADDR=pull.example.com:50051",
        )?;
        ServerAddr::parse(text).map_err(|error| error.to_string())
    }

    fn shares(&self) -> impl Iterator<Item = &str> {
        self.share.iter().flat_map(|list| split(list))
    }

    fn max_rate(&self) -> Result<Option<u64>, String> {
        let rate = set(self.max_rate.as_deref()).map(human::parse_rate).transpose();
        match rate.map_err(|error| format!("MAX_RATE: {error}"))? {
            Some(rate) if rate < MIN_RATE => {
                let rate = human::size(rate);
                Err(format!(
                    "MAX_RATE: {rate}/s is too slow to send a file. Write at least 1KiB/s."
                ))
            }
            rate => Ok(rate),
        }
    }

    /// The folder of `status.json`: as set, else the package's, else one of this user and client.
    pub fn status_dir(&self) -> Option<PathBuf> {
        if let Some(dir) = &self.state_dir {
            return Some(dir.clone());
        }
        if rustix::fs::access(PACKAGED, rustix::fs::Access::WRITE_OK).is_ok() {
            return Some(PathBuf::from(PACKAGED));
        }
        // A user may run several by hand: each has a folder of its own.
        Some(user_state_dir()?.join(self.client().ok()?.as_str()))
    }

    /// The folders where an agent may have left its status, wherever it was started from.
    pub fn status_dirs(&self) -> Vec<PathBuf> {
        if let Some(dir) = &self.state_dir {
            return vec![dir.clone()];
        }
        let entries = user_state_dir().and_then(|dir| dir.read_dir().ok()).into_iter().flatten();
        let mut dirs: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        dirs.sort();
        // Known even when it is empty, so that an answer can name it.
        let own = self.status_dir().filter(|dir| !dirs.contains(dir) && dir != Path::new(PACKAGED));
        [PathBuf::from(PACKAGED)].into_iter().chain(dirs).chain(own).collect()
    }

    /// Which client `status` is asked about; any, when nobody said.
    pub fn asked_client(&self) -> Option<&str> {
        // A folder that is set is meant, whoever's it is.
        set(self.client_id.as_deref()).filter(|_| self.state_dir.is_none())
    }
}

/// A slower upload looks stalled to the server.
const MIN_RATE: u64 = 1024;

/// The package's folder for the state of its agent.
const PACKAGED: &str = "/var/lib/filepull-agent";

/// A flag that is given with an empty value counts as not given, as an empty variable does.
fn set(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

/// The folder that holds one folder for each agent that this user runs by hand.
fn user_state_dir() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    Some(state?.join("filepull-agent"))
}

/// What this machine calls itself.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn id_of_host(host: &str) -> Result<ClientId, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let valid: String = host.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    let start = valid.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let cut = &start[..start.len().min(ClientId::MAX_LEN)];
    ClientId::parse(cut.trim_end_matches(['.', '-']))
        .map_err(|_| format!("CLIENT_ID is not set, and the host name {host:?} makes none"))
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
    fn what_is_typed_is_what_is_meant() {
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
    fn a_host_name_is_made_a_valid_id() {
        let check = |host: &str, id: &str| {
            assert_eq!(id_of_host(host).map(|id| id.to_string()), Ok(id.to_owned()));
        };
        check("till-7.example.com", "till-7.example.com");
        check("_kasse 3.", "kasse-3");
        check(&"a".repeat(99), &"a".repeat(64));
        assert!(id_of_host("").is_err());
    }
}
