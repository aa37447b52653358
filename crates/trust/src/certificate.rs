//! What filepull reads in a certificate.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use filepull_core::fingerprint::Fingerprint;
use filepull_core::human;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

/// Bytes that are no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate")]
pub struct CertificateError;

/// Returns the fingerprint of the key in a certificate.
///
/// # Errors
/// The bytes are no certificate.
pub fn fingerprint_of(certificate: &CertificateDer<'_>) -> Result<Fingerprint, CertificateError> {
    parse(certificate).map(|parsed| Fingerprint::of_public_key(parsed.public_key().raw))
}

/// Returns the dates of a certificate: valid from the start, and no longer from the end on.
///
/// # Errors
/// The bytes are no certificate.
pub fn validity_of(
    certificate: &CertificateDer<'_>,
) -> Result<Range<SystemTime>, CertificateError> {
    let parsed = parse(certificate)?;
    Ok(system_time(parsed.validity().not_before)..system_time(parsed.validity().not_after))
}

/// Returns the name of the issuer as a certificate states it, for messages: one line, bounded, without
/// control characters.
///
/// # Errors
/// The bytes are no certificate.
pub fn issuer_of(certificate: &CertificateDer<'_>) -> Result<String, CertificateError> {
    parse(certificate).map(|parsed| shown_name(parsed.issuer()))
}

/// Returns whether a certificate names itself as its issuer, as the certificate of a root does. The
/// signature is not checked: use this only for files of the operator.
///
/// # Errors
/// The bytes are no certificate.
pub fn is_self_issued(certificate: &CertificateDer<'_>) -> Result<bool, CertificateError> {
    parse(certificate).map(|parsed| parsed.subject() == parsed.issuer())
}

pub(crate) fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, CertificateError> {
    match parse_x509_certificate(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) | Err(_) => Err(CertificateError),
    }
}

/// Returns the common name, or the complete name if it has none.
pub(crate) fn shown_name(name: &X509Name<'_>) -> String {
    let common_name = name.iter_common_name().find_map(|part| part.as_str().ok());
    human::printable(&common_name.map_or_else(|| name.to_string(), str::to_owned), 100)
}

fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = Duration::from_secs(time.timestamp().unsigned_abs());
    let after_epoch = 0 <= time.timestamp();
    let shifted = if after_epoch {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    };
    shifted.unwrap_or(SystemTime::UNIX_EPOCH)
}
