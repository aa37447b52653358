//! Checks a server against pinned keys of certificate authorities. Dates and names decide nothing: a
//! client may believe that it is 1970, and may reach the server by any address.
//!
//! Each certificate of the presented chain whose key is pinned is an anchor. Signatures must lead from an
//! anchor to the server's certificate; a pinned certificate that is only sent along proves nothing. The
//! signature of the handshake proves that the server has the key of its certificate.

use filepull_core::fingerprint::Fingerprint;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, PeerIncompatible, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA};
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::certificate::{parse, shown_name};
use crate::provider::provider;
use crate::rejection::ServerRejection;

/// Maximum length of a chain. During a rotation it has four certificates. Bounds the signatures that a
/// stranger makes an agent verify.
const MAX_CHAIN_LEN: usize = 8;

#[derive(Debug)]
pub(crate) struct PinnedServer {
    pins: Vec<Fingerprint>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedServer {
    pub(crate) fn new(pins: Vec<Fingerprint>) -> Self {
        Self { pins, algorithms: provider().signature_verification_algorithms }
    }

    fn is_pinned(&self, key: &SubjectPublicKeyInfo<'_>) -> bool {
        self.pins.contains(&Fingerprint::of_public_key(key.raw))
    }

    fn check(
        &self,
        leaf: &X509Certificate<'_>,
        issuers: &[X509Certificate<'_>],
    ) -> Result<(), ServerRejection> {
        if self.is_pinned(leaf.public_key()) {
            return Ok(());
        }
        let last = issuers.last().unwrap_or(leaf);
        let issuer = shown_name(leaf.issuer());
        let (mut trusted, mut others): (Vec<_>, Vec<_>) =
            issuers.iter().partition(|issuer| self.is_pinned(issuer.public_key()));
        if trusted.is_empty() {
            let found = Fingerprint::of_public_key(last.public_key().raw);
            return Err(ServerRejection::NotPinned { issuer, found });
        }
        // Authorities that a trusted authority signed are trusted too, as in a rotation.
        while let Some(position) =
            others.iter().position(|other| may_sign(other) && is_signed_by_any(other, &trusted))
        {
            trusted.push(others.swap_remove(position));
        }
        let is_signed = serves_tls(leaf) && is_signed_by_any(leaf, &trusted);
        is_signed.then_some(()).ok_or(ServerRejection::NotSigned { issuer })
    }
}

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let malformed = |_| ServerRejection::Invalid("not an X.509 certificate".to_owned());
        let leaf = parse(end_entity).map_err(malformed)?;
        let parsed_issuers = intermediates.iter().take(MAX_CHAIN_LEN).map(parse);
        let issuers: Vec<_> = parsed_issuers.collect::<Result<_, _>>().map_err(malformed)?;
        self.check(&leaf, &issuers)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn is_signed_by_any(certificate: &X509Certificate<'_>, issuers: &[&X509Certificate<'_>]) -> bool {
    let algorithm = certificate.signature_algorithm.oid();
    let is_broken = [OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA].contains(algorithm);
    let is_signed = |issuer: &&X509Certificate<'_>| {
        certificate.verify_signature(Some(issuer.public_key())).is_ok()
    };
    !is_broken && issuers.iter().any(is_signed)
}

/// Returns whether a certificate is one of an authority. Else the owner of any certificate of a pinned
/// authority could issue another one.
fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    let is_authority = matches!(certificate.basic_constraints(), Ok(Some(found)) if found.value.ca);
    let may_sign = match certificate.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    is_authority && may_sign
}

/// Returns whether a certificate is one of a server: a certificate for another purpose, such as one for a
/// person, may be signed by the same authority.
fn serves_tls(certificate: &X509Certificate<'_>) -> bool {
    match certificate.extended_key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.server_auth || usage.value.any),
        Err(_) => false,
    }
}
