//! Parses the headers `Prefer` (RFC 7240) and `Idempotency-Key`.

use axum::http::header::HeaderName;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use filepull_core::problem::Problem;

use super::extract::MAX_WAIT;
use super::params::Params;
use super::rejection::invalid;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Maximum length of a key in bytes: it is part of an index.
const MAX_KEY_LEN: usize = 255;

/// The applied preference, for the header `Preference-Applied` of the response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AppliedPreference(Option<String>);

impl AppliedPreference {
    /// Applies `Prefer: wait=30` and `Prefer: respond-async` as the parameter `wait`, unless the
    /// request has that parameter. Ignores unknown preferences, as RFC 7240 requires.
    pub(crate) fn apply(headers: &HeaderMap, params: &mut Params) -> Self {
        if params.get("wait").is_some() {
            return Self(None);
        }
        let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        let preferences: Vec<_> =
            values.flat_map(|value| value.split(',')).map(str::trim).collect();
        let wait = preferences.iter().find_map(|preference| wait_seconds(preference));
        match wait.map(|seconds| seconds.min(MAX_WAIT.as_secs())) {
            Some(seconds) => {
                *params = params.with("wait", &seconds.to_string());
                Self(Some(format!("wait={seconds}")))
            }
            // Without `wait` the server responds before the end in any case.
            None => {
                let is_async = |preference: &&str| preference.eq_ignore_ascii_case("respond-async");
                let applied = preferences.iter().any(is_async);
                Self(applied.then(|| "respond-async".to_owned()))
            }
        }
    }

    /// Sets the header of the response.
    pub(crate) fn add_to(self, response: &mut Response) {
        if let Some(value) = self.0.and_then(|applied| HeaderValue::try_from(applied).ok()) {
            response.headers_mut().insert(PREFERENCE_APPLIED, value);
        }
    }
}

/// Returns the seconds of `wait=30`. `None` for another preference and without a number.
fn wait_seconds(preference: &str) -> Option<u64> {
    let (name, value) = preference.split_once('=')?;
    let is_wait = name.trim().eq_ignore_ascii_case("wait");
    is_wait.then(|| value.trim().trim_matches('"').parse().ok())?
}

/// Parses the idempotency key of a request. The IETF draft requires a quoted string; most programs
/// send it without quotes.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let key = quoted.unwrap_or(text);
    let is_plain = key.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    if key.is_empty() || MAX_KEY_LEN < key.len() || !is_plain || values.next().is_some() {
        let detail =
            "An Idempotency-Key is 1-255 letters, digits or punctuation marks, without spaces.";
        let hint = "For example: -H 'Idempotency-Key: 8e03978e-40d5-43dd-bc93-6894a57f9324'";
        return Err(invalid(detail, hint));
    }
    Ok(Some(key.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_preference_counts_as_the_parameter_wait() {
        let check = |query, prefer: &[&'static str], wait: Option<&str>, applied: Option<&str>| {
            let mut params = Params::from_query(Some(query)).unwrap();
            let preference = AppliedPreference::apply(&headers(&PREFER, prefer), &mut params);
            let applied = AppliedPreference(applied.map(str::to_owned));
            assert_eq!((params.get("wait"), preference), (wait, applied), "{query} {prefer:?}");
        };
        check("", &["wait=5"], Some("5"), Some("wait=5"));
        check("", &["respond-async, wait=10"], Some("10"), Some("wait=10"));
        check("", &["respond-async"], None, Some("respond-async"));
        check("", &["return=minimal", "Wait = \"7\""], Some("7"), Some("wait=7"));
        check("", &["wait=99999"], Some("86400"), Some("wait=86400"));
        check("", &["wait=soon"], None, None);
        check("", &["handling=lenient"], None, None);
        check("wait=1", &["wait=5"], Some("1"), None);
        check("wait=1", &["respond-async"], Some("1"), None);
        check("", &[], None, None);
    }

    #[test]
    fn a_key_is_one_word_with_or_without_quotes() {
        let check = |values: &[&'static str], expected: Option<Option<&str>>| {
            let key = idempotency_key(&headers(&IDEMPOTENCY_KEY, values)).ok();
            assert_eq!(key, expected.map(|key| key.map(str::to_owned)), "{values:?}");
        };
        check(&[], Some(None));
        check(&["8e03978e-40d5"], Some(Some("8e03978e-40d5")));
        check(&["\"8e03978e-40d5\""], Some(Some("8e03978e-40d5")));
        check(&[""], None);
        check(&["\"\""], None);
        check(&["two words"], None);
        check(&["a", "b"], None);
    }
}
