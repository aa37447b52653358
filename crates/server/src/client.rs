//! What the server knows of a client: what its agent said of itself, and when it was last here.

use std::fmt;
use std::net::SocketAddr;

use chrono::{DateTime, Utc};
use filepull_core::id::{ClientId, TransferId};
use filepull_core::keyword::Keyword;
use filepull_core::problem::Code;
use filepull_core::source::Source;
use serde::{Serialize, Serializer};
use uuid::Uuid;

/// What a trigger without a path would send, or which problem it would meet.
pub type DefaultFile = Result<Source, Code>;

/// How an agent introduces itself on a new line.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The id it claims.
    pub client: ClientId,
    /// Made anew at each start of the agent: tells a clone from a line that came back.
    pub instance: Uuid,
    /// What it said of itself.
    pub agent: AgentInfo,
    /// What `path` may ask for.
    pub shares: Vec<String>,
    /// What a trigger without a path would send.
    pub default_file: DefaultFile,
    /// Uploads it still runs on another connection.
    pub active_transfers: Vec<TransferId>,
    /// Where it dials from, as the server sees it.
    pub remote_addr: SocketAddr,
}

/// The program and the machine, in its own words: for operators, never for decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AgentInfo {
    /// Version of the agent.
    pub version: String,
    /// Operating system.
    pub os: String,
    /// Processor.
    pub arch: String,
    /// Name of the machine.
    pub hostname: String,
}

/// A client as it is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRecord {
    /// Its id.
    pub id: ClientId,
    /// The session that may act for it: rises with each accepted line.
    pub epoch: u64,
    /// What its agent said when it last connected.
    pub agent: AgentInfo,
    /// What `path` may ask for.
    pub shares: Vec<String>,
    /// What a trigger without a path would send.
    pub default_file: DefaultFile,
    /// Where it last dialled from.
    pub remote_addr: SocketAddr,
    /// When its last line opened.
    pub connected_at: DateTime<Utc>,
    /// When it was last heard, as far as it is on record.
    pub last_seen_at: DateTime<Utc>,
    /// How its last line ended.
    pub last_disconnect: Option<Disconnect>,
    /// It was connected when the server before this one ended, and has not been back since.
    pub online_before: bool,
}

/// How a line ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disconnect {
    /// When.
    #[serde(serialize_with = "crate::client::rfc3339")]
    pub at: DateTime<Utc>,
    /// In one word.
    pub reason: DisconnectReason,
    /// In a few words.
    pub detail: String,
}

/// Why a line ended. "Offline" without a reason helps nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisconnectReason {
    /// The agent said goodbye.
    Stopped,
    /// Nothing was heard for too long.
    Silent,
    /// The connection broke.
    Reset,
    /// A newer line of the same client took over.
    Replaced,
    /// The server stopped.
    ServerRestart,
    /// A reason that this version does not know, read from a record of a newer one.
    Other(Keyword),
}

impl Serialize for DisconnectReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl DisconnectReason {
    const ALL: [Self; 5] =
        [Self::Stopped, Self::Silent, Self::Reset, Self::Replaced, Self::ServerRestart];

    /// The word used in the API, the records and the log.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stopped => "stopped",
            Self::Silent => "silent",
            Self::Reset => "reset",
            Self::Replaced => "replaced",
            Self::ServerRestart => "server-restart",
            Self::Other(word) => word.as_str(),
        }
    }

    /// Reads that word. One that this version does not know is [`Other`](Self::Other).
    pub fn parse(text: &str) -> Option<Self> {
        let known = Self::ALL.into_iter().find(|reason| reason.as_str() == text);
        known.or_else(|| Keyword::parse(text).map(Self::Other))
    }

    /// The word as the end of a sentence: "Last seen 5 min ago: …".
    pub fn in_words(&self) -> &str {
        match self {
            Self::Stopped => "its agent was stopped",
            Self::Silent => "the connection went silent",
            Self::Reset => "the connection broke",
            Self::Replaced => "a newer connection took over",
            Self::ServerRestart => "this server was restarted",
            Self::Other(word) => word.as_str(),
        }
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Times in JSON: RFC 3339 in UTC, to the second.
pub(crate) fn rfc3339<S: serde::Serializer>(
    time: &DateTime<Utc>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}
