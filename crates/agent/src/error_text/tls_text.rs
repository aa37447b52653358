//! Errors of TLS as text.

use std::io;

use chrono::Utc;
use filepull_trust::{ServerRejection, server_rejection, tls_error};
use rustls::{AlertDescription, Error, PeerIncompatible};

use crate::diagnosis::{Diagnosis, DiagnosisCode};
use crate::error_text::meaning;

/// Returns why a TLS handshake failed.
pub(crate) fn handshake_failure(error: &io::Error) -> Diagnosis {
    if let Some(rejection) = server_rejection(error) {
        return rejected_server(rejection);
    }
    match tls_error(error) {
        Some(error) => protocol_failure(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => Diagnosis::new(
            DiagnosisCode::Closed,
            "the connection was closed during the TLS handshake: a firewall may cut it, or the server uses \
             plain text",
        ),
        None => meaning(error),
    }
}

/// Returns the failure for a server that speaks TLS, but no HTTP/2 within it.
pub(crate) fn not_http2() -> Diagnosis {
    Diagnosis::new(
        DiagnosisCode::NotHttp2,
        "it answers with TLS, but without HTTP/2: does SERVER_ADDR point at the HTTP port, or at a proxy \
         that speaks HTTP/1.1 only?",
    )
}

fn rejected_server(rejection: &ServerRejection) -> Diagnosis {
    let failure = |code, text: String| Diagnosis::new(code, text);
    match rejection {
        ServerRejection::NotPinned { issuer, .. } | ServerRejection::NotSigned { issuer } => failure(
            DiagnosisCode::PinMismatch,
            format!(
                "the key of the server is not the one that this machine trusts; its certificate is issued \
                 by {issuer:?}. If that is a firewall that opens the encryption, exempt this server from \
                 it; if the server was reinstalled, run `filepull invite ID --replace` there and set \
                 INVITE. Nothing was sent"
            ),
        ),
        ServerRejection::UnknownIssuer { issuer } => failure(
            DiagnosisCode::UnknownIssuer,
            format!(
                "the certificate of the server is issued by {issuer:?}, which this machine does not trust: \
                 a firewall opens the encryption (exempt this server from it), or the server has a \
                 certificate of its own (set INVITE, or CA_FILE)"
            ),
        ),
        ServerRejection::Expired | ServerRejection::NotYetValid => {
            let now = Utc::now().format("%Y-%m-%d %H:%M UTC");
            failure(
                DiagnosisCode::Clock,
                format!("{rejection}: the clock shows {now}. Set the clock, or renew the certificate"),
            )
        }
        ServerRejection::OtherName => failure(
            DiagnosisCode::OtherName,
            "the certificate of the server is for another name: write the name of the certificate into \
             SERVER_ADDR"
                .to_owned(),
        ),
        ServerRejection::Invalid(rule) => failure(
            DiagnosisCode::Tls,
            format!("the certificate of the server is not valid ({rule}): replace it on the server"),
        ),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum of rustls grows")]
fn protocol_failure(error: &Error) -> Diagnosis {
    let too_old = "the server offers no TLS 1.3: update it, or exempt it from the firewall that opens the \
                   encryption";
    match error {
        Error::InvalidMessage(_) => Diagnosis::new(
            DiagnosisCode::ServerWithoutTls,
            "the server answers without TLS: does the address lead to its port for agents, and is TLS on \
             there? A machine without an invite can use plain text on a network that you trust: \
             SERVER_ADDR=http://host:port",
        ),
        Error::AlertReceived(AlertDescription::ProtocolVersion)
        | Error::PeerIncompatible(
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => Diagnosis::new(DiagnosisCode::TlsTooOld, too_old),
        Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | Error::NoApplicationProtocol => not_http2(),
        Error::AlertReceived(AlertDescription::HandshakeFailure) | Error::PeerIncompatible(_) => {
            let text = format!("no common version or cipher of TLS: {too_old}");
            Diagnosis::new(DiagnosisCode::TlsTooOld, text)
        }
        Error::AlertReceived(alert) => {
            let text =
                format!("the server ended the TLS handshake ({alert:?}): see the server's log");
            Diagnosis::new(DiagnosisCode::Tls, text)
        }
        other => Diagnosis::new(DiagnosisCode::Tls, format!("the TLS handshake failed: {other}")),
    }
}
