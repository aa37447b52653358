//! The settings of the server: [`Args`] as given, [`Config`] validated.

mod access;
mod bounds;
mod settings;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use filepull_core::backoff::ReconnectPolicy;
use filepull_core::human::{parse_addr, parse_count, parse_duration, parse_rate, parse_size};
use filepull_core::invite::{self, ServerAddress};
use filepull_process::environment::check_path;
use filepull_process::telemetry::LogFormat;

use crate::grpc::SessionSettings;
use crate::records::KEEP_KEYS;
use crate::retention::Keep;
use crate::scrubber::ScrubInterval;
use crate::transfers::Limits;
pub use access::{AccessArgs, AccessConfig, HttpAuth, TriggerGet, default_tokens_file};
pub(crate) use access::{HostList, ProxyList, is_exposed};
pub(crate) use settings::Setting;
pub use tls::TlsArgs;

/// Command line and environment, unvalidated.
#[derive(Clone, Debug, clap::Parser)]
pub struct Args {
    /// Address for HTTP requests of operators.
    #[arg(long, env = "HTTP_ADDR", default_value = "127.0.0.1:8080", value_parser = parse_addr)]
    pub http_addr: SocketAddr,
    /// Address that agents connect to.
    #[arg(long, env = "GRPC_ADDR", default_value = "127.0.0.1:50051", value_parser = parse_addr)]
    pub grpc_addr: SocketAddr,
    /// Folder of the downloads and the records; created if missing.
    #[arg(long, env = "DATA_DIR", default_value = "server-data")]
    pub data_dir: PathBuf,
    /// Who may use the HTTP API.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Which agents may connect: `invite` only agents that were enrolled with an invite, over TLS;
    /// `open` any agent, with any free id, in plain text; `auto` is `open` on loopback and `invite`
    /// elsewhere.
    #[arg(long, env = "AGENT_AUTH", default_value = "auto")]
    pub agent_auth: AgentAuth,
    /// The files of TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Addresses where agents reach this server, for invites, such as pull.example.com:50051; separated
    /// by commas, at most 4. Without it the address is guessed and logged.
    #[arg(long, env = "PUBLIC_ADDR", value_delimiter = ',', value_parser = ServerAddress::parse)]
    pub public_addr: Vec<ServerAddress>,
    /// Maximum number of known clients; `filepull forget` removes one completely.
    #[arg(long, env = "MAX_CLIENTS", default_value = "100000", value_parser = parse_count)]
    pub max_clients: usize,
    /// An agent with an older key is asked for a new one.
    #[arg(long, env = "KEY_MAX_AGE", default_value = "365d", value_parser = parse_duration)]
    pub key_max_age: Duration,
    /// Maximum number of running transfers.
    #[arg(long, env = "MAX_RUNNING", default_value = "20", value_parser = parse_count)]
    pub max_running: usize,
    /// Maximum number of waiting transfers.
    #[arg(long, env = "MAX_WAITING", default_value = "10000", value_parser = parse_count)]
    pub max_waiting: usize,
    /// Maximum number of waiting transfers per client.
    #[arg(
        long, env = "MAX_WAITING_PER_CLIENT", default_value = "100", value_parser = parse_count
    )]
    pub max_waiting_per_client: usize,
    /// Maximum size of a file, such as 10GiB.
    #[arg(long, env = "MAX_FILE_SIZE", default_value = "10GiB", value_parser = parse_size)]
    pub max_file_size: u64,
    /// Disk space that transfers leave free, such as 1GiB.
    #[arg(long, env = "MIN_FREE", default_value = "1GiB", value_parser = parse_size)]
    pub min_free: u64,
    /// An upload that receives no byte for this long is restarted.
    #[arg(long, env = "STALL_TIMEOUT", default_value = "60s", value_parser = parse_duration)]
    pub stall_timeout: Duration,
    /// Minimum rate of an upload over five minutes; a slower upload pauses while others wait, keeps
    /// its bytes, and continues later; 0 disables this.
    #[arg(long, env = "MIN_RATE", default_value = "1KiB/s", value_parser = parse_min_rate)]
    pub min_rate: u64,
    /// How long an interrupted transfer waits for its client.
    #[arg(long, env = "RESUME_WITHIN", default_value = "15m", value_parser = parse_duration)]
    pub resume_within: Duration,
    /// Flow-control window of an upload; its throughput is at most this size per round trip.
    #[arg(long, env = "STREAM_WINDOW", default_value = "16MiB", value_parser = parse_size)]
    pub stream_window: u64,
    /// Interval between two pings of an agent; longer for a large fleet.
    #[arg(long, env = "HEARTBEAT", default_value = "15s", value_parser = parse_duration)]
    pub heartbeat: Duration,
    /// Server and agent close a session that is silent for this long.
    #[arg(long, env = "DEAD_AFTER", default_value = "45s", value_parser = parse_duration)]
    pub dead_after: Duration,
    /// Maximum delay before an agent that lost its session connects again.
    #[arg(long, env = "RECONNECT_CAP", default_value = "10s", value_parser = parse_duration)]
    pub reconnect_cap: Duration,
    /// How long a finished transfer stays on record, such as 30d, or `forever`; longer if its
    /// download is still in the data folder.
    #[arg(long, env = "KEEP_RECORDS", default_value = "30d")]
    pub keep_records: Keep,
    /// Every download is read back from the disk within an hour, and again after this time, such as
    /// 30d, or `off`; one that has changed is marked as damaged.
    #[arg(long, env = "SCRUB_EVERY", default_value = "30d")]
    pub scrub_every: ScrubInterval,
    /// Which files are read back before they get their name: those that were resumed after a restart,
    /// or always, from the disk itself.
    #[arg(long, env = "READ_BACK", default_value = "resumed")]
    pub read_back: ReadBackPolicy,
    /// How long running transfers may continue at shutdown; the rest resume after the restart.
    #[arg(long, env = "SHUTDOWN_GRACE", default_value = "30s", value_parser = parse_duration)]
    pub shutdown_grace: Duration,
    /// Minimum log level: error, warn, info, debug, trace, or a filter.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Format of the log lines.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Parses a rate such as `1KiB/s`, or 0 for no minimum.
