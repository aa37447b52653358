//! The session's messages, from the wire and to the wire.

use std::net::SocketAddr;
use std::time::Duration;

use chrono::Utc;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::Code;
use filepull_core::{bounds, human};
use filepull_proto::v1::server_message::Kind as ToAgent;
use filepull_proto::v1::{
    self, CancelTransfer, Drain, Error, ErrorCode, Hello, Ping, ServerMessage, SessionEnd,
    StartTransfer,
};
use filepull_proto::{millis, reported};
use uuid::Uuid;

use crate::client::{AgentInfo, DefaultFile, Greeting};
use crate::registry::{EndReason, Message, SendOrder, SessionRejection};

/// A rejected agent waits at least this long if a person has to change a setting first.
pub(super) const PERSON_RETRY: Duration = Duration::from_mins(1);

/// An agent that meets a server which stops comes back after this.
pub(super) const STOPPING_RETRY: Duration = Duration::from_secs(1);

pub(super) fn greeting(hello: Hello, remote_addr: SocketAddr) -> Result<Greeting, Error> {
    let invalid = |why: String| refusal(ErrorCode::Protocol, &why, PERSON_RETRY);
    let client = ClientId::parse(&hello.client_id).map_err(|error| invalid(error.to_string()))?;
    let instance = Uuid::from_slice(&hello.instance_id)
        .map_err(|_| invalid("instance_id has not 16 bytes".into()))?;
    let word = |text: &str| human::printable(text, 64);
    let agent = AgentInfo {
        version: word(&hello.agent_version),
        os: word(&hello.os),
        arch: word(&hello.arch),
        hostname: word(&hello.hostname),
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
        active_transfers: active.take(bounds::MAX_ACTIVE_UPLOADS).collect(),
        remote_addr,
    })
}

/// An agent that says neither is older than the reason, and knew only that there was no file.
fn default_file(file: Option<v1::DefaultFile>, error: Option<Error>) -> DefaultFile {
    let why = || error.map_or(Code::FileMissing, |error| reported(&error).code);
    file.map(Into::into).ok_or_else(why)
}

pub(super) fn refusal(code: ErrorCode, why: &str, retry_after: Duration) -> Error {
    Error {
        code: code.into(),
        message: why.chars().take(512).collect(),
        retryable: true,
        retry_after_ms: millis(retry_after),
        expected_offset: 0,
    }
}

/// `dead_after` is how long a session may be silent: a rejected machine is back before that has
/// passed twice, and then takes the place of one that has failed.
pub(super) fn refused_line(refused: &SessionRejection, dead_after: Duration) -> Error {
    match refused {
        // It waits up to twice as long, and the probe takes its time too.
        SessionRejection::Duplicate { .. } => {
            refusal(ErrorCode::DuplicateId, &refused.to_string(), dead_after / 3)
        }
        SessionRejection::Confusable { .. } => {
            refusal(ErrorCode::DuplicateId, &refused.to_string(), PERSON_RETRY)
        }
        SessionRejection::Crowded(_) => {
            refusal(ErrorCode::Overloaded, &refused.to_string(), STOPPING_RETRY)
        }
        SessionRejection::Outrun(_) => {
            refusal(ErrorCode::Superseded, &refused.to_string(), STOPPING_RETRY)
        }
    }
}

pub(super) fn session_end(error: Error) -> ServerMessage {
    ServerMessage { kind: Some(ToAgent::End(SessionEnd { error: Some(error) })) }
}

pub(super) fn last_words(why: &EndReason) -> Error {
    match why {
        EndReason::Replaced => {
            refusal(ErrorCode::Superseded, "a newer line took over", Duration::ZERO)
        }
        // Not a breach of the protocol, which a person would have to mend: a line that hangs.
        EndReason::Silent(why) => refusal(ErrorCode::Unspecified, why, Duration::ZERO),
        EndReason::Stopping => {
            refusal(ErrorCode::Draining, "the server is stopping", STOPPING_RETRY)
        }
    }
}

pub(super) fn wire(message: Message, seq: u64) -> ToAgent {
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
    }
}

fn start(order: SendOrder) -> StartTransfer {
    StartTransfer {
        transfer_id: order.transfer.to_string(),
        attempt: order.attempt,
        path: order.path.map(|path| path.as_str().to_owned()).unwrap_or_default(),
        offset: order.prefix.len,
        prefix_sha256: order.prefix.digest.as_bytes().to_vec().into(),
        upload_token: order.token.as_bytes().to_vec().into(),
        max_bytes_per_s: 0,
        max_size: order.max_size,
        requested_by: order.requested_by,
    }
}
