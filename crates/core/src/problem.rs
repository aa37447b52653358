//! The catalogue of problems: the source of each HTTP error, the `error` of a transfer, each exit
//! code, and each page under `/problems`.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::keyword::Keyword;

/// Declares the catalogue. Each problem is one row, so every problem has a status and a page.
macro_rules! catalogue {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, exit $exit:literal,
        $title:literal, $next:literal;)*) => {
        /// A kind of problem. The text form never changes its meaning; new problems may be added.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
            /// A problem that this version does not know, read from a record of a newer one.
            Other(Keyword),
        }

        impl Code {
            /// All problems that this version knows, in the order of the pages.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// Returns the stable name, as in `/problems/client-offline`.
            pub fn as_str(&self) -> &str {
                match self { $(Code::$name => $text,)* Code::Other(keyword) => keyword.as_str() }
            }

            /// Returns the HTTP status. 4xx: the request cannot be fulfilled now; 502 and 504: the
            /// client failed; 500, 503 and 507: this server failed.
            pub fn status(self) -> u16 {
                match self { $(Code::$name => $status,)* Code::Other(_) => 500 }
            }

            /// Returns the exit code of a command that ends with this problem.
            pub fn exit(self) -> u8 {
                match self { $(Code::$name => $exit,)* Code::Other(_) => 1 }
            }

            /// Returns a short constant text (RFC 9457, `title`).
            pub fn title(self) -> &'static str {
                match self {
                    $(Code::$name => $title,)*
                    Code::Other(_) => "A problem that this version does not know",
                }
            }

            /// Returns the next step for the operator. A [`Problem`] may have a more precise one.
            pub fn next(self) -> &'static str {
                match self {
                    $(Code::$name => $next,)*
                    Code::Other(_) => "Read the documentation of the newer version.",
                }
            }
        }
    };
}