fn parse_min_rate(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { parse_rate(text) }
}

/// Which agents may connect to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AgentAuth {
    /// `Open` on loopback, `Invite` on other addresses.
    Auto,
    /// Agents that were enrolled with an invite, over TLS.
    Invite,
    /// Every agent, with any free id, on any address.
    Open,
}

/// Which complete files are read back before they get their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReadBackPolicy {
    /// Those that another process began to receive. The scrubber reads the others within an hour.
    Resumed,
    /// All, from the disk, past the page cache; slower.
    Always,
}

/// Which agents get a session. Decided by `AGENT_AUTH` and `GRPC_ADDR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentAccess {
    /// Only agents with a key on record. The listener speaks TLS.
    Enrolled,
    /// Every agent, except with the id of a client that has a key on record. The listener speaks plain
    /// text.
    Open,
}

/// The validated configuration of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address for HTTP requests of operators.
    pub http_addr: SocketAddr,
    /// Address that agents connect to.
    pub grpc_addr: SocketAddr,
    /// Folder of the downloads and the records.
    pub data_dir: PathBuf,
    /// Who may use the HTTP API.
    pub access: AccessConfig,
    /// Which agents may connect to the server.
    pub agent_auth: AgentAuth,
    /// The files of TLS.
    pub tls: TlsArgs,
    /// Addresses where agents reach this server, for invites.
    pub public_addr: Vec<ServerAddress>,
    /// Maximum number of known clients.
    pub max_clients: u64,
    /// An agent with an older key is asked for a new one.
    pub key_max_age: Duration,
    /// The limits that apply to transfers.
    pub limits: Limits,
    /// The settings of agent sessions.
    pub session: SessionSettings,
    /// How long finished transfers stay on record.
    pub keep_records: Keep,
    /// How often downloads are read back from the disk.
    pub scrub_every: ScrubInterval,
    /// How long running transfers may continue at shutdown.
    pub shutdown_grace: Duration,
    /// Minimum log level. The server only shows it; the program starts the log.
    pub log_level: String,
    /// Format of the log lines. The server only shows it.
    pub log_format: LogFormat,
}

