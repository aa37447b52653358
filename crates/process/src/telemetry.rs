//! The log: one line an event on standard error, as text for people or as JSON for machines.

use std::error::Error;
use std::fmt;
use std::io::IsTerminal as _;

use chrono::{SecondsFormat, Utc};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
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

/// Why the log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A word stands where a level must.
    #[error("LOG_LEVEL: {found:?} is not a level. {next}")]
    NotALevel {
        /// The word.
        found: String,
        /// What to write instead.
        next: String,
    },
    /// Something else is wrong with a filter.
    #[error("LOG_LEVEL: {0}")]
    Filter(#[from] ParseError),
    /// A log was started before.
    #[error("starting the log: {0}")]
    Start(Box<dyn Error + Send + Sync>),
}

/// Starts the log of this process. `level` is a level or a filter, such as `info,h2=off`.
///
/// # Errors
/// The level cannot be read, or a log was started before.
pub fn start(level: &str, format: LogFormat) -> Result<(), LogError> {
    // Whoever read the log may be gone: there is nobody to complain to, least of all by a panic.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(level)?)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
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
    started.map_err(LogError::Start)
}

/// Reads a level or a filter. An unknown word is an error here: to [`EnvFilter`] it is the name of
/// a module, so that `warning` would silence everything else.
fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let parts: Vec<&str> = level.split(',').map(str::trim).filter(|p| !p.is_empty()).collect();
    for part in &parts {
        let word = part.rsplit_once('=').map_or(*part, |(_, level)| level);
        // A part with a bracket picks spans, and may do without a level.
        if !part.contains('[') && word.parse::<LevelFilter>().is_err() {
            return Err(LogError::NotALevel { found: word.to_owned(), next: instead_of(word) });
        }
    }
    // A variable that is set to nothing counts as not set.
    Ok(EnvFilter::try_new(if parts.is_empty() { "info".to_owned() } else { parts.join(",") })?)
}

fn instead_of(word: &str) -> String {
    const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
    let word = word.to_lowercase();
    let meant = |level: &&str| word.starts_with(level) || level.starts_with(&word);
    match LEVELS.into_iter().find(meant).filter(|_| !word.is_empty()) {
        Some(level) => format!("Did you mean {level}?"),
        None => "Write error, warn, info, debug or trace.".to_owned(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_or_a_filter_is_read() {
        for level in ["", "warn", " WARN ", "off", "info,h2=off", "info, filepull_server=debug"] {
            assert!(filter(level).is_ok(), "{level:?}");
        }
        assert_eq!(filter("").unwrap().max_level_hint(), Some(LevelFilter::INFO));
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_with_the_one_that_was_meant() {
        let check = |level: &str, said: &str| {
            assert_eq!(filter(level).unwrap_err().to_string(), format!("LOG_LEVEL: {said}"));
        };
        check("warning", "\"warning\" is not a level. Did you mean warn?");
        check("Err", "\"Err\" is not a level. Did you mean error?");
        check("loud", "\"loud\" is not a level. Write error, warn, info, debug or trace.");
        check(
            "info,h2=quiet",
            "\"quiet\" is not a level. Write error, warn, info, debug or trace.",
        );
    }
}
