//! The sender of a request: its address, the host it used, and the format it accepts.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::header::{ACCEPT, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};
use filepull_core::problem::{Code, Problem};
use uuid::Uuid;

use super::gate::Gate;
use super::params::Params;
use super::rejection::invalid;
use crate::access::{CallerIdentity, Role};
use crate::records::Actor;
use crate::scope::Scope;

/// The format of a response, for a person or for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Plain text: the default, also for `curl`.
    Text,
    /// Indented JSON, for `Accept: application/json`, `format=json` and the API.
    Json,
}

/// Marks a request that arrived over TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Https;

/// The sender of a request, and what its response needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) format: Format,
    /// The host that the caller used, such as `localhost:8080`, with `https://` before it if the connection
    /// is encrypted. Commands in a response name it.
    pub(crate) host: String,
    /// Identifies the request in the response and in the log.
    pub(crate) request_id: Uuid,
    /// The address of the other end, if it is known.
    addr: Option<IpAddr>,
    /// Who signed in, or why the caller is not signed in.
    identity: Result<CallerIdentity, Problem>,
}

impl Caller {
    /// Returns the caller of a request. An unknown `format` counts as text here;
    /// [`check_format`] rejects it.
    pub(crate) fn of(request: &mut Request, own_addr: SocketAddr, gate: &Gate) -> Self {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let addr = peer.map(|peer| peer.0.ip().to_canonical());
        let identity = gate.identify(request, addr);
        let uri = request.uri();
        let headers = request.headers();
        let named = headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = named.filter(|host| is_host(host)).map_or(own_addr.to_string(), str::to_owned);
        let scheme = if request.extensions().get::<Https>().is_some() { "https://" } else { "" };
        Self {
            format: format(uri, headers),
            host: format!("{scheme}{host}"),
            request_id: Uuid::now_v7(),
            addr,
            identity,
        }
    }

    /// Returns the caller for the audit.
    pub(crate) fn actor(&self) -> Actor {
        let request_id = Some(self.request_id);
        Actor { name: self.name(), address: self.address(), request_id }
    }

    /// Returns the name of the caller for records and logs: of the token or of the user, or else the
    /// address.
    pub(crate) fn name(&self) -> String {
        let named = self.identity.as_ref().ok().and_then(|identity| identity.name.as_deref());
        named.map_or_else(|| self.address(), str::to_owned)
    }

    /// Returns the address of the caller as text.
    pub(crate) fn address(&self) -> String {
        self.addr.map_or_else(|| "unknown".to_owned(), |addr| addr.to_string())
    }

    /// Returns the clients that the caller may see.
    pub(crate) fn scope(&self) -> &Scope {
        self.identity.as_ref().map_or(&Scope::Nothing, |identity| &identity.scope)
    }

    /// Returns an idempotency key that no other caller shares.
    pub(crate) fn own_key(&self, key: &str) -> String {
        let name = self.identity.as_ref().ok().and_then(|identity| identity.name.as_deref());
        // Neither a name nor a key contains a space.
        name.map_or_else(|| key.to_owned(), |name| format!("{name} {key}"))
    }

    /// Returns who signed in.
    ///
    /// # Errors
    /// Why the caller is not signed in.
    pub(crate) fn identity(&self) -> Result<&CallerIdentity, Problem> {
        self.identity.as_ref().map_err(Problem::clone)
    }

    /// Checks that the caller may see every client.
    ///
    /// # Errors
    /// The caller is limited to some clients.
    pub(crate) fn check_sees_all(&self) -> Result<(), Problem> {
        if self.scope().is_everything() {
            return Ok(());
        }
        let detail = "Your token is limited to some clients, and this concerns all of them.";
        let hint = "Use a token for all clients: filepull token create NAME --role admin";
        Err(Problem::new(Code::NotAllowed, detail).hint(hint))
    }