impl Config {
    /// Returns which agents get a session.
    pub fn agent_access(&self) -> AgentAccess {
        match self.agent_auth {
            AgentAuth::Open => AgentAccess::Open,
            AgentAuth::Auto if !is_exposed(self.grpc_addr.ip()) => AgentAccess::Open,
            AgentAuth::Auto | AgentAuth::Invite => AgentAccess::Enrolled,
        }
    }
}

/// All errors in the settings, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        let errors = errors(&args);
        if !errors.is_empty() {
            return Err(ConfigError(errors));
        }
        let limits = Limits {
            max_running: args.max_running,
            max_waiting: args.max_waiting,
            max_waiting_per_client: args.max_waiting_per_client,
            max_file_size: args.max_file_size,
            min_free: args.min_free,
            stall_timeout: args.stall_timeout,
            min_rate: args.min_rate,
            min_rate_window: MIN_RATE_WINDOW,
            resume_within: args.resume_within,
            checkpoint_every: CHECKPOINT_EVERY,
            read_back: args.read_back,
        };
        // Checked above to fit HTTP/2's windows.
        let stream_window = u32::try_from(args.stream_window).unwrap_or(bounds::MAX_WINDOW);
        Ok(Self {
            http_addr: args.http_addr,
            grpc_addr: args.grpc_addr,
            access: args.access.into_config(&args.data_dir),
            data_dir: args.data_dir,
            agent_auth: args.agent_auth,
            tls: args.tls,
            public_addr: args.public_addr,
            max_clients: u64::try_from(args.max_clients).unwrap_or(u64::MAX),
            key_max_age: args.key_max_age,
            limits,
            session: SessionSettings {
                heartbeat: args.heartbeat,
                dead_after: args.dead_after,
                reconnect: ReconnectPolicy { cap: args.reconnect_cap, ..Default::default() },
                stream_window,
            },
            keep_records: args.keep_records,
            scrub_every: args.scrub_every,
            shutdown_grace: args.shutdown_grace,
            log_level: args.log_level,
            log_format: args.log_format,
        })
    }
}

/// Long enough for a connection that is down for one or two minutes.
const MIN_RATE_WINDOW: Duration = Duration::from_mins(5);

/// A crash of the server loses about this much transfer time. A shorter transfer needs no
/// checkpoint.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

