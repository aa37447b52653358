//! The settings of the server: as typed, and as meant.

mod bounds;
mod settings;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use filepull_core::backoff::ReconnectPolicy;
use filepull_core::human::{parse_addr, parse_count, parse_duration, parse_rate, parse_size};
use filepull_process::environment::check_path;
use filepull_process::telemetry::LogFormat;

use crate::grpc::SessionSettings;
use crate::records::KEEP_KEYS;
use crate::retention::Keep;
use crate::transfers::Limits;
pub use settings::Setting;

/// What was typed: flags, or the environment.
#[derive(Clone, Debug, clap::Parser)]
pub struct Args {
    /// Where operators curl.
    #[arg(long, env = "HTTP_ADDR", default_value = "127.0.0.1:8080", value_parser = parse_addr)]
    pub http_addr: SocketAddr,
    /// Where agents dial.
    #[arg(long, env = "GRPC_ADDR", default_value = "127.0.0.1:50051", value_parser = parse_addr)]
    pub grpc_addr: SocketAddr,
    /// Folder of the downloads and the records; made if missing.
    #[arg(long, env = "DATA_DIR", default_value = "server-data")]
    pub data_dir: PathBuf,
    /// Who may call: `auto` lets everybody in on loopback and refuses to start elsewhere, `none`
    /// lets everybody in.
    #[arg(long, env = "HTTP_AUTH", default_value = "auto")]
    pub http_auth: HttpAuth,
    /// Which agents may connect: `auto` lets all in on loopback and refuses to start elsewhere,
    /// `open` lets any agent take any free id.
    #[arg(long, env = "AGENT_AUTH", default_value = "auto")]
    pub agent_auth: AgentAuth,
    /// Transfers at once.
    #[arg(long, env = "MAX_RUNNING", default_value = "20", value_parser = parse_count)]
    pub max_running: usize,
    /// Transfers in line.
    #[arg(long, env = "MAX_WAITING", default_value = "10000", value_parser = parse_count)]
    pub max_waiting: usize,
    /// Transfers of one client that wait.
    #[arg(
        long, env = "MAX_WAITING_PER_CLIENT", default_value = "100", value_parser = parse_count
    )]
    pub max_waiting_per_client: usize,
    /// Largest file that is accepted, such as 10GiB.
    #[arg(long, env = "MAX_FILE_SIZE", default_value = "10GiB", value_parser = parse_size)]
    pub max_file_size: u64,
    /// Space that stays free on the disk, such as 1GiB.
    #[arg(long, env = "MIN_FREE", default_value = "1GiB", value_parser = parse_size)]
    pub min_free: u64,
    /// An upload that brings no byte for this long is started again.
    #[arg(long, env = "STALL_TIMEOUT", default_value = "60s", value_parser = parse_duration)]
    pub stall_timeout: Duration,
    /// An upload that is slower over five minutes loses its turn while others wait, keeps its bytes,
    /// and continues later; 0 disables this
    #[arg(long, env = "MIN_RATE", default_value = "1KiB/s", value_parser = parse_min_rate)]
    pub min_rate: u64,
    /// How long an interrupted transfer waits for its client.
    #[arg(long, env = "RESUME_WITHIN", default_value = "15m", value_parser = parse_duration)]
    pub resume_within: Duration,
    /// Flow-control window of an upload: its throughput is at most this over the round trip.
    #[arg(long, env = "STREAM_WINDOW", default_value = "16MiB", value_parser = parse_size)]
    pub stream_window: u64,
    /// Every agent is pinged about this often; a larger fleet may be asked less often.
    #[arg(long, env = "HEARTBEAT", default_value = "15s", value_parser = parse_duration)]
    pub heartbeat: Duration,
    /// A line that is silent for this long is dead, for the server and for the agent.
    #[arg(long, env = "DEAD_AFTER", default_value = "45s", value_parser = parse_duration)]
    pub dead_after: Duration,
    /// Agents that lost the server dial again within this time at the most.
    #[arg(long, env = "RECONNECT_CAP", default_value = "10s", value_parser = parse_duration)]
    pub reconnect_cap: Duration,
    /// How long a finished transfer stays on record, such as 30d, or `forever`; longer while its
    /// download lies in the data folder.
    #[arg(long, env = "KEEP_RECORDS", default_value = "30d")]
    pub keep_records: Keep,
    /// How long running transfers may go on at shutdown; the rest resume after the restart.
    #[arg(long, env = "SHUTDOWN_GRACE", default_value = "30s", value_parser = parse_duration)]
    pub shutdown_grace: Duration,
    /// Least level that is logged: error, warn, info, debug, trace, or a filter.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// How log lines look.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Reads a rate such as `1KiB/s`, or 0 for none.
