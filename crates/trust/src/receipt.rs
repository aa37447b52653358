//! Receipts: what an agent says has left it, signed with its key.
//!
//! The agent signs [`ReceiptClaims`] after the last byte. The server checks them before it publishes the
//! file, and keeps them. They are verified later with this crate or with any JOSE library.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use filepull_core::file_digest::Blake3;
use filepull_core::fingerprint::Fingerprint;
use filepull_core::source::{Consistency, Source};
use serde::{Deserialize, Serialize};

use crate::agent_key::AgentKey;
use crate::jws::{self, JwsError};

/// The name of BLAKE3 in [`ReceiptClaims::digests`].
pub const BLAKE3: &str = "blake3";

/// What a receipt states. The payload of the JWS is this object as JSON. Later versions add fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptClaims {
    /// The id of the client.
    pub iss: String,
    /// The id of the transfer, from the order.
    pub transfer: String,
    /// The number of the attempt, from the order.
    pub attempt: u32,
    /// The path that was requested; none for the default file.
    pub path: Option<String>,
    /// The length of the complete file in bytes.
    pub size: u64,
    /// The digests of the complete file in hexadecimal, by the name of the algorithm.
    pub digests: BTreeMap<String, String>,
    /// The file on the client.
    pub source: SourceClaims,
    /// How the agent made sure that the file did not change while it was read.
    pub consistency: ConsistencyClaims,
    /// The requester, as the server named it in the order; empty if the order has none.
    pub requested_by: String,
    /// When the receipt was signed, in seconds since 1970, by the clock of the client.
    pub iat: i64,
}

/// The file on the client when the attempt opened it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceClaims {
    /// The last part of its path.
    pub name: String,
    /// When its content was last changed (RFC 3339); none if the time does not fit.
    pub modified_at: Option<String>,
}

impl From<&Source> for SourceClaims {
    fn from(source: &Source) -> Self {
        let text = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Nanos, true);
        Self { name: source.name.clone(), modified_at: source.modified_at().map(text) }
    }
}

/// How the agent made sure that the file did not change, and the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsistencyClaims {
    /// `double-read` or `stat`.
    pub method: String,
    /// `unchanged`: a file that changed gets no receipt.
    pub verdict: String,
}

impl ConsistencyClaims {
    /// Returns the claims for a file that did not change.
    pub fn unchanged(consistency: Consistency) -> Self {
        let method = match consistency {
            Consistency::DoubleRead => "double-read",
            Consistency::Stat => "stat",
        };
        Self { method: method.to_owned(), verdict: "unchanged".to_owned() }
    }
}

/// A receipt whose signature is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What it states.
    pub claims: ReceiptClaims,
    /// The key that signed it.
    pub fingerprint: Fingerprint,
}

/// Why a text is no valid receipt.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The signature is not valid.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// The signature is valid, and the payload is no receipt.
    #[error("the signed text is not a receipt")]
    Claims(#[from] serde_json::Error),
}

impl ReceiptClaims {
    /// Returns the digests of a file for [`digests`](Self::digests).
    pub fn digests_of(blake3: Blake3) -> BTreeMap<String, String> {
        BTreeMap::from([(BLAKE3.to_owned(), blake3.to_string())])
    }

    /// Signs the claims. Returns a JWS in compact form.
    pub fn sign(&self, key: &AgentKey) -> String {
        // Fails only for maps whose keys are not text.
        let payload = serde_json::to_vec(self).unwrap_or_default();
        jws::sign(key, &payload)
    }

    /// Returns the BLAKE3 of the file; none if it is missing or malformed.
    pub fn blake3(&self) -> Option<Blake3> {
        self.digests.get(BLAKE3).and_then(|text| Blake3::parse(text))
    }
}

impl Receipt {
    /// Verifies the signature of a receipt with the key that its header names.
    ///
    /// # Errors
    /// The text was changed, or is no receipt.
    pub fn verify(text: &str) -> Result<Self, ReceiptError> {
        let statement = jws::verify(text.trim())?;
        let claims = serde_json::from_slice(&statement.payload)?;
        Ok(Self { claims, fingerprint: statement.fingerprint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> ReceiptClaims {
        let source =
            Source { name: "menu.txt".to_owned(), size: 3, modified_ns: 1_770_000_000_000_000_000 };
        ReceiptClaims {
            iss: "client4".to_owned(),
            transfer: "0199e0a0-0000-7000-8000-000000000000".to_owned(),
            attempt: 1,
            path: None,
            size: 3,
            digests: ReceiptClaims::digests_of(Blake3::of(b"abc")),
            source: SourceClaims::from(&source),
            consistency: ConsistencyClaims::unchanged(Consistency::DoubleRead),
            requested_by: "nightly".to_owned(),
            iat: 1_770_000_000,
        }
    }

    #[test]
    fn a_receipt_states_what_was_signed_and_names_the_key() {
        let key = AgentKey::generate();
        let receipt = Receipt::verify(&format!("{}\n", claims().sign(&key))).unwrap();
        assert_eq!(receipt, Receipt { claims: claims(), fingerprint: key.fingerprint() });
        assert_eq!(receipt.claims.blake3(), Some(Blake3::of(b"abc")));
        assert_eq!(
            receipt.claims.source.modified_at.as_deref(),
            Some("2026-02-02T02:40:00.000000000Z")
        );
    }

    #[test]
    fn a_signed_text_that_is_no_receipt_is_rejected() {
        let text = jws::sign(&AgentKey::generate(), b"{\"iss\":\"client4\"}");
        assert!(matches!(Receipt::verify(&text), Err(ReceiptError::Claims(_))));
        let text = claims().sign(&AgentKey::generate());
        assert!(matches!(Receipt::verify(&text[1..]), Err(ReceiptError::Jws(_))));
    }
}
