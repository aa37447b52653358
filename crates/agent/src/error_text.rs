//! Errors as text for the person at the machine. A transport library only says "transport error":
//! the reason is at the end of the error chain.

use std::error::Error;
use std::io;

use filepull_core::human;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::diagnosis::Diagnosis;
use crate::diagnosis::DiagnosisCode::{
    self, Closed, Name, NoRoute, NotHttp2, Other, Refused, ServerWithTls, TimedOut,
};
use crate::dial::DialError;

mod tls_text;

/// A part of an error chain, in lowercase, its kind, and the text for it. The first match is used.
const MEANINGS: &[(&str, DiagnosisCode, &str)] = &[
    // Errors of `dial::plain_stream`: the HTTP/2 library keeps their text only.
    ("the server answers with tls", ServerWithTls, REQUIRES_TLS),
    ("the server answers with http/1", NotHttp2, NOT_GRPC),
    // Before the DNS entries: a DNS lookup opens files, so its error may have this cause.
    (
        "too many open files",
        Other,
        "the agent may open too few files: raise LimitNOFILE or `ulimit -n`",
    ),
    ("connection refused", Refused, "refused: nothing listens there"),
    ("temporary failure in name resolution", Name, "this machine cannot reach its DNS server"),
    ("dns error", Name, "the name of the server does not exist"),
    ("network is unreachable", NoRoute, "this machine has no network"),
    ("no route to host", NoRoute, "there is no route to the server"),
    ("keep-alive timed out", TimedOut, "the server no longer responds"),
    ("timed out", TimedOut, TIMED_OUT),
    ("timeout expired", TimedOut, TIMED_OUT),
    ("deadline has elapsed", TimedOut, TIMED_OUT),
    ("connection reset", Closed, CLOSED),
    ("broken pipe", Closed, CLOSED),
    ("unexpected end of file", Closed, CLOSED),
    ("connection closed", Closed, CLOSED),
    // Without the end of TLS: the server was killed.
    ("peer closed connection", Closed, CLOSED),
    ("frame with invalid size", NotHttp2, NOT_GRPC),
    ("invalid compression flag", NotHttp2, NOT_GRPC),
    ("mapped from http status", NotHttp2, "a proxy answers instead of the server"),
    ("not implemented", NotHttp2, "it answers, but it is not a filepull server"),
];

const REQUIRES_TLS: &str = "the server requires TLS: remove http:// from SERVER_ADDR, and set INVITE to \
                            the string that `filepull invite` prints";
const TIMED_OUT: &str = "no response in time: a firewall may drop the packets";
const CLOSED: &str = "the connection was closed";
const NOT_GRPC: &str = "it answers, but not with gRPC: does SERVER_ADDR point at the HTTP port?";

