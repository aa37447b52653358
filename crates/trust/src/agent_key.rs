//! The key of an agent: its identity, and the signature of its receipts.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use filepull_core::fingerprint::Fingerprint;
use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use crate::provider::provider;

/// The start of the DER of each Ed25519 SubjectPublicKeyInfo (RFC 8410). The 32 bytes of the key follow.
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The Ed25519 key of an agent. `Debug` shows its fingerprint only.
pub struct AgentKey {
    pair: Ed25519KeyPair,
    public_key: Vec<u8>,
}

/// Why a text is no key of an agent. The text is secret, so the error does not repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 private key in PEM (PKCS#8)")]
pub struct AgentKeyError;

/// A signature was not made with the key over the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not valid for this key and message")]
pub struct SignatureError;

impl AgentKey {
    /// Creates a random key.
    pub fn generate() -> Self {
        Self::new(Ed25519KeyPair::generate().expect("the system has random bytes"))
    }

    /// Parses a PKCS#8 private key in PEM.
    ///
    /// # Errors
    /// The text is no such key, or the key is not Ed25519.
    pub fn from_pem(pem: &str) -> Result<Self, AgentKeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| AgentKeyError)?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
        pair.map(Self::new).map_err(|_| AgentKeyError)
    }

    fn new(pair: Ed25519KeyPair) -> Self {
        let public_key = pair.public_key().as_der().expect("an Ed25519 key has a DER form");
        Self { public_key: public_key.as_ref().to_vec(), pair }
    }

    /// Returns the private key as PKCS#8 in PEM, for a file with mode 0600.
    pub fn to_pem(&self) -> String {
        self.rcgen_key().serialize_pem()
    }

    /// Returns the identity of the agent.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_public_key(&self.public_key)
    }

    /// Returns the public key: the DER of its SubjectPublicKeyInfo.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Returns the 32 bytes of the public key, without the DER around them.
    pub(crate) fn raw_public_key(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// Returns the signature of a message: 64 bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    /// Returns the key and a certificate that carries it, for the client side of TLS. The server reads
    /// the key only.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "filepull agent");
        params.not_before = date_time_ymd(1970, 1, 1);
        params.not_after = date_time_ymd(9999, 12, 31);
        let certificate =
            params.self_signed(&self.rcgen_key()).expect("a constant form with a valid key");
        let key = PrivateKeyDer::Pkcs8(self.pkcs8());
        let certified = CertifiedKey::from_der(vec![certificate.into()], key, &provider());
        Arc::new(certified.expect("the certificate carries the key"))
    }

    fn rcgen_key(&self) -> KeyPair {
        KeyPair::try_from(&self.pkcs8()).expect("a valid key has a valid PKCS#8 form")
    }

    /// Version 1 of PKCS#8, which every tool reads.
    fn pkcs8(&self) -> PrivatePkcs8KeyDer<'static> {
        let document = self.pair.to_pkcs8v1().expect("a valid key has a PKCS#8 form");
        PrivatePkcs8KeyDer::from(document.as_ref().to_vec())
    }
}

impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentKey({})", self.fingerprint())
    }
}

/// Checks a signature with an Ed25519 public key, given as the DER of its SubjectPublicKeyInfo.
///
/// # Errors
/// The signature does not fit, or the key is not Ed25519.
pub fn verify_signature(
    spki: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let raw = raw_ed25519(spki).ok_or(SignatureError)?;
    UnparsedPublicKey::new(&ED25519, raw).verify(message, signature).map_err(|_| SignatureError)
}

/// Returns what an agent signs with a new key, to prove in one session that it has it (`NewKey` in
/// `control.proto`). `public_key` is the DER of its SubjectPublicKeyInfo.
pub fn new_key_message(session_id: &str, public_key: &[u8]) -> Vec<u8> {
    [b"filepull new key\0", session_id.as_bytes(), b"\0", public_key].concat()
}

/// Returns the 32 bytes of an Ed25519 key. `None`: another algorithm, or not DER.
pub(crate) fn raw_ed25519(spki: &[u8]) -> Option<&[u8]> {
    spki.strip_prefix(&SPKI_PREFIX).filter(|raw| raw.len() == 32)
}

/// Returns the DER of the SubjectPublicKeyInfo of an Ed25519 key. `None`: not 32 bytes.
pub(crate) fn ed25519_spki(raw: &[u8]) -> Option<Vec<u8>> {
    (raw.len() == 32).then(|| [&SPKI_PREFIX, raw].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::fingerprint_of;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let key = AgentKey::generate();
        let read = AgentKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(read.fingerprint(), key.fingerprint());
        verify_signature(key.public_key(), b"message", &read.sign(b"message")).unwrap();
    }

    #[test]
    fn a_changed_message_signature_or_key_is_rejected() {
        let key = AgentKey::generate();
        let mut signature = key.sign(b"message");
        let check = |spki: &[u8], message: &[u8], signature: &[u8]| {
            assert_eq!(verify_signature(spki, message, signature), Err(SignatureError));
        };
        check(key.public_key(), b"massage", &signature);
        check(AgentKey::generate().public_key(), b"message", &signature);
        check(key.raw_public_key(), b"message", &signature);
        signature[0] ^= 1;
        check(key.public_key(), b"message", &signature);
    }

    #[test]
    fn the_certificate_carries_the_key() {
        let key = AgentKey::generate();
        let certified = key.certified_key();
        assert_eq!(fingerprint_of(&certified.cert[0]), Ok(key.fingerprint()));
    }

    #[test]
    fn debug_and_errors_do_not_show_the_key() {
        let key = AgentKey::generate();
        assert_eq!(format!("{key:?}"), format!("AgentKey({})", key.fingerprint()));
        let pem = key.to_pem();
        let truncated = &pem[..pem.len() / 2];
        let error = AgentKey::from_pem(truncated).unwrap_err().to_string();
        assert_eq!(error, "not an Ed25519 private key in PEM (PKCS#8)");
        let other = KeyPair::generate().unwrap().serialize_pem();
        assert_eq!(AgentKey::from_pem(&other).unwrap_err(), AgentKeyError);
    }
}
