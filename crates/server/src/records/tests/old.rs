use chrono::TimeDelta;

use super::*;

/// Returns a transfer that was created and ended at these times.
fn ended(created: i64, ended: i64, phase: Phase) -> Transfer {
    Transfer {
        id: TransferId::first_at(time(created)),
        created_at: time(created),
        finished_at: Some(time(ended)),
        ..in_phase(phase)
    }
}

async fn old(records: &Records, before: i64, limit: u32) -> Vec<Transfer> {
    let mut scan = records.old_transfers();
    let mut found = Vec::new();
    while let Some(page) = scan.next(time(before), limit).await.unwrap() {
        found.extend(page);
    }
    found
}

#[tokio::test]
async fn only_transfers_that_ended_before_the_time_are_old() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let [queued, receiving, sealed, done, failed, cancelled, unchanged] = phases();
    let transfers = [
        ended(1, 9, done.clone()),
        ended(2, 9, failed),
        ended(3, 9, cancelled),
        ended(4, 9, unchanged),
        ended(5, 9, queued),
        ended(5, 9, receiving),
        ended(6, 9, sealed),
        ended(7, 10, done.clone()), // created before the time, ended at the time
        ended(10, 11, done),        // created at the time
    ];
    for transfer in &transfers {
        records.save(transfer).await.unwrap();
    }
    for limit in [1, 2, 100] {
        let found = old(&records, 10, limit).await;
        assert_eq!(found, transfers[..4], "{limit} at a time");
    }
}

#[tokio::test]
async fn a_removed_transfer_is_gone_and_the_others_stay() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let [gone, kept] = [done_at(1), done_at(2)];
    for transfer in [&gone, &kept] {
        records.save(transfer).await.unwrap();
    }
    records.forget(&[gone.id, TransferId::generate()]).await.unwrap();
    records.close().await.unwrap();
    let records = fixture.open().await;
    assert_eq!(saved(&records, gone.id).await, None);
    assert_eq!(
        readable(records.transfers(&TransferFilter::default()).await.unwrap().items),
        [kept]
    );
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_skipped() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let transfers = [1, 2, 3].map(|n| ended(n, n, Phase::Done(Published::from_record(download()))));
    for transfer in &transfers {
        records.save(transfer).await.unwrap();
    }
    let damaged = transfers[1].id;
    fixture.run(&format!(
        "UPDATE transfers SET download_name = 'download-20250101-000000.txt' WHERE id = '{damaged}'"
    ));
    let ids: Vec<_> = old(&records, 10, 1).await.into_iter().map(|old| old.id).collect();
    assert_eq!(ids, [transfers[0].id, transfers[2].id]);
}

#[tokio::test]
async fn expired_keys_are_removed_a_few_at_a_time() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let transfer = queued("client4");
    records.save(&transfer).await.unwrap();
    for n in 0..5 {
        let key = RequestKey { key: n.to_string(), request: Digest::of(b"abc") };
        records.keep_key(&key, transfer.id, time(n), None).await.unwrap();
    }
    let later = time(4) + TimeDelta::hours(24);
    let mut rounds = 0;
    while records.forget_keys(later, 2).await.unwrap() {
        rounds += 1;
    }
    assert_eq!(rounds, 2, "four keys were too old");
    // At time 4 no key is expired, so every key that is still in the table is found.
    let mut left = Vec::new();
    for n in 0..5 {
        left.push(records.find_key(&n.to_string(), time(4)).await.unwrap().is_some());
    }
    assert_eq!(left, [false, false, false, false, true]);
}
