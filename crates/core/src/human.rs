//! Sizes, rates, times, addresses and errors as text for people, and parsed from it.

use std::borrow::Cow;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;

/// Formats a number of bytes, such as `100.0 MiB`.
pub fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// Formats an error and its causes, the outermost first: `write /x/a.tmp: no space left`.
pub fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Formats a number of bytes per second, such as `5.1 MiB/s`.
pub fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", size(bytes_per_second))
}

/// Formats a duration with tenths of a second: `under 0.1 s`, `19.8 s`, `2 min 5 s`, `2 h 13 min`,
/// `3 d 4 h`.
pub fn took(time: Duration) -> String {
    if time < NO_TIME {
        "under 0.1 s".to_owned()
    } else if time < Duration::from_mins(1) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        span(time)
    }
}

/// A shorter time would be shown as `0.0 s`.
const NO_TIME: Duration = Duration::from_millis(50);

/// Formats the duration and the rate of a transfer: `19.8 s (5.1 MiB/s)`. Without the rate if there
/// are too few bytes, or too little time, to measure it: `0.3 s`, `under 0.1 s`.
pub fn took_for(time: Duration, bytes: u64) -> String {
    const FEW: u64 = 64 * 1024;
    if bytes < FEW || time < NO_TIME {
        return took(time);
    }
    let per_second = u128::from(bytes) * 1000 / time.as_millis();
    format!("{} ({})", took(time), rate(u64::try_from(per_second).unwrap_or(u64::MAX)))
}

/// Formats a duration in whole seconds: `8 s`, `2 min`, `2 h 13 min`, `3 d 4 h`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let minutes = seconds / 60;
    let hours = minutes / 60;
    let days = hours / 24;
    let two = |big: u64, big_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big} {big_unit}"),
        small => format!("{big} {big_unit} {small} {small_unit}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => two(minutes, "min", seconds % 60, "s"),
        (0, _, _) => two(hours, "h", minutes % 60, "min"),
        _ => two(days, "d", hours % 24, "h"),
    }
}

/// Parses `90s`, `5m`, `24h`, `7d`, `1h30m`, or a bare number of seconds.
///
/// # Errors
/// Names the valid forms.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is not a time. Write 90s, 5m, 24h or 7d."))
}

/// Parses `10GiB`, `512MiB`, `2GB`, or a bare number of bytes.
///
/// # Errors
/// Names the valid forms.
pub fn parse_size(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| format!("{text:?} is not a size. Write 10GiB, 512MiB or a number of bytes."))
}

/// Parses a count such as `20`. A number that does not fit becomes the maximum, which is out of
/// range for every setting.
///
/// # Errors
/// Names the valid form.
pub fn parse_count(text: &str) -> Result<usize, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(count) if is_number => Ok(count),
        Err(_) if is_number => Ok(usize::MAX),
        _ => Err(format!("{text:?} is not a count. Write a whole number, such as 20.")),
    }
}

/// Parses a rate such as `10MiB/s` into bytes per second. The `/s` is optional.
///
/// # Errors
/// Names the valid form.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text.strip_suffix("/s").unwrap_or(text)) {
        Ok(0) | Err(_) => Err(format!("{text:?} is not a rate. Write for example 10MiB/s.")),
        Ok(rate) => Ok(rate),
    }
}

/// Parses an IP address and a port, such as `127.0.0.1:8080`.
///
/// # Errors
/// Names the valid form.
pub fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "{text:?} is not an address. Write an IP address and a port: 127.0.0.1:8080, or \
             0.0.0.0:8080 for every address of this machine."
        )
    })
}

/// Makes text from another machine safe for a log line or a terminal: unprintable characters become
/// `?`, and the text is cut after `max_chars`.
pub fn printable(text: &str, max_chars: usize) -> String {
    text.chars().take(max_chars).map(|c| if is_unprintable(c) { '?' } else { c }).collect()
}

/// Replaces unprintable characters by escapes such as `\n`, `\t` or `\u{202e}`.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unprintable(c) { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    Cow::Owned(escaped)
}

