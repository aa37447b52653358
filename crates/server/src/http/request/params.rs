//! The parameters of a request: decodes them, rejects repeated names, and parses the values.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use filepull_core::human;
use filepull_core::id::ClientId;
use filepull_core::problem::Problem;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::rejection::{Rejection, invalid};
use super::suggest::did_you_mean;

/// Parameters by name. A parameter without a value has an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Params {
    values: BTreeMap<String, String>,
    /// The raw values that contain a `+`, decoded as a plus sign instead of a space.
    with_plus: BTreeMap<String, String>,
}

/// Extractor of a URL without parameters: rejects every parameter except `format`.
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
    /// Parses a query or a form, such as `a=1&b=x+y%21&bare`.
    pub(crate) fn from_query(query: Option<&str>) -> Result<Self, Problem> {
        let mut params = Self::default();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (raw_name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(raw_name)?;
            if value.contains('+') {
                params.with_plus.insert(name.clone(), decode(&value.replace('+', "%2B"))?);
            }
            params.add(name, decode(value)?)?;
        }
        Ok(params)
    }

    /// Adds a parameter. Rejects a name that exists already.
    pub(crate) fn add(&mut self, name: String, value: String) -> Result<(), Problem> {
        if self.values.contains_key(&name) {
            let detail = format!("The parameter {:?} is given twice.", human::printable(&name, 80));
            return Err(invalid(detail, "Give each parameter once."));
        }
        self.values.insert(name, value);
        Ok(())
    }

    /// Merges `other` into `self`. Rejects a name that both have.
    pub(crate) fn merge(&mut self, other: Self) -> Result<(), Problem> {
        self.with_plus.extend(other.with_plus);
        other.values.into_iter().try_for_each(|(name, value)| self.add(name, value))
    }

    /// Rejects a name that is not in `known`. Every URL knows `format`.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        let is_known = |name: &str| name == "format" || known.contains(&name);
        let Some(name) = self.values.keys().find(|name| !is_known(name)) else { return Ok(()) };
        // A URL copied from the source of a page separates its parameters with `&amp;`.
        let typed = name.strip_prefix("amp;").unwrap_or(name);
        let meant = did_you_mean(typed, known.iter().copied());
        let shown = human::printable(name, 80);
        let detail = format!("There is no parameter {shown:?} here.{meant}");
        let hint = match known {
            [] => "The only parameter of this URL is format: json or text.".to_owned(),
            known => format!("Parameters are: {}.", known.join(", ")),
        };
        Err(invalid(detail, hint))
    }

    /// Returns a copy in which one parameter is replaced or added.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut params = self.clone();
        params.values.insert(name.to_owned(), value.to_owned());
        params
    }

    /// Formats the parameters as a query, sorted by name.
    pub(crate) fn to_query(&self) -> String {
        let encoded =
            |(name, value): (&String, &String)| format!("{}={}", encode(name), encode(value));
        self.values.iter().map(encoded).collect::<Vec<_>>().join("&")
    }

    /// Returns each name with its decoded value, sorted by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the decoded value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Returns the value with each typed `+` as a plus sign, which the caller may have meant.
    pub(crate) fn with_plus(&self, name: &str) -> Option<&str> {
        self.with_plus.get(name).map(String::as_str)
    }

    /// Parses the value as a client id.
    pub(crate) fn client(&self, name: &str) -> Result<Option<ClientId>, Problem> {
        self.get(name).map(parse_client).transpose()
    }

    /// Parses a time span. Without a value: `bare`; zero counts as absent.
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

    /// Parses a point in time: RFC 3339, or a span before `now`.
    pub(crate) fn time(
        &self,
        name: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Some(time.to_utc()));
        }
        let span = human::parse_duration(text).ok();
        let ago = span.and_then(|span| TimeDelta::from_std(span).ok());
        ago.and_then(|ago| now.checked_sub_signed(ago)).map(Some).ok_or_else(|| {
            let shown = human::printable(text, 80);
            let hint = format!("For example: {name}=24h or {name}=2026-02-05T14:00:00Z");
            invalid(format!("{name}: {shown:?} is not a time or a time span."), hint)
        })
    }

    /// Parses a switch. On: no value, `1` or `true`. Off: absent, `0` or `false`.
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

    /// Parses a keyword: returns the value of the matching entry of `choices`.
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
                let meant = did_you_mean(text, words());
                let shown = human::printable(text, 80);
                let detail = format!("{name}: {shown:?} is not a choice.{meant}");
                let known = words().collect::<Vec<_>>().join(", ");
                Err(invalid(detail, format!("Choices are: {known}.")))
            }
        }
    }
}

