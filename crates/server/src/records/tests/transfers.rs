use chrono::TimeDelta;

use super::*;

#[tokio::test]
async fn every_phase_survives_a_restart() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let all: Vec<Transfer> = phases().map(full).into_iter().chain(phases().map(in_phase)).collect();
    for transfer in &all {
        records.save(transfer).await.unwrap();
    }
    records.close().await.unwrap();
    let records = fixture.open().await;
    for transfer in &all {
        assert_eq!(saved(&records, transfer.id).await.as_ref(), Some(transfer));
    }
    let found = unfinished(&records).await;
    let expected: Vec<_> = all.iter().filter(|transfer| !transfer.is_final()).cloned().collect();
    assert_eq!(found, expected, "oldest first");
}

#[tokio::test]
async fn times_are_truncated_to_milliseconds() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let created_at = time(7) + TimeDelta::nanoseconds(999_999);
    let transfer = Transfer { created_at, ..queued("client4") };
    records.save(&transfer).await.unwrap();
    let found = saved(&records, transfer.id).await.unwrap();
    assert_eq!(found.created_at, time(7));
}

#[tokio::test]
async fn a_transfer_goes_through_every_phase_in_one_row() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let [queued, receiving, sealed, done, ..] = phases();
    let mut transfer = full(queued.clone());
    for phase in [queued.clone(), receiving, queued, sealed, done] {
        transfer.phase = phase;
        records.save(&transfer).await.unwrap();
        assert_eq!(saved(&records, transfer.id).await.as_ref(), Some(&transfer));
    }
    assert_eq!(
        records.transfers(&TransferFilter::default()).await.unwrap().total,
        Total::Exactly(1)
    );
}

#[tokio::test]
async fn a_final_transfer_is_never_overwritten() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    for transfer in phases().map(full) {
        records.save(&transfer).await.unwrap();
        for phase in phases() {
            if transfer.is_final() {
                let is_same = phase == transfer.phase;
                let saved = records.save(&Transfer { phase, ..transfer.clone() }).await;
                assert!(if is_same { saved.is_ok() } else { is_lost(&saved) }, "{saved:?}");
            }
        }
        assert_eq!(saved(&records, transfer.id).await, Some(transfer));
    }
}

#[tokio::test]
async fn pages_show_each_transfer_once_while_others_are_created() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let transfers: Vec<Transfer> = (0..25).map(|_| queued("client4")).collect();
    try_join_all(transfers.iter().map(|transfer| records.save(transfer))).await.unwrap();
    let mut filter = TransferFilter { limit: 4, ..TransferFilter::default() };
    let mut seen = Vec::new();
    loop {
        let page = records.transfers(&filter).await.unwrap();
        seen.extend(readable(page.items));
        records.save(&queued("client5")).await.unwrap();
        let Some(cursor) = page.next_cursor else { break };
        filter.cursor = Cursor::parse(&cursor);
    }
    seen.reverse();
    assert_eq!(seen, transfers);
}

#[tokio::test]
async fn a_filter_finds_exactly_the_matching_transfers() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let mut transfers: Vec<Transfer> = phases().map(full).to_vec();
    transfers.push(queued("client5"));
    for (n, transfer) in (0..).zip(&mut transfers) {
        (transfer.id, transfer.created_at) = (TransferId::first_at(time(n)), time(n));
        records.save(transfer).await.unwrap();
    }
    let check = async |filter: TransferFilter, expected: &[usize]| {
        let page = records.transfers(&filter).await.unwrap();
        let expected: Vec<_> = expected.iter().map(|&n| transfers[n].clone()).collect();
        assert_eq!(readable(page.items), expected, "{filter:?}");
        let total = Total::Exactly(expected.len() as u64);
        assert_eq!((page.total, page.next_cursor), (total, None), "{filter:?}");
    };
    let any = TransferFilter::default;
    let running = vec![PhaseName::Receiving, PhaseName::Sealed];
    check(any(), &[7, 6, 5, 4, 3, 2, 1, 0]).await;
    check(TransferFilter { states: vec![PhaseName::Unchanged], ..any() }, &[6]).await;
    check(TransferFilter { client: Some(client("client5")), ..any() }, &[7]).await;
    check(TransferFilter { states: running.clone(), ..any() }, &[2, 1]).await;
    check(TransferFilter { since: Some(time(5)), ..any() }, &[7, 6, 5]).await;
    check(TransferFilter { until: Some(time(2)), ..any() }, &[1, 0]).await;
    check(TransferFilter { error: Some(Code::FileMissing), ..any() }, &[4]).await;
    check(TransferFilter { states: running, until: Some(time(2)), ..any() }, &[1]).await;
    let of_four = || TransferFilter { client: Some(client("client4")), ..any() };
    check(TransferFilter { states: vec![PhaseName::Queued], ..of_four() }, &[0]).await;
    check(TransferFilter { error: Some(Code::Cancelled), ..of_four() }, &[5]).await;
    check(TransferFilter { client: Some(client("unknown")), ..any() }, &[]).await;
}

