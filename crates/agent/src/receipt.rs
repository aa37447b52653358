//! The receipt of an upload: what leaves this machine, signed with its key.
//!
//! It is signed when the trailer leaves, because the server accepts only the key of the connection that
//! carries the upload, and that connection is chosen after the reader has started.

use std::sync::Arc;

use filepull_core::file_digest::Blake3;
use filepull_core::id::ClientId;
use filepull_core::source::{Consistency, Source};
use filepull_proto::v1;
use filepull_proto::v1::upload_request::Kind;
use filepull_trust::AgentKey;
use filepull_trust::receipt::{ConsistencyClaims, ReceiptClaims, SourceClaims};

use crate::order::SendOrder;

/// The claims about one upload, except for the digest and the time.
#[derive(Clone, Debug)]
pub(crate) struct ReceiptDraft(ReceiptClaims);

/// Adds the receipt to the trailer of one upload. Without a key there is none.
#[derive(Clone, Debug)]
pub(crate) struct ReceiptSigner {
    draft: ReceiptDraft,
    key: Option<Arc<AgentKey>>,
}

impl ReceiptDraft {
    pub(crate) fn new(
        client: &ClientId,
        order: &SendOrder,
        source: &Source,
        consistency: Consistency,
    ) -> Self {
        Self(ReceiptClaims {
            iss: client.to_string(),
            transfer: order.transfer.to_string(),
            attempt: order.attempt,
            path: order.path.as_ref().map(|path| path.as_str().to_owned()),
            size: source.size,
            digests: ReceiptClaims::digests_of(Blake3::of(b"")),
            source: SourceClaims::from(source),
            consistency: ConsistencyClaims::unchanged(consistency),
            requested_by: order.requested_by.clone(),
            iat: 0,
        })
    }

    /// Signs with the key of the upload's connection.
    pub(crate) fn signed_by(self, key: Option<Arc<AgentKey>>) -> ReceiptSigner {
        ReceiptSigner { draft: self, key }
    }
}

impl ReceiptSigner {
    /// Adds the receipt if the message is a trailer: the file did not change while it was read.
    pub(crate) fn sign(&self, mut request: v1::UploadRequest) -> v1::UploadRequest {
        if let (Some(Kind::Trailer(trailer)), Some(key)) = (&mut request.kind, &self.key)
            && let Ok(blake3) = Blake3::try_from(&trailer.blake3[..])
        {
            let digests = ReceiptClaims::digests_of(blake3);
            let iat = chrono::Utc::now().timestamp();
            let claims = ReceiptClaims { digests, iat, ..self.draft.0.clone() };
            trailer.receipt = claims.sign(key);
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use filepull_core::id::TransferId;
    use filepull_core::path::SharedPath;
    use filepull_trust::receipt::Receipt;

    use super::*;

    fn signer(key: Option<&Arc<AgentKey>>) -> ReceiptSigner {
        let order = SendOrder {
            transfer: TransferId::generate(),
            attempt: 2,
            path: Some(SharedPath::parse("logs/a.log").unwrap()),
            resume: None,
            base: None,
            if_changed: false,
            token: Bytes::new(),
            max_rate: None,
            max_size: None,
            requested_by: "nightly".to_owned(),
        };
        let client = ClientId::parse("client4").unwrap();
        let source = Source { name: "a.log".to_owned(), size: 3, modified_ns: 0 };
        let draft = ReceiptDraft::new(&client, &order, &source, Consistency::DoubleRead);
        draft.signed_by(key.cloned())
    }

    fn trailer() -> v1::UploadRequest {
        let blake3 = Bytes::copy_from_slice(Blake3::of(b"abc").as_bytes());
        let trailer = v1::UploadTrailer { total_size: 3, blake3, receipt: String::new() };
        v1::UploadRequest { kind: Some(Kind::Trailer(trailer)) }
    }

    fn receipt(request: v1::UploadRequest) -> String {
        let Some(Kind::Trailer(trailer)) = request.kind else { panic!("not a trailer") };
        trailer.receipt
    }

    #[test]
    fn a_trailer_gets_a_receipt_for_what_was_sent() {
        let key = Arc::new(AgentKey::generate());
        let text = receipt(signer(Some(&key)).sign(trailer()));
        let receipt = Receipt::verify(&text).unwrap();
        assert_eq!(receipt.fingerprint, key.fingerprint());
        let claims = receipt.claims;
        assert_eq!((claims.iss.as_str(), claims.size, claims.attempt), ("client4", 3, 2));
        assert_eq!(
            (claims.path.as_deref(), &*claims.requested_by),
            (Some("logs/a.log"), "nightly")
        );
        assert_eq!(claims.blake3(), Some(Blake3::of(b"abc")));
        assert_eq!(claims.consistency.verdict, "unchanged");
        assert!(0 < claims.iat);
    }

    #[test]
    fn only_a_trailer_gets_a_receipt_and_only_with_a_key() {
        let key = Arc::new(AgentKey::generate());
        let data = Bytes::from_static(b"abc");
        let chunk =
            v1::UploadRequest { kind: Some(Kind::Chunk(v1::DataChunk { offset: 0, data })) };
        assert_eq!(signer(Some(&key)).sign(chunk.clone()), chunk);
        assert_eq!(signer(None).sign(trailer()), trailer());
    }
}
