//! The names of downloads: `download-20260205-140000.txt`, with `-2`, `-3`… if the name is taken.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;

/// The name of a download in the folder of its client.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "String")]
pub struct DownloadName {
    /// `download-<YYYYMMDD>-<HHMMSS>`, with the time in UTC.
    stem: String,
    /// 1 is the first file of a second; its name has no number.
    number: u32,
    /// With its dot; empty if the source has no extension.
    extension: String,
}

impl DownloadName {
    /// Creates the name of a download that finished at `now`. `source_name` is the name of the file
    /// on its client.
    ///
    /// The time is UTC, because an hour of local time repeats each year. The extension is the one
    /// of the source, unless it is longer than 16 characters, not plain ASCII, or `tmp`, which
    /// partials have. `.tar.gz` counts as one extension: `.gz` alone would hide that the content is
    /// a tar file.
    pub fn new(now: DateTime<Utc>, source_name: &str) -> Self {
        let extension = extension_of(source_name).to_owned();
        Self { stem: now.format("download-%Y%m%d-%H%M%S").to_string(), number: 1, extension }
    }

    /// Returns the next name to try if this one is taken.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { number: self.number + 1, ..self.clone() }
    }

    /// Returns the common prefix of all names of one second: `download-<YYYYMMDD>-<HHMMSS>`.
    pub fn stem(&self) -> &str {
        &self.stem
    }

    /// Parses a name that [`Display`](fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (base, extension) = text.split_at(text.find('.').unwrap_or(text.len()));
        if extension != extension_of(text) {
            return None;
        }
        let mut parts = base.split('-');
        let digits = |part: Option<&str>, len: usize| {
            part.is_some_and(|p| p.len() == len && p.bytes().all(|b| b.is_ascii_digit()))
        };
        let is_stem =
            parts.next() == Some("download") && digits(parts.next(), 8) && digits(parts.next(), 6);
        let number = match parts.next() {
            None => 1,
            Some(number) => number.parse().ok().filter(|&n| 1 < n)?,
        };
        let stem_len = "download-YYYYMMDD-HHMMSS".len();
        (is_stem && parts.next().is_none()).then(|| Self {
            stem: base[..stem_len].to_owned(),
            number,
            extension: extension.to_owned(),
        })
    }
}

/// Returns the extension of a file with its dot, such as `.txt` or `.tar.gz`, or an empty text.
fn extension_of(name: &str) -> &str {
    let Some((stem, extension)) = name.rsplit_once('.') else { return "" };
    if stem.is_empty() || !is_plain(extension) {
        return "";
    }
    let base = match stem.rsplit_once('.') {
        Some((before, tar)) if !before.is_empty() && tar.eq_ignore_ascii_case("tar") => before,
        _ => stem,
    };
    &name[base.len()..]
}

fn is_plain(extension: &str) -> bool {
    (1..=16).contains(&extension.len())
        && extension.bytes().all(|b| b.is_ascii_alphanumeric())
        && !extension.eq_ignore_ascii_case("tmp")
}

impl fmt::Display for DownloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            1 => write!(f, "{}{}", self.stem, self.extension),
            number => write!(f, "{}-{number}{}", self.stem, self.extension),
        }
    }
}

impl From<DownloadName> for String {
    fn from(name: DownloadName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    fn at_two(source_name: &str) -> DownloadName {
        DownloadName::new(Utc.with_ymd_and_hms(2026, 2, 5, 14, 0, 0).unwrap(), source_name)
    }

    #[test]
    fn a_download_is_named_after_the_time_and_the_source() {
        let check = |source, name: &str| assert_eq!(at_two(source).to_string(), name);
        check("data.txt", "download-20260205-140000.txt");
        check("archive.tar.gz", "download-20260205-140000.tar.gz");
        check("menu.v2.TAR.zst", "download-20260205-140000.TAR.zst");
        check("menu.old.gz", "download-20260205-140000.gz");
        check(".tar.gz", "download-20260205-140000.gz");
        check("tar.gz", "download-20260205-140000.gz");
        check("menu.tar.tmp", "download-20260205-140000");
        check("data", "download-20260205-140000");
        check(".hidden", "download-20260205-140000");
        check("strange.t x/t", "download-20260205-140000");
        check("sneaky.tmp", "download-20260205-140000");
    }

    #[test]
    fn a_taken_name_is_numbered() {
        let second = at_two("data.txt").next();
        assert_eq!(second.to_string(), "download-20260205-140000-2.txt");
        assert_eq!(second.next().to_string(), "download-20260205-140000-3.txt");
    }

    #[test]
    fn a_name_is_parsed_from_its_text() {
        let tar = at_two("a.tar.gz");
        for name in [at_two("data.txt"), at_two("data").next(), at_two("a.gz").next().next(), tar] {
            assert_eq!(DownloadName::parse(&name.to_string()), Some(name));
        }
        for text in [
            "",
            "notes.txt",
            "download-1-2.txt",
            "download-20260205-140000-1.txt",
            "download-20260205-140000.old.gz",
            "download-20260205-140000.",
            "../x",
        ] {
            assert_eq!(DownloadName::parse(text), None, "{text:?}");
        }
    }
}
