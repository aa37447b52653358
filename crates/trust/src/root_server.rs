//! Checks a server against root certificates, its name and the clock, as a browser does. The errors name
//! the issuer.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use crate::certificate::issuer_of;
use crate::rejection::ServerRejection;

#[derive(Debug)]
pub(crate) struct RootServer {
    pub(crate) verifier: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for RootServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        verified.map_err(|error| {
            if let Error::InvalidCertificate(error) = error {
                return rejection(&error, end_entity, intermediates).into();
            }
            error
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum of rustls grows")]
fn rejection(
    error: &CertificateError,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> ServerRejection {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            ServerRejection::Expired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ServerRejection::NotYetValid
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            ServerRejection::OtherName
        }
        CertificateError::UnknownIssuer => {
            // The last one is nearest to the root: it names the firewall, not its certificate.
            let nearest = intermediates.last().unwrap_or(end_entity);
            let issuer = issuer_of(nearest).unwrap_or_else(|_| "an unreadable name".to_owned());
            ServerRejection::UnknownIssuer { issuer }
        }
        other => ServerRejection::Invalid(other.to_string()),
    }
}
