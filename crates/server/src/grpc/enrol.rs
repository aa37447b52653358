//! The Enrol rpc: puts the key of an agent on record, if its invite allows it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use filepull_core::human;
use filepull_core::id::ClientId;
use filepull_core::invite::Secret;
use filepull_proto::v1::enrol_response::Result as Outcome;
use filepull_proto::v1::{EnrolRequest, EnrolResponse, Enrolled, Error, ErrorCode};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::sleep;
use tonic::{Request, Status};
use tracing::error;

use super::Gateway;
use super::incoming::ConnectionInfo;
use super::wire::{PERSON_RETRY, STOPPING_RETRY, end_error, rejection};
use crate::client::AgentInfo;
use crate::records::{EnrolledKey, RedeemRejection, RedeemRequest};
use crate::registry::EndReason;

/// Maximum length of a request in bytes. A request is a few hundred bytes.
pub(crate) const MAX_REQUEST_LEN: usize = 4096;

/// How many enrolments a second the listener accepts, and how many at once. A limit per address would
/// lock out the stores of a chain behind one address.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(200).expect("not 0");
const BURST: NonZeroU32 = NonZeroU32::new(2000).expect("not 0");

/// How long the connection of a rejected agent stays open, so that the answer arrives.
const END_DELAY: Duration = Duration::from_secs(1);

/// Limits the enrolments of the listener. Clones share one limit.
#[derive(Clone, Debug)]
pub(crate) struct EnrolmentLimit(Arc<DefaultDirectRateLimiter>);

impl Default for EnrolmentLimit {
    fn default() -> Self {
        let quota = Quota::per_second(PER_SECOND).allow_burst(BURST);
        Self(Arc::new(RateLimiter::direct(quota)))
    }
}

/// Answers an agent in band, so that no proxy drops the reason.
pub(crate) async fn enrol(
    gateway: &Gateway,
    request: Request<EnrolRequest>,
) -> Result<EnrolResponse, Status> {
    let info = request.extensions().get::<ConnectionInfo>().cloned();
    let connection = info.ok_or_else(|| Status::internal("an unknown connection"))?;
    let client_id = request.get_ref().client_id.clone();
    let result = match redeem(gateway, &connection, request.into_inner()).await {
        Ok(enrolled) => Outcome::Enrolled(enrolled),
        Err(error) => {
            gateway.report_enrolment(&client_id, connection.remote_addr, &error).await;
            // A stranger pays for each guess with a TLS handshake, whose number is limited.
            gateway.lifecycle.spawn(async move {
                sleep(END_DELAY).await;
                connection.reset();
            });
            Outcome::Error(error)
        }
    };
    Ok(EnrolResponse { result: Some(result) })
}

async fn redeem(
    gateway: &Gateway,
    connection: &ConnectionInfo,
    request: EnrolRequest,
) -> Result<Enrolled, Error> {
    if gateway.lifecycle.drain().is_cancelled() {
        return Err(end_error(&EndReason::Stopping));
    }
    if gateway.enrolments.0.check().is_err() {
        let reason = "too many agents enrol at once";
        return Err(rejection(ErrorCode::Overloaded, reason, STOPPING_RETRY));
    }
    let request = parse(connection, &request)?;
    let client = request.client.clone();
    let key = request.key;
    let redeemed = gateway.records.redeem(request, gateway.max_clients, Utc::now()).await;
    let redeemed = redeemed.map_err(|error| {
        error!(event = "records.failed", %client, %error, "cannot record the key of an agent");
        rejection(ErrorCode::StorageFailed, "the server's records failed", STOPPING_RETRY)
    })?;
    let EnrolledKey { pending, replaced, is_new } =
        redeemed.map_err(|rejected| error_of(&rejected))?;
    if replaced.is_some() {
        // The machine that had the id until now.
        gateway.registry.revoke(&client);
    }
    if is_new {
        super::rejection_log::log_enrolled(&client, &key, pending, connection.remote_addr);
    }
    Ok(Enrolled { client_id: client.to_string(), pending, ca_pins: gateway.ca_pins.to_wire() })
}

fn parse(connection: &ConnectionInfo, request: &EnrolRequest) -> Result<RedeemRequest, Error> {
    let invalid = |reason: &str| rejection(ErrorCode::Protocol, reason, PERSON_RETRY);
    let key = connection.peer_key.ok_or_else(|| {
        let reason = "an agent enrols over TLS, with a certificate that carries its key";
        rejection(ErrorCode::Unauthenticated, reason, PERSON_RETRY)
    })?;
    let remote_addr = connection.remote_addr.ok_or_else(|| invalid("no address"))?;
    let client = ClientId::parse(&request.client_id).map_err(|e| invalid(&e.to_string()))?;
    let secret: [u8; 32] =
        request.secret.as_ref().try_into().map_err(|_| invalid("secret must be 32 bytes"))?;
    let printable = |text: &str| human::printable(text, 64);
    let agent = AgentInfo {
        version: printable(&request.agent_version),
        os: printable(&request.os),
        arch: printable(&request.arch),
        hostname: printable(&request.hostname),
    };
    let secret_hash = Secret::new(secret).hash();
    Ok(RedeemRequest { secret_hash, key, client, agent, remote_addr })
}

fn error_of(rejected: &RedeemRejection) -> Error {
    let code = match rejected {
        RedeemRejection::Unknown => ErrorCode::InviteUnknown,
        RedeemRejection::Used => ErrorCode::InviteUsed,
        RedeemRejection::Expired => ErrorCode::InviteExpired,
        RedeemRejection::OtherId | RedeemRejection::KeyTaken => ErrorCode::Forbidden,
        RedeemRejection::IdTaken(_) => ErrorCode::IdTaken,
        RedeemRejection::Confusable { .. } => ErrorCode::DuplicateId,
        RedeemRejection::TooMany => ErrorCode::Overloaded,
    };
    rejection(code, &rejected.to_string(), PERSON_RETRY)
}
