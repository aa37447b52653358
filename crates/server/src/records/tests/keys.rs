use chrono::TimeDelta;

use super::*;

fn key(text: &str) -> RequestKey {
    RequestKey { key: text.to_owned(), request: Digest::of(text.as_bytes()) }
}

#[tokio::test]
async fn a_key_is_durable_with_its_transfer_and_kept_for_a_day() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let [first, second] = [queued("client4"), queued("client4")];
    records.save_keyed(&first, &key("a"), None).await.unwrap();
    records.keep_key(&key("b"), first.id, time(1), None).await.unwrap();
    records.close().await.unwrap();
    let records = fixture.open().await;
    assert_eq!(saved(&records, first.id).await.as_ref(), Some(&first));
    let transfer_of =
        async |text, at| records.find_key(text, at).await.unwrap().map(|found| found.transfer);
    assert_eq!(transfer_of("a", time(0)).await, Some(first.id));
    assert_eq!(transfer_of("b", time(1)).await, Some(first.id));
    assert_eq!(records.find_key("a", time(0)).await.unwrap().unwrap().request, key("a").request);
    records.keep_key(&key("a"), second.id, time(2), None).await.unwrap();
    assert_eq!(
        transfer_of("a", time(2)).await,
        Some(first.id),
        "the key stays with the first transfer"
    );

    let later = time(1) + TimeDelta::hours(24);
    assert_eq!(transfer_of("a", later).await, None);
    assert_eq!(transfer_of("b", later).await, Some(first.id));
    records.keep_key(&key("a"), second.id, later, None).await.unwrap();
    assert_eq!(transfer_of("a", later).await, Some(second.id));
}

#[tokio::test]
async fn a_transfer_that_cannot_be_saved_keeps_no_key() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    fixture.run("DROP TABLE transfers");
    assert!(records.save_keyed(&queued("client4"), &key("a"), None).await.is_err());
    assert_eq!(records.find_key("a", time(0)).await.unwrap(), None);
}

#[tokio::test]
async fn of_two_transfers_with_one_key_one_is_saved() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let [first, second] = [queued("client4"), queued("client5")];
    records.save_keyed(&first, &key("a"), None).await.unwrap();
    let lost = records.save_keyed(&second, &key("a"), None).await;
    assert!(matches!(lost, Err(SaveError::Lost)), "{lost:?}");
    assert_eq!(saved(&records, second.id).await, None);
    // A save with an unknown outcome may be repeated.
    records.save_keyed(&first, &key("a"), None).await.unwrap();
    let kept = records.keep_key(&key("a"), second.id, time(1), None).await.unwrap();
    assert_eq!(kept, KeyOutcome { transfer: first.id, request: key("a").request });
}
