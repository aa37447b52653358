//! The cost of a request does not depend on unrelated items: waiting transfers, known clients. CPU
//! time and memory are compared, because other work on the machine changes neither.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use filepull_core::extent::ExtentKinds;
use filepull_core::id::ClientId;
use filepull_core::problem::Code;
use filepull_core::transfer::Transfer;
use filepull_server::client::{AgentInfo, Greeting};
use filepull_server::records::Records;
use filepull_testkit::{Programs, TestServer};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use uuid::Uuid;

/// Starts a server that knows `n_clients` offline clients. One transfer waits for each of the first
/// `n_waiting`.
async fn server(n_clients: u32, n_waiting: u32) -> anyhow::Result<TestServer> {
    let mut server = TestServer::in_folder(tempfile::tempdir()?, Programs::default(), &[]);
    let records = Records::open(&server.data_dir().join(".filepull")).await?;
    write_concurrently((0..n_clients).map(async |number| {
        let greeting = greeting(number)?;
        anyhow::Ok(records.client_connected(&greeting, u64::MAX, Utc::now()).await.map(drop)?)
    }))
    .await?;
    write_concurrently((0..n_waiting).map(async |number| {
        let mut transfer = Transfer::new(client(number)?, None, "test".to_owned(), Utc::now());
        transfer.queue_until = Some(transfer.created_at + TimeDelta::days(1));
        anyhow::Ok(records.save(&transfer).await?)
    }))
    .await?;
    records.close().await?;
    server.start_server().await?;
    Ok(server)
}

async fn write_concurrently(
    writes: impl Iterator<Item = impl Future<Output = anyhow::Result<()>>>,
) -> anyhow::Result<()> {
    stream::iter(writes).buffer_unordered(500).try_collect().await
}

fn client(number: u32) -> anyhow::Result<ClientId> {
    Ok(ClientId::parse(&format!("store-{number:05}"))?)
}

fn greeting(number: u32) -> anyhow::Result<Greeting> {
    Ok(Greeting {
        client: client(number)?,
        instance: Uuid::nil(),
        agent: AgentInfo::default(),
        shares: vec!["menu.txt".to_owned(), "logs/*.log".to_owned()],
        default_file: Err(Code::FileMissing),
        extents: ExtentKinds::default(),
        active_transfers: Vec::new(),
        remote_addr: ([127, 0, 0, 1], 1).into(),
        key: None,
    })
}

/// Returns the CPU time of many equal requests.
async fn cost(
    server: &TestServer,
    n_requests: u32,
    path: &str,
    status: u16,
) -> anyhow::Result<Duration> {
    let before = server.server()?.usage()?.cpu;
    for _ in 0..n_requests {
        let answer = server.get(path).await?;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    Ok(server.server()?.usage()?.cpu - before)
}

#[tokio::test]
async fn waiting_transfers_add_no_cost_to_a_request() -> anyhow::Result<()> {
    let few = server(10, 1).await?;
    let many = server(8000, 8000).await?;
    assert_eq!(many.json("/api/v1/transfers?state=waiting").await?["total"], 8000);
    for (path, status) in [
        ("/trigger?id=store-00000", 202),
        ("/transfers?state=waiting&client=store-00000", 200),
        ("/clients/store-00000", 200),
    ] {
        cost(&many, 10, path, status).await?;
        let beside_none = cost(&few, 200, path, status).await?;
        let beside_many = cost(&many, 200, path, status).await?;
        let bound = 2 * beside_none + Duration::from_millis(300);
        assert!(beside_many < bound, "{path}: {beside_many:?} beside 8000, else {beside_none:?}");
    }
    Ok(())
}

#[tokio::test]
async fn known_clients_add_no_cost_to_a_mistyped_id_and_no_memory() -> anyhow::Result<()> {
    const N_CLIENTS: u32 = 20_000;
    let few = server(10, 0).await?;
    let many = server(N_CLIENTS, 0).await?;
    let answer = many.get("/trigger?id=sotre-12345").await?;
    assert_eq!(answer.status, 404);
    let detail = "No client called sotre-12345 has ever connected. Did you mean store-12345?";
    assert!(answer.text().contains(detail), "{}", answer.text());
    let took = cost(&many, 20, "/trigger?id=sotre-12345", 404).await?;
    // For a debug build, in which comparing 20,000 ids takes longer than this for each request.
    assert!(took < Duration::from_secs(2), "{took:?} for 20");

    for server in [&few, &many] {
        let clients = server.json("/api/v1/clients?limit=10").await?;
        assert_eq!(clients["items"].as_array().map(Vec::len), Some(10));
    }
    let added = many.server()?.rss()?.saturating_sub(few.server()?.rss()?);
    let kib = added / 1024;
    assert!(kib < u64::from(N_CLIENTS) / 2, "{kib} KiB for {N_CLIENTS} clients");
    Ok(())
}
