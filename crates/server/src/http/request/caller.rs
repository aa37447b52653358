//! Who asks, under which name they reach this server, and how they want to be answered.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::header::{ACCEPT, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};
use filepull_core::problem::Problem;
use uuid::Uuid;

use super::params::Params;
use super::rejection::invalid;

/// Whether the answer is for a person or for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Plain text, as `curl` wants it.
    Text,
    /// Indented JSON.
    Json,
}

/// What a request says about whoever sent it.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// How to answer.
    pub(crate) format: Format,
    /// The name under which this server was reached, for commands to paste: `localhost:8080`.
    pub(crate) host: String,
    /// Names this request in the answer and in the log.
    pub(crate) request_id: Uuid,
    /// Where the request came from.
    addr: Option<IpAddr>,
}

impl Caller {
    /// Reads who asks. A format that is not known is ignored here and found by
    /// [`check_format`].
    pub(crate) fn of(request: &Request, own_addr: SocketAddr) -> Self {
        let (uri, headers) = (request.uri(), request.headers());
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        Self {
            format: format(uri, headers),
            host: host.filter(|host| is_host(host)).map_or(own_addr.to_string(), str::to_owned),
            request_id: Uuid::now_v7(),
            addr: peer.map(|peer| peer.0.ip().to_canonical()),
        }
    }

    /// The caller, for the record: without sign-in that is an address.
    pub(crate) fn name(&self) -> String {
        self.addr.map_or_else(|| "unknown".to_owned(), |addr| addr.to_string())
    }
}

fn format(uri: &Uri, headers: &HeaderMap) -> Format {
    if uri.path().starts_with("/api/") {
        return Format::Json;
    }
    match asked_format(uri).as_deref() {
        Some("json") => Format::Json,
        Some(_) => Format::Text,
        None => {
            let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
            if prefers_json(accept) { Format::Json } else { Format::Text }
        }
    }
}

fn asked_format(uri: &Uri) -> Option<String> {
    let params = Params::from_query(uri.query()).ok()?;
    params.get("format").map(str::to_owned)
}

/// Refuses a `format=` that does not exist.
pub(crate) fn check_format(uri: &Uri) -> Result<(), Problem> {
    match asked_format(uri).as_deref() {
        None | Some("json" | "text") => Ok(()),
        Some(other) => {
            Err(invalid(format!("There is no format {other:?}."), "Formats are: json, text."))
        }
    }
}

/// Does the best range of these `Accept` headers (RFC 9110, 12.5.1) mean JSON?
fn prefers_json<'a>(accept: impl Iterator<Item = &'a str>) -> bool {
    let mut best = (0.0, false);
    for range in accept.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
        let quality = quality.unwrap_or(1.0);
        let is_json = matches!(media_type.as_str(), "application/json" | "application/*")
            || (media_type.starts_with("application/") && media_type.ends_with("+json"));
        // Of several that are equally good, the first one counts.
        if best.0 < quality {
            best = (quality, is_json);
        }
    }
    best.1
}

/// Returns whether the text is a host with an optional port that is safe in a shell command. The
/// grammar of an authority allows characters that a shell interprets.
fn is_host(text: &str) -> bool {
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let host = authority.host();
    let port_is_fine = match text.strip_prefix(host) {
        Some("") => true,
        // Neither user information before the host nor a port without a number.
        Some(_) => authority.port_u16().is_some(),
        None => false,
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name_is_fine = match bracketed {
        Some(addr) => addr.parse::<Ipv6Addr>().is_ok(),
        None => (1..=253).contains(&host.len()) && host.chars().all(is_name),
    };
    name_is_fine && port_is_fine
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_ask_for_json_get_it_and_everybody_else_gets_text() {
        let check = |accept: &str, expected| {
            assert_eq!(prefers_json(std::iter::once(accept)), expected, "{accept}");
        };
        check("*/*", false);
        check("", false);
        check("application/json", true);
        check("application/json, text/plain, */*", true);
        check("application/problem+json", true);
        check("text/plain, application/json;q=0.5", false);
        check("text/plain;q=0.1, application/json;q=0.5", true);
        check("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false);
        check("application/json;q=0", false);
    }

    #[test]
    fn only_a_host_is_repeated_in_commands() {
        for host in ["localhost", "localhost:8080", "10.0.0.1:80", "[::1]:8080", "[::1]", "a_b.c"] {
            assert!(is_host(host), "{host}");
        }
        for host in [
            "", ":80", "a b", "a;rm -rf", "$(x)", "a:port", "a:99999", "[x]", "::1", "a/b", "a@b",
            "a:",
        ] {
            assert!(!is_host(host), "{host}");
        }
    }
}
