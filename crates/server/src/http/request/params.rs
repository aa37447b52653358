//! The parameters of a request: decoded, each given once, and parsed into what they mean.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::{DateTime, SecondsFormat, Utc};
use filepull_core::human;
use filepull_core::id::ClientId;
use filepull_core::problem::Problem;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::rejection::{Rejection, invalid};
use super::suggest::nearest;

/// Parameters by name. One that was given without a value has an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Params {
    values: BTreeMap<String, String>,
    /// The values that were typed with a `+`, which means a space, as if it were a plus.
    with_plus: BTreeMap<String, String>,
}

/// A request to a URL that takes no parameters has none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoParams;

impl<S: Sync> FromRequestParts<S> for NoParams {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        Params::from_query(parts.uri.query())?.only(&[])?;
        Ok(Self)
    }
}

impl Params {
    /// Reads a query, or a form: `a=1&b=x+y%21&bare`.
    pub(crate) fn from_query(query: Option<&str>) -> Result<Self, Problem> {
        let mut params = Self::default();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            if value.contains('+') {
                params.with_plus.insert(name.clone(), decode(&value.replace('+', "%2B"))?);
            }
            params.add(name, decode(value)?)?;
        }
        Ok(params)
    }

    /// Adds one more. A name that is already there is a contradiction.
    pub(crate) fn add(&mut self, name: String, value: String) -> Result<(), Problem> {
        if self.values.contains_key(&name) {
            let detail = format!("The parameter {:?} is given twice.", human::printable(&name, 80));
            return Err(invalid(detail, "Give each parameter once."));
        }
        self.values.insert(name, value);
        Ok(())
    }

    /// Adds those of the other.
    pub(crate) fn merge(&mut self, other: Self) -> Result<(), Problem> {
        self.with_plus.extend(other.with_plus);
        other.values.into_iter().try_for_each(|(name, value)| self.add(name, value))
    }

    /// Refuses a name that is not one of `known`. `format` is known everywhere.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        let is_known = |name: &str| name == "format" || known.contains(&name);
        let Some(name) = self.values.keys().find(|name| !is_known(name)) else { return Ok(()) };
        // A URL copied from the source of a page separates its parameters with `&amp;`.
        let typed = name.strip_prefix("amp;").unwrap_or(name);
        let meant = nearest(typed, known.iter().copied());
        let meant = meant.map(|meant| format!(" Did you mean {meant}?")).unwrap_or_default();
        let name = human::printable(name, 80);
        let detail = format!("There is no parameter {name:?} here.{meant}");
        Err(invalid(
            detail,
            match known {
                [] => "This URL takes none but format=json and format=text.".to_owned(),
                known => format!("Parameters are: {}.", known.join(", ")),
            },
        ))
    }

    /// The same parameters, but for one.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut params = self.clone();
        params.values.insert(name.to_owned(), value.to_owned());
        params
    }

    /// Writes them as a query.
    pub(crate) fn to_query(&self) -> String {
        let pairs = self.values.iter();
        let pairs = pairs.map(|(name, value)| format!("{}={}", encode(name), encode(value)));
        pairs.collect::<Vec<_>>().join("&")
    }

    /// The value, as it was typed.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The value with a plus wherever a `+` was typed: what the caller may have meant.
    pub(crate) fn with_plus(&self, name: &str) -> Option<&str> {
        self.with_plus.get(name).map(String::as_str)
    }

    /// The value as a client id.
    pub(crate) fn client(&self, name: &str) -> Result<Option<ClientId>, Problem> {
        self.get(name).map(parse_client).transpose()
    }

    /// A time span. Given without a value it is `bare`; nought is none.
    pub(crate) fn span(
        &self,
        name: &str,
        bare: Duration,
        max: Duration,
    ) -> Result<Option<Duration>, Problem> {
        let hint = || format!("For example: {name}={}", short(bare));
        let span = match self.get(name) {
            None => return Ok(None),
            Some("") => bare,
            Some(text) => human::parse_duration(text)
                .map_err(|error| invalid(format!("{name}: {error}"), hint()))?,
        };
        if max < span {
            return Err(invalid(format!("{name} is at most {}.", short(max)), hint()));
        }
        Ok(Some(span).filter(|span| !span.is_zero()))
    }

    /// A point in time: RFC 3339, or so long ago.
    pub(crate) fn time(
        &self,
        name: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Some(time.to_utc()));
        }
        let ago = human::parse_duration(text).ok();
        let ago = ago.and_then(|ago| chrono::TimeDelta::from_std(ago).ok());
        ago.and_then(|ago| now.checked_sub_signed(ago)).map(Some).ok_or_else(|| {
            let text = human::printable(text, 80);
            let hint = format!("For example: {name}=24h or {name}=2026-02-05T14:00:00Z");
            invalid(format!("{name}: {text:?} is neither a time nor a span."), hint)
        })
    }

    /// A switch: bare, `1` or `true` is on.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            None | Some("0" | "false") => Ok(false),
            Some("" | "1" | "true") => Ok(true),
            Some(other) => {
                let detail = format!("{name}: {:?} is not a switch.", human::printable(other, 80));
                Err(invalid(detail, format!("Write {name}=1, or leave it out.")))
            }
        }
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let words = || choices.iter().map(|(word, _)| *word);
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let meant = nearest(text, words()).map(|meant| format!(" Did you mean {meant}?"));
                let (text, meant) = (human::printable(text, 80), meant.unwrap_or_default());
                let detail = format!("{name}: {text:?} is not a choice.{meant}");
                let choices = words().collect::<Vec<_>>().join(", ");
                Err(invalid(detail, format!("Choices are: {choices}.")))
            }
        }
    }
}

