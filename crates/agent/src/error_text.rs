//! Errors as text for the person at the machine. A transport library only says "transport error":
//! the reason is at the end of the error chain.

use std::error::Error;
use std::io;

use filepull_core::human;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// A part of an error chain, in lowercase, and the text for it. The first match is used.
const MEANINGS: &[(&str, &str)] = &[
    // Before the DNS entries: a DNS lookup opens files, so its error may have this cause.
    ("too many open files", "the agent may open too few files: raise LimitNOFILE or `ulimit -n`"),
    ("connection refused", "refused: nothing listens there"),
    ("temporary failure in name resolution", "this machine cannot reach its DNS server"),
    ("dns error", "the name of the server does not exist"),
    ("network is unreachable", "this machine has no network"),
    ("no route to host", "there is no route to the server"),
    ("keep-alive timed out", "the server no longer responds"),
    ("timed out", TIMED_OUT),
    ("timeout expired", TIMED_OUT),
    ("deadline has elapsed", TIMED_OUT),
    ("connection reset", CLOSED),
    ("broken pipe", CLOSED),
    ("unexpected end of file", CLOSED),
    ("connection closed", CLOSED),
    ("frame with invalid size", NOT_GRPC),
    ("invalid compression flag", NOT_GRPC),
    ("mapped from http status", "a proxy answers instead of the server"),
    ("not implemented", "it answers, but it is not a filepull server"),
];

const TIMED_OUT: &str = "no response in time: a firewall may drop the packets";
const CLOSED: &str = "the connection was closed";
const NOT_GRPC: &str = "it answers, but not with gRPC: does SERVER_ADDR point at the HTTP port?";

/// Returns why a session failed before the server sent its first message.
///
/// An HTTP/1 server closes a connection that speaks HTTP/2, often without a response.
pub(crate) fn handshake_error(error: &(dyn Error + 'static)) -> String {
    let text = connection_error(error);
    if text != CLOSED {
        return text;
    }
    "connection closed before the handshake: does SERVER_ADDR point at the HTTP port, or at a proxy \
     without a server?"
        .to_owned()
}

/// Returns why a connection failed.
pub(crate) fn connection_error(error: &(dyn Error + 'static)) -> String {
    let chain: Vec<String> = std::iter::successors(Some(error), |&error| error.source())
        .map(|error| error.to_string())
        .collect();
    let text = chain.join(": ").to_lowercase();
    match MEANINGS.iter().find(|(part, _)| text.contains(part)) {
        Some((_, meaning)) => (*meaning).to_owned(),
        // The last error of the chain is the nearest to the cause.
        None => human::printable(chain.last().map_or("", String::as_str), 200),
    }
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
        let error = Dialer { server, source_addr: None }.dial().await.unwrap_err();
        assert_eq!(connection_error(&error), "refused: nothing listens there");
    }

    #[test]
    fn a_known_error_is_replaced_by_its_meaning() {
        let check = |text: &str, meaning: &str| {
            assert_eq!(connection_error(&Error::other(text)), meaning);
        };
        check("dns error: Name or service not known", "the name of the server does not exist");
        check("Temporary failure in name resolution", "this machine cannot reach its DNS server");
        check("Timeout expired", TIMED_OUT);
        check("frame with invalid size", NOT_GRPC);
        let no_route = Error::from_raw_os_error(113);
        assert_eq!(connection_error(&no_route), "there is no route to the server");
    }

    #[test]
    fn a_connection_closed_before_the_handshake_names_the_setting() {
        let text = handshake_error(&Error::other("connection reset by peer"));
        assert!(text.contains("does SERVER_ADDR point at the HTTP port"), "{text}");
        assert_eq!(
            handshake_error(&Error::other("dns error")),
            "the name of the server does not exist"
        );
    }

    #[test]
    fn an_unknown_error_is_quoted_without_its_control_characters() {
        assert_eq!(connection_error(&Error::other("strange\u{1b}")), "strange?");
    }
}
