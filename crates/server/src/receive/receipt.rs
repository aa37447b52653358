//! Checks the receipt in the trailer of an upload, before the file is published.

use filepull_core::fingerprint::Fingerprint;
use filepull_core::receive::Verified;
use filepull_core::transfer::Transfer;
use filepull_trust::receipt::{Receipt, ReceiptClaims};

/// A receipt that the key of its connection has signed.
#[derive(Clone, Debug)]
pub(crate) struct SignedReceipt {
    /// The receipt as the agent sent it: a JWS in compact form.
    pub(crate) text: String,
    /// In a box, because the items of every upload would be as large.
    claims: Box<ReceiptClaims>,
}

impl SignedReceipt {
    /// Verifies the receipt of an agent whose connection has proven `key`. An agent without a key
    /// sends none.
    ///
    /// # Errors
    /// The receipt is missing, is malformed, or another key signed it. The reason is a text.
    pub(crate) fn verify(text: String, key: Option<Fingerprint>) -> Result<Option<Self>, String> {
        let Some(key) = key else { return Ok(None) };
        if text.is_empty() {
            return Err("the trailer has no receipt".to_owned());
        }
        let receipt = Receipt::verify(&text).map_err(|error| format!("the receipt: {error}"))?;
        if receipt.fingerprint != key {
            return Err("the receipt is signed by another key than the connection has".to_owned());
        }
        Ok(Some(Self { text, claims: Box::new(receipt.claims) }))
    }

    /// Compares the receipt with what arrived.
    ///
    /// # Errors
    /// The receipt states something else. The reason is a text.
    pub(crate) fn check(&self, transfer: &Transfer, proof: Verified) -> Result<(), String> {
        let claims = &self.claims;
        let wrong = |what: &str| Err(format!("the receipt states another {what}"));
        if claims.iss != transfer.client.as_str() {
            wrong("client")
        } else if claims.transfer != transfer.id.to_string() {
            wrong("transfer")
        } else if claims.size != proof.size() {
            wrong("size")
        } else if claims.blake3() != Some(proof.digests().blake3) {
            wrong("digest")
        } else {
            Ok(())
        }
    }
}