/// Parses a client id, and says where the good ones are listed.
pub(crate) fn parse_client(text: &str) -> Result<ClientId, Problem> {
    ClientId::parse(text)
        .map_err(|error| invalid(error.to_string(), "list them: curl localhost:8080/clients"))
}

/// Formats a time as [`Params::time`] reads it: RFC 3339 in UTC, to the second.
pub(crate) fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A span as it can be typed: `50s`, `10m`, `24h`, `30d`.
fn short(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(86400 * 7, 86400, "d"), (3600, 3600, "h"), (60, 60, "m")];
    let unit =
        units.into_iter().find(|(from, unit, _)| *from <= seconds && seconds.is_multiple_of(*unit));
    unit.map_or(format!("{seconds}s"), |(_, unit, letter)| format!("{}{letter}", seconds / unit))
}

/// Everything but letters, digits and `.-_/~` is encoded: the rest fits into double quotes in a
/// shell.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b'/').remove(b'~');

/// Makes text fit for a query, and for double quotes in a shell.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// Decodes a part of a query by the rules of forms, where `+` is a space. Bytes that are not UTF-8
/// are rejected.
fn decode(text: &str) -> Result<String, Problem> {
    let spaced = text.replace('+', " ");
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => {
            let hint = "Encode text as UTF-8, then percent-encode it: a space is %20.";
            Err(invalid("A parameter is not UTF-8.", hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn params(query: &str) -> Params {
        Params::from_query(Some(query)).unwrap()
    }

    #[test]
    fn a_query_is_decoded() {
        let params = params("id=client4&path=logs%2Fa+b.log&wait&&q=%zz%4");
        assert_eq!(params.get("id"), Some("client4"));
        assert_eq!(params.get("path"), Some("logs/a b.log"));
        assert_eq!(params.get("wait"), Some(""));
        assert_eq!(params.get("q"), Some("%zz%4"));
        assert_eq!(params.get("queue"), None);
    }

    #[test]
    fn a_query_is_written_as_it_was_read() {
        let params = params("q=a%26b%3d%C3%A9&limit=2").with("cursor", "1~x");
        assert_eq!(params.to_query(), "cursor=1~x&limit=2&q=a%26b%3D%C3%A9");
        assert_eq!(Params::from_query(Some(&params.to_query())), Ok(params));
    }

    #[test]
    fn a_plus_that_was_typed_is_a_space_and_can_be_read_back() {
        let typed = params("id=client4&path=a+b%2Bc%20d.log");
        assert_eq!(typed.get("path"), Some("a b+c d.log"));
        assert_eq!(typed.with_plus("path"), Some("a+b+c d.log"));
        assert_eq!(params("path=a%20b&id=a+b").with_plus("path"), None);
    }

    #[test]
    fn text_that_is_no_utf_8_and_names_given_twice_are_refused() {
        for query in ["id=%ff", "%c3=1", "id=a&id=b"] {
            assert!(Params::from_query(Some(query)).is_err(), "{query}");
        }
    }

    #[test]
    fn a_misspelt_name_is_named_with_the_right_one() {
        let problem = params("wiat=1").only(&["id", "wait"]).unwrap_err();
        assert_eq!(problem.detail, "There is no parameter \"wiat\" here. Did you mean wait?");
        assert_eq!(problem.hint, "Parameters are: id, wait.");
        let problem = params("id=a&amp;wait=5s").only(&["id", "wait"]).unwrap_err();
        assert_eq!(problem.detail, "There is no parameter \"amp;wait\" here. Did you mean wait?");
        let problem = params("wait").only(&[]).unwrap_err();
        assert_eq!(problem.hint, "This URL takes none but format=json and format=text.");
        assert_eq!(params("wait&format=json").only(&["id", "wait"]), Ok(()));
    }

    #[test]
    fn a_span_has_a_bare_form_and_a_limit() {
        let check = |query: &str, expected: Result<Option<u64>, &str>| {
            let span = params(query).span("wait", 50 * Duration::from_secs(1), 10 * MINUTE);
            let span = span.map(|span| span.map(|span| span.as_secs()));
            let expected = expected.map_err(str::to_owned);
            assert_eq!(span.map_err(|problem| problem.detail), expected, "{query}");
        };
        check("", Ok(None));
        check("wait", Ok(Some(50)));
        check("wait=", Ok(Some(50)));
        check("wait=90", Ok(Some(90)));
        check("wait=10m", Ok(Some(600)));
        check("wait=0", Ok(None));
        check("wait=11m", Err("wait is at most 10m."));
        check("wait=soon", Err("wait: \"soon\" is not a time. Write 90s, 5m, 24h or 7d."));
    }

    #[test]
    fn a_time_is_absolute_or_so_long_ago() {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let check = |query: &str, expected: Option<i64>| {
            let time = params(query).time("since", now).ok().flatten();
            assert_eq!(time.map(|time| time.timestamp()), expected, "{query}");
        };
        check("since=1h", Some(1_000_000 - 3600));
        check("since=1970-01-01T00:00:05Z", Some(5));
        check("since=1970-01-01T01:00:05%2B01:00", Some(5));
        check("since=yesterday", None);
        check("since=99999999999999d", None);
    }
}
