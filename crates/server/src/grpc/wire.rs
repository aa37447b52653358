//! Converts the messages of a session between wire and domain.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use filepull_core::extent::ExtentKinds;
use filepull_core::fingerprint::Fingerprint;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::Code;
use filepull_core::{bounds, human};
use filepull_proto::v1::server_message::Kind as ToAgent;
use filepull_proto::v1::{
    self, CancelTransfer, Drain, Error, ErrorCode, Hello, KeyAccepted, Ping, RotateKey,
    ServerMessage, SessionEnd, StartTransfer,
};
use filepull_proto::{millis, reported};
use uuid::Uuid;

use crate::client::{AgentInfo, DefaultFile, Greeting};
use crate::registry::{EndReason, Message, SendOrder, SessionRejection};

/// How long a rejected agent waits if a person has to change a setting first.
pub(crate) const PERSON_RETRY: Duration = Duration::from_mins(1);

/// How long an agent waits that a stopping server has rejected.
pub(crate) const STOPPING_RETRY: Duration = Duration::from_secs(1);

pub(crate) fn greeting(
    hello: Hello,
    remote_addr: SocketAddr,
    key: Option<Fingerprint>,
) -> Result<Greeting, Error> {
    let invalid = |reason: String| rejection(ErrorCode::Protocol, &reason, PERSON_RETRY);
    let client = ClientId::parse(&hello.client_id).map_err(|error| invalid(error.to_string()))?;
    let instance = Uuid::from_slice(&hello.instance_id)
        .map_err(|_| invalid("instance_id must be 16 bytes".into()))?;
    let printable = |text: &str| human::printable(text, 64);
    let agent = AgentInfo {
        version: printable(&hello.agent_version),
        os: printable(&hello.os),
        arch: printable(&hello.arch),
        hostname: printable(&hello.hostname),
    };
    let shares = hello
        .shares
        .iter()
        .take(bounds::MAX_SHARES)
        .map(|share| human::printable(share, 255))
        .collect();
    let active = hello.active_transfers.iter().filter_map(|id| TransferId::parse(id).ok());
    Ok(Greeting {
        client,
        instance,
        agent,
        shares,
        default_file: default_file(hello.default_file, hello.default_file_error),
        extents: ExtentKinds::from_capabilities(&hello.capabilities),
        active_transfers: active.take(bounds::MAX_ACTIVE_UPLOADS).collect(),
        remote_addr,
        key,
    })
}

/// An agent that sends neither is older than the field for the error: the file is missing.
fn default_file(file: Option<v1::DefaultFile>, error: Option<Error>) -> DefaultFile {
    let code = || error.map_or(Code::FileMissing, |error| reported(&error).code);
    file.map(Into::into).ok_or_else(code)
}

pub(crate) fn rejection(code: ErrorCode, reason: &str, retry_after: Duration) -> Error {
    Error {
        code: code.into(),
        message: reason.chars().take(512).collect(),
        retryable: true,
        retry_after_ms: millis(retry_after),
        expected_offset: 0,
    }
}

/// Returns the error for a rejected session. `dead_after` is how long a session may be silent: a
/// rejected machine dials again within twice that time, and replaces a machine that has failed.
pub(crate) fn rejection_error(rejected: &SessionRejection, dead_after: Duration) -> Error {
    match rejected {
        // The agent waits up to twice as long, and a probe takes time too.
        SessionRejection::Duplicate { .. } => {
            rejection(ErrorCode::DuplicateId, &rejected.to_string(), dead_after / 3)
        }
        SessionRejection::Confusable { .. } => {
            rejection(ErrorCode::DuplicateId, &rejected.to_string(), PERSON_RETRY)
        }
        SessionRejection::Crowded(_) => {
            rejection(ErrorCode::Overloaded, &rejected.to_string(), STOPPING_RETRY)
        }
        SessionRejection::Superseded(_) => {
            rejection(ErrorCode::Superseded, &rejected.to_string(), STOPPING_RETRY)
        }
        SessionRejection::TooManyClients => {
            rejection(ErrorCode::Overloaded, &rejected.to_string(), PERSON_RETRY)
        }
    }
}

pub(crate) fn session_end(error: Error) -> ServerMessage {
    ServerMessage { kind: Some(ToAgent::End(SessionEnd { error: Some(error) })) }
}

/// Returns the error that ends a session.
pub(crate) fn end_error(reason: &EndReason) -> Error {
    match reason {
        EndReason::Replaced => {
            rejection(ErrorCode::Superseded, "a newer session replaced it", Duration::ZERO)
        }
        // A connection that hangs. It is no breach of the protocol, which a person would have to fix.
        EndReason::Silent(detail) => rejection(ErrorCode::Unspecified, detail, Duration::ZERO),
        EndReason::Revoked => {
            let reason = "the key of this agent was removed or replaced";
            rejection(ErrorCode::Unauthenticated, reason, STOPPING_RETRY)
        }
        EndReason::Stopping => {
            rejection(ErrorCode::Draining, "the server is stopping", STOPPING_RETRY)
        }
    }
}

/// Returns a message of the server for the wire. `seq` numbers the messages of a session.
pub(crate) fn wire(message: Message, seq: u64) -> ToAgent {
    match message {
        Message::Ping => {
            let sent = Utc::now().timestamp_micros();
            ToAgent::Ping(Ping { seq, sent_unix_us: u64::try_from(sent).unwrap_or(0) })
        }
        Message::Start(order) => ToAgent::Start(start(*order)),
        Message::Cancel { transfer, reason } => {
            ToAgent::Cancel(CancelTransfer { transfer_id: transfer.to_string(), reason })
        }
        Message::Drain { min, max } => {
            ToAgent::Drain(Drain { reconnect_min_ms: millis(min), reconnect_max_ms: millis(max) })
        }
        Message::CaPins(pins) => {
            ToAgent::CaPins(v1::CaPins { sha256: pins.iter().map(sha256).collect() })
        }
        Message::RotateKey => ToAgent::RotateKey(RotateKey {}),
        Message::KeyAccepted(key) => {
            ToAgent::KeyAccepted(KeyAccepted { public_key_sha256: sha256(&key) })
        }
    }
}

fn sha256(key: &Fingerprint) -> Bytes {
    key.digest().as_bytes().to_vec().into()
}

fn start(order: SendOrder) -> StartTransfer {
    StartTransfer {
        transfer_id: order.transfer.to_string(),
        attempt: order.attempt,
        path: order.path.map(|path| path.as_str().to_owned()).unwrap_or_default(),
        offset: order.prefix.len,
        prefix_blake3: order.prefix.digest.as_bytes().to_vec().into(),
        base: order.base.as_ref().map(Into::into),
        if_changed: order.if_changed,
        upload_token: order.token.as_bytes().to_vec().into(),
        max_bytes_per_s: 0,
        max_size: order.max_size,
        requested_by: order.requested_by,
    }
}