/// Parses a client id. The hint of the problem shows how to list the ids.
pub(crate) fn parse_client(text: &str) -> Result<ClientId, Problem> {
    ClientId::parse(text)
        .map_err(|error| invalid(error.to_string(), "list them: curl localhost:8080/clients"))
}

/// Formats a time as [`Params::time`] reads it: RFC 3339 in UTC, to the second.
pub(crate) fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Formats a span as people type it: `50s`, `10m`, `24h`, `30d`.
fn short(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(86400 * 7, 86400, "d"), (3600, 3600, "h"), (60, 60, "m")];
    let unit =
        units.into_iter().find(|(from, unit, _)| *from <= seconds && seconds.is_multiple_of(*unit));
    unit.map_or(format!("{seconds}s"), |(_, unit, letter)| format!("{}{letter}", seconds / unit))
}

/// The characters to encode: all except letters, digits and `.-_/~`, which are safe in double quotes
/// in a shell.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b'/').remove(b'~');

/// Percent-encodes text for a query. The result is safe in double quotes in a shell.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// Decodes a part of a query as a form: a `+` is a space. Rejects bytes that are not UTF-8.
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
    fn a_formatted_query_parses_to_the_same_parameters() {
        let params = params("q=a%26b%3d%C3%A9&limit=2").with("cursor", "1~x");
        assert_eq!(params.to_query(), "cursor=1~x&limit=2&q=a%26b%3D%C3%A9");
        assert_eq!(Params::from_query(Some(&params.to_query())), Ok(params));
    }

    #[test]
    fn a_typed_plus_is_a_space_and_the_plus_is_kept_beside_it() {
        let typed = params("id=client4&path=a+b%2Bc%20d.log");
        assert_eq!(typed.get("path"), Some("a b+c d.log"));
        assert_eq!(typed.with_plus("path"), Some("a+b+c d.log"));
        assert_eq!(params("path=a%20b&id=a+b").with_plus("path"), None);
    }

    #[test]
    fn invalid_utf_8_and_repeated_names_are_rejected() {
        for query in ["id=%ff", "%c3=1", "id=a&id=b"] {
            assert!(Params::from_query(Some(query)).is_err(), "{query}");
        }
    }

    #[test]
    fn a_mistyped_name_is_rejected_with_a_suggestion() {
        let check = |query, known: &[&str], detail, hint| {
            let problem = params(query).only(known).unwrap_err();
            assert_eq!((&*problem.detail, &*problem.hint), (detail, hint), "{query}");
        };
        let known = "Parameters are: id, wait.";
        let mistyped = "There is no parameter \"wiat\" here. Did you mean wait?";
        check("wiat=1", &["id", "wait"], mistyped, known);
        let copied = "There is no parameter \"amp;wait\" here. Did you mean wait?";
        check("id=a&amp;wait=5s", &["id", "wait"], copied, known);
        let unknown = "There is no parameter \"wait\" here.";
        check("wait", &[], unknown, "The only parameter of this URL is format: json or text.");
        assert_eq!(params("wait&format=json").only(&["id", "wait"]), Ok(()));
    }

    #[test]
    fn a_span_has_a_default_and_a_maximum() {
        let check = |query: &str, expected: Result<Option<u64>, &str>| {
            let span = params(query).span("wait", Duration::from_secs(50), 10 * MINUTE);
            let seconds = span.map(|span| span.map(|span| span.as_secs()));
            let found = seconds.map_err(|problem| problem.detail);
            assert_eq!(found, expected.map_err(str::to_owned), "{query}");
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
    fn a_time_is_absolute_or_a_span_before_now() {
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
