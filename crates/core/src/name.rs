//! The names of downloads: `download-20260205-140000.txt`, then `-2`, `-3`… when that is taken.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;

/// The name of a download inside its client's folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "String")]
pub struct DownloadName {
    /// `download-<YYYYMMDD>-<HHMMSS>`, UTC.
    stem: String,
    /// 1 for the first file of that second, which shows no number.
    number: u32,
    /// With its dot; empty when the source has none.
    extension: String,
}

impl DownloadName {
    /// Names a download finished at `now` whose source is called `source_name` on its client.
    ///
    /// Time is UTC: local time has an hour that repeats. The extension is the source's, unless it
    /// is longer than 16 characters, not plain ASCII, or the `tmp` of our own partials. That of
    /// `menu.tar.gz` is `.tar.gz`: under `.gz` alone nobody would know what is inside.
    pub fn new(now: DateTime<Utc>, source_name: &str) -> Self {
        let extension = extension_of(source_name).to_owned();
        Self { stem: now.format("download-%Y%m%d-%H%M%S").to_string(), number: 1, extension }
    }

    /// The next name to try when this one is taken.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { number: self.number + 1, ..self.clone() }
    }

    /// The common prefix of all names of one second: `download-<YYYYMMDD>-<HHMMSS>`.
    pub fn stem(&self) -> &str {
        &self.stem
    }

    /// Reads a name that [`Display`](fmt::Display) wrote.
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

/// The extension of a file, with its dot: nothing, `.txt` or `.tar.gz`.
fn extension_of(name: &str) -> &str {
    let Some((stem, extension)) = name.rsplit_once('.') else { return "" };
    if stem.is_empty() || !is_plain(extension) {
        return "";
    }
    let stem = match stem.rsplit_once('.') {
        Some((before, tar)) if !before.is_empty() && tar.eq_ignore_ascii_case("tar") => before,
        _ => stem,
    };
    &name[stem.len()..]
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
        check("odd.t x/t", "download-20260205-140000");
        check("sneaky.tmp", "download-20260205-140000");
    }

    #[test]
    fn a_taken_name_is_numbered() {
        let second = at_two("data.txt").next();
        assert_eq!(second.to_string(), "download-20260205-140000-2.txt");
        assert_eq!(second.next().to_string(), "download-20260205-140000-3.txt");
    }

    #[test]
    fn a_name_is_read_back_from_its_text() {
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
