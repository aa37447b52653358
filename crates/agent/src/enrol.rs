//! Enrolment: this machine presents its invite, and the server records its key.
//!
//! The key is durable before the secret leaves this machine, and the secret leaves it only over a
//! connection whose server was checked. A lost answer costs nothing: the same key may ask again.

use filepull_core::digest::Digest;
use filepull_core::fingerprint::Fingerprint;
use filepull_core::id::ClientId;
use filepull_core::invite::{Invite, MAX_PINS};
use filepull_proto::retry_after;
use filepull_proto::v1::agent_enrolment_client::AgentEnrolmentClient;
use filepull_proto::v1::{self, enrol_response};
use tokio::task::spawn_blocking;

use crate::config;
use crate::credentials::Credentials;
use crate::diagnosis::{Diagnosis, DiagnosisCode};
use crate::error_text;
use crate::key_store::AgentIdentity;
use crate::server_rejection;
use crate::session::SessionOutcome;

/// What a successful enrolment leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EnrolOutcome {
    /// The client may work.
    Active,
    /// An operator has to approve the client.
    Pending,
}

/// Enrols this machine once. `credentials` has the key, and a dialer that checks the server of the invite.
pub(crate) async fn enrol(
    credentials: &Credentials,
    invite: &Invite,
    client: &ClientId,
) -> Result<EnrolOutcome, SessionOutcome> {
    let channel = credentials
        .dialer()
        .dial()
        .await
        .map_err(|error| SessionOutcome::Lost(error_text::connection_error(&error)))?;
    let mut enrolment = AgentEnrolmentClient::new(channel).max_decoding_message_size(64 * 1024);
    let answer = enrolment
        .enrol(request(invite, client))
        .await
        .map_err(|status| SessionOutcome::Lost(error_text::handshake_error(&status)))?;
    let enrolled = match answer.into_inner().result {
        Some(enrol_response::Result::Enrolled(enrolled)) => enrolled,
        Some(enrol_response::Result::Error(error)) => {
            return Err(SessionOutcome::EndedByServer {
                failure: server_rejection::failure(&error, credentials, client.as_str()),
                code: error.code(),
                retry_after: retry_after(&error),
            });
        }
        None => return Err(lost("the server answers the invite with nothing")),
    };
    store(credentials, invite, client, &enrolled).await?;
    Ok(if enrolled.pending { EnrolOutcome::Pending } else { EnrolOutcome::Active })
}

fn request(invite: &Invite, client: &ClientId) -> v1::EnrolRequest {
    v1::EnrolRequest {
        secret: invite.secret().as_bytes().to_vec().into(),
        client_id: client.to_string(),
        hostname: config::host_name(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Makes the answer durable. If the disk fails, the next try gets the same answer.
async fn store(
    credentials: &Credentials,
    invite: &Invite,
    client: &ClientId,
    enrolled: &v1::Enrolled,
) -> Result<(), SessionOutcome> {
    if enrolled.client_id != client.as_str() {
        return Err(lost("the server enrols another id than the one requested"));
    }
    let mut identity = AgentIdentity::from_invite(client.clone(), invite);
    if let Some(pins) = &enrolled.ca_pins {
        let pins = pins_of(pins).ok_or_else(|| lost("the server sends an invalid list of pins"))?;
        identity.ca_pins = pins;
    }
    let credentials = credentials.clone();
    match spawn_blocking(move || credentials.enrol(identity)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            Err(SessionOutcome::Lost(Diagnosis::new(DiagnosisCode::StateDir, error.to_string())))
        }
        Err(_) => Err(lost("internal error in the agent")),
    }
}

/// Returns 1 to [`MAX_PINS`] pins; `None` for any other list.
pub(crate) fn pins_of(pins: &v1::CaPins) -> Option<Vec<Fingerprint>> {
    let digests = pins.sha256.iter().map(|pin| Digest::try_from(pin.as_ref()).ok());
    let pins: Vec<Fingerprint> =
        digests.map(|digest| digest.map(Fingerprint::from)).collect::<Option<_>>()?;
    (1..=MAX_PINS).contains(&pins.len()).then_some(pins)
}

fn lost(text: &str) -> SessionOutcome {
    SessionOutcome::Lost(Diagnosis::new(DiagnosisCode::Other, text))
}