catalogue! {
    /// A parameter is invalid or missing.
    InvalidRequest = "invalid-request", 400, exit 2, "The request cannot be understood",
        "Correct the parameter that the answer names.";
    /// The request has no token, or not a valid one.
    SignedOut = "signed-out", 401, exit 3, "Sign in",
        "Send a token: curl -H \"Authorization: Bearer TOKEN\" ...; an administrator makes one with \
         `filepull token create NAME --role operator`.";
    /// The role of the caller does not allow the request.
    NotAllowed = "not-allowed", 403, exit 3, "Your role does not allow this",
        "Use a token with the role that the answer names.";
    /// A browser sent the request from another web site, or for a host that the server does not serve.
    CrossSiteRequest = "cross-site-request", 403, exit 3, "The request came from another web site",
        "Use curl or the command filepull; if the host name is right, add it to ALLOWED_HOSTS.";
    /// Too many requests of this caller, or too many failed sign-ins.
    TooManyRequests = "too-many-requests", 429, exit 7, "Too many requests",
        "Wait as long as Retry-After says, then try again.";
    /// No client with this id has ever connected.
    ClientUnknown = "client-unknown", 404, exit 4, "No such client",
        "List the clients: curl localhost:8080/clients";
    /// No transfer with this id is on record.
    TransferUnknown = "transfer-unknown", 404, exit 4, "No such transfer",
        "List the transfers: curl localhost:8080/transfers";
    /// The client has no such file.
    FileMissing = "file-missing", 404, exit 4, "The client has no such file",
        "Check the path on the client, or set FILE_PATH on its agent.";
    /// The path names a directory, a pipe or a device.
    NotAFile = "not-a-file", 409, exit 6, "The path does not name a regular file",
        "Request a file, not a directory, a pipe or a device.";
    /// No share of the agent matches the path.
    PathNotShared = "path-not-shared", 403, exit 4, "The client does not share this path",
        "Request a path that the client shares, or add it to SHARE on its agent.";
    /// The download was removed from the server's disk.
    DownloadDeleted = "download-deleted", 410, exit 4, "The download is no longer stored",
        "Pull the file again.";
    /// The file of a pull with `if-changed` equalled an earlier download, so there is no new one.
    FileUnchanged = "file-unchanged", 404, exit 4, "The transfer made no file: nothing had changed",
        "Fetch the earlier download, which the transfer names.";
    /// The client is known and not connected.
    ClientOffline = "client-offline", 409, exit 5, "The client is offline",
        "Add queue=24h to pull when it returns.";
    /// The client is enrolled, and no operator has approved it yet.
    ClientPending = "client-pending", 409, exit 5, "The client waits for approval",
        "Compare its fingerprint, then approve it: filepull approve ID";
    /// The client exists already, with another key.
    ClientExists = "client-exists", 409, exit 2, "The client exists already",
        "To replace the key of a machine that was set up again: filepull invite ID --replace";
    /// A step of the rotation of the certificate authority does not fit the state, or some clients.
    RotationBlocked = "rotation-blocked", 409, exit 2, "The certificate authority cannot do this step now",
        "Show its state: filepull ca";
    /// The server knows as many clients as it may.
    TooManyClients = "too-many-clients", 507, exit 7, "The server knows too many clients",
        "Forget a client that is gone (filepull forget ID), or raise MAX_CLIENTS.";
    /// The agent sent no receipt for the transfer.
    ReceiptMissing = "receipt-missing", 404, exit 4, "There is no receipt for this transfer",
        "Only agents that are enrolled sign receipts: filepull invite ID";
    /// The client did not return in time.
    ClientGone = "client-gone", 504, exit 5, "The client did not return in time",
        "Check the client's last_disconnect, and the agent's log on the client.";
    /// The source changed each time it was read.
    FileChanged = "file-changed", 409, exit 6, "The file changes while it is read",
        "Pull again when nothing writes to the file, or share a snapshot of it.";
    /// The client's operating system does not let the agent read the source.
    FileUnreadable = "file-unreadable", 502, exit 6, "The client cannot read the file",
        "Give the agent's account the right to read the file; if it has the right, check the disk.";
    /// The bytes that arrived were not the bytes that were read, twice.
    ChecksumMismatch = "checksum-mismatch", 502, exit 6, "The bytes were damaged on the way, twice",
        "Suspect a disk, the memory, or a proxy that changes data.";
    /// Anything else that the agent reports.
    AgentError = "agent-error", 502, exit 6, "The agent could not send the file",
        "Read the agent's log on the client.";
    /// The source is larger than this server accepts.
    FileTooLarge = "file-too-large", 413, exit 6, "The file is larger than this server accepts",
        "Raise MAX_FILE_SIZE on the server.";
    /// The client was connected, but each attempt received no byte for too long.
    TransferStalled = "transfer-stalled", 504, exit 6, "The transfer stalled",
        "Check the client's link; the server waits STALL_TIMEOUT for a byte.";
    /// An operator cancelled the transfer.
    Cancelled = "cancelled", 409, exit 6, "The transfer was cancelled",
        "Pull again if the file is still wanted.";
    /// The file was requested before its transfer was final.
    TransferActive = "transfer-active", 409, exit 6, "The transfer is not finished",
        "Add ?wait to the transfer's URL, or cancel it first.";
    /// The file does not have the requested range.
    RangeNotSatisfiable = "range-not-satisfiable", 416, exit 2, "The file has no such range",
        "Request bytes that the file has, or leave the Range header out.";
    /// The file is not the version that a condition of the request names.
    PreconditionFailed = "precondition-failed", 412, exit 2, "The file is another version",
        "Leave out the headers Range and If-..., or name the version by its ETag.";
    /// The idempotency key was used for another request.
    IdempotencyMismatch = "idempotency-mismatch", 422, exit 2, "The key belongs to another request",
        "Send a new Idempotency-Key with each new request.";
    /// The server has too little free space.
    ServerFull = "server-full", 507, exit 7, "The server has too little free space",
        "Free space in DATA_DIR, or lower MIN_FREE.";
    /// A write or an fsync on the server's disk failed.
    StorageFailed = "storage-failed", 500, exit 7, "The server could not store the file",
        "Check the server's log and its disk.";
    /// The records cannot be read or written, or their file was removed.
    RecordsFailed = "records-failed", 503, exit 7, "The server cannot use its records",
        "Check the folder .filepull in DATA_DIR and the server's log; if its files were moved or \
         replaced, put them back and restart the server.";
    /// A limit of the server is reached: waiting transfers, open files, or the time for an answer.
    ServerBusy = "server-busy", 503, exit 7, "The server is busy",
        "Try again later.";
    /// The server is shutting down.
    ServerStopping = "server-stopping", 503, exit 7, "The server is restarting",
        "Try again in 10 s.";
    /// The URL does not exist.
    NoSuchUrl = "no-such-url", 404, exit 1, "There is nothing at this URL",
        "See what there is: curl localhost:8080";
    /// The URL exists, but does not support this method.
    MethodNotAllowed = "method-not-allowed", 405, exit 1, "This URL does not support this method",
        "Use a method that the Allow header names.";
    /// A bug in the server.
    Internal = "internal", 500, exit 1, "Internal server error",
        "Report it with the request id and the server's log.";
}

impl Code {
    /// Parses the stable name. An unknown keyword becomes [`Other`](Self::Other).
    pub fn parse(text: &str) -> Option<Self> {
        let known = Self::ALL.iter().copied().find(|code| code.as_str() == text);
        known.or_else(|| Keyword::parse(text).map(Self::Other))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One occurrence of a problem: what happened, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// The problem's entry in the catalogue.
    pub code: Code,
    /// What happened, with the values, in one or two sentences.
    pub detail: String,
    /// What to do next, often a command to paste.
    pub hint: String,
}

impl Problem {
    /// Creates a problem with the next step of the catalogue.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), hint: code.next().to_owned() }
    }

    /// Replaces the next step of the catalogue.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_of_a_newer_version_keeps_its_name() {
        let code = Code::parse("from-the-future").unwrap();
        assert!(matches!(code, Code::Other(_)) && code.as_str() == "from-the-future", "{code:?}");
        assert_eq!(Code::parse("no code"), None);
    }

    #[test]
    fn every_problem_is_complete_and_has_a_unique_name() {
        for &code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(code), "two problems are called {code}");
            assert!((400..=599).contains(&code.status()), "{code}");
            assert!((1..=9).contains(&code.exit()), "{code}");
            assert!(!code.title().ends_with('.') && code.next().len() > 10, "{code}");
        }
    }
}
