//! The output of a run: one line for each promise, and a table at the end.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::time::Duration;

use crate::counters::Counters;
use crate::promise::Promise;

/// The result of one trial.
#[derive(Debug)]
pub(crate) struct ReportRow {
    pub(crate) promise: &'static Promise,
    pub(crate) seed: u64,
    pub(crate) counters: Counters,
    pub(crate) verdict: PromiseVerdict,
    pub(crate) duration: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PromiseVerdict {
    Held,
    Broken(String),
    Skipped,
    /// Not run: these requirements are missing.
    Missing(String),
}

impl fmt::Display for PromiseVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Held => "held",
            Self::Broken(_) => "BROKEN",
            Self::Skipped => "SKIPPED",
            Self::Missing(_) => "MISSING",
        })
    }
}

impl ReportRow {
    /// Returns the line of this promise.
    pub(crate) fn line(&self) -> String {
        let Self { promise, seed, counters, verdict, duration } = self;
        let Promise { id, statement, limit, .. } = promise;
        let mut line = format!("{id:9}{verdict:8}{statement} ");
        let _ = match verdict {
            PromiseVerdict::Missing(what) => write!(line, "[not run: missing {what}]"),
            PromiseVerdict::Skipped => write!(line, "[not run: --skip]"),
            PromiseVerdict::Held | PromiseVerdict::Broken(_) => write!(
                line,
                "[{counters}; {} files checked, {} wrong; seed {seed}; {:.1} s{}]",
                counters.n_files(),
                counters.n_wrong(),
                duration.as_secs_f64(),
                if limit < duration { ", OVER THE LIMIT" } else { "" }
            ),
        };
        line
    }

    /// Returns why the promise is broken; none if it is not.
    pub(crate) fn evidence(&self) -> Option<&str> {
        match &self.verdict {
            PromiseVerdict::Broken(evidence) => Some(evidence),
            PromiseVerdict::Held | PromiseVerdict::Skipped | PromiseVerdict::Missing(_) => None,
        }
    }
}

/// Prints the table of the whole run.
pub(crate) fn print_table(rows: &[ReportRow]) {
    let mut text = format!(
        "\n{:9}{:9}{:>9}{:>9}{:>7}{:>9}\n",
        "promise", "verdict", "faults", "files", "wrong", "seconds"
    );
    let mut total = [0; 3];
    let mut total_seconds = 0.0;
    for ReportRow { promise, counters, verdict, duration, .. } in rows {
        let counts = [counters.n_faults(), counters.n_files(), counters.n_wrong()];
        let seconds = duration.as_secs_f64();
        write_row(&mut text, promise.id, &verdict.to_string(), counts, seconds);
        for (sum, count) in total.iter_mut().zip(counts) {
            *sum += count;
        }
        total_seconds += seconds;
    }
    write_row(&mut text, "total", "", total, total_seconds);
    print_line(text.trim_end());
}

fn write_row(text: &mut String, id: &str, verdict: &str, counts: [u64; 3], seconds: f64) {
    let [faults, files, wrong] = counts;
    let _ = writeln!(text, "{id:9}{verdict:9}{faults:>9}{files:>9}{wrong:>7}{seconds:>9.1}");
}

/// Prints a line to standard output. If the reader of the output is gone, the trials continue: the
/// exit code shows the result.
pub(crate) fn print_line(text: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{text}");
}
