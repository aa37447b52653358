//! The settings in effect, for whoever asks the server about them.

use std::time::Duration;

use clap::ValueEnum;
use filepull_core::human;
use serde::{Serialize, Serializer};

use super::Config;
use crate::retention::Keep;

/// The value of a setting: people see sizes and spans, machines bytes and seconds.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// A word, an address or a path.
    Text(String),
    /// How many.
    Count(u64),
    /// A size in bytes.
    Bytes(u64),
    /// Bytes per second; 0 is off.
    Rate(u64),
    /// A time span.
    Span(Duration),
}

impl Setting {
    /// The value for people, as they would type it.
    pub fn in_words(&self) -> String {
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
    /// Every setting and its value, in the order they are shown.
    pub fn settings(&self) -> Vec<(&'static str, Setting)> {
        use Setting::{Bytes, Count, Rate, Span, Text};
        let Self { limits, session, .. } = self;
        let count = |count: usize| Count(u64::try_from(count).unwrap_or(u64::MAX));
        vec![
            ("http_addr", Text(self.http_addr.to_string())),
            ("grpc_addr", Text(self.grpc_addr.to_string())),
            ("data_dir", Text(self.data_dir.display().to_string())),
            ("http_auth", word(&self.http_auth)),
            ("agent_auth", word(&self.agent_auth)),
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
            ("shutdown_grace", Span(self.shutdown_grace)),
            ("log_level", Text(self.log_level.clone())),
            ("log_format", word(&self.log_format)),
        ]
    }
}

fn keep(keep: Keep) -> Setting {
    match keep {
        Keep::For(time) => Setting::Span(time),
        Keep::Forever => Setting::Text("forever".to_owned()),
    }
}

/// A choice, as it is typed.
fn word(choice: &impl ValueEnum) -> Setting {
    let name = choice.to_possible_value().map(|value| value.get_name().to_owned());
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
        let typed = Args::command();
        let mut typed: Vec<_> = typed.get_arguments().map(|arg| arg.get_id().to_string()).collect();
        shown.sort();
        typed.sort();
        typed.dedup();
        assert_eq!(shown, typed);
    }

    #[test]
    fn people_see_sizes_and_spans_and_machines_see_numbers() {
        let check = |setting: Setting, words: &str, json: serde_json::Value| {
            assert_eq!(setting.in_words(), words);
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
