//! A certificate authority: the key that agents pin, and the certificates that it signs.

use std::fmt;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use filepull_core::fingerprint::Fingerprint;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::certificate::{fingerprint_of, parse, validity_of};

/// How long the certificate of an authority is valid: 20 years. Agents ignore it, other clients do not.
const LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);

/// The certificate starts a day early, for clients whose clock is slow.
const MAX_CLOCK_ERROR: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate authority with its private key (ECDSA P-256). `Debug` does not show the key.
pub struct CertificateAuthority {
    certificate: CertificateDer<'static>,
    key: KeyPair,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate of a server and its key. `Debug` does not show the key.
pub struct IssuedCertificate {
    /// The certificate, then the certificate of the authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the first certificate.
    pub key: PrivateKeyDer<'static>,
}

/// Why there is no authority or certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate cannot be read.
    #[error("not a certificate of an authority in PEM")]
    Certificate,
    /// The key cannot be read. The error does not repeat it.
    #[error("not a private key in PEM (PKCS#8)")]
    Key,
    /// The key belongs to another certificate.
    #[error("the key does not belong to the certificate of the authority")]
    Mismatch,
    /// A name is no DNS name and no IP address.
    #[error("{0:?} is not a DNS name or an IP address")]
    Name(String),
    /// The library for certificates failed.
    #[error("cannot create a certificate: {0}")]
    Library(String),
}

impl IssuedCertificate {
    /// Returns the chain in PEM.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect()
    }

    /// Returns the private key as PKCS#8 in PEM, for a file with mode 0600.
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", self.key.secret_der())
    }
}

impl CertificateAuthority {
    /// Creates an authority with a random key.
    ///
    /// # Errors
    /// The library for certificates failed.
    pub fn generate(name: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(library)?;
        let now = SystemTime::now();
        let params = authority_params(name, now - MAX_CLOCK_ERROR..now + LIFETIME);
        let certificate = params.self_signed(&key).map_err(library)?;
        Self::new(certificate.into(), key)
    }

    /// Reads a certificate and its key, both in PEM.
    ///
    /// # Errors
    /// One of them cannot be read, or they do not belong together.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| AuthorityError::Certificate)?;
        Self::new(certificate, KeyPair::from_pem(key).map_err(|_| AuthorityError::Key)?)
    }

    fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, AuthorityError> {
        let parsed = parse(&certificate).map_err(|_| AuthorityError::Certificate)?;
        if !parsed.is_ca() {
            return Err(AuthorityError::Certificate);
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(AuthorityError::Mismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, copy_of(&key)?)
            .map_err(|_| AuthorityError::Certificate)?;
        Ok(Self { certificate, key, issuer })
    }

    /// Issues a certificate for DNS names and IP addresses, with a random key.
    ///
    /// # Errors
    /// A name is invalid.
    pub fn issue(
        &self,
        names: &[String],
        validity: Range<SystemTime>,
    ) -> Result<IssuedCertificate, AuthorityError> {
        let mut params = CertificateParams::default();
        for name in names {
            let result = CertificateParams::new([name.clone()]);
            let parsed = result.map_err(|_| AuthorityError::Name(name.clone()))?;
            params.subject_alt_names.extend(parsed.subject_alt_names);
        }
        let common_name = names.first().map_or("filepull server", String::as_str);
        params.distinguished_name.push(DnType::CommonName, common_name);
        set_validity(&mut params, &validity);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(library)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(library)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok(IssuedCertificate {
            chain: vec![certificate.into(), self.certificate.clone()],
            key: PrivateKeyDer::Pkcs8(key),
        })
    }

    /// Signs the key of another authority, so that a client that pins this one accepts certificates of
    /// the other one. It is valid as long as the certificate of `other`.
    ///
    /// # Errors
    /// The library for certificates failed, or `other` has no common name.
    pub fn cross_sign(&self, other: &Self) -> Result<CertificateDer<'static>, AuthorityError> {
        let parsed = parse(&other.certificate).map_err(|_| AuthorityError::Certificate)?;
        let found = parsed.subject().iter_common_name().find_map(|name| name.as_str().ok());
        let name = found.ok_or(AuthorityError::Certificate)?;
        let validity = validity_of(&other.certificate).map_err(|_| AuthorityError::Certificate)?;
        let mut params = authority_params(name, validity);
        params.use_authority_key_identifier_extension = true;
        params.signed_by(&other.key, &self.issuer).map(Into::into).map_err(library)
    }

    /// Returns the pin of this authority.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint_of(&self.certificate).expect("the certificate was parsed before")
    }

    /// Returns the certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Returns the certificate in PEM.
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// Returns the private key as PKCS#8 in PEM, for a file with mode 0600.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Returns when the certificate ends.
    pub fn not_after(&self) -> SystemTime {
        validity_of(&self.certificate).expect("the certificate was parsed before").end
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateAuthority({})", self.fingerprint())
    }
}

impl fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedCertificate")
            .field("chain", &self.chain.len())
            .finish_non_exhaustive()
    }
}

fn authority_params(name: &str, validity: Range<SystemTime>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    set_validity(&mut params, &validity);
    params
}

/// Returns DER as PEM (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for start in (0..text.len()).step_by(64) {
        pem.push_str(&text[start..text.len().min(start + 64)]);
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}

/// A time before 1970 becomes 1970.
fn set_validity(params: &mut CertificateParams, validity: &Range<SystemTime>) {
    let since_epoch = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH);
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(validity.start).unwrap_or_default();
    params.not_after = epoch + since_epoch(validity.end).unwrap_or_default();
}

fn copy_of(key: &KeyPair) -> Result<KeyPair, AuthorityError> {
    KeyPair::try_from(key.serialized_der()).map_err(|_| AuthorityError::Key)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature of `map_err`")]
fn library(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Library(error.to_string())
}
