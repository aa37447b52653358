//! Why an agent rejects the certificate of a server, for its messages.

use std::error::Error;
use std::io;
use std::sync::Arc;

use filepull_core::fingerprint::Fingerprint;
use rustls::{CertificateError, OtherError};

/// Why the certificate of a server is rejected. `issuer` is the name that the certificate states: it
/// proves nothing, but it names a firewall that opens the encryption.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerRejection {
    /// No key in the chain is pinned.
    #[error("the certificate is issued by {issuer:?}, and its keys are not pinned")]
    NotPinned {
        /// The stated issuer.
        issuer: String,
        /// The key of the last certificate of the chain, usually the key of the authority.
        found: Fingerprint,
    },
    /// The chain contains a pinned key, but that key did not sign the server's certificate.
    #[error("the certificate is issued by {issuer:?}, and no pinned key signed it")]
    NotSigned {
        /// The stated issuer.
        issuer: String,
    },
    /// No root of this machine signed the certificate.
    #[error("the certificate is issued by {issuer:?}, which is not a root of this machine")]
    UnknownIssuer {
        /// The stated issuer.
        issuer: String,
    },
    /// The clock of this machine is after the end of the certificate.
    #[error("the certificate has expired, or the clock of this machine is wrong")]
    Expired,
    /// The clock of this machine is before the start of the certificate.
    #[error("the certificate is not valid yet, or the clock of this machine is wrong")]
    NotYetValid,
    /// The certificate is for other names.
    #[error("the certificate is for another name")]
    OtherName,
    /// Another rule of X.509 is broken.
    #[error("the certificate is not valid: {0}")]
    Invalid(String),
}

impl From<ServerRejection> for rustls::Error {
    fn from(rejection: ServerRejection) -> Self {
        CertificateError::Other(OtherError(Arc::new(rejection))).into()
    }
}

/// Finds the rejection of a server's certificate in an error of a connection and its sources.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum of rustls grows")]
pub fn server_rejection<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a ServerRejection> {
    tls_error(error).and_then(|error| match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref()
        }
        _ => None,
    })
}

/// Finds the error of TLS in an error of a connection and its sources.
pub fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    std::iter::successors(Some(error), |&error| next_cause(error))
        .find_map(|error| error.downcast_ref())
}

/// `io::Error::source` skips the error that it wraps.
fn next_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}
