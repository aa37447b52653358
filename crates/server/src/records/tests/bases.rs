use super::*;
use crate::records::transfers::{BASE, NEWEST_DOWNLOAD, NEWEST_DOWNLOAD_OF_PATH};

fn path(text: &str) -> Option<SharedPath> {
    Some(SharedPath::parse(text).unwrap())
}

/// Saves a download of `size` bytes whose transfer ended at this time.
async fn save(
    records: &Records,
    client_id: &str,
    path: Option<SharedPath>,
    size: u64,
    end: i64,
) -> TransferId {
    let file = Download { size, ..download() };
    let phase = Phase::Done(Published::from_record(file));
    let transfer = Transfer { client: client(client_id), path, phase, ..done_at(end) };
    records.save(&transfer).await.unwrap();
    transfer.id
}

async fn base(records: &Records, path: Option<&SharedPath>) -> Option<TransferId> {
    let found = records.base(&client("client4"), path).await.unwrap();
    found.map(|found| found.readable().unwrap().id)
}

#[tokio::test]
async fn the_base_is_the_last_good_download_of_the_same_client_and_path() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let log = path("logs/pos.log");
    assert_eq!(base(&records, None).await, None);
    let of_log = save(&records, "client4", log.clone(), 5, 1).await;
    assert_eq!(base(&records, None).await, None, "the default file is another path");
    let first = save(&records, "client4", None, 5, 2).await;
    let second = save(&records, "client4", None, 5, 4).await;
    let third = save(&records, "client4", None, 5, 5).await;
    save(&records, "client4", path("logs/pos"), 5, 6).await;
    save(&records, "client5", None, 5, 7).await;
    save(&records, "client5", log.clone(), 5, 8).await;
    save(&records, "client4", None, 0, 9).await;
    let [.., unchanged] = phases().map(full);
    records.save(&Transfer { path: None, finished_at: Some(time(10)), ..unchanged }).await.unwrap();
    records.save(&queued("client4")).await.unwrap();
    assert_eq!(base(&records, log.as_ref()).await, Some(of_log));
    assert_eq!(base(&records, None).await, Some(third), "an empty file is no base");
    for (id, state, expected) in [
        (third, DownloadState::Damaged, Some(second)),
        (second, DownloadState::Deleted, Some(first)),
        (first, DownloadState::Stored, Some(first)),
        (first, DownloadState::Damaged, None),
        (second, DownloadState::Stored, Some(second)),
    ] {
        records.note_scrubs(&[(id, state)], time(20)).await.unwrap();
        assert_eq!(base(&records, None).await, expected, "{state:?}");
    }
}

#[tokio::test]
async fn a_path_whose_files_were_all_removed_costs_no_more() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let good = save(&records, "client4", None, 5, 0).await;
    for end in 1..32 {
        let removed = save(&records, "client4", None, 5, end).await;
        records.note_scrubs(&[(removed, DownloadState::Deleted)], time(99)).await.unwrap();
    }
    assert_eq!(base(&records, None).await, Some(good));
    let removed = save(&records, "client4", None, 5, 32).await;
    records.note_scrubs(&[(removed, DownloadState::Deleted)], time(99)).await.unwrap();
    assert_eq!(base(&records, None).await, None, "the search ends after 32 downloads");
}

#[tokio::test]
async fn the_search_for_a_download_reads_an_index_and_sorts_no_table() {
    let fixture = RecordsFixture::new();
    fixture.open().await.close().await.unwrap();
    let connection = rusqlite::Connection::open(fixture.folder().join("records.db")).unwrap();
    for (sql, index) in [
        (BASE, "transfers_done_by_path (client=? AND path=?)"),
        (NEWEST_DOWNLOAD_OF_PATH, "transfers_done_by_path (client=? AND path=?)"),
        (NEWEST_DOWNLOAD, "transfers_done (client=?)"),
    ] {
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let mut rows = plan.raw_query();
        let mut steps = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            steps.push(row.get::<_, String>(3).unwrap());
        }
        let expected = format!("SEARCH transfers USING INDEX {index}");
        assert!(steps.contains(&expected), "{steps:?}");
        let n_sorts = steps.iter().filter(|step| step.contains("TEMP B-TREE")).count();
        // Only the 32 newest downloads are sorted.
        assert!(n_sorts <= usize::from(sql == BASE), "{steps:?}");
        assert!(!steps.iter().any(|step| step.starts_with("SCAN transfers")), "{steps:?}");
    }
}