/// Returns whether `c` is a control character, a line separator, or a format character of Unicode
/// (category Cf). Such a character is invisible, or makes a terminal show text in another order.
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{600}'..='\u{605}'
                | '\u{61c}'
                | '\u{6dd}'
                | '\u{70f}'
                | '\u{890}'..='\u{891}'
                | '\u{8e2}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{110bd}'
                | '\u{110cd}'
                | '\u{13430}'..='\u{1343f}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_have_one_decimal_and_a_unit() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(104_857_600), "100.0 MiB");
        assert_eq!(rate(5_347_737), "5.1 MiB/s");
    }

    #[test]
    fn spans_show_at_most_two_units() {
        let check =
            |seconds, expected: &str| assert_eq!(span(Duration::from_secs(seconds)), expected);
        check(0, "0 s");
        check(59, "59 s");
        check(60, "1 min");
        check(125, "2 min 5 s");
        check(2 * 3600 + 13 * 60 + 9, "2 h 13 min");
        check(3 * 86400 + 4 * 3600, "3 d 4 h");
        assert_eq!(took(Duration::from_millis(19_800)), "19.8 s");
        assert_eq!(took(Duration::from_millis(50)), "0.1 s");
        assert_eq!(took(Duration::from_millis(49)), "under 0.1 s");
    }

    #[test]
    fn a_rate_is_shown_only_if_it_can_be_measured() {
        let check = |millis, bytes, expected: &str| {
            assert_eq!(took_for(Duration::from_millis(millis), bytes), expected);
        };
        check(19_800, 104_857_600, "19.8 s (5.1 MiB/s)");
        check(0, 0, "under 0.1 s");
        check(49, 1 << 20, "under 0.1 s");
        check(100, 8, "0.1 s");
        check(2_000, 1 << 20, "2.0 s (512.0 KiB/s)");
        check(u64::MAX, u64::MAX, "213503982334 d 14 h (1000 B/s)");
    }

    #[test]
    fn times_and_sizes_are_parsed() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(7 * 86400)));
        assert!(parse_duration("soon").is_err());
        assert_eq!(parse_size("10GiB"), Ok(10 << 30));
        assert_eq!(parse_rate("10MiB/s"), Ok(10 << 20));
        assert_eq!(parse_count("20"), Ok(20));
        assert_eq!(parse_count("99999999999999999999999"), Ok(usize::MAX));
        assert!(["", "-1", "+1", "1e3", " 20"].iter().all(|text| parse_count(text).is_err()));
        assert!(parse_rate("0").is_err());
        assert!(parse_size("big").is_err());
        assert_eq!(parse_addr("127.0.0.1:80"), Ok(SocketAddr::from(([127, 0, 0, 1], 80))));
        assert!(parse_addr("localhost:80").is_err_and(|error| error.contains("127.0.0.1:8080")));
    }

    #[test]
    fn unprintable_characters_are_detected() {
        let hidden = ['\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}', '\u{200b}', '\u{200f}'];
        let more = ['\u{feff}', '\u{2028}', '\u{85}', '\u{7f}', '\u{ad}', '\u{e0041}', '\t'];
        for c in hidden.into_iter().chain(more) {
            assert!(is_unprintable(c), "{c:?}");
        }
        // A combining accent, as macOS writes é, is printable.
        for c in ['a', ' ', '"', '\\', 'é', '\u{301}', '日', '🍕', '\u{a0}'] {
            assert!(!is_unprintable(c), "{c:?}");
        }
    }

    #[test]
    fn foreign_text_cannot_forge_a_log_line() {
        assert_eq!(printable("a\nb\u{1b}[31m\u{202e}c", 99), "a?b?[31m?c");
        assert_eq!(printable("abcdef", 3), "abc");
        assert_eq!(escaped("a\nb\u{1b}[31m\u{202e}c"), "a\\nb\\u{1b}[31m\\u{202e}c");
        assert_eq!(escaped("menu \"à la carte\" \\ 日本"), "menu \"à la carte\" \\ 日本");
    }
}
