//! Decides who sent a request, and rejects requests that another web site made a browser send.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Method, Uri};
use chrono::Utc;
use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::limits::{TriggerLimits, too_many};
use super::rejection::Rejection;
use crate::access::{CallerIdentity, SignInError, Tokens};
use crate::config::{AccessConfig, HostList, ProxyList};

/// Maximum number of failed sign-ins at once, of all callers together. A caller with a valid token is
/// never affected. The limit is not by address, because a company sits behind one.
const MAX_FAILURES: NonZeroU32 = NonZeroU32::new(200).expect("not zero");

/// Maximum number of failed sign-ins per second afterwards.
const FAILURES_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).expect("not zero");

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Checks each request before its route. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    sign_in: Arc<SignInPolicy>,
    failures: Arc<DefaultDirectRateLimiter>,
    limits: Option<TriggerLimits>,
}

/// How callers sign in.
#[derive(Debug)]
enum SignInPolicy {
    /// Every caller may do everything. A request must name a host of this server, because a web page
    /// on a rebound name could call it otherwise.
    Off { allowed_hosts: HostList },
    /// A caller has a token, or comes through a proxy that signs users in.
    Required { tokens: Tokens, proxy: Option<SigningProxy> },
}

/// The proxies that sign users in, and the header in which they name the user.
#[derive(Debug)]
struct SigningProxy {
    header: HeaderName,
    addresses: ProxyList,
}

impl Gate {
    /// Returns a gate for callers who must sign in, or with no tokens for every caller.
    pub(crate) fn new(config: &AccessConfig, tokens: Option<Tokens>) -> Self {
        let addresses = config.trusted_proxies.clone();
        let proxy = config.auth_header.clone().map(|header| SigningProxy { header, addresses });
        let limits = tokens.is_some().then(TriggerLimits::default);
        let sign_in = match tokens {
            Some(tokens) => SignInPolicy::Required { tokens, proxy },
            None => SignInPolicy::Off { allowed_hosts: config.allowed_hosts.clone() },
        };
        let quota = Quota::per_second(FAILURES_PER_SECOND).allow_burst(MAX_FAILURES);
        let failures = Arc::new(RateLimiter::direct(quota));
        Self { sign_in: Arc::new(sign_in), failures, limits }
    }

    /// Replaces the limits of triggers.
    #[cfg(test)]
    pub(crate) fn with_limits(self, limits: TriggerLimits) -> Self {
        Self { limits: Some(limits), ..self }
    }

    /// Returns the limits of triggers; none if the server does not ask who calls.
    pub(crate) fn trigger_limits(&self) -> Option<&TriggerLimits> {
        self.limits.as_ref()
    }

    /// Returns who sent the request. Removes the token from it, so that no handler can log it.
    pub(crate) fn identify(
        &self,
        request: &mut Request,
        addr: Option<IpAddr>,
    ) -> Result<CallerIdentity, Problem> {
        let authorization = request.headers_mut().remove(AUTHORIZATION);
        let (tokens, proxy) = match &*self.sign_in {
            SignInPolicy::Off { .. } => return Ok(CallerIdentity::anonymous()),
            SignInPolicy::Required { tokens, proxy } => (tokens, proxy),
        };
        let is_trusted =
            |proxy: &&SigningProxy| addr.is_some_and(|addr| proxy.addresses.contains(addr));
        if let Some(proxy) = proxy.as_ref().filter(is_trusted)
            && let Some(user) = user(request.headers(), &proxy.header)?
        {
            return tokens.by_user(user, Utc::now()).map_err(|error| signed_out(&error));
        }
        let Some(value) = authorization else { return Err(no_token()) };
        let text = value.to_str().unwrap_or_default();
        let token = text.split_once(' ').filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
        let Some((_, token)) = token else {
            let detail = "The header Authorization is not \"Bearer TOKEN\".";
            return Err(Problem::new(Code::SignedOut, detail).hint(HOW_TO_SIGN_IN));
        };
        tokens.by_token(token.trim(), Utc::now()).map_err(|error| signed_out(&error))
    }

    /// Counts a failed sign-in. Returns a rejection if there are too many.
    pub(crate) fn count_failure(&self) -> Result<(), Rejection> {
        let detail = "Too many sign-ins have failed.";
        self.failures.check().map_err(|not_until| too_many(detail, &not_until))
    }

    /// Rejects a request for a host that is not this server, and a change that another web site made
    /// a browser send.
    pub(crate) fn check_origin(&self, request: &Request) -> Result<(), Problem> {
        if let SignInPolicy::Off { allowed_hosts } = &*self.sign_in {
            check_host(request.uri(), request.headers(), allowed_hosts)?;
        }
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if is_read || is_same_site(request.headers()) { Ok(()) } else { Err(cross_site()) }
    }
}

const HOW_TO_SIGN_IN: &str = "Sign in: add -H \"Authorization: Bearer TOKEN\".";

