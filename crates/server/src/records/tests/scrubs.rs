use super::*;
use crate::records::scrubs::{N_DAMAGED, READ_BEFORE};

/// Saves downloads whose transfers ended at these times.
async fn downloads<const N: usize>(records: &Records, ends: [i64; N]) -> [Transfer; N] {
    let transfers = ends.map(done_at);
    for transfer in &transfers {
        records.save(transfer).await.unwrap();
    }
    transfers
}

async fn unread(records: &Records, until: i64, limit: u32) -> Vec<TransferId> {
    let mut scan = records.unread_downloads(time(0));
    let mut found = Vec::new();
    while let Some(page) = scan.next(time(until), limit).await.unwrap() {
        found.extend(page);
    }
    found
}

#[tokio::test]
async fn only_downloads_that_were_never_read_are_unread_after_a_restart_too() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let [old, read, new, too_new] = downloads(&records, [1, 2, 3, 4]).await;
    records.save(&queued("client4")).await.unwrap();
    records.note_scrubs(&[(read.id, DownloadState::Stored)], time(9)).await.unwrap();
    records.close().await.unwrap();
    let records = fixture.open().await;
    for limit in [1, 2, 100] {
        assert_eq!(unread(&records, 3, limit).await, [old.id, new.id], "{limit} at a time");
    }
    // The scan continues with a download that arrived meanwhile.
    let mut scan = records.unread_downloads(time(0));
    while scan.next(time(3), 10).await.unwrap().is_some() {}
    assert_eq!(scan.next(time(4), 10).await.unwrap(), Some(vec![too_new.id]));
}

#[tokio::test]
async fn the_download_that_was_read_first_is_due_first() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let [first, second, third] = downloads(&records, [1, 2, 3]).await;
    let [stored, damaged] = [DownloadState::Stored, DownloadState::Damaged];
    records.note_scrubs(&[(second.id, stored)], time(10)).await.unwrap();
    records.note_scrubs(&[(first.id, damaged), (third.id, stored)], time(11)).await.unwrap();
    let due = records.scrubbed_before(time(10), 10).await.unwrap();
    assert_eq!(due, [(second.id, stored)]);
    assert_eq!(records.scrubbed_before(time(11), 1).await.unwrap(), due);
    assert_eq!(records.damaged_before(time(10), 10).await.unwrap(), []);
    assert_eq!(records.damaged_before(time(11), 10).await.unwrap(), [(first.id, damaged)]);
    // A reading moves the download to the end.
    records.note_scrubs(&[(second.id, stored)], time(12)).await.unwrap();
    assert_eq!(records.scrubbed_before(time(11), 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_mark_is_shown_counted_and_removed_with_its_transfer() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let [damaged, deleted, stored] = downloads(&records, [1, 2, 3]).await;
    let states = [
        (damaged.id, DownloadState::Damaged),
        (deleted.id, DownloadState::Deleted),
        (stored.id, DownloadState::Stored),
    ];
    records.note_scrubs(&states, time(9)).await.unwrap();
    let ids = states.map(|(id, _)| id);
    let marks = records.download_marks(&ids).await.unwrap();
    assert_eq!(marks, HashMap::from_iter(states[..2].iter().copied()));
    assert_eq!(records.n_damaged_downloads(5).await.unwrap(), 1);
    let filter = TransferFilter { only_damaged: true, ..TransferFilter::default() };
    let page = records.transfers(&filter).await.unwrap();
    assert_eq!((page.total, readable(page.items)), (Total::Exactly(1), vec![damaged.clone()]));
    records.forget(&[damaged.id]).await.unwrap();
    assert_eq!(records.n_damaged_downloads(5).await.unwrap(), 0);
    assert_eq!(records.download_marks(&ids).await.unwrap().len(), 1);
    // A reading that ends after the record was removed leaves no row.
    records.note_scrubs(&states[..1], time(10)).await.unwrap();
    assert_eq!(records.scrubbed_before(time(10), 10).await.unwrap().len(), 2);
}

/// With a million downloads a query must not read them all.
#[tokio::test]
async fn each_search_for_downloads_reads_an_index() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let page = records.unread_downloads(time(0)).page(time(9), 9).sql().to_owned();
    records.close().await.unwrap();
    let connection = rusqlite::Connection::open(fixture.folder().join("records.db")).unwrap();
    let [damaged, due] = READ_BEFORE.map(str::to_owned);
    for (sql, index) in [
        (page, "COVERING INDEX transfers_by_end ((finished_at,id)>(?,?)"),
        (damaged, "scrubs_damaged"),
        (due, "scrubs_by_time"),
        (format!("{} LIMIT 5) AS counted", N_DAMAGED), "scrubs_damaged"),
    ] {
        let mut prepared = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let mut rows = prepared.raw_query();
        let mut plan = String::new();
        while let Some(row) = rows.next().unwrap() {
            plan += &row.get::<_, String>(3).unwrap();
        }
        assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
    }
}