#[tokio::test]
async fn counting_stops_at_ten_thousand() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    records.save(&queued("client4")).await.unwrap();
    let copy = |n| {
        format!(
            "CREATE TEMP TABLE copies AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 \
             FROM n WHERE i < {n}) SELECT transfers.* FROM transfers, n LIMIT {n}; \
             UPDATE copies SET id = substr(id, 1, 24) || printf('%012x', rowid + {n}); \
             INSERT INTO transfers SELECT * FROM copies"
        )
    };
    fixture.run(&copy(9_999));
    // A page after the last transfer, because the copies are damaged and may only be counted.
    let cursor = Some(Cursor::new(DateTime::UNIX_EPOCH, TransferId::generate()));
    let filter = TransferFilter { cursor, ..TransferFilter::default() };
    let total = async || records.transfers(&filter).await.unwrap().total;
    assert_eq!(total().await, Total::Exactly(10_000));
    fixture.run(&copy(1));
    assert_eq!(total().await, Total::MoreThan(10_000));
    assert_eq!(total().await.to_string(), "more than 10000");
}

#[tokio::test]
async fn the_newest_is_found_for_one_and_for_all() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let four = client("client4");
    assert_eq!(records.newest(&four).await.unwrap(), None);
    records.client_connected(&greeting(), u64::MAX, time(0)).await.unwrap();
    assert!(records.newest_of_each(std::slice::from_ref(&four)).await.unwrap().is_empty());

    let [late, early, last, other] = [done_at(9), done_at(1), queued("client4"), queued("other")];
    for transfer in [&late, &early, &last, &other] {
        records.save(transfer).await.unwrap();
    }
    assert_eq!(
        records.newest_download(&four, None).await.unwrap().and_then(RecordedTransfer::readable),
        Some(late)
    );
    assert_eq!(
        records.newest(&four).await.unwrap().and_then(RecordedTransfer::readable).as_ref(),
        Some(&last)
    );
    let newest = records.newest_of_each(&[four.clone(), client("client7")]).await.unwrap();
    assert_eq!(newest, HashMap::from([(four, RecordedTransfer::Readable(Box::new(last)))]));
    assert!(records.newest_of_each(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_record_that_the_disk_has_changed_is_damaged() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    // Each new value is valid by itself, so only the checksum detects the change.
    let changes = [
        ("client", "'client5'"),
        ("path", "NULL"),
        ("requested_by", "'another caller'"),
        ("created_at", "created_at + 1"),
        ("finished_at", "NULL"),
        ("attempt", "attempt + 1"),
        ("state", "'sealed'"),
        ("source_size", "source_size + 1"),
        ("download_name", "'download-20250101-000000.txt'"),
        ("download_size", "download_size + 1"),
        ("download_blake3", "substr(download_blake3, 2) || substr(download_blake3, 1, 1)"),
        ("download_sha256", "substr(download_sha256, 2) || substr(download_sha256, 1, 1)"),
        ("download_inode", "download_inode + 1"),
    ];
    for (column, value) in changes {
        let transfer = full(Phase::Done(Published::from_record(download())));
        records.save(&transfer).await.unwrap();
        let id = transfer.id;
        fixture.run(&format!("UPDATE transfers SET {column} = {value} WHERE id = '{id}'"));
        let found = records.transfer(id).await.unwrap().unwrap();
        assert!(matches!(found, RecordedTransfer::Damaged(_)), "{column}: {found:?}");
    }
}

fn is_lost(saved: &Result<(), SaveError>) -> bool {
    matches!(saved, Err(SaveError::Lost))
}

#[tokio::test]
async fn an_earlier_attempt_never_overwrites_a_later_one() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let [_, receiving, sealed, ..] = phases();
    let later = Transfer { attempt: 3, epoch: 7, ..full(receiving) };
    records.save(&later).await.unwrap();
    let earlier = Transfer { attempt: 2, phase: sealed.clone(), ..later.clone() };
    assert!(is_lost(&records.save(&earlier).await));
    assert_eq!(saved(&records, later.id).await.as_ref(), Some(&later));
    let same = Transfer { phase: sealed, ..later };
    records.save(&same).await.unwrap();
    assert_eq!(saved(&records, same.id).await, Some(same));
}

#[tokio::test]
async fn a_checkpoint_is_saved_only_over_its_own_attempt() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let [queued, receiving, ..] = phases();
    let transfer = Transfer { finished_at: None, ..full(receiving) };
    records.save(&transfer).await.unwrap();
    let at = |len: u64| {
        let checkpoint = Prefix { len, digest: Blake3::of(&len.to_le_bytes()) };
        let source = Source { modified_ns: 5, ..source() };
        Transfer {
            phase: Phase::Receiving(Receiving::from_record(source, checkpoint)),
            ..transfer.clone()
        }
    };
    records.save_checkpoint(&at(9)).await.unwrap();
    assert_eq!(saved(&records, transfer.id).await, Some(at(9)));
    let others = [
        Transfer { attempt: 1, ..at(10) },
        Transfer { generation: 7, ..at(10) },
        Transfer { queue_until: None, ..at(10) },
        Transfer { setbacks: Setbacks::default(), ..at(10) },
        Transfer { phase: queued.clone(), ..at(10) },
    ];
    for other in others {
        assert!(is_lost(&records.save_checkpoint(&other).await), "{other:?}");
        assert_eq!(saved(&records, transfer.id).await, Some(at(9)));
    }
    records.save(&Transfer { phase: queued, ..transfer.clone() }).await.unwrap();
    assert!(is_lost(&records.save_checkpoint(&at(10)).await), "the transfer is queued again");
}