    /// Checks that the caller has this role or a more powerful one.
    ///
    /// # Errors
    /// The caller is not signed in, or has a less powerful role.
    pub(crate) fn check_role(&self, needed: Role) -> Result<(), Problem> {
        let identity = self.identity()?;
        if needed <= identity.role { Ok(()) } else { Err(not_allowed(identity.role, needed)) }
    }
}

fn not_allowed(role: Role, needed: Role) -> Problem {
    let detail = match (role, needed) {
        (Role::Viewer, Role::Operator) => {
            "Your token may look but not pull: its role is viewer.".to_owned()
        }
        (role, _) => format!("Your role {role} does not allow this."),
    };
    let hint =
        format!("Use a token with the role {needed}: filepull token create NAME --role {needed}");
    Problem::new(Code::NotAllowed, detail).hint(hint)
}

fn format(uri: &Uri, headers: &HeaderMap) -> Format {
    if uri.path().starts_with("/api/") {
        return Format::Json;
    }
    match format_param(uri).as_deref() {
        // The problems of a request for JSON lines are JSON.
        Some("json" | "jsonl") => Format::Json,
        Some(_) => Format::Text,
        None if accepts_lines(headers) => Format::Json,
        None => {
            let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
            if prefers_json(accept) { Format::Json } else { Format::Text }
        }
    }
}

fn format_param(uri: &Uri) -> Option<String> {
    let params = Params::from_query(uri.query()).ok()?;
    params.get("format").map(str::to_owned)
}

/// Returns whether the caller of the audit wants JSON lines.
pub(crate) fn wants_lines(params: &Params, headers: &HeaderMap) -> bool {
    params.get("format").map_or_else(|| accepts_lines(headers), |format| format == "jsonl")
}

fn accepts_lines(headers: &HeaderMap) -> bool {
    let mut accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accept.any(|value| value.trim().starts_with("application/x-ndjson"))
}

/// The only page that is also sent as JSON lines.
fn has_lines(uri: &Uri) -> bool {
    matches!(uri.path(), "/audit" | "/api/v1/audit")
}

/// Rejects an unknown value of `format`.
pub(crate) fn check_format(uri: &Uri) -> Result<(), Problem> {
    match format_param(uri).as_deref() {
        None | Some("json" | "text") => Ok(()),
        Some("jsonl") if has_lines(uri) => Ok(()),
        Some(other) => {
            Err(invalid(format!("There is no format {other:?}."), "Formats are: json, text."))
        }
    }
}

/// Returns whether the preferred range of the `Accept` headers is JSON (RFC 9110, 12.5.1).
fn prefers_json<'a>(accept: impl Iterator<Item = &'a str>) -> bool {
    let mut best_quality = 0.0;
    let mut best_is_json = false;
    for range in accept.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let stated = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
        let quality = stated.unwrap_or(1.0);
        let is_json = matches!(media_type.as_str(), "application/json" | "application/*")
            || (media_type.starts_with("application/") && media_type.ends_with("+json"));
        // Of equal qualities the first one wins.
        if best_quality < quality {
            best_quality = quality;
            best_is_json = is_json;
        }
    }
    best_is_json
}

/// Returns whether the text is a host with an optional port, and safe in a shell command. The syntax
/// of an authority (RFC 3986) allows characters that a shell interprets.
fn is_host(text: &str) -> bool {
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let host = authority.host();
    let has_valid_port = match text.strip_prefix(host) {
        Some("") => true,
        // False for user information before the host, and for a port without a number.
        Some(_) => authority.port_u16().is_some(),
        None => false,
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let has_valid_name = match bracketed {
        Some(addr) => addr.parse::<Ipv6Addr>().is_ok(),
        None => (1..=253).contains(&host.len()) && host.chars().all(is_name),
    };
    has_valid_name && has_valid_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_sent_only_to_callers_that_prefer_it() {
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
    fn only_a_safe_host_is_used_in_commands() {
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
