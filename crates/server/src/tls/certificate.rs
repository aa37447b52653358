//! The certificate that a listener presents, and when to warn about its end. No I/O.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use filepull_core::fingerprint::Fingerprint;
use filepull_trust::{ClientKeys, fingerprint_of, server_config, validity_of};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::acceptor::Alpn;

const DAY: Duration = Duration::from_hours(24);

/// A certificate of the operator is due this long before its end, or in its last third if that is
/// shorter: after the time at which tools renew it.
const DUE: Duration = Duration::from_hours(14 * 24);

/// An authority is due this long before its end. A rotation takes as long as the slowest agent is off.
const AUTHORITY_DUE: Duration = Duration::from_hours(2 * 365 * 24);

/// A certificate with its key, ready for handshakes.
#[derive(Debug)]
pub(crate) struct ServerCertificate {
    pub(crate) config: Arc<ServerConfig>,
    /// The certificate, then the certificates of its issuers.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) validity: Range<SystemTime>,
    pub(crate) fingerprint: Fingerprint,
}

/// Why a certificate cannot be presented.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PresentError {
    /// The first certificate cannot be read.
    #[error("not an X.509 certificate")]
    Certificate,
    /// The key does not belong to the certificate, or its kind is not supported.
    #[error("the key does not belong to the certificate, or is of an unknown kind: {0}")]
    Key(rustls::Error),
}

impl ServerCertificate {
    /// Checks that the key belongs to the certificate.
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        alpn: Alpn,
    ) -> Result<Self, PresentError> {
        let first = chain.first().ok_or(PresentError::Certificate)?;
        let validity = validity_of(first).map_err(|_| PresentError::Certificate)?;
        let fingerprint = fingerprint_of(first).map_err(|_| PresentError::Certificate)?;
        let client_keys = match alpn {
            Alpn::Http2 => ClientKeys::Accept,
            Alpn::Http1 => ClientKeys::None,
        };
        let config = server_config(chain.clone(), key, &[alpn.name()], client_keys)
            .map_err(PresentError::Key)?;
        Ok(Self { config, chain, validity, fingerprint })
    }
}

/// How close the end of a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// Not yet valid: the clock of this machine or of the issuer is wrong.
    Early,
    /// Far away.
    Fine,
    /// An operator should act now.
    Due,
    /// The certificate has ended.
    Over,
}

/// Returns how close the end of a certificate of the operator is.
pub(crate) fn expiry(validity: &Range<SystemTime>, now: SystemTime) -> Expiry {
    judge(validity, now, DUE.min(lifetime(validity) / 3))
}

/// Returns how close the end of an authority is.
pub(crate) fn authority_expiry(not_after: SystemTime, now: SystemTime) -> Expiry {
    judge(&(SystemTime::UNIX_EPOCH..not_after), now, AUTHORITY_DUE)
}

fn judge(validity: &Range<SystemTime>, now: SystemTime, due: Duration) -> Expiry {
    if now < validity.start {
        Expiry::Early
    } else if validity.end <= now {
        Expiry::Over
    } else if validity.end.duration_since(now).unwrap_or_default() < due {
        Expiry::Due
    } else {
        Expiry::Fine
    }
}

/// How long a certificate of the own authority is valid.
const OWN_LIFETIME: Duration = Duration::from_hours(90 * 24);

/// Returns the dates of a new certificate. It begins a day early, for a peer whose clock is slow.
pub(crate) fn own_validity(now: SystemTime) -> Range<SystemTime> {
    now.checked_sub(DAY).unwrap_or(SystemTime::UNIX_EPOCH)..now + OWN_LIFETIME
}

/// Returns whether the own authority must issue a new certificate: two thirds of the lifetime have
/// passed, or the clock was set to a time before the certificate.
pub(crate) fn must_renew(validity: &Range<SystemTime>, now: SystemTime) -> bool {
    now < validity.start || validity.end <= now + OWN_LIFETIME / 3
}

fn lifetime(validity: &Range<SystemTime>) -> Duration {
    validity.end.duration_since(validity.start).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(number: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(24 * (10_000 + number))
    }

    #[test]
    fn a_certificate_of_the_operator_is_due_two_weeks_before_its_end() {
        let year = day(0)..day(365);
        assert_eq!(expiry(&year, day(0)), Expiry::Fine);
        assert_eq!(expiry(&year, day(350)), Expiry::Fine);
        assert_eq!(expiry(&year, day(352)), Expiry::Due);
        assert_eq!(expiry(&year, day(365)), Expiry::Over);
        let short = day(0)..day(6);
        assert_eq!(expiry(&short, day(3)), Expiry::Fine);
        assert_eq!(expiry(&short, day(5)), Expiry::Due);
        assert_eq!(expiry(&(day(9)..day(10)), day(8)), Expiry::Early);
    }

    #[test]
    fn the_own_certificate_is_renewed_after_two_thirds_and_when_the_clock_jumps() {
        let validity = own_validity(day(1));
        assert!(!must_renew(&validity, day(1)));
        assert!(!must_renew(&validity, day(60)));
        assert!(must_renew(&validity, day(61)));
        assert!(must_renew(&validity, day(500)));
        // The clock was a year ahead when the certificate was issued.
        assert!(must_renew(&own_validity(day(366)), day(1)));
        assert!(must_renew(&own_validity(SystemTime::UNIX_EPOCH), day(1)));
    }

    #[test]
    fn an_authority_is_due_two_years_before_its_end() {
        let end = day(20 * 365);
        assert_eq!(authority_expiry(end, day(17 * 365)), Expiry::Fine);
        assert_eq!(authority_expiry(end, day(18 * 365 + 1)), Expiry::Due);
    }
}
