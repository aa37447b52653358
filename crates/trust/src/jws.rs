//! Signed statements of an agent: JWS in compact form (RFC 7515) with EdDSA (RFC 8037). Any JOSE library
//! verifies them.
//!
//! The header carries the public key, so a statement proves which key signed it. Whether that key belongs
//! to a client is for the caller to decide.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use filepull_core::fingerprint::Fingerprint;
use serde::{Deserialize, Serialize};

use crate::agent_key::{AgentKey, ed25519_spki, verify_signature};

/// Maximum length of a statement that [`verify`] accepts: 64 KiB.
pub const MAX_LEN: usize = 64 * 1024;

/// A statement whose signature is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedStatement {
    /// What was signed.
    pub payload: Vec<u8>,
    /// The key that signed it.
    pub fingerprint: Fingerprint,
}

/// Why a text is no valid statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Not three parts in base64url, or the header is not as filepull writes it.
    #[error("not a JWS in compact form with an Ed25519 key in its header")]
    Malformed,
    /// Another algorithm, such as `none`.
    #[error("the algorithm is not EdDSA")]
    Algorithm,
    /// `kid` names another key.
    #[error("the key in the header is not the key that it names")]
    KeyId,
    /// The header or the payload was changed, or another key signed it.
    #[error("the signature is not valid")]
    Signature,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    jwk: Jwk,
    kid: Fingerprint,
    /// Extensions that a verifier must understand (RFC 7515, 4.1.11): there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
}

/// Signs a payload with the key of an agent.
pub fn sign(key: &AgentKey, payload: &[u8]) -> String {
    let header = Header {
        alg: "EdDSA".to_owned(),
        jwk: Jwk {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            x: URL_SAFE_NO_PAD.encode(key.raw_public_key()),
        },
        kid: key.fingerprint(),
        crit: None,
    };
    let header = serde_json::to_vec(&header).expect("strings have a JSON form");
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// Checks a statement with the key in its header.
///
/// # Errors
/// The statement is malformed, was changed, or has another algorithm.
pub fn verify(text: &str) -> Result<SignedStatement, JwsError> {
    if MAX_LEN < text.len() {
        return Err(JwsError::Malformed);
    }
    let (signed, signature) = text.rsplit_once('.').ok_or(JwsError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(JwsError::Malformed)?;
    let public_key = public_key(&decode(header)?)?;
    verify_signature(&public_key.spki, signed.as_bytes(), &decode(signature)?)
        .map_err(|_| JwsError::Signature)?;
    Ok(SignedStatement { payload: decode(payload)?, fingerprint: public_key.fingerprint })
}

struct PublicKey {
    spki: Vec<u8>,
    fingerprint: Fingerprint,
}

fn public_key(header: &[u8]) -> Result<PublicKey, JwsError> {
    #[derive(Deserialize)]
    struct Algorithm {
        alg: String,
    }
    let algorithm: Algorithm = serde_json::from_slice(header).map_err(|_| JwsError::Malformed)?;
    if algorithm.alg != "EdDSA" {
        return Err(JwsError::Algorithm);
    }
    let header: Header = serde_json::from_slice(header).map_err(|_| JwsError::Malformed)?;
    if header.jwk.kty != "OKP" || header.jwk.crv != "Ed25519" || header.crit.is_some() {
        return Err(JwsError::Malformed);
    }
    let spki = ed25519_spki(&decode(&header.jwk.x)?).ok_or(JwsError::Malformed)?;
    let fingerprint = Fingerprint::of_public_key(&spki);
    if fingerprint != header.kid {
        return Err(JwsError::KeyId);
    }
    Ok(PublicKey { spki, fingerprint })
}

fn decode(part: &str) -> Result<Vec<u8>, JwsError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| JwsError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_verified_and_names_its_key() {
        let key = AgentKey::generate();
        let verified = verify(&sign(&key, b"{\"size\":1}")).unwrap();
        assert_eq!(verified.payload, b"{\"size\":1}");
        assert_eq!(verified.fingerprint, key.fingerprint());
    }

    #[test]
    fn one_changed_character_is_rejected() {
        let text = sign(&AgentKey::generate(), b"payload");
        for position in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(verify(&changed).is_err(), "{changed}");
        }
    }

    #[test]
    fn another_algorithm_is_rejected() {
        let key = AgentKey::generate();
        let text = sign(&key, b"payload");
        let header = String::from_utf8(decode(text.split('.').next().unwrap()).unwrap()).unwrap();
        let check = |changed: String, expected| {
            assert_eq!(verify(&signed(&key, &changed)), Err(expected), "{changed}");
        };
        check(header.replace("EdDSA", "none"), JwsError::Algorithm);
        check(header.replace("EdDSA", "HS256"), JwsError::Algorithm);
        check(header.replace("OKP", "oct"), JwsError::Malformed);
        check(header.replace("{\"alg\"", "{\"crit\":[\"b64\"],\"alg\""), JwsError::Malformed);
        let other = AgentKey::generate().fingerprint().to_string();
        check(header.replace(&key.fingerprint().to_string(), &other), JwsError::KeyId);
        let unsigned = format!("{}..", URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}"));
        assert_eq!(verify(&unsigned), Err(JwsError::Algorithm));
    }

    fn signed(key: &AgentKey, header: &str) -> String {
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode("payload"));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes())))
    }
}