fn parse_min_rate(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { parse_rate(text) }
}

/// Who may call the HTTP API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum HttpAuth {
    /// Everybody on loopback; nobody elsewhere.
    Auto,
    /// Everybody.
    None,
}

/// Which agents may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AgentAuth {
    /// All of them on loopback; none elsewhere.
    Auto,
    /// All of them.
    Open,
}

/// What is meant.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where operators curl.
    pub http_addr: SocketAddr,
    /// Where agents dial.
    pub grpc_addr: SocketAddr,
    /// Folder of the downloads and the records.
    pub data_dir: PathBuf,
    /// Who may call.
    pub http_auth: HttpAuth,
    /// Which agents may connect.
    pub agent_auth: AgentAuth,
    /// The bounds that transfers keep to.
    pub limits: Limits,
    /// How the lines to the agents are kept.
    pub session: SessionSettings,
    /// How long final transfers stay on record.
    pub keep_records: Keep,
    /// How long running transfers may go on at shutdown.
    pub shutdown_grace: Duration,
    /// Least level that is logged. Whoever starts the log reads it; here it is only shown.
    pub log_level: String,
    /// How log lines look, likewise.
    pub log_format: LogFormat,
}

/// Everything that is wrong with the settings, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        let mistakes = mistakes(&args);
        if !mistakes.is_empty() {
            return Err(ConfigError(mistakes));
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
        };
        // Checked above to fit HTTP/2's windows.
        let stream_window = u32::try_from(args.stream_window).unwrap_or(bounds::MAX_WINDOW);
        Ok(Self {
            http_addr: args.http_addr,
            grpc_addr: args.grpc_addr,
            data_dir: args.data_dir,
            http_auth: args.http_auth,
            agent_auth: args.agent_auth,
            limits,
            session: SessionSettings {
                heartbeat: args.heartbeat,
                dead_after: args.dead_after,
                reconnect: ReconnectPolicy { cap: args.reconnect_cap, ..Default::default() },
                stream_window,
            },
            keep_records: args.keep_records,
            shutdown_grace: args.shutdown_grace,
            log_level: args.log_level,
            log_format: args.log_format,
        })
    }
}

/// Long enough for a line that is down for a minute or two.
pub const MIN_RATE_WINDOW: Duration = Duration::from_mins(5);

/// An interruption of the server costs about this much transfer time; a transfer that is shorter
/// pays for no checkpoint at all.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

