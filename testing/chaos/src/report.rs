//! What a run prints: a line for each promise, and a table at the end.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::time::Duration;

use crate::cli::Args;
use crate::counters::Counters;
use crate::promise::Promise;

/// How a trial went.
#[derive(Debug)]
pub struct ReportRow {
    /// Which promise.
    pub promise: &'static Promise,
    /// Where all chance came from.
    pub seed: u64,
    /// What was counted.
    pub tally: Counters,
    /// Whether the promise held.
    pub verdict: PromiseVerdict,
    /// How long it took.
    pub took: Duration,
}

/// What a trial came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromiseVerdict {
    /// Nothing broke the promise.
    Held,
    /// Something did: the evidence.
    Broken(String),
    /// It was not tried, because somebody said so.
    Skipped,
    /// It could not be tried: what is missing.
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
    /// Everything about it in one line.
    pub fn line(&self) -> String {
        let Self { promise, seed, tally, verdict, took } = self;
        let (id, promised) = (promise.id, promise.promised);
        let mut line = format!("{id:9}{verdict:8}{promised} ");
        let _ = match verdict {
            PromiseVerdict::Missing(what) => write!(line, "Cannot be tried without {what}."),
            PromiseVerdict::Skipped => write!(line, "Not tried: --skip."),
            PromiseVerdict::Held | PromiseVerdict::Broken(_) => write!(
                line,
                "[{tally}; {} files read, {} wrong; seed {seed}; {:.1} s{}]",
                tally.n_files(),
                tally.n_wrong(),
                took.as_secs_f64(),
                if promise.limit < *took { ", LATE" } else { "" }
            ),
        };
        line
    }

    /// Why it broke, and how to see it again.
    pub fn evidence(&self, args: &Args) -> Option<String> {
        let PromiseVerdict::Broken(evidence) = &self.verdict else { return None };
        let mut again = format!("filepull-chaos {} --seed {}", self.promise.id, self.seed);
        if let Some(count) = args.count {
            let _ = write!(again, " --count {count}");
        }
        if args.soak {
            again.push_str(" --soak");
        }
        Some(format!("    {evidence}\n    again: {again}"))
    }
}

/// The table of a whole run.
pub fn tell_all(rows: &[ReportRow]) {
    let mut text = format!(
        "\n{:9}{:9}{:>9}{:>9}{:>7}{:>9}\n",
        "", "verdict", "faults", "files", "wrong", "seconds"
    );
    let (mut faults, mut files, mut wrong, mut seconds) = (0, 0, 0, 0.0);
    for ReportRow { promise, tally, verdict, took, .. } in rows {
        let (f, n, w) = (tally.n_faults(), tally.n_files(), tally.n_wrong());
        let (id, took) = (promise.id, took.as_secs_f64());
        let verdict = verdict.to_string();
        let _ = writeln!(text, "{id:9}{verdict:9}{f:>9}{n:>9}{w:>7}{took:>9.1}");
        (faults, files, wrong, seconds) = (faults + f, files + n, wrong + w, seconds + took);
    }
    let _ = write!(text, "{:9}{:9}{faults:>9}{files:>9}{wrong:>7}{seconds:>9.1}", "all", "");
    tell(text);
}

/// Says something to whoever runs this.
pub fn tell(text: impl fmt::Display) {
    // Whoever read it may be gone; the trials go on, and the exit code says how they went.
    let _ = writeln!(io::stdout(), "{text}");
}
