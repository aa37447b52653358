//! What the server says when it rejects this machine, and what to do about it.
//!
//! The text of the server follows in the log if the code is not one of trust: those texts are written
//! here, because only the agent knows its key and its settings.

use filepull_core::human;
use filepull_proto::v1::{self, ErrorCode};

use crate::credentials::Credentials;
use crate::diagnosis::{Diagnosis, DiagnosisCode};

/// Returns why the server rejected a session or an enrolment of `client`.
pub(crate) fn failure(error: &v1::Error, credentials: &Credentials, client: &str) -> Diagnosis {
    let code = error.code();
    match trust_text(code, credentials, client) {
        Some(text) => Diagnosis { code: failure_code(code), text },
        None => {
            let text = match human::printable(&error.message, 300) {
                empty if empty.is_empty() => "the server ended the session".to_owned(),
                text => text,
            };
            Diagnosis { code: failure_code(code), text }
        }
    }
}

/// Returns whether dialing again is useless until a person changes something.
pub(crate) fn needs_a_person(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::DuplicateId
            | ErrorCode::Unauthenticated
            | ErrorCode::Forbidden
            | ErrorCode::Unsupported
            | ErrorCode::Protocol
            | ErrorCode::Pending
            | ErrorCode::InviteUnknown
            | ErrorCode::InviteUsed
            | ErrorCode::InviteExpired
            | ErrorCode::IdTaken
    )
}

/// No text says whether a secret was nearly right.
fn trust_text(code: ErrorCode, credentials: &Credentials, client: &str) -> Option<String> {
    let key = credentials.fingerprint().map(|key| key.to_string()).unwrap_or_default();
    let again = format!("run `filepull invite {client}` on the server, and set INVITE");
    #[expect(clippy::wildcard_enum_match_arm, reason = "only the codes of trust have a text here")]
    match code {
        ErrorCode::Unauthenticated if credentials.is_enrolled() => Some(format!(
            "the server does not know the key of this machine ({key}): {client} was forgotten, or enrolled \
             elsewhere. To enrol it again, {again}"
        )),
        ErrorCode::Unauthenticated => {
            Some(format!("the server accepts enrolled machines only: {again}"))
        }
        ErrorCode::Pending => Some(format!(
            "this machine waits to be approved. Its key is {key}: compare it, then run `filepull approve \
             {client}` on the server"
        )),
        ErrorCode::InviteUsed => {
            Some(format!("another machine has used the invite. For this one, {again}"))
        }
        ErrorCode::InviteExpired => Some(format!("the invite has expired: {again}")),
        ErrorCode::InviteUnknown => Some(format!(
            "the server does not know the invite: it was withdrawn, or it is for another server: {again}"
        )),
        ErrorCode::IdTaken => Some(format!(
            "another machine is enrolled as {client}. If this one replaces it, run `filepull invite \
             {client} --replace` on the server, and set INVITE; otherwise set another CLIENT_ID"
        )),
        _ => None,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the other codes are not about the session")]
fn failure_code(code: ErrorCode) -> DiagnosisCode {
    match code {
        ErrorCode::Unauthenticated => DiagnosisCode::UnknownKey,
        ErrorCode::Pending => DiagnosisCode::Pending,
        ErrorCode::InviteUsed => DiagnosisCode::InviteUsed,
        ErrorCode::InviteExpired => DiagnosisCode::InviteExpired,
        ErrorCode::InviteUnknown => DiagnosisCode::InviteUnknown,
        ErrorCode::IdTaken => DiagnosisCode::IdTaken,
        ErrorCode::DuplicateId => DiagnosisCode::DuplicateId,
        ErrorCode::Draining | ErrorCode::Overloaded => DiagnosisCode::ServerBusy,
        _ => DiagnosisCode::Rejected,
    }
}
