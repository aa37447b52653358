//! The settings in effect, as the server shows them.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use filepull_core::human;
use filepull_core::invite::ServerAddress;
use serde::{Serialize, Serializer};

use super::Config;
use crate::retention::Keep;
use crate::scrubber::ScrubInterval;

/// The value of a setting. Text shows a size or a duration with its unit; JSON has bytes and
/// seconds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Setting {
    Text(String),
    Count(u64),
    Bytes(u64),
    /// Bytes per second; 0 is off.
    Rate(u64),
    Span(Duration),
}

impl Setting {
    /// Returns the value for people, in the syntax of the settings.
    pub(crate) fn as_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(count) => count.to_string(),
            Self::Bytes(bytes) => human::size(*bytes),
            Self::Rate(0) => "off".to_owned(),
            Self::Rate(rate) => human::rate(*rate),
            Self::Span(span) if span.subsec_nanos() == 0 => human::span(*span),
            Self::Span(span) => human::took(*span),
        }
    }
}

impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Count(number) | Self::Bytes(number) | Self::Rate(number) => {
                serializer.serialize_u64(*number)
            }
            Self::Span(span) if span.subsec_nanos() == 0 => {
                serializer.serialize_u64(span.as_secs())
            }
            Self::Span(span) => serializer.serialize_f64(span.as_secs_f64()),
        }
    }
}

impl Config {
    /// Returns every setting and its value, in the order of the help text.
    pub(crate) fn settings(&self) -> Vec<(&'static str, Setting)> {
        use Setting::{Bytes, Count, Rate, Span, Text};
        let Self { limits, session, access, .. } = self;
        let header = access.auth_header.as_ref().map_or("off", |name| name.as_str());
        let count = |count: usize| Count(u64::try_from(count).unwrap_or(u64::MAX));
        vec![
            ("http_addr", Text(self.http_addr.to_string())),
            ("grpc_addr", Text(self.grpc_addr.to_string())),
            ("data_dir", Text(self.data_dir.display().to_string())),
            ("http_auth", choice(&access.http_auth)),
            ("tokens_file", Text(access.tokens_file.display().to_string())),
            ("auth_header", Text(header.to_owned())),
            ("trusted_proxies", list(&access.trusted_proxies.to_string())),
            ("allowed_hosts", list(&access.allowed_hosts.0.join(","))),
            ("trigger_get", choice(&access.trigger_get)),
            ("agent_auth", choice(&self.agent_auth)),
            ("tls_cert", file(&self.tls.tls_cert)),
            ("tls_key", file(&self.tls.tls_key)),
            ("http_tls_cert", file(&self.tls.http_tls_cert)),
            ("http_tls_key", file(&self.tls.http_tls_key)),
            ("public_addr", Text(addresses(&self.public_addr))),
            ("max_clients", Count(self.max_clients)),
            ("key_max_age", Span(self.key_max_age)),
            ("max_running", count(limits.max_running)),
            ("max_waiting", count(limits.max_waiting)),
            ("max_waiting_per_client", count(limits.max_waiting_per_client)),
            ("max_file_size", Bytes(limits.max_file_size)),
            ("min_free", Bytes(limits.min_free)),
            ("stall_timeout", Span(limits.stall_timeout)),
            ("min_rate", Rate(limits.min_rate)),
            ("resume_within", Span(limits.resume_within)),
            ("stream_window", Bytes(session.stream_window.into())),
            ("heartbeat", Span(session.heartbeat)),
            ("dead_after", Span(session.dead_after)),
            ("reconnect_cap", Span(session.reconnect.cap)),
            ("keep_records", keep(self.keep_records)),
            ("scrub_every", interval(self.scrub_every)),
            ("read_back", choice(&limits.read_back)),
            ("shutdown_grace", Span(self.shutdown_grace)),
            ("log_level", Text(self.log_level.clone())),
            ("log_format", choice(&self.log_format)),
        ]
    }
}

/// Returns a path; empty if it is not set.
fn file(path: &Option<PathBuf>) -> Setting {
    Setting::Text(path.as_ref().map(|path| path.display().to_string()).unwrap_or_default())
}

fn addresses(addresses: &[ServerAddress]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    if addresses.is_empty() { "guessed".to_owned() } else { addresses.join(",") }
}

fn keep(keep: Keep) -> Setting {
    match keep {
        Keep::For(time) => Setting::Span(time),
        Keep::Forever => Setting::Text("forever".to_owned()),
    }
}

fn interval(interval: ScrubInterval) -> Setting {
    match interval {
        ScrubInterval::Every(time) => Setting::Span(time),
        ScrubInterval::Off => Setting::Text("off".to_owned()),
    }
}

fn list(items: &str) -> Setting {
    Setting::Text(if items.is_empty() { "none" } else { items }.to_owned())
}

/// Returns the name of an enum value on the command line.
fn choice(value: &impl ValueEnum) -> Setting {
    let name = value.to_possible_value().map(|possible| possible.get_name().to_owned());
    Setting::Text(name.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::super::Args;
    use super::*;

    #[test]
    fn every_setting_is_shown_under_its_own_name() {
        let config = Config::try_from(Args::parse_from(["server"])).unwrap();
        let mut shown: Vec<_> =
            config.settings().into_iter().map(|(name, _)| name.to_owned()).collect();
        let command = Args::command();
        let mut known: Vec<_> =
            command.get_arguments().map(|arg| arg.get_id().to_string()).collect();
        shown.sort();
        known.sort();
        known.dedup();
        assert_eq!(shown, known);
    }

    #[test]
    fn text_has_units_and_json_has_numbers() {
        let check = |setting: Setting, text: &str, json: serde_json::Value| {
            assert_eq!(setting.as_text(), text);
            assert_eq!(serde_json::to_value(setting).unwrap(), json);
        };
        check(Setting::Text("auto".to_owned()), "auto", "auto".into());
        check(Setting::Count(20), "20", 20.into());
        check(Setting::Bytes(1 << 30), "1.0 GiB", (1 << 30).into());
        check(Setting::Rate(1 << 10), "1.0 KiB/s", (1 << 10).into());
        check(Setting::Rate(0), "off", 0.into());
        check(Setting::Span(Duration::from_mins(15)), "15 min", 900.into());
        check(Setting::Span(Duration::from_millis(500)), "0.5 s", 0.5.into());
    }
}