fn mistakes(args: &Args) -> Vec<String> {
    let mut mistakes = bounds::mistakes(args);
    let mut check = |wrong: bool, mistake: String| {
        if wrong {
            mistakes.push(mistake);
        }
    };
    let exposed = |ip: IpAddr| !ip.to_canonical().is_loopback();
    check(
        args.http_auth == HttpAuth::Auto && exposed(args.http_addr.ip()),
        format!(
            "HTTP_ADDR={} lets other machines in, and nothing asks them who they are. Listen on \
             127.0.0.1, or say HTTP_AUTH=none to let everybody in.",
            args.http_addr
        ),
    );
    check(
        args.agent_auth == AgentAuth::Auto && exposed(args.grpc_addr.ip()),
        format!(
            "GRPC_ADDR={} lets agents of other machines in, and nothing asks them who they are. \
             Listen on 127.0.0.1, or say AGENT_AUTH=open to let any agent take any free id.",
            args.grpc_addr
        ),
    );
    check(
        args.http_addr == args.grpc_addr && args.http_addr.port() != 0,
        format!(
            "HTTP_ADDR and GRPC_ADDR are both {}. Give one of them another port.",
            args.http_addr
        ),
    );
    check(
        args.dead_after < args.heartbeat.saturating_mul(2),
        "DEAD_AFTER is less than twice HEARTBEAT: one late answer would end a session.".into(),
    );
    check(
        matches!(args.keep_records, Keep::For(time) if time < KEEP_KEYS),
        "KEEP_RECORDS is less than 24h: for so long an Idempotency-Key leads to its transfer."
            .into(),
    );
    mistakes.extend(check_path(&args.data_dir).err().map(|flaw| format!("DATA_DIR: {flaw}")));
    mistakes
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn config(typed: &[&str]) -> Result<Config, ConfigError> {
        Config::try_from(Args::try_parse_from([&["server"], typed].concat()).unwrap())
    }

    #[test]
    fn the_defaults_listen_on_loopback_only() {
        let config = config(&[]).unwrap();
        assert!(config.http_addr.ip().is_loopback() && config.grpc_addr.ip().is_loopback());
    }

    #[test]
    fn open_access_elsewhere_must_be_said_aloud() {
        let typed = ["--http-addr", "0.0.0.0:8080", "--grpc-addr", "0.0.0.0:50051"];
        let ConfigError(mistakes) = config(&typed).unwrap_err();
        assert!(mistakes[0].contains("HTTP_AUTH=none"), "{mistakes:?}");
        assert!(mistakes[1].contains("AGENT_AUTH=open"), "{mistakes:?}");
        let said = ["--http-auth", "none", "--agent-auth", "open"];
        assert!(config(&[typed.as_slice(), &said].concat()).is_ok());
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let zeroes = ["--max-running", "0", "--stall-timeout", "0", "--max-file-size", "0"];
        let too_little = ["--stream-window", "1", "--keep-records", "23h"];
        let typed = [zeroes.as_slice(), &too_little].concat();
        let ConfigError(mistakes) = config(&typed).unwrap_err();
        assert_eq!(mistakes.len(), 5, "{mistakes:?}");
    }

    #[test]
    fn a_data_folder_in_quotes_is_rejected() {
        for folder in ["\"/srv/data\"", "'server-data'", "server-data\r", "server\u{1b}data"] {
            let ConfigError(mistakes) = config(&["--data-dir", folder]).unwrap_err();
            assert!(mistakes[0].starts_with("DATA_DIR: "), "{mistakes:?}");
        }
        for folder in ["server data", "my dépot", "it's mine", "./server-data/"] {
            assert!(config(&["--data-dir", folder]).is_ok(), "{folder}");
        }
    }

    #[test]
    fn one_port_cannot_serve_operators_and_agents() {
        let both = ["--http-addr=127.0.0.1:8080", "--grpc-addr=127.0.0.1:8080"];
        let ConfigError(mistakes) = config(&both).unwrap_err();
        let said =
            "HTTP_ADDR and GRPC_ADDR are both 127.0.0.1:8080. Give one of them another port.";
        assert_eq!(mistakes, [said]);
        assert!(config(&["--http-addr=127.0.0.1:0", "--grpc-addr=127.0.0.1:0"]).is_ok());
    }

    #[test]
    fn loopback_written_as_ipv6_is_loopback() {
        assert!(config(&["--http-addr", "[::ffff:127.0.0.1]:0"]).is_ok());
        assert!(config(&["--http-addr", "[::ffff:192.0.2.1]:0"]).is_err());
    }

    #[test]
    fn an_address_that_is_none_is_answered_with_one() {
        for typed in [":8080", "8080", "localhost:8080"] {
            let args = ["server", "--http-addr", typed];
            let said = Args::try_parse_from(args).map(|_| ()).unwrap_err().to_string();
            assert!(said.contains("Write an IP address and a port: 127.0.0.1:8080"), "{said}");
        }
    }
}
