//! The audit: a chain of records, each of which holds the digest of the record before it.
//!
//! [`AuditRecord::expected_digest`] defines the bytes that are hashed, so that the chain can be
//! verified without the server. The caller gives the time and stores the records.

mod chain;

use std::fmt;

use chrono::{DateTime, Utc};

use crate::digest::{Digest, Hasher};
pub use chain::{ChainBreak, ChainVerifier};

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What was done. The names are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum AuditAction {
            $($(#[$doc])* $name,)*
        }

        impl AuditAction {
            /// Every action.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the name in the records and in the API.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

actions! {
    /// A pull created a transfer.
    TransferRequested = "transfer.requested";
    /// A pull joined a transfer.
    TransferJoined = "transfer.joined";
    /// A pull was rejected: nothing was started.
    TransferRejected = "transfer.rejected";
    /// A caller cancelled a transfer.
    TransferCancelled = "transfer.cancelled";
    /// Bytes of a download were sent to a caller.
    DownloadRetrieved = "download.retrieved";
    /// An invite was made.
    InviteCreated = "invite.created";
    /// A key was put on record with an invite.
    ClientEnrolled = "client.enrolled";
    /// A pending client was approved.
    ClientApproved = "client.approved";
    /// A client was removed with its key.
    ClientForgotten = "client.forgotten";
    /// The rotation of a client's key was requested.
    KeyRotationRequested = "key.rotation_requested";
    /// The key of a client was replaced.
    KeyRotated = "key.rotated";
    /// A successor of the certificate authority was made.
    CaRotated = "ca.rotated";
    /// The server changed to the next certificate authority.
    CaSwitched = "ca.switched";
    /// The previous certificate authority was removed.
    CaRetired = "ca.retired";
    /// The tokens changed.
    TokensChanged = "tokens.changed";
    /// The settings differ from the settings of the previous start.
    SettingsChanged = "settings.changed";
    /// A request was rejected because of its caller.
    RequestRejected = "request.rejected";
    /// An agent was rejected.
    AgentRejected = "agent.rejected";
    /// More rejections than are recorded one by one.
    RejectionsOmitted = "rejections.omitted";
}

impl AuditAction {
    /// Parses a name that [`as_str`](Self::as_str) returns.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|action| action.as_str() == text)
    }
}

impl fmt::Display for AuditAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who did what, and when. All fields are as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditContent {
    /// The time in whole milliseconds.
    pub at: DateTime<Utc>,
    /// The name of a token, a user or a client, an address, or `server`.
    pub actor: String,
    /// The address that the request came from; empty for the server itself.
    pub address: String,
    /// The name of an [`AuditAction`], perhaps of a newer version.
    pub action: String,
    /// A client, a transfer, a token or a setting.
    pub subject: String,
    /// A JSON object.
    pub detail: String,
    /// The id of the request; empty without one.
    pub request: String,
}

/// A record of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// 1, 2, 3 and so on, without a gap.
    pub seq: u64,
    /// Who did what.
    pub content: AuditContent,
    /// The digest of the record before this one, as it is stored.
    pub previous: Digest,
    /// The digest of this record, as it is stored.
    pub digest: Digest,
}

/// The first text that is hashed: a later definition has another one.
const FORMAT: &str = "filepull-audit-1";

impl AuditRecord {
    /// Returns the digest that the record must have: SHA-256 over ten texts, each written as
    /// `LENGTH:TEXT,` with its length in bytes (a netstring). The texts are `filepull-audit-1`, the
    /// number, the time in milliseconds since 1970, the actor, the address, the action, the subject,
    /// the detail, the request, and the digest of the record before in hexadecimal.
    pub fn expected_digest(&self) -> Digest {
        let AuditContent { at, actor, address, action, subject, detail, request } = &self.content;
        let seq = self.seq.to_string();
        let millis = at.timestamp_millis().to_string();
        let previous = self.previous.to_string();
        let mut hasher = Hasher::default();
        for text in
            [FORMAT, &seq, &millis, actor, address, action, subject, detail, request, &previous]
        {
            hasher.update(format!("{}:{text},", text.len()).as_bytes());
        }
        hasher.digest()
    }
}

/// The end of a chain: the number and the digest of the last record. Shown as `SEQ:DIGEST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainHead {
    /// The number of the last record; 0 if there is none.
    pub seq: u64,
    /// The digest of the last record.
    pub digest: Digest,
}

impl ChainHead {
    /// Returns the head of a chain without records. Its digest is 64 zeros.
    pub fn empty() -> Self {
        Self { seq: 0, digest: Digest::from([0; 32]) }
    }

    /// Appends a record to the chain and returns it.
    pub fn append(&mut self, content: AuditContent) -> AuditRecord {
        let previous = self.digest;
        let seq = self.seq + 1;
        let mut record = AuditRecord { seq, content, previous, digest: previous };
        record.digest = record.expected_digest();
        *self = Self { seq, digest: record.digest };
        record
    }

    /// Parses `SEQ:DIGEST`.
    pub fn parse(text: &str) -> Option<Self> {
        let (seq, digest) = text.split_once(':')?;
        Some(Self { seq: seq.parse().ok()?, digest: Digest::parse(digest)? })
    }
}

impl fmt::Display for ChainHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_a_record_never_changes() {
        let content = AuditContent {
            at: DateTime::from_timestamp_millis(1_770_000_000_123).unwrap(),
            actor: "nightly".to_owned(),
            address: "10.0.0.7".to_owned(),
            action: AuditAction::TransferRequested.as_str().to_owned(),
            subject: "client4".to_owned(),
            detail: r#"{"path":"Kasse 1 – täglich.txt"}"#.to_owned(),
            request: "r".to_owned(),
        };
        let mut head = ChainHead::empty();
        let record = head.append(content);
        let expected = "98e0caf7cd0bc21eab6d52f04d44bf1b2eb6a50293ec22a0f17cf60ca74aaa2d";
        assert_eq!(head, ChainHead { seq: 1, digest: record.digest });
        assert_eq!(record.digest.to_string(), expected);
        assert_eq!(ChainHead::parse(&head.to_string()), Some(head));
        assert_eq!(ChainHead::parse("1"), None);
    }

    #[test]
    fn every_action_has_a_unique_name() {
        for &action in AuditAction::ALL {
            assert_eq!(AuditAction::parse(action.as_str()), Some(action));
        }
    }
}
