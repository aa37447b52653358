use chrono::TimeDelta;

use super::*;

/// Made and ended at these times.
fn ended(made: i64, ended: i64, phase: Phase) -> Transfer {
    let id = TransferId::first_at(time(made));
    let times = (time(made), Some(time(ended)));
    Transfer { id, created_at: times.0, finished_at: times.1, ..in_phase(phase) }
}

async fn old(records: &Records, before: i64, limit: u32) -> Vec<Transfer> {
    let (mut old, mut found) = (records.old_transfers(), Vec::new());
    while let Some(page) = old.next(time(before), limit).await.unwrap() {
        found.extend(page);
    }
    found
}

#[tokio::test]
async fn only_what_has_been_final_for_long_is_old() {
    let room = RecordsFixture::new();
    let records = room.open().await;
    let [queued, receiving, sealed, done, failed, cancelled] = phases();
    let transfers = [
        ended(1, 9, done.clone()),
        ended(2, 9, failed),
        ended(3, 9, cancelled),
        ended(4, 9, queued),
        ended(5, 9, receiving),
        ended(6, 9, sealed),
        ended(7, 10, done.clone()), // made before the time, ended at it
        ended(10, 11, done),        // made at it
    ];
    for transfer in &transfers {
        records.save(transfer).await.unwrap();
    }
    for limit in [1, 2, 100] {
        let found = old(&records, 10, limit).await;
        assert_eq!(found, transfers[..3], "{limit} at a time");
    }
}

#[tokio::test]
async fn what_is_forgotten_is_gone_and_the_rest_is_not() {
    let room = RecordsFixture::new();
    let records = room.open().await;
    let [gone, kept] = [done_at(1), done_at(2)];
    for transfer in [&gone, &kept] {
        records.save(transfer).await.unwrap();
    }
    records.forget(&[gone.id, TransferId::generate()]).await.unwrap();
    records.close().await.unwrap();
    let records = room.open().await;
    assert_eq!(saved(&records, gone.id).await, None);
    assert_eq!(
        readable(records.transfers(&TransferFilter::default()).await.unwrap().items),
        [kept]
    );
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_passed_over() {
    let room = RecordsFixture::new();
    let records = room.open().await;
    let transfers = [1, 2, 3].map(|n| ended(n, n, Phase::Done(Published::from_record(download()))));
    for transfer in &transfers {
        records.save(transfer).await.unwrap();
    }
    let damaged = transfers[1].id;
    room.run(&format!(
        "UPDATE transfers SET download_name = 'download-20250101-000000.txt' WHERE id = '{damaged}'"
    ));
    let ids: Vec<_> = old(&records, 10, 1).await.into_iter().map(|old| old.id).collect();
    assert_eq!(ids, [transfers[0].id, transfers[2].id]);
}

#[tokio::test]
async fn keys_are_forgotten_after_a_day_a_few_at_a_time() {
    let room = RecordsFixture::new();
    let records = room.open().await;
    let transfer = queued("client4");
    records.save(&transfer).await.unwrap();
    for n in 0..5 {
        let key = RequestKey { key: n.to_string(), request: Digest::of(b"abc") };
        records.keep_key(&key, transfer.id, time(n)).await.unwrap();
    }
    let later = time(4) + TimeDelta::hours(24);
    let mut rounds = 0;
    while records.forget_keys(later, 2).await.unwrap() {
        rounds += 1;
    }
    assert_eq!(rounds, 2, "four keys were too old");
    // Seen from before any of them was too old: what is found is what has been left.
    let mut left = Vec::new();
    for n in 0..5 {
        left.push(records.keyed(&n.to_string(), time(4)).await.unwrap().is_some());
    }
    assert_eq!(left, [false, false, false, false, true]);
}
