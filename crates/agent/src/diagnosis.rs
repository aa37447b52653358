//! Why there is no connection or no session: a stable code for scripts, and a text for the person at the
//! machine. The text says what happened and what to do next.

use serde::{Deserialize, Serialize};

/// Why there is no connection or no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Diagnosis {
    pub(crate) code: DiagnosisCode,
    /// What happened, then what to do next. No full stop.
    pub(crate) text: String,
}

impl Diagnosis {
    pub(crate) fn new(code: DiagnosisCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// The kinds of failure, in `status.json` and in `filepull-agent status --json`. A published name does not
/// change its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DiagnosisCode {
    /// The name of the server or the DNS.
    Name,
    /// Nothing listens.
    Refused,
    /// No route, or no network.
    NoRoute,
    /// No response.
    TimedOut,
    /// The connection was closed.
    Closed,
    /// The proxy wants credentials, or others.
    ProxyLogin,
    /// The proxy opens no connection.
    ProxyFailed,
    /// The server answers without TLS.
    ServerWithoutTls,
    /// The server wants TLS.
    ServerWithTls,
    /// The server or a firewall offers no TLS 1.3.
    TlsTooOld,
    /// The server, or a proxy before it, speaks HTTP/1 only.
    NotHttp2,
    /// The key of the server is not pinned.
    PinMismatch,
    /// No root of this machine signed the server's certificate.
    UnknownIssuer,
    /// The dates of the certificate, or the clock of this machine.
    Clock,
    /// The certificate is for another name.
    OtherName,
    /// Another error of TLS.
    Tls,
    /// The server does not know the key, or this machine has none.
    UnknownKey,
    /// The client waits for its approval.
    Pending,
    /// Another key has used the invite.
    InviteUsed,
    /// The invite expired.
    InviteExpired,
    /// The server does not know the invite.
    InviteUnknown,
    /// The id belongs to another key.
    IdTaken,
    /// The key of this machine cannot be kept on its disk.
    StateDir,
    /// Another machine with the same id is connected.
    DuplicateId,
    /// The server is stopping, or busy.
    ServerBusy,
    /// Another reason of the server.
    Rejected,
    /// This machine was suspended.
    Suspended,
    /// Another error.
    Other,
}

impl DiagnosisCode {
    /// Returns the published name.
    pub(crate) fn name(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => name,
            Ok(_) | Err(_) => String::new(),
        }
    }
}
