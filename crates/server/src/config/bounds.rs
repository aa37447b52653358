//! The range of each number in the settings. A number outside its range is rejected, and the
//! message names the range.

use std::fmt;
use std::time::Duration;

use filepull_core::{bounds, human};

use super::Args;
use crate::scrubber::ScrubInterval;

/// The maximum of RFC 9113, section 6.9.1, minus the 4 MiB by which the window of a connection
/// exceeds the windows of its streams, in bytes.
pub(crate) const MAX_WINDOW: u32 = (1 << 31) - 1 - (4 << 20);

/// Larger than any file system, and small enough that the records can sum such sizes.
const MAX_SIZE: u64 = 1 << 60;

const DAY: Duration = Duration::from_hours(24);

/// Longer than any useful setting, and short enough to be added to any date.
const YEAR: Duration = Duration::from_hours(366 * 24);

/// Returns one sentence for each number that is out of its range.
pub(crate) fn errors(args: &Args) -> Vec<String> {
    let millis = Duration::from_millis;
    let size = |bytes: u64| human::size(bytes);
    let window = 64 * 1024..=u64::from(MAX_WINDOW);
    let found = [
        check("MAX_CLIENTS", args.max_clients, 1..=10_000_000, count),
        check("KEY_MAX_AGE", args.key_max_age, Duration::from_secs(1)..=YEAR * 10, span),
        check("MAX_RUNNING", args.max_running, 1..=10_000, count),
        check("MAX_WAITING", args.max_waiting, 0..=1_000_000, count),
        check("MAX_FILE_SIZE", args.max_file_size, 1..=MAX_SIZE, size),
        check("MIN_FREE", args.min_free, 0..=MAX_SIZE, size),
        check("STREAM_WINDOW", args.stream_window, window, size),
        check("STALL_TIMEOUT", args.stall_timeout, millis(100)..=DAY, span),
        check("RESUME_WITHIN", args.resume_within, Duration::ZERO..=YEAR, span),
        check("HEARTBEAT", args.heartbeat, bounds::HEARTBEAT, span),
        check("DEAD_AFTER", args.dead_after, bounds::DEAD_AFTER, span),
        check("RECONNECT_CAP", args.reconnect_cap, bounds::RECONNECT_CAP, span),
        scrub_interval(args.scrub_every)
            .and_then(|time| check("SCRUB_EVERY", time, Duration::from_secs(1)..=YEAR, span)),
        check("SHUTDOWN_GRACE", args.shutdown_grace, Duration::ZERO..=DAY, span),
    ];
    found.into_iter().flatten().collect()
}

fn check<T: PartialOrd + Copy, S: fmt::Display>(
    name: &str,
    value: T,
    range: std::ops::RangeInclusive<T>,
    show: impl Fn(T) -> S,
) -> Option<String> {
    if range.contains(&value) {
        return None;
    }
    let found = show(value);
    let min = show(*range.start());
    let max = show(*range.end());
    Some(format!("{name} is {found}; it must be from {min} to {max}."))
}

fn scrub_interval(interval: ScrubInterval) -> Option<Duration> {
    match interval {
        ScrubInterval::Every(time) => Some(time),
        ScrubInterval::Off => None,
    }
}

/// Formats a number with thousands separators: `10,000`.
fn count(count: usize) -> String {
    let digits = count.to_string();
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if 0 < index && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// Formats a duration in the syntax of the settings: `100ms`, `1h`, `366days`.
fn span(span: Duration) -> impl fmt::Display {
    humantime::format_duration(span)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn errors_of(flags: &[&str]) -> Vec<String> {
        errors(&Args::try_parse_from([&["server"], flags].concat()).unwrap())
    }

    #[test]
    fn a_number_out_of_its_range_is_reported_with_the_range() {
        let check = |flag: &str, name: &str, found: &str, range: &str| {
            let expected = format!("{name} is {found}; it must be from {range}.");
            assert_eq!(errors_of(&[flag]), [expected], "{flag}");
        };
        let max = "18,446,744,073,709,551,615";
        let hundred_days = "3months 8days 16h 19m 12s";
        check("--max-running=0", "MAX_RUNNING", "0", "1 to 10,000");
        check("--max-running=18446744073709551615", "MAX_RUNNING", max, "1 to 10,000");
        check("--max-running=99999999999999999999999", "MAX_RUNNING", max, "1 to 10,000");
        check("--max-waiting=18446744073709551615", "MAX_WAITING", max, "0 to 1,000,000");
        check("--max-file-size=0", "MAX_FILE_SIZE", "0 B", "1 B to 1.0 EiB");
        check("--stream-window=3GiB", "STREAM_WINDOW", "3.0 GiB", "64.0 KiB to 2.0 GiB");
        check("--heartbeat=1ns", "HEARTBEAT", "1ns", "50ms to 5m");
        check("--heartbeat=100d", "HEARTBEAT", hundred_days, "50ms to 5m");
        check("--stall-timeout=1ms", "STALL_TIMEOUT", "1ms", "100ms to 1day");
        check("--dead-after=100d", "DEAD_AFTER", hundred_days, "100ms to 15m");
        check("--scrub-every=500ms", "SCRUB_EVERY", "500ms", "1s to 1year 18h");
        check("--reconnect-cap=0", "RECONNECT_CAP", "0s", "100ms to 2m");
    }

    #[test]
    fn a_duration_that_exceeds_every_date_is_out_of_range() {
        let flags =
            ["stall-timeout", "resume-within", "heartbeat", "scrub-every", "shutdown-grace"];
        for flag in flags {
            assert_eq!(errors_of(&[&format!("--{flag}=1000000years")]).len(), 1, "{flag}");
        }
    }

    #[test]
    fn the_ends_of_a_range_are_accepted() {
        let minima = ["--max-running=1", "--max-waiting=0", "--shutdown-grace=0", "--min-free=0"];
        assert_eq!(errors_of(&minima), NONE);
        let maxima = [
            "--max-running=10000",
            "--max-waiting=1000000",
            "--resume-within=366d",
            "--scrub-every=off",
        ];
        assert_eq!(errors_of(&maxima), NONE);
    }

    const NONE: [&str; 0] = [];
}
