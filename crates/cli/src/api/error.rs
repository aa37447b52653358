//! Why an operator's command failed: the message on standard error, and the exit code of the catalogue.

use std::error::Error;
use std::fmt;

use filepull_core::human::{self, printable};
use filepull_core::problem::Code;
use serde_json::{Value, json};

use crate::api::ServerUrl;

/// Exit code: the server cannot be reached.
const UNREACHABLE: u8 = 9;

/// Exit code: wrong usage.
const USAGE: u8 = 2;

/// Why an operator's command failed.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// The server answered with a problem.
    Problem(ServerProblem),
    /// There was no answer. Exit code 9.
    Unreachable {
        /// What happened.
        detail: String,
        /// What to do next.
        hint: String,
    },
    /// The command line, or a file that it names, is wrong; nothing was sent. Exit code 2.
    Usage {
        /// What is wrong.
        detail: String,
    },
    /// Anything else. Exit code 1.
    Other(anyhow::Error),
}

/// A problem (RFC 9457) that the server reported, with all members.
#[derive(Debug)]
pub(crate) struct ServerProblem {
    status: u16,
    members: Value,
}

impl ServerProblem {
    /// Parses the body of an answer with an error status. A proxy in between may have written it,
    /// so every member may be missing.
    pub(crate) fn new(status: u16, body: &[u8]) -> Self {
        let parsed = serde_json::from_slice::<Value>(body).ok();
        let problem = parsed.filter(|members| members.get("code").is_some_and(Value::is_string));
        let members = problem.unwrap_or_else(|| {
            json!({
                "code": "unexpected-answer",
                "status": status,
                "detail": format!("The server answered with status {status}, which is no answer of filepull."),
                "hint": "Check FILEPULL_SERVER, and the proxy in front of the server if there is one.",
            })
        });
        Self { status, members }
    }

    /// Returns a member that is text, safe for a terminal.
    pub(crate) fn text(&self, member: &str) -> Option<String> {
        let value = self.members.get(member)?.as_str()?;
        Some(printable(value, 2000)).filter(|text| !text.is_empty())
    }

    /// Returns the exit code of the catalogue. For a code of a newer server the status decides.
    fn exit_code(&self) -> u8 {
        let name = self.text("code").unwrap_or_default();
        match Code::ALL.iter().find(|code| code.as_str() == name) {
            Some(code) => code.exit(),
            None => match self.status {
                400 | 422 => USAGE,
                401 | 403 => 3,
                404 | 410 => 4,
                429 | 503 | 507 => 7,
                _ => 1,
            },
        }
    }

    /// Replaces the next step.
    pub(crate) fn next(mut self, hint: &str) -> Self {
        self.members["hint"] = Value::String(hint.to_owned());
        self
    }

    /// Replaces a part of the next step.
    pub(crate) fn replace_in_hint(mut self, from: &str, to: &str) -> Self {
        if let Some(hint) = self.text("hint") {
            self.members["hint"] = Value::String(hint.replace(from, to));
        }
        self
    }

    /// Puts text before the detail, such as the line of a file that the problem is about.
    pub(crate) fn about(mut self, place: &str) -> Self {
        let detail = format!("{place}: {}", self.text("detail").unwrap_or_default());
        self.members["detail"] = Value::String(detail);
        self
    }
}

impl CommandError {
    /// Returns the error of a wrong command line or file.
    pub(crate) fn usage(detail: impl Into<String>) -> Self {
        Self::Usage { detail: detail.into() }
    }

