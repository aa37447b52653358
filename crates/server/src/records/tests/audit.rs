//! The audit: what is appended with which change, and what survives a damaged chain.

use filepull_core::audit::{AuditAction, AuditRecord, ChainBreak, ChainVerifier};

use super::*;
use crate::records::change::Change;

fn entry(subject: &str) -> AuditEntry {
    Actor::server().did(AuditAction::TransferRequested, subject).with("n", 1)
}

async fn all(records: &Records) -> Vec<AuditRecord> {
    let filter =
        AuditFilter { order: AuditOrder::OldestFirst, limit: 10_000, ..AuditFilter::default() };
    let page = records.audit_page(&filter).await.unwrap();
    page.items.into_iter().map(Result::unwrap).collect()
}

async fn verify(records: &Records) -> Result<u64, ChainBreak> {
    let mut verifier = ChainVerifier::new();
    all(records).await.into_iter().try_for_each(|record| verifier.push(record))?;
    verifier.finish()?;
    Ok(verifier.head().seq)
}

fn subjects(records: &[AuditRecord]) -> Vec<&str> {
    records.iter().map(|record| record.content.subject.as_str()).collect()
}

#[tokio::test]
async fn a_transfer_and_its_audit_record_need_one_commit() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let before = records.writer.commits();
    records.save_audited(&queued("client4"), entry("client4")).await.unwrap();
    assert_eq!(records.writer.commits(), before + 1);
    let key = RequestKey { key: "k".to_owned(), request: Digest::of(b"r") };
    records.save_keyed(&queued("client5"), &key, Some(entry("client5"))).await.unwrap();
    assert_eq!(records.writer.commits(), before + 2);
    assert_eq!(subjects(&all(&records).await), ["client4", "client5"]);
}

#[tokio::test]
async fn many_records_share_a_few_commits_and_make_one_chain() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    try_join_all((0..1000).map(|n| records.audit(entry(&n.to_string())))).await.unwrap();
    assert_eq!(verify(&records).await, Ok(1000));
    assert!(records.writer.commits() < 20, "{} commits", records.writer.commits());
    records.close().await.unwrap();
    // The next process continues the chain.
    let records = fixture.open().await;
    records.audit(entry("again")).await.unwrap();
    assert_eq!(verify(&records).await, Ok(1001));
}

#[tokio::test]
async fn a_change_that_is_not_made_has_no_record() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let transfer = done_at(1);
    records.save(&transfer).await.unwrap();
    let other = Transfer { phase: Phase::Queued, ..transfer };
    let lost = records.save_audited(&other, entry("lost")).await;
    assert!(matches!(lost, Err(SaveError::Lost)), "{lost:?}");
    let key = RequestKey { key: "k".to_owned(), request: Digest::of(b"r") };
    records.save_keyed(&queued("a"), &key, Some(entry("first"))).await.unwrap();
    let taken = records.save_keyed(&queued("a"), &key, Some(entry("second"))).await;
    assert!(matches!(taken, Err(SaveError::Lost)), "{taken:?}");
    assert_eq!(subjects(&all(&records).await), ["first"]);
}

#[tokio::test]
async fn a_failed_write_of_a_batch_leaves_no_gap() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let invalid = Statement::new("INSERT INTO clients (id) VALUES ($1)").bind("x");
    let failing = Change::new(vec![invalid]).audit([entry("failed")]);
    let audits = |n: u32| join_all((0..n).map(|n| records.audit(entry(&n.to_string()))));
    let (before, (failed, after)) =
        join(audits(20), join(records.writer.apply(failing), audits(20))).await;
    assert!(failed.is_err() && before.iter().chain(&after).all(Result::is_ok));
    assert_eq!(verify(&records).await, Ok(40));
    assert!(!subjects(&all(&records).await).contains(&"failed"));
}

#[tokio::test]
async fn the_chain_continues_behind_a_damaged_record() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    for n in 0..3 {
        records.audit(entry(&n.to_string())).await.unwrap();
    }
    records.close().await.unwrap();
    fixture.run("UPDATE audit SET digest = 'x' WHERE seq = 3");
    let records = fixture.open().await;
    records.audit(entry("next")).await.unwrap();
    let page = AuditFilter { limit: 10, ..AuditFilter::default() };
    let items = records.audit_page(&page).await.unwrap().items;
    let readable: Vec<_> = items.iter().map(|item| item.as_ref().ok().map(|it| it.seq)).collect();
    assert_eq!(readable, [Some(4), None, Some(2), Some(1)]);
}

#[tokio::test]
async fn text_of_a_caller_is_printable_and_bounded() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let actor =
        Actor { name: "a\n\u{1b}[31m".to_owned(), address: "x".repeat(9999), request_id: None };
    let detail = "y".repeat(100_000);
    records.audit(actor.did(AuditAction::AgentRejected, "s").with("d", detail)).await.unwrap();
    let content = all(&records).await.remove(0).content;
    assert!(!content.actor.chars().any(char::is_control), "{:?}", content.actor);
    assert!(content.address.len() <= 200 && content.detail.contains("omitted_bytes"));
    assert_eq!(verify(&records).await, Ok(1));
}

#[tokio::test]
async fn pages_follow_each_other_in_both_orders() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    for n in 0..5 {
        records.audit(entry(if n == 2 { "client9" } else { "client4" })).await.unwrap();
    }
    let seqs = async |filter: AuditFilter| {
        let mut seqs = Vec::new();
        let mut after = filter.after;
        loop {
            let page = records.audit_page(&AuditFilter { after, ..filter.clone() }).await.unwrap();
            seqs.extend(page.items.into_iter().map(|item| item.unwrap().seq));
            after = page.next;
            if after.is_none() {
                return seqs;
            }
        }
    };
    let filter = AuditFilter { limit: 2, ..AuditFilter::default() };
    assert_eq!(seqs(filter.clone()).await, [5, 4, 3, 2, 1]);
    let oldest = AuditFilter { order: AuditOrder::OldestFirst, ..filter.clone() };
    assert_eq!(seqs(AuditFilter { after: Some(2), ..oldest }).await, [3, 4, 5]);
    let of_client = AuditFilter { subject: Some("client9".to_owned()), ..filter };
    assert_eq!(seqs(of_client.clone()).await, [3]);
    assert_eq!(records.count_audit(&of_client).await.unwrap(), Total::Exactly(1));
}