fn errors(args: &Args) -> Vec<String> {
    let mut errors = bounds::errors(args);
    errors.extend(args.access.errors());
    let mut check = |is_wrong: bool, error: String| {
        if is_wrong {
            errors.push(error);
        }
    };
    check(
        args.http_addr == args.grpc_addr && args.http_addr.port() != 0,
        format!(
            "HTTP_ADDR and GRPC_ADDR are both {}. Set another port for one of them.",
            args.http_addr
        ),
    );
    check(
        args.dead_after < args.heartbeat.saturating_mul(2),
        "DEAD_AFTER is less than twice HEARTBEAT: one late response would close a session.".into(),
    );
    check(
        matches!(args.keep_records, Keep::For(time) if time < KEEP_KEYS),
        "KEEP_RECORDS is less than 24h, the time that an Idempotency-Key is kept.".into(),
    );
    check(
        invite::MAX_ADDRESSES < args.public_addr.len(),
        format!("PUBLIC_ADDR has more than {} addresses.", invite::MAX_ADDRESSES),
    );
    errors.extend(args.tls.errors());
    errors.extend(check_path(&args.data_dir).err().map(|flaw| format!("DATA_DIR: {flaw}")));
    errors
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        Config::try_from(Args::try_parse_from([&["server"], flags].concat()).unwrap())
    }

    #[test]
    fn the_defaults_listen_on_loopback_only() {
        let config = config(&[]).unwrap();
        assert!(config.http_addr.ip().is_loopback() && config.grpc_addr.ip().is_loopback());
    }

    #[test]
    fn open_access_beyond_loopback_must_be_explicit() {
        let addresses = ["--http-addr", "0.0.0.0:8080", "--grpc-addr", "0.0.0.0:50051"];
        let access = |more: &[&str]| config(&[addresses.as_slice(), more].concat()).unwrap();
        let default = access(&[]);
        assert!(default.access.needs_sign_in(default.http_addr));
        assert_eq!(default.agent_access(), AgentAccess::Enrolled);
        let open = access(&["--http-auth", "none", "--agent-auth", "open"]);
        assert!(!open.access.needs_sign_in(open.http_addr));
        assert_eq!(open.agent_access(), AgentAccess::Open);
    }

    #[test]
    fn agents_on_loopback_need_an_invite_only_if_the_operator_wants_it() {
        let access = |flags: &[&str]| config(flags).unwrap().agent_access();
        assert_eq!(access(&[]), AgentAccess::Open);
        assert_eq!(access(&["--grpc-addr", "[::ffff:127.0.0.1]:0"]), AgentAccess::Open);
        assert_eq!(access(&["--agent-auth", "invite"]), AgentAccess::Enrolled);
    }

    #[test]
    fn every_error_is_reported_at_once() {
        let zeroes = ["--max-running", "0", "--stall-timeout", "0", "--max-file-size", "0"];
        let too_small = ["--stream-window", "1", "--keep-records", "23h"];
        let flags = [zeroes.as_slice(), &too_small].concat();
        let ConfigError(errors) = config(&flags).unwrap_err();
        assert_eq!(errors.len(), 5, "{errors:?}");
    }

    #[test]
    fn a_data_folder_in_quotes_is_rejected() {
        for folder in ["\"/srv/data\"", "'server-data'", "server-data\r", "server\u{1b}data"] {
            let ConfigError(errors) = config(&["--data-dir", folder]).unwrap_err();
            assert!(errors[0].starts_with("DATA_DIR: "), "{errors:?}");
        }
        for folder in ["server data", "my dépot", "it's mine", "./server-data/"] {
            assert!(config(&["--data-dir", folder]).is_ok(), "{folder}");
        }
    }

    #[test]
    fn one_port_cannot_serve_operators_and_agents() {
        let both = ["--http-addr=127.0.0.1:8080", "--grpc-addr=127.0.0.1:8080"];
        let ConfigError(errors) = config(&both).unwrap_err();
        let expected =
            "HTTP_ADDR and GRPC_ADDR are both 127.0.0.1:8080. Set another port for one of them.";
        assert_eq!(errors, [expected]);
        assert!(config(&["--http-addr=127.0.0.1:0", "--grpc-addr=127.0.0.1:0"]).is_ok());
    }

    #[test]
    fn loopback_written_as_ipv6_is_loopback() {
        let needs_sign_in = |addr| {
            let config = config(&["--http-addr", addr]).unwrap();
            config.access.needs_sign_in(config.http_addr)
        };
        assert!(!needs_sign_in("[::ffff:127.0.0.1]:0"));
        assert!(needs_sign_in("[::ffff:192.0.2.1]:0"));
    }

    #[test]
    fn a_proxy_that_signs_users_in_needs_both_settings() {
        let check = |flags: &[&str], reason: &str| {
            let ConfigError(errors) = config(flags).unwrap_err();
            assert!(errors[0].contains(reason), "{errors:?}");
        };
        let header = "--auth-header=X-Forwarded-User";
        check(&[header], "AUTH_HEADER is set without TRUSTED_PROXIES");
        check(&["--trusted-proxies=10.0.0.1"], "TRUSTED_PROXIES is set without AUTH_HEADER");
        check(&[header, "--trusted-proxies=0.0.0.0/0"], "contains every address");
        let both = [header, "--trusted-proxies=127.0.0.1"];
        check(&[both.as_slice(), &["--http-auth=none"]].concat(), "HTTP_AUTH=none ignores it");
        check(&["--auth-header=Authorization", both[1]], "has another meaning");
        let config = config(&both).unwrap();
        assert!(config.access.needs_sign_in(config.http_addr));
    }

    #[test]
    fn an_invalid_address_is_rejected_with_an_example() {
        for address in [":8080", "8080", "localhost:8080"] {
            let args = ["server", "--http-addr", address];
            let error = Args::try_parse_from(args).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("Write an IP address and a port: 127.0.0.1:8080"), "{error}");
        }
    }
}
