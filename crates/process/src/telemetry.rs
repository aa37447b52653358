//! The log: one line per event on standard error, as text for people or as JSON for programs.
//!
//! Text from other machines can neither forge a line nor hide a part of it: invisible characters
//! are escaped here, in both formats and in every field.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write};

use chrono::{SecondsFormat, Utc};
use filepull_core::human;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// The format of the log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One sentence per line, with its fields.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why the log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A filter names a level that does not exist.
    #[error("LOG_LEVEL: {found:?} is not a level. {hint}")]
    NotALevel {
        /// The name of the level, as it was written.
        found: String,
        /// The level that was probably meant, or all levels.
        hint: String,
    },
    /// The filter has another syntax error.
    #[error("LOG_LEVEL: {0}")]
    Filter(#[from] ParseError),
    /// This process already has a log.
    #[error("starting the log: {0}")]
    Start(Box<dyn Error + Send + Sync>),
}

/// Starts the log of this process. `level` is a level or a filter, such as `info,h2=off`.
///
/// # Errors
/// The level is invalid, or the process already has a log.
pub fn start(level: &str, format: LogFormat) -> Result<(), LogError> {
    // Standard error may be closed. Reporting that would fail too, and must not panic.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(level)?)
        .with_writer(io::stderr)
        .log_internal_errors(false);
    let json = match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let started = if json {
        let log = log
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_timer(WallClock)
            .with_target(false);
        log.with_writer(|| JsonLines(io::stderr())).try_init()
    } else {
        let colours = io::stderr().is_terminal() && !no_color();
        // The fields of a span are kept as text, so they must not hold escape codes.
        log.with_ansi(false).event_format(Sentence { colours }).try_init()
    };
    started.map_err(LogError::Start)
}

/// Parses a level or a filter. Rejects an unknown level: [`EnvFilter`] would take `warning` for the
/// name of a module and log nothing else.
fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let parts: Vec<&str> = level.split(',').map(str::trim).filter(|p| !p.is_empty()).collect();
    for part in &parts {
        let found = part.rsplit_once('=').map_or(*part, |(_, level)| level);
        // A part with a bracket selects spans and needs no level.
        if !part.contains('[') && found.parse::<LevelFilter>().is_err() {
            return Err(LogError::NotALevel { found: found.to_owned(), hint: hint_for(found) });
        }
    }
    // An empty variable counts as not set.
    Ok(EnvFilter::try_new(if parts.is_empty() { "info".to_owned() } else { parts.join(",") })?)
}

/// Returns the hint for a level that does not exist.
fn hint_for(found: &str) -> String {
    const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
    let found = found.to_lowercase();
    let is_meant = |level: &&str| found.starts_with(level) || level.starts_with(&found);
    match LEVELS.into_iter().find(is_meant).filter(|_| !found.is_empty()) {
        Some(level) => format!("Did you mean {level}?"),
        None => "Write error, warn, info, debug or trace.".to_owned(),
    }
}

#[allow(clippy::disallowed_methods, reason = "NO_COLOR is a terminal convention, not a setting")]
fn no_color() -> bool {
    std::env::var("NO_COLOR").is_ok_and(|value| !value.is_empty())
}

/// `2026-02-05T14:00:00Z INFO  connected again after 11 min 22 s`, then the fields of the event, then
/// its spans, such as `transfer{id=0198… client=client4}`.
struct Sentence {
    colours: bool,
}

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
        if self.colours {
            write!(writer, " \u{1b}[{colour}m{level:<5}\u{1b}[0m ")?;
        } else {
            write!(writer, " {level:<5} ")?;
        }
        let mut fields = String::new();
        context.field_format().format_fields(Writer::new(&mut fields), event)?;
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let formatted = extensions.get::<FormattedFields<N>>();
            let span_fields = formatted.map_or("", |formatted| formatted.fields.as_str());
            write!(fields, " {}{{{span_fields}}}", span.name())?;
        }
        writeln!(writer, "{}", human::escaped(&fields))
    }
}

/// Writes lines of JSON, and escapes invisible characters that JSON allows. Beyond ASCII such a
/// character occurs only in a string, where `\u202e` means the same character.
struct JsonLines<W>(W);

impl<W: Write> Write for JsonLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // The subscriber writes each line in one call.
        self.0.write_all(json_escaped(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn json_escaped(text: &str) -> Cow<'_, str> {
    let is_hidden = |c: char| c != '\n' && human::is_unprintable(c);
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(shown, "\\u{unit:04x}"); // writing to a string cannot fail
            }
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
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
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_level_or_a_filter_is_accepted() {
        for level in ["", "warn", " WARN ", "off", "info,h2=off", "info, filepull_server=debug"] {
            assert!(filter(level).is_ok(), "{level:?}");
        }
        assert_eq!(filter("").unwrap().max_level_hint(), Some(LevelFilter::INFO));
    }

    /// Returns the log of one event with a misleading file name.
    fn logged(layer: impl FnOnce(Lines) -> Box<dyn tracing::Subscriber + Send + Sync>) -> String {
        let lines = Lines::default();
        tracing::subscriber::with_default(layer(lines.clone()), || {
            let name = "gpj.\u{202e}\u{200b}\u{e0041}\u{7f}\nERROR forged";
            let _span = tracing::error_span!("transfer", id = 7, client = name).entered();
            tracing::info!(event = "upload.rejected", name, path = ?name, "no file {name}");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_name_can_neither_forge_a_line_nor_hide_in_one() {
        let text = logged(|lines| {
            let log = tracing_subscriber::fmt().with_writer(move || lines.clone());
            Box::new(log.with_ansi(false).event_format(Sentence { colours: false }).finish())
        });
        let json = logged(|lines| {
            let log = tracing_subscriber::fmt().json().flatten_event(true);
            Box::new(log.with_writer(move || JsonLines(lines.clone())).finish())
        });
        for log in [&text, &json] {
            assert_eq!(log.lines().count(), 1, "{log}");
            assert!(!log.trim_end().contains(human::is_unprintable), "{log:?}");
        }
        assert!(text.contains("no file gpj.\\u{202e}\\u{200b}"), "{text}");
        assert!(text.contains(" transfer{id=7 client=\"gpj."), "{text}");
        // JSON is read by programs: the parsed value is exactly the original.
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        let name = "gpj.\u{202e}\u{200b}\u{e0041}\u{7f}\nERROR forged";
        assert_eq!(read["name"], name);
        assert_eq!(
            read["spans"][0],
            serde_json::json!({"name": "transfer", "id": 7, "client": name})
        );
    }

    #[test]
    fn an_unknown_level_is_rejected_with_a_suggestion() {
        let check = |level: &str, expected: &str| {
            assert_eq!(filter(level).unwrap_err().to_string(), format!("LOG_LEVEL: {expected}"));
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