/// Returns why a session failed before the server sent its first message.
///
/// An HTTP/1 server closes a connection that speaks HTTP/2, often without a response.
pub(crate) fn handshake_error(error: &(dyn Error + 'static)) -> Diagnosis {
    let failure = connection_error(error);
    if failure.text != CLOSED {
        return failure;
    }
    let text = "connection closed before the handshake: does SERVER_ADDR point at the HTTP port, or at a \
                proxy without a server?";
    Diagnosis::new(Closed, text)
}

/// Returns why a connection failed.
pub(crate) fn connection_error(error: &(dyn Error + 'static)) -> Diagnosis {
    if let Some(failure) = causes(error).find_map(known_failure) {
        return failure;
    }
    meaning(error)
}

/// Returns an error and its causes. `io::Error::source` skips the error that it wraps.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
}

/// Returns the failure for an error that has a type of its own.
fn known_failure(error: &(dyn Error + 'static)) -> Option<Diagnosis> {
    match error.downcast_ref::<DialError>()? {
        DialError::Tcp(_) => None,
        DialError::NotHttp2 => Some(tls_text::not_http2()),
        DialError::Tls(error) => Some(tls_text::handshake_failure(error)),
        DialError::Proxy { proxy, has_login, source } => {
            Some(proxy_failure(proxy, *has_login, source.as_ref()))
        }
    }
}

fn proxy_failure(proxy: &str, has_login: bool, error: &(dyn Error + 'static)) -> Diagnosis {
    let chain = chain(error);
    if chain.contains("proxy authorization required") {
        let text = if has_login {
            format!(
                "the proxy {proxy} rejects the user or the password of HTTPS_PROXY (407): correct them, \
                 or exempt the server with NO_PROXY"
            )
        } else {
            format!(
                "the proxy {proxy} requires a login (407): write it into HTTPS_PROXY as \
                 http://user:password@host:port, or exempt the server with NO_PROXY"
            )
        };
        return Diagnosis::new(DiagnosisCode::ProxyLogin, text);
    }
    let text = if chain.contains("tunnel error: unsuccessful") {
        format!(
            "the proxy {proxy} does not connect to the server: allow CONNECT to its port there, or exempt \
             the server with NO_PROXY"
        )
    } else {
        format!("the proxy {proxy} of HTTPS_PROXY cannot be used: {}", meaning(error).text)
    };
    Diagnosis::new(DiagnosisCode::ProxyFailed, text)
}

fn meaning(error: &(dyn Error + 'static)) -> Diagnosis {
    let chain_text = chain(error);
    match MEANINGS.iter().find(|(part, ..)| chain_text.contains(part)) {
        Some(&(_, code, meaning)) => Diagnosis::new(code, meaning),
        // The last error of the chain is the nearest to the cause.
        None => {
            let last = causes(error).last().map(ToString::to_string).unwrap_or_default();
            Diagnosis::new(Other, human::printable(&last, 200))
        }
    }
}

/// Returns the messages of an error and its causes, in lowercase.
fn chain(error: &(dyn Error + 'static)) -> String {
    let messages: Vec<String> = causes(error).map(ToString::to_string).collect();
    messages.join(": ").to_lowercase()
}

/// Returns the message of an operating system error, without its number.
pub(crate) fn io_error(error: &io::Error) -> String {
    if matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE)) {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        return format!("too many open files on the client: the limit of the agent is {limit}");
    }
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(text, _)| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;
    use crate::dial::{Dialer, ServerAddr};

    #[tokio::test]
    async fn a_closed_port_is_reported_as_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = listener.local_addr().unwrap().to_string();
        drop(listener);
        let server = ServerAddr::parse(&closed).unwrap();
        let error = Dialer::plain_text(server).dial().await.unwrap_err();
        assert_eq!(connection_error(&error).text, "refused: nothing listens there");
    }

    #[test]
    fn a_known_error_is_replaced_by_its_meaning() {
        let check = |text: &str, meaning: &str| {
            assert_eq!(connection_error(&Error::other(text)).text, meaning);
        };
        check("dns error: Name or service not known", "the name of the server does not exist");
        check("Temporary failure in name resolution", "this machine cannot reach its DNS server");
        check("Timeout expired", TIMED_OUT);
        check("frame with invalid size", NOT_GRPC);
        check("peer closed connection without sending TLS close_notify: https://x.example", CLOSED);
        let no_route = Error::from_raw_os_error(113);
        assert_eq!(connection_error(&no_route).text, "there is no route to the server");
    }

    #[test]
    fn a_connection_closed_before_the_handshake_names_the_setting() {
        let text = handshake_error(&Error::other("connection reset by peer")).text;
        assert!(text.contains("does SERVER_ADDR point at the HTTP port"), "{text}");
        assert_eq!(
            handshake_error(&Error::other("dns error")).text,
            "the name of the server does not exist"
        );
    }

    #[test]
    fn an_unknown_error_is_quoted_without_its_control_characters() {
        assert_eq!(connection_error(&Error::other("strange\u{1b}")).text, "strange?");
    }
}
