//! Receipts: which ones are accepted, and when they are durable.

use filepull_core::source::Consistency;
use filepull_trust::AgentKey;
use filepull_trust::receipt::{ConsistencyClaims, ReceiptClaims, SourceClaims};

use super::*;
use crate::receive::SignedReceipt;

fn claims(transfer: TransferId, bytes: &[u8]) -> ReceiptClaims {
    ReceiptClaims {
        iss: client().to_string(),
        transfer: transfer.to_string(),
        attempt: 1,
        path: None,
        size: bytes.len() as u64,
        digests: ReceiptClaims::digests_of(Blake3::of(bytes)),
        source: SourceClaims::from(&source(bytes.len())),
        consistency: ConsistencyClaims::unchanged(Consistency::DoubleRead),
        requested_by: "test".to_owned(),
        iat: 0,
    }
}

/// The end of an upload of `data` whose connection has proven `key`.
fn end(receipt: String, key: &AgentKey) -> UploadItem {
    UploadItem::End(ReceivedTrailer {
        total_size: 4,
        blake3: Blake3::of(b"data"),
        receipt: SignedReceipt::verify(receipt, Some(key.fingerprint())),
    })
}

#[tokio::test]
async fn a_receipt_is_durable_before_the_file_is_published() {
    let mut fixture = TransfersFixture::start().await;
    let key = AgentKey::generate();
    let id = fixture.pull().await.unwrap().id;
    // The server can publish a sealed file without the agent.
    fixture.refuse("NEW.state = 'done'");
    let order = fixture.order().await;
    let receipt = claims(id, b"data").sign(&key);
    fixture.upload(&order, 4, vec![chunk(0, b"data"), end(receipt.clone(), &key)]);
    fixture.waits_for_resource().await;
    assert_eq!(fixture.records.receipt(id).await.unwrap().as_deref(), Some(receipt.as_str()));
    fixture.accept_again();
    assert!(fixture.ended(id).await.download().is_some());
    fixture.records.forget(&[id]).await.unwrap();
    assert_eq!(fixture.records.receipt(id).await.unwrap(), None);
}

#[tokio::test]
async fn a_wrong_receipt_ends_the_attempt_and_the_second_one_the_transfer() {
    let key = AgentKey::generate();
    let other = AgentKey::generate();
    let id = TransferId::generate();
    let right = claims(id, b"data");
    let wrong: [(&str, ReceiptClaims, &AgentKey); 5] = [
        ("another key", right.clone(), &other),
        ("client", ReceiptClaims { iss: "client5".to_owned(), ..right.clone() }, &key),
        ("transfer", ReceiptClaims { transfer: "x".to_owned(), ..right.clone() }, &key),
        ("size", ReceiptClaims { size: 5, ..right.clone() }, &key),
        (
            "digest",
            ReceiptClaims { digests: ReceiptClaims::digests_of(Blake3::of(b"other")), ..right },
            &key,
        ),
    ];
    for (what, claims, signer) in wrong {
        let mut fixture = TransfersFixture::start().await;
        let id = fixture.pull().await.unwrap().id;
        let is_of_transfer = claims.transfer != "x";
        let transfer = if is_of_transfer { id.to_string() } else { claims.transfer.clone() };
        let receipt = ReceiptClaims { transfer, ..claims }.sign(signer);
        let order = fixture.order().await;
        let items = vec![chunk(0, b"data"), end(receipt.clone(), &key)];
        let mut replies = fixture.upload(&order, 4, items);
        assert!(violation(&mut replies).await.contains(what), "{what}");
        let again = fixture.order().await;
        assert_eq!(again.prefix.len, 4, "the received bytes stay");
        let mut replies = fixture.upload(&again, 4, vec![end(String::new(), &key)]);
        assert_eq!(violation(&mut replies).await, "the trailer has no receipt");
        let failed = fixture.ended(id).await;
        assert_eq!(failed.problem().unwrap().code, Code::AgentError);
        assert!(fixture.names().is_empty());
    }
}

/// Returns the reason for which the server ended the attempt.
async fn violation(replies: &mut mpsc::Receiver<Reply>) -> String {
    loop {
        match soon(replies.recv()).await.unwrap() {
            Reply::Violation { reason } => return reason,
            Reply::Ack { .. } => {}
            other @ (Reply::Stored { .. } | Reply::Refused { .. }) => panic!("{other:?}"),
        }
    }
}
