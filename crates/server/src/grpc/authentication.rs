//! Decides which client the key of a connection stands for. It runs before a session or an upload reads
//! its first message.
//!
//! The records are the only place where keys are: each session and each upload looks its key up, so that
//! neither a TLS ticket nor an open connection outlives a key that was removed. Names, dates and the issuer
//! of the agent's certificate decide nothing.

use std::time::Duration;

use filepull_core::fingerprint::Fingerprint;
use filepull_core::id::ClientId;
use filepull_proto::v1::{Error, ErrorCode};
use tracing::error;

use super::Gateway;
use super::incoming::ConnectionInfo;
use super::wire::{PERSON_RETRY, STOPPING_RETRY, rejection};
use crate::config::AgentAccess;
use crate::records::RecordsError;

/// How long a pending agent waits before it dials again. It is admitted this soon after its approval.
const PENDING_RETRY: Duration = Duration::from_secs(10);

/// The agent at the other end of a connection, as far as it is proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProvedAgent {
    /// The key of the connection stands for this client.
    Enrolled { client: ClientId, key: Fingerprint },
    /// `AGENT_AUTH=open`: the agent proves nothing, and may take an id that no key stands for.
    Unproved,
}

/// Why an agent is rejected because of its key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerRejection {
    #[error(
        "this server admits only enrolled agents, and this agent has no key: start it with an invite (filepull invite ID)"
    )]
    NoKey,
    #[error(
        "this server does not know the key of this agent: it was never enrolled here, was forgotten or was replaced; start it with a new invite (filepull invite ID)"
    )]
    UnknownKey,
    #[error(
        "{client} waits for approval: compare the fingerprint {key}, then run filepull approve {client} on the server"
    )]
    Pending { client: ClientId, key: Fingerprint },
    #[error(
        "the key of this agent is the key of another client, not of {0}: set CLIENT_ID to its own id"
    )]
    OtherClient(ClientId),
    #[error(
        "{0} is enrolled, and this agent has no key: start it with an invite (filepull invite {0} --replace)"
    )]
    IdTaken(ClientId),
    #[error("the server's records failed")]
    RecordsFailed,
}

impl PeerRejection {
    /// Returns the reason as one word, for the log.
    pub(crate) fn keyword(&self) -> &'static str {
        match self {
            Self::NoKey => "no_key",
            Self::UnknownKey => "unknown_key",
            Self::Pending { .. } => "pending",
            Self::OtherClient(_) => "other_client",
            Self::IdTaken(_) => "id_taken",
            Self::RecordsFailed => "records_failed",
        }
    }

    /// Returns the problem for the end of an upload.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::NoKey | Self::UnknownKey => ErrorCode::Unauthenticated,
            Self::Pending { .. } => ErrorCode::Pending,
            Self::OtherClient(_) => ErrorCode::Forbidden,
            Self::IdTaken(_) => ErrorCode::IdTaken,
            Self::RecordsFailed => ErrorCode::StorageFailed,
        }
    }
}

impl From<&PeerRejection> for Error {
    fn from(rejected: &PeerRejection) -> Self {
        let retry_after = match rejected {
            PeerRejection::Pending { .. } => PENDING_RETRY,
            PeerRejection::RecordsFailed => STOPPING_RETRY,
            PeerRejection::NoKey
            | PeerRejection::UnknownKey
            | PeerRejection::OtherClient(_)
            | PeerRejection::IdTaken(_) => PERSON_RETRY,
        };
        rejection(rejected.code(), &rejected.to_string(), retry_after)
    }
}

impl Gateway {
    /// Looks up the key of a connection.
    ///
    /// # Errors
    /// The key admits no client.
    pub(crate) async fn authenticate(
        &self,
        connection: &ConnectionInfo,
    ) -> Result<ProvedAgent, PeerRejection> {
        let Some(key) = connection.peer_key else {
            return match self.access {
                AgentAccess::Open => Ok(ProvedAgent::Unproved),
                AgentAccess::Enrolled => Err(PeerRejection::NoKey),
            };
        };
        match self.records.client_of_key(&key).await.map_err(|error| failed(&error))? {
            Some((client, on_record)) if on_record.pending => {
                Err(PeerRejection::Pending { client, key })
            }
            Some((client, _)) => Ok(ProvedAgent::Enrolled { client, key }),
            None => match self.access {
                AgentAccess::Open => Ok(ProvedAgent::Unproved),
                AgentAccess::Enrolled => Err(PeerRejection::UnknownKey),
            },
        }
    }

    /// Checks that an agent may act as `client`.
    ///
    /// # Errors
    /// Its key stands for another client, or it has none and the client has one.
    pub(crate) async fn authorize(
        &self,
        peer: &ProvedAgent,
        client: &ClientId,
    ) -> Result<(), PeerRejection> {
        match peer {
            ProvedAgent::Enrolled { client: own, .. } if own == client => Ok(()),
            ProvedAgent::Enrolled { .. } => Err(PeerRejection::OtherClient(client.clone())),
            ProvedAgent::Unproved => match self.records.key_of_client(client).await {
                Ok(None) => Ok(()),
                Ok(Some(_)) => Err(PeerRejection::IdTaken(client.clone())),
                Err(error) => Err(failed(&error)),
            },
        }
    }
}

impl ProvedAgent {
    /// Returns the proved key.
    pub(crate) fn key(&self) -> Option<Fingerprint> {
        match self {
            Self::Enrolled { key, .. } => Some(*key),
            Self::Unproved => None,
        }
    }
}

fn failed(error: &RecordsError) -> PeerRejection {
    error!(event = "records.failed", %error, "cannot look up the key of an agent");
    PeerRejection::RecordsFailed
}