fn no_token() -> Problem {
    let hint = "An administrator makes a token: filepull token create NAME --role operator";
    Problem::new(Code::SignedOut, HOW_TO_SIGN_IN).hint(hint)
}

fn signed_out(error: &SignInError) -> Problem {
    let hint = match error {
        SignInError::Malformed(_) => "Copy the whole token again: it begins with filepull_.",
        SignInError::Unknown | SignInError::Expired { .. } => {
            "An administrator makes a new one: filepull token create NAME --role operator"
        }
        SignInError::UnknownUser(_) | SignInError::ExpiredUser { .. } => {
            "An administrator adds a line to TOKENS_FILE: user NAME viewer"
        }
    };
    Problem::new(Code::SignedOut, error.to_string()).hint(hint)
}

/// Returns the user whom a proxy names.
///
/// # Errors
/// The header is repeated or is not text: a caller may have added one that the proxy kept.
fn user<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next().map(|value| value.to_str()), values.next()) {
        (None, _) => Ok(None),
        (Some(Ok("")), None) => Ok(None),
        (Some(Ok(user)), None) => Ok(Some(user)),
        (Some(_), _) => {
            let detail = format!("The header {name} does not name one user.");
            let hint = "Let the proxy replace the header, not add to it.";
            Err(Problem::new(Code::SignedOut, detail).hint(hint))
        }
    }
}

/// Checks the host of a request: `Host`, and the one in the URL if it has one.
fn check_host(uri: &Uri, headers: &HeaderMap, allowed: &HostList) -> Result<(), Problem> {
    let in_header = headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let in_url = uri.authority().map(Authority::as_str);
    // HTTP/1.0 has no Host, and no browser speaks it.
    match in_header.chain(in_url).find(|host| !is_own_host(host, allowed)) {
        None => Ok(()),
        Some(host) => Err(other_host(host)),
    }
}

/// Returns whether the host cannot be the name of another site: localhost, an address, a name
/// without dots, or a name of `ALLOWED_HOSTS`.
fn is_own_host(text: &str, allowed: &HostList) -> bool {
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let host = authority.host().to_ascii_lowercase();
    if text.contains('@') || host.is_empty() {
        return false;
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_addr = host.parse::<IpAddr>().is_ok()
        || bracketed.is_some_and(|addr| addr.parse::<Ipv6Addr>().is_ok());
    is_addr || !host.contains('.') || allowed.0.contains(&host)
}

fn other_host(host: &str) -> Problem {
    let shown = human::printable(host, 253);
    let detail = format!("This server does not answer to \"{shown}\".");
    let authority = host.parse::<Authority>().ok();
    let name =
        authority.map_or("NAME".to_owned(), |authority| human::printable(authority.host(), 253));
    Problem::new(Code::CrossSiteRequest, detail).hint(format!("Add it: ALLOWED_HOSTS={name}"))
}

/// Returns whether no other web site made a browser send this request. A request without the headers
/// of browsers comes from a program.
fn is_same_site(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter().peekable();
    if sites.peek().is_some() {
        return sites.all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let is_own = |origin: &str| {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        authority.is_some_and(|origin| host.is_some_and(|host| host.eq_ignore_ascii_case(origin)))
    };
    headers.get_all(ORIGIN).iter().all(|origin| origin.to_str().is_ok_and(is_own))
}

fn cross_site() -> Problem {
    let detail = "This request came from another web site.";
    Problem::new(Code::CrossSiteRequest, detail).hint("Use curl, the CLI or the dashboard.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_that_another_site_cannot_have_is_accepted() {
        let allowed: HostList = "pull.example.com, Other.Example".parse().unwrap();
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:1",
            "[::1]:8080",
            "10.0.0.1",
            "server:8080",
            "pull.example.com",
            "PULL.example.com:443",
            "other.example",
        ] {
            assert!(is_own_host(host, &allowed), "{host}");
        }
        for host in [
            "evil.example",
            "pull.example.com.",
            "localhost.evil.example",
            "a@localhost",
            "",
            ":80",
            "127.0.0.1.evil.example",
            "x y",
            "pull.example.com@evil.example",
        ] {
            assert!(!is_own_host(host, &allowed), "{host}");
        }
    }

    #[test]
    fn a_request_that_another_site_caused_is_recognised() {
        let check = |sent: &[(&str, &str)], expected: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, "pull:8080".parse().unwrap());
            for (name, value) in sent {
                headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            assert_eq!(is_same_site(&headers), expected, "{sent:?}");
        };
        check(&[], true);
        check(&[("sec-fetch-site", "same-origin")], true);
        check(&[("sec-fetch-site", "none")], true);
        check(&[("sec-fetch-site", "same-site")], false);
        check(&[("sec-fetch-site", "cross-site"), ("origin", "http://pull:8080")], false);
        check(&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], false);
        check(&[("origin", "http://pull:8080")], true);
        check(&[("origin", "https://PULL:8080")], true);
        check(&[("origin", "http://pull:80")], false);
        check(&[("origin", "http://evil.example")], false);
        check(&[("origin", "null")], false);
    }
}
