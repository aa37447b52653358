//! The range of each number in the settings. A number outside its range is rejected, and the
//! message names the range.

use std::fmt;
use std::time::Duration;

use filepull_core::{bounds, human};

use super::Args;

/// RFC 9113, section 6.9.1, less the headroom that the connection has over its streams.
pub(super) const MAX_WINDOW: u32 = (1 << 31) - 1 - (4 << 20);

/// Larger than any file system, and the records can still add it up.
const MAX_SIZE: u64 = 1 << 60;

const DAY: Duration = Duration::from_hours(24);

/// Longer than any sensible setting, and short enough to be added to any date.
const YEAR: Duration = Duration::from_hours(366 * 24);

/// One sentence for each number that is out of its range.
pub(super) fn mistakes(args: &Args) -> Vec<String> {
    let millis = Duration::from_millis;
    let size = |bytes: u64| human::size(bytes);
    let window = 64 * 1024..=u64::from(MAX_WINDOW);
    let found = [
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
    let (value, min, max) = (show(value), show(*range.start()), show(*range.end()));
    Some(format!("{name} is {value}; it must be from {min} to {max}."))
}

/// `10,000`.
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

/// `100ms`, `1h`, `366days`: as it would be typed.
fn span(span: Duration) -> impl fmt::Display {
    humantime::format_duration(span)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn said(typed: &[&str]) -> Vec<String> {
        mistakes(&Args::try_parse_from([&["server"], typed].concat()).unwrap())
    }

    #[test]
    fn a_number_out_of_its_range_is_told_with_the_range() {
        let check = |typed: &str, message: &str| assert_eq!(said(&[typed]), [message], "{typed}");
        let running = "MAX_RUNNING is 0; it must be from 1 to 10,000.";
        check("--max-running=0", running);
        let most = "18,446,744,073,709,551,615";
        let running = format!("MAX_RUNNING is {most}; it must be from 1 to 10,000.");
        check("--max-running=18446744073709551615", &running);
        check("--max-running=99999999999999999999999", &running);
        let waiting = format!("MAX_WAITING is {most}; it must be from 0 to 1,000,000.");
        check("--max-waiting=18446744073709551615", &waiting);
        let size = "MAX_FILE_SIZE is 0 B; it must be from 1 B to 1.0 EiB.";
        check("--max-file-size=0", size);
        let window = "STREAM_WINDOW is 3.0 GiB; it must be from 64.0 KiB to 2.0 GiB.";
        check("--stream-window=3GiB", window);
        let heartbeat = "HEARTBEAT is 1ns; it must be from 50ms to 5m.";
        check("--heartbeat=1ns", heartbeat);
        let stall = "STALL_TIMEOUT is 1ms; it must be from 100ms to 1day.";
        check("--stall-timeout=1ms", stall);
        let heartbeat = "HEARTBEAT is 3months 8days 16h 19m 12s; it must be from 50ms to 5m.";
        check("--heartbeat=100d", heartbeat);
        let dead_after = "DEAD_AFTER is 3months 8days 16h 19m 12s; it must be from 100ms to 15m.";
        check("--dead-after=100d", dead_after);
        check("--reconnect-cap=0", "RECONNECT_CAP is 0s; it must be from 100ms to 2m.");
    }

    #[test]
    fn a_span_that_no_date_survives_is_out_of_range() {
        let spans = ["stall-timeout", "resume-within", "heartbeat", "dead-after", "shutdown-grace"];
        for flag in spans {
            assert_eq!(said(&[&format!("--{flag}=1000000years")]).len(), 1, "{flag}");
        }
    }

    #[test]
    fn the_ends_of_a_range_are_inside() {
        let least = ["--max-running=1", "--max-waiting=0", "--shutdown-grace=0", "--min-free=0"];
        assert_eq!(said(&least), NONE);
        let most = ["--max-running=10000", "--max-waiting=1000000", "--resume-within=366d"];
        assert_eq!(said(&most), NONE);
    }

    const NONE: [&str; 0] = [];
}
