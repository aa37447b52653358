//! The settings: [`Args`] as parsed by clap, [`Config`] after validation. Only this module reads
//! the environment.

use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, Subcommand, ValueEnum};
use filepull_core::cpu_budget::CpuShare;
use filepull_core::id::ClientId;
use filepull_core::invite::Invite;
use filepull_core::source::Consistency;
use filepull_process::environment;
use filepull_process::telemetry::LogFormat;

use crate::dial::{ProxyRules, ServerAddr};
use crate::share::Shares;

mod args;

use crate::config::args::Membership;
pub(crate) use crate::config::args::host_name;

/// Sends the files that this machine shares to a filepull server, when the server orders one.
#[derive(Clone, Debug, Parser)]
#[command(name = "filepull-agent", version)]
pub struct Args {
    /// The command to run [default: run].
    #[command(subcommand)]
    pub(crate) command: Option<Action>,
    /// The id of this machine [default: as in the invite, or the host name; invalid characters
    /// become dashes].
    #[arg(long, env, global = true)]
    pub(crate) client_id: Option<String>,
    /// The server: host, host:port, https://host:port, or http://host:port for plain text; without
    /// a scheme TLS is used, except on loopback. The default port is 50051 [default: as in the
    /// invite].
    #[arg(long, env, global = true)]
    pub(crate) server_addr: Option<String>,
    /// The string that `filepull invite` printed: it enrols this machine once. Better set as the
    /// variable: other users can read the arguments of a process.
    #[arg(long, env, global = true, hide_env_values = true)]
    pub(crate) invite: Option<SecretText>,
    /// A file with more root certificates in PEM, for a server without an invite's pins.
    #[arg(long, env, global = true)]
    pub(crate) ca_file: Option<PathBuf>,
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
    /// Maximum CPU time while files are sent, all uploads together: a share of one core, such as 50%;
    /// at least 5% [default: unlimited].
    #[arg(long, env, global = true)]
    pub(crate) max_cpu: Option<String>,
    /// How to detect that a file changes while it is read.
    #[arg(long, env, global = true, value_enum, default_value = "double-read")]
    pub(crate) consistency: ConsistencyArg,
    /// The folder of the key and of status.json [default: /var/lib/filepull-agent, or a folder of
    /// the user].
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

/// A setting with a secret. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretText(pub(crate) String);

impl FromStr for SecretText {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The commands of the program.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
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
    /// Work with an invite.
    #[command(subcommand)]
    Invite(InviteAction),
    /// Print the version of the agent.
    Version,
}

/// The commands for an invite.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum InviteAction {
    /// Print what an invite contains, except for its secret. Contacts no server.
    Show {
        /// The invite [default: INVITE].
        text: Option<SecretText>,
    },
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
    /// The addresses of the server, at least one: from `SERVER_ADDR`, the invite or the identity.
    pub servers: Vec<ServerAddr>,
    /// The invite to enrol with, from `INVITE`. Ignored once it was used.
    pub invite: Option<Invite>,
    /// More root certificates, from `CA_FILE`.
    pub ca_file: Option<PathBuf>,
    /// The proxy for TLS, from `HTTPS_PROXY` and `NO_PROXY`.
    pub proxy: ProxyRules,
    /// The address to dial from; `None` lets the system choose. Not a setting: an address has at
    /// most 28,000 ports, and the bench runs more agents than that on loopback.
    pub source_addr: Option<IpAddr>,
    /// The files that may be requested.
    pub shares: Shares,
    /// Maximum rate of each upload, in bytes per second; `None` is unlimited.
    pub max_rate: Option<u64>,
    /// Maximum CPU time of the process while it sends files; `None` is unlimited.
    pub max_cpu: Option<CpuShare>,
    /// How to detect that a file changes while it is read.
    pub consistency: Consistency,
    /// The connection on which files are sent.
    pub data_conn: DataConn,
    /// The folder of the key and of `status.json`; `None` keeps no key and writes no status.
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
            servers: vec![server],
            invite: None,
            ca_file: None,
            proxy: ProxyRules::none(),
            source_addr: None,
            shares,
            max_rate: None,
            max_cpu: None,
            consistency: Consistency::DoubleRead,
            data_conn: DataConn::Separate,
            state_dir: None,
            sandbox: SandboxMode::Off,
            name_in_log: true,
        }
    }

    /// Creates the settings of an agent inside another process that enrols with an invite. It needs a
    /// `state_dir` for its key.
    pub fn invited(client: ClientId, invite: Invite, shares: Shares) -> Self {
        let servers = invite.addresses().iter().cloned().map(ServerAddr::from).collect();
        let first = ServerAddr::from(invite.addresses()[0].clone());
        Self { servers, invite: Some(invite), ..Self::new(client, first, shares) }
    }
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, Self::Error> {
        let proxy = ProxyRules::from_env();
        let membership = args.membership(&proxy);
        let mut mistakes = membership.as_ref().err().cloned().unwrap_or_default();
        let shares = or_note(Shares::new(&args.file_path, args.shares()), &mut mistakes);
        let max_rate = or_note(args.max_rate(), &mut mistakes);
        let max_cpu = or_note(args.max_cpu(), &mut mistakes);
        for (name, path) in [("STATE_DIR", &args.state_dir), ("CA_FILE", &args.ca_file)] {
            let path_check = path.as_deref().map_or(Ok(()), environment::check_path);
            or_note(path_check.map_err(|error| format!("{name}: {error}")), &mut mistakes);
        }
        let (Ok(membership), Some(shares), Some(max_rate), Some(max_cpu)) =
            (membership, shares, max_rate, max_cpu)
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
        let Membership { client, servers, invite, state_dir } = membership;
        let Args { data_conn, sandbox, ca_file, .. } = args;
        Ok(Self {
            client,
            servers,
            invite,
            ca_file,
            proxy,
            source_addr: None,
            shares,
            max_rate,
            max_cpu,
            consistency,
            data_conn,
            state_dir,
            sandbox,
            name_in_log: false,
        })
    }
}

/// Returns the value, or adds the mistake to `mistakes`, so that all of them are reported at once.
fn or_note<T>(parsed: Result<T, String>, mistakes: &mut Vec<String>) -> Option<T> {
    parsed.map_err(|mistake| mistakes.push(mistake)).ok()
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
        let flags = [
            "--client-id=a/b",
            "--server-addr=ftp://x",
            "--share=../x,[",
            "--max-rate=0",
            "--max-cpu=1",
        ];
        let mistakes = parse(&flags).unwrap_err().mistakes;
        assert_eq!(mistakes.len(), 5, "{mistakes:#?}");
        for (mistake, setting) in
            mistakes.iter().zip(["CLIENT_ID", "SERVER_ADDR", "SHARE", "MAX_RATE", "MAX_CPU"])
        {
            assert!(mistake.starts_with(setting), "{mistake}");
        }
    }

    #[test]
    fn arguments_become_settings() {
        let flags = ["--client-id=client4", "--server-addr=server", "--max-rate=10MiB/s"];
        let config = parse(
            &[&flags[..], &["--consistency=stat", "--max-cpu=50%", "--state-dir=/s"]].concat(),
        )
        .unwrap();
        assert_eq!(config.client.as_str(), "client4");
        assert_eq!(config.max_rate, Some(10 << 20));
        assert_eq!(config.max_cpu, CpuShare::parse("50%").ok());
        assert_eq!(config.consistency, Consistency::Stat);
        assert_eq!(config.data_conn, DataConn::Separate);
        assert_eq!(config.state_dir, Some(PathBuf::from("/s")));
    }
}
