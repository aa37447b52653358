//! What the server knows of a client: what its agent reported, and when it was last connected.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use chrono::{DateTime, Utc};
use filepull_core::extent::ExtentKinds;
use filepull_core::fingerprint::Fingerprint;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::keyword::Keyword;
use filepull_core::problem::Code;
use filepull_core::source::Source;
use serde::{Serialize, Serializer};
use uuid::Uuid;

/// The file that a trigger without a path would get, or the problem that it would get.
pub type DefaultFile = Result<Source, Code>;

/// Labels of a client, in the order of their names: an administrator chose them with the invite.
pub type Labels = BTreeMap<String, String>;

/// What an agent reports when it opens a session. Nothing of it is verified, except its key.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The id that the agent claims.
    pub client: ClientId,
    /// New at each start of the agent: tells a second machine from a client that reconnects.
    pub instance: Uuid,
    /// Describes the program and its machine.
    pub agent: AgentInfo,
    /// The paths that a trigger may request, as in the agent's settings.
    pub shares: Vec<String>,
    /// The answer to a trigger without a path.
    pub default_file: DefaultFile,
    /// The extents that the agent can send.
    pub extents: ExtentKinds,
    /// The uploads that the agent still runs on another connection.
    pub active_transfers: Vec<TransferId>,
    /// The address from which the agent dials, as the server sees it.
    pub remote_addr: SocketAddr,
    /// The key that the agent proved to have. None in plain text.
    pub key: Option<Fingerprint>,
}

/// The key of an enrolled client, as it is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientKey {
    /// The key that admits the client.
    pub fingerprint: Fingerprint,
    /// The key that replaces it when a session opens with it. Both admit the client.
    pub next: Option<Fingerprint>,
    /// An operator has not approved the client yet: it may do nothing.
    pub pending: bool,
    /// The labels of its invite.
    pub labels: Labels,
    /// When the client was enrolled.
    pub enrolled_at: DateTime<Utc>,
    /// When its key last changed.
    pub rotated_at: DateTime<Utc>,
    /// The pins that its agent has stored.
    pub pins: Vec<Fingerprint>,
}

impl ClientKey {
    /// Returns whether this key admits the client.
    pub fn admits(&self, key: &Fingerprint) -> bool {
        !self.pending && (self.fingerprint == *key || self.next.as_ref() == Some(key))
    }
}

/// The program and its machine as the agent describes them: for operators, never for decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AgentInfo {
    /// The version of the agent, at most 64 characters as all these texts.
    pub version: String,
    /// The operating system, such as `linux`.
    pub os: String,
    /// The processor architecture, such as `x86_64`.
    pub arch: String,
    /// The hostname of the machine.
    pub hostname: String,
}

/// A client as it is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRecord {
    /// The id, also the name of its folder.
    pub id: ClientId,
    /// The fencing token of its newest session. It rises with each accepted session.
    pub epoch: u64,
    /// What the agent reported when it last connected.
    pub agent: AgentInfo,
    /// The paths that a trigger may request.
    pub shares: Vec<String>,
    /// The answer to a trigger without a path.
    pub default_file: DefaultFile,
    /// The address from which the agent last dialled.
    pub remote_addr: SocketAddr,
    /// When its last session opened. None for a client that was enrolled and has never connected.
    pub connected_at: Option<DateTime<Utc>>,
    /// When its last message arrived, as far as that is on record; else when it was enrolled.
    pub last_seen_at: DateTime<Utc>,
    /// The end of its last session.
    pub last_disconnect: Option<Disconnect>,
    /// It was connected when the previous server process ended, and has not connected since.
    pub online_before: bool,
    /// Its key. None for a client that was never enrolled.
    pub key: Option<ClientKey>,
}

impl ClientRecord {
    /// Returns whether the client waits for the approval of an operator.
    pub fn is_pending(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.pending)
    }
}

/// What the records know of a client whose session has just opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnRecord {
    /// The epoch of the session, higher than every earlier one.
    pub epoch: u64,
    /// How the previous session ended, if that is on record and can be read.
    pub last_disconnect: Option<Disconnect>,
    /// The key of the client. None if it was never enrolled.
    pub key: Option<ClientKey>,
    /// The session was the first with the next key, which is the only key of the client now.
    pub key_changed: bool,
}

/// The end of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disconnect {
    /// When the server noticed the end.
    #[serde(serialize_with = "crate::client::rfc3339")]
    pub at: DateTime<Utc>,
    /// The kind of end, for programs.
    pub reason: DisconnectReason,
    /// The details of the end, for people.
    pub detail: String,
}

/// The kinds of end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisconnectReason {
    /// The agent sent its goodbye.
    Stopped,
    /// No message arrived within `DEAD_AFTER`.
    Silent,
    /// The connection closed without a goodbye.
    Reset,
    /// A newer session of the same client replaced it.
    Replaced,
    /// The key of the client was replaced, so the server ended the session.
    Refused,
    /// The server shut down as planned.
    ServerRestart,
    /// A reason that this version does not know, read from a record of a newer version.
    Other(Keyword),
}

impl Serialize for DisconnectReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl DisconnectReason {
    const ALL: [Self; 6] = [
        Self::Stopped,
        Self::Silent,
        Self::Reset,
        Self::Replaced,
        Self::Refused,
        Self::ServerRestart,
    ];

    /// Returns the keyword for the API, the records and the log.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stopped => "stopped",
            Self::Silent => "silent",
            Self::Reset => "reset",
            Self::Replaced => "replaced",
            Self::Refused => "refused",
            Self::ServerRestart => "server-restart",
            Self::Other(keyword) => keyword.as_str(),
        }
    }

    /// Parses a keyword. One that this version does not know becomes [`Other`](Self::Other).
    pub fn parse(text: &str) -> Option<Self> {
        let known = Self::ALL.into_iter().find(|reason| reason.as_str() == text);
        known.or_else(|| Keyword::parse(text).map(Self::Other))
    }

    /// Returns the end of a sentence such as "Last seen 5 min ago: the connection broke."
    pub(crate) fn as_text(&self) -> &str {
        match self {
            Self::Stopped => "its agent was stopped",
            Self::Silent => "the connection went silent",
            Self::Reset => "the connection broke",
            Self::Replaced => "a newer connection took over",
            Self::Refused => "its key was replaced",
            Self::ServerRestart => "this server was restarted",
            Self::Other(keyword) => keyword.as_str(),
        }
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Serializes a time for JSON: RFC 3339 in UTC, to the second.
pub(crate) fn rfc3339<S: serde::Serializer>(
    time: &DateTime<Utc>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}