    /// Returns the exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Problem(problem) => problem.exit_code(),
            Self::Unreachable { .. } => UNREACHABLE,
            Self::Usage { .. } => USAGE,
            Self::Other(_) => 1,
        }
    }

    /// Returns the error as one problem object.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Problem(problem) => problem.members.clone(),
            Self::Unreachable { detail, hint } => {
                json!({ "code": "server-unreachable", "detail": detail, "hint": hint })
            }
            Self::Usage { detail } => json!({ "code": Code::InvalidRequest, "detail": detail }),
            Self::Other(error) => json!({ "code": Code::Internal, "detail": format!("{error:#}") }),
        }
    }

    /// Explains why a request got no answer. `server` is where it was sent.
    pub(crate) fn no_answer(server: &ServerUrl, error: &reqwest::Error) -> Self {
        if let Some(rejection) = filepull_trust::server_rejection(error) {
            let detail = printable(&format!("{server} is not trusted: {rejection}"), 2000);
            return Self::Unreachable { detail, hint: CA_HINT.to_owned() };
        }
        let cause = human::chain(error);
        let (what, hint) = if error.is_timeout() && !error.is_connect() {
            ("did not answer in time".to_owned(), "Check its log and its disk, then try again.")
        } else if error.is_connect() {
            (format!("cannot be reached: {}", last_cause(error)), hint_for(&cause))
        } else {
            (
                format!("closed the connection before its answer: {}", last_cause(error)),
                if is_not_http(&cause) { HTTPS_HINT } else { UNKNOWN_OUTCOME },
            )
        };
        let detail = printable(&format!("{server} {what}"), 2000);
        Self::Unreachable { detail, hint: hint.to_owned() }
    }
}

const SERVER_HINT: &str =
    "Is the server running? Name another one: --server URL, or FILEPULL_SERVER.";

const CA_HINT: &str = "If the server has a private certificate, name the root that signed it: \
                       --ca-file FILE, or FILEPULL_CA.";

const PLAIN_HINT: &str =
    "The server speaks plain HTTP at this port: write http:// instead of https://.";

const HTTPS_HINT: &str =
    "If the server speaks HTTPS at this port, write https:// instead of http://.";

const UNKNOWN_OUTCOME: &str =
    "The server may have carried out the command: check before you repeat it.";

/// Returns the next step for a connection that failed. Neither hyper nor rustls has a type for it
/// that reqwest passes on, so the text decides.
fn hint_for(cause: &str) -> &'static str {
    if cause.contains("corrupt message") || cause.contains("InvalidContentType") {
        PLAIN_HINT
    } else {
        SERVER_HINT
    }
}

fn is_not_http(cause: &str) -> bool {
    cause.contains("invalid HTTP version") || cause.contains("invalid HTTP")
}

/// Returns the innermost cause: "Connection refused (os error 111)".
fn last_cause(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Problem(problem) => {
                f.write_str(&problem.text("detail").or(problem.text("title")).unwrap_or_default())?;
                problem.text("hint").map_or(Ok(()), |hint| write!(f, "\n{hint}"))
            }
            Self::Unreachable { detail, hint } => write!(f, "{detail}\n{hint}"),
            Self::Usage { detail } => f.write_str(detail),
            Self::Other(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for CommandError {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_problem_of_the_catalogue_has_its_exit_code() {
        for code in Code::ALL {
            let body = json!({ "code": code, "detail": "what", "hint": "next" }).to_string();
            let error = CommandError::Problem(ServerProblem::new(code.status(), body.as_bytes()));
            assert_eq!(error.exit_code(), code.exit(), "{code}");
            assert_eq!(error.to_string(), "what\nnext");
        }
    }

    #[test]
    fn a_problem_of_a_newer_server_has_the_exit_code_of_its_status() {
        for (status, expected) in
            [(400, 2), (401, 3), (403, 3), (404, 4), (409, 1), (429, 7), (503, 7)]
        {
            let body = br#"{"code":"from-the-future","detail":"what"}"#;
            assert_eq!(ServerProblem::new(status, body).exit_code(), expected, "{status}");
        }
    }

    #[test]
    fn an_answer_that_is_no_problem_names_the_status_and_the_next_step() {
        for body in [&b"<html>502</html>"[..], b"", b"{}", b"[1]", b"{\"code\":1}"] {
            let error = CommandError::Problem(ServerProblem::new(502, body));
            let text = error.to_string();
            assert!(text.contains("status 502") && text.contains("FILEPULL_SERVER"), "{text}");
            assert_eq!(error.exit_code(), 1);
        }
    }

    #[test]
    fn text_of_the_server_cannot_control_the_terminal() {
        let body = json!({ "code": "internal", "detail": "a\u{1b}[31mb\r\nc" }).to_string();
        let error = CommandError::Problem(ServerProblem::new(500, body.as_bytes()));
        assert_eq!(error.to_string(), "a?[31mb??c");
    }
}
