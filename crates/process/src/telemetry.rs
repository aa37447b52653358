//! The log: one line an event on standard error, as text for people or as JSON for machines.

use std::fmt;
use std::io::IsTerminal as _;

use anyhow::Context as _;
use chrono::{SecondsFormat, Utc};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One sentence a line.
    Text,
    /// One object a line.
    Json,
}

/// Starts the log of this process. `level` is a level or a filter, such as `info,h2=off`.
///
/// # Errors
/// The filter cannot be read, or a log was started before.
pub fn start(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level).with_context(|| format!("log level {level:?}"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let started = if json {
        log.json().flatten_event(true).with_timer(WallClock).with_target(false).try_init()
    } else {
        let colours = std::io::stderr().is_terminal() && !no_color();
        log.with_ansi(colours).event_format(Sentence).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("starting the log: {error}"))
}

#[allow(
    clippy::disallowed_methods,
    reason = "NO_COLOR is a convention of terminals, not a setting"
)]
fn no_color() -> bool {
    std::env::var("NO_COLOR").is_ok_and(|value| !value.is_empty())
}

/// `2026-02-05T14:00:00Z INFO  connected again after 11 min 22 s`, then fields, if there are any.
struct Sentence;

impl<S, N> FormatEvent<S, N> for Sentence
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        WallClock.format_time(&mut writer)?;
        let level = *event.metadata().level();
        let colour = match level {
            Level::ERROR => "31",
            Level::WARN => "33",
            _ => "32",
        };
        if writer.has_ansi_escapes() {
            write!(writer, " \u{1b}[{colour}m{level:<5}\u{1b}[0m ")?;
        } else {
            write!(writer, " {level:<5} ")?;
        }
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// RFC 3339 in UTC, to the second: `2026-02-05T14:00:00Z`.
struct WallClock;

impl FormatTime for WallClock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}
