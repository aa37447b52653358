use super::*;
use crate::client::DisconnectReason;

/// Saves a transfer and changes a field of its row.
async fn damage(fixture: &RecordsFixture, records: &Records, transfer: &Transfer, set: &str) {
    records.save(transfer).await.unwrap();
    fixture.run(&format!("UPDATE transfers SET {set} WHERE id = '{}'", transfer.id));
}

fn damaged(item: Option<RecordedTransfer>) -> DamagedTransfer {
    match item {
        Some(RecordedTransfer::Damaged(damaged)) => damaged,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_damaged_record_is_an_item_with_its_reason() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let damages = [
        ("state", "'melted'"),
        ("client", "'../x'"),
        ("path", "'/../x'"),
        ("attempt", "-1"),
        ("created_at", "9223372036854775807"),
        ("source_size", "NULL"),
        ("download_name", "'passwd'"),
        ("download_blake3", "x'ff00'"),
        ("download_sha256", "x'ff00'"),
        ("requested_by", "CAST(x'ff00' AS TEXT)"),
    ];
    for (column, value) in damages {
        let transfer = full(Phase::Done(Published::from_record(download())));
        damage(&fixture, &records, &transfer, &format!("{column} = {value}")).await;
        let found = damaged(records.transfer(transfer.id).await.unwrap());
        assert!(found.reason.contains(column), "{column}: {}", found.reason);
        assert_eq!(found.id, transfer.id.to_string());
        assert_eq!(found.client.is_some(), column != "client");
        assert_eq!(found.created_at.is_some(), column != "created_at");
    }
    let page = records.transfers(&TransferFilter::default()).await.unwrap();
    assert_eq!(page.items.len(), damages.len());
    assert_eq!(records.logged.lock().unwrap().len(), damages.len(), "each is logged once");
}

#[tokio::test]
async fn damaged_rows_break_neither_a_list_nor_its_pages() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let transfers: Vec<Transfer> =
        (0..20).map(|n| Transfer { created_at: time(n), ..queued("client4") }).collect();
    for (n, transfer) in transfers.iter().enumerate() {
        let set = if n % 3 == 0 || (10..14).contains(&n) { "stalled = 7" } else { "stalled = 0" };
        damage(&fixture, &records, transfer, set).await;
    }
    let mut filter = TransferFilter { limit: 2, ..TransferFilter::default() };
    let mut seen = Vec::new();
    loop {
        let page = records.transfers(&filter).await.unwrap();
        assert_eq!(page.total, Total::Exactly(20));
        seen.extend(page.items.into_iter().map(|item| match item {
            RecordedTransfer::Readable(transfer) => transfer.id,
            RecordedTransfer::Damaged(damaged) => damaged.transfer.unwrap(),
        }));
        let Some(cursor) = page.next_cursor else { break };
        filter.cursor = Cursor::parse(&cursor);
    }
    seen.reverse();
    assert_eq!(seen, transfers.iter().map(|transfer| transfer.id).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_damaged_unfinished_transfer_ends_and_the_others_continue() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let [broken, unknown, other] = [queued("client4"), queued("client4"), queued("client5")];
    records.save(&other).await.unwrap();
    damage(&fixture, &records, &broken, "attempt = -1").await;
    damage(&fixture, &records, &unknown, "state = 'uploading'").await;
    let found = records.unfinished().await.unwrap();
    assert_eq!(found.transfers, [other]);
    assert_eq!(found.damaged.len(), 2);
    records.end_damaged(&found.damaged, time(9)).await.unwrap();
    // A state of a newer version may be final, so its row stays unchanged.
    let left = records.unfinished().await.unwrap().damaged;
    assert_eq!(left.iter().map(|left| left.transfer).collect::<Vec<_>>(), [Some(unknown.id)]);
    let failed = TransferFilter { states: vec![PhaseName::Failed], ..TransferFilter::default() };
    let page = records.transfers(&failed).await.unwrap();
    assert_eq!(damaged(page.items.into_iter().next()).transfer, Some(broken.id));
}

#[tokio::test]
async fn codes_and_reasons_of_a_newer_version_are_kept() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    let code = Code::parse("from-the-future").unwrap();
    let ended = Failure { problem: Problem::new(code, "x"), reached: LastProgress::default() };
    let transfer = in_phase(Phase::Failed(ended));
    records.save(&transfer).await.unwrap();
    assert_eq!(saved(&records, transfer.id).await, Some(transfer));
    records.client_connected(&greeting(), u64::MAX, time(0)).await.unwrap();
    fixture.run(
        "UPDATE clients SET default_error = 'from-the-future', disconnected_at = 1, \
         disconnect_reason = 'abducted', disconnect_detail = 'x'",
    );
    let known = records.client(&greeting().client).await.unwrap().unwrap();
    assert_eq!(known.default_file, Err(code));
    let reason = known.last_disconnect.unwrap().reason;
    assert!(matches!(reason, DisconnectReason::Other(_)), "{reason:?}");
    assert_eq!(reason.as_str(), "abducted");
}

#[tokio::test]
async fn a_damaged_client_does_not_hide_the_others() {
    let fixture = RecordsFixture::new();
    let records = fixture.open().await;
    for id in ["client1", "client2"] {
        let greeting = Greeting { client: client(id), ..greeting() };
        records.client_connected(&greeting, u64::MAX, time(0)).await.unwrap();
    }
    fixture.run("UPDATE clients SET remote_addr = '127.0.0.1:1x' WHERE id = 'client2'");
    records.close().await.unwrap();
    let ids = ["client1", "client2"].map(client);
    let clients = fixture.open().await.clients(&ids).await.unwrap();
    assert_eq!(clients.iter().map(|known| known.id.as_str()).collect::<Vec<_>>(), ["client1"]);
}
