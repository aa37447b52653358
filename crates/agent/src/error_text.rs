//! What a failed connection means, for whoever stands before the machine. The libraries say
//! "transport error"; the reason is at the bottom of their chain.

use std::error::Error;

use filepull_core::human;

/// What a chain may say, and what that means. The first that fits is taken.
const MEANINGS: &[(&str, &str)] = &[
    // Before the DNS entries: a DNS lookup opens files, so its error may have this cause.
    ("too many open files", "the agent may open too few files: raise LimitNOFILE or `ulimit -n`"),
    ("connection refused", "refused: nothing listens there"),
    ("temporary failure in name resolution", "this machine cannot reach its DNS server"),
    ("dns error", "the name of the server does not exist"),
    ("network is unreachable", "this machine has no network"),
    ("no route to host", "there is no route to the server"),
    ("keep-alive timed out", "the server does not answer any more"),
    ("timed out", "no answer in time: a firewall may drop it"),
    ("timeout expired", "no answer in time: a firewall may drop it"),
    ("deadline has elapsed", "no answer in time: a firewall may drop it"),
    ("connection reset", CUT),
    ("broken pipe", CUT),
    ("unexpected end of file", CUT),
    ("connection closed", CUT),
    ("frame with invalid size", NOT_GRPC),
    ("invalid compression flag", NOT_GRPC),
    ("mapped from http status", "a proxy answers in the place of the server"),
    ("not implemented", "it answers, but it is not a filepull server"),
];

const CUT: &str = "the connection was cut";
const NOT_GRPC: &str = "it answers, but not gRPC: is SERVER_ADDR the HTTP port?";

/// Says in words why a line broke on which the server had not said a word yet.
///
/// An HTTP/1 server hangs up on whoever speaks HTTP/2 to it, often without an answer.
pub(crate) fn why_unheard(error: &(dyn Error + 'static)) -> String {
    match why(error) {
        cut if cut == CUT => {
            "hung up on before a word: is SERVER_ADDR the HTTP port, or a proxy without a server?"
                .to_owned()
        }
        other => other,
    }
}

/// Says in words why `error` came about.
pub(crate) fn why(error: &(dyn Error + 'static)) -> String {
    let chain: Vec<String> = std::iter::successors(Some(error), |&error| error.source())
        .map(|error| error.to_string())
        .collect();
    let all = chain.join(": ").to_lowercase();
    match MEANINGS.iter().find(|(said, _)| all.contains(said)) {
        Some((_, meaning)) => (*meaning).to_owned(),
        // The bottom is the nearest to the cause.
        None => human::printable(chain.last().map_or("", String::as_str), 200),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use crate::dial::{Dialer, ServerAddr};

    #[tokio::test]
    async fn a_closed_port_is_told_by_what_it_means() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = listener.local_addr().unwrap().to_string();
        drop(listener);
        let server = ServerAddr::parse(&closed).unwrap();
        let error = Dialer { server, source_addr: None }.dial().await.unwrap_err();
        assert_eq!(super::why(&error), "refused: nothing listens there");
    }

    #[test]
    fn the_reason_is_found_wherever_it_stands() {
        let check = |said: &str, means: &str| assert_eq!(super::why(&Error::other(said)), means);
        check("dns error: Name or service not known", "the name of the server does not exist");
        check("Temporary failure in name resolution", "this machine cannot reach its DNS server");
        check("Timeout expired", "no answer in time: a firewall may drop it");
        check("frame with invalid size", "it answers, but not gRPC: is SERVER_ADDR the HTTP port?");
        let by_the_kernel = Error::from_raw_os_error(113);
        assert_eq!(super::why(&by_the_kernel), "there is no route to the server");
    }

    #[test]
    fn what_nobody_foresaw_is_quoted_without_its_control_characters() {
        assert_eq!(super::why(&Error::other("odd\u{1b}")), "odd?");
    }
}
