//! A file is pulled again after a change: only what is new is sent, and the download is the file.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use filepull_testkit::{Proxy, TestClient, TestServer, same_bytes, test_data};
use serde_json::Value;

const MIB: usize = 1 << 20;
const LEN: usize = 4 * MIB;
/// More than a chunk of each end, the headers and the frames.
const OVERHEAD: u64 = 200_000;

/// A client behind a proxy whose file was pulled once. The bytes on the wire are counted.
struct KnownFile {
    server: TestServer,
    proxy: Proxy,
    client: TestClient,
}

impl KnownFile {
    async fn new(data: &[u8], rate: &str) -> anyhow::Result<Self> {
        let server = TestServer::start().await?;
        let proxy = server.proxy().await?;
        let settings = server.client("client4", data)?.setting("MAX_RATE", rate);
        let client = settings.dialling(proxy.addr()).connected().await?;
        let pulled = Self { server, proxy, client };
        pulled.pull("").await?;
        Ok(pulled)
    }

    fn file(&self) -> anyhow::Result<File> {
        Ok(OpenOptions::new().write(true).open(self.client.data())?)
    }

    async fn start(&self, more: &str) -> anyhow::Result<String> {
        let started = self.server.get(&format!("/trigger?id=client4{more}")).await?;
        anyhow::ensure!(started.status == 202, "{}", started.text());
        Ok(started.header("location").to_owned())
    }

    /// Pulls the file and checks the download.
    async fn pull(&self, more: &str) -> anyhow::Result<Value> {
        let location = self.start(more).await?;
        self.arrived(&location).await
    }

    /// Waits until the transfer is done, and compares its download with the file.
    async fn arrived(&self, location: &str) -> anyhow::Result<Value> {
        let done = self.server.done(location).await?;
        let download = Path::new(done["download"]["path"].as_str().unwrap_or_default());
        assert!(same_bytes(download, &self.client.data())?, "other bytes arrived: {done}");
        assert!(self.server.leftovers("client4")?.is_empty());
        Ok(done)
    }

    /// Pulls the file after a change, and checks how many bytes were sent.
    async fn pull_sends(&self, min: usize, max: usize) -> anyhow::Result<Value> {
        let before = self.proxy.sent();
        let done = self.pull("").await?;
        let sent = done["bytes_sent"].as_u64().unwrap_or_default();
        assert!((min as u64..=max as u64).contains(&sent), "{sent} bytes: {done}");
        let on_the_wire = self.proxy.sent() - before;
        assert!(on_the_wire <= sent + OVERHEAD, "{on_the_wire} bytes on the wire: {done}");
        Ok(done)
    }
}

#[tokio::test]
async fn each_change_sends_only_what_is_new() -> anyhow::Result<()> {
    let pulled = KnownFile::new(&test_data("client4", LEN), "1GiB/s").await?;
    let unchanged = pulled.pull_sends(0, 0).await?;
    assert_eq!(unchanged["base"], "copied", "{unchanged}");

    pulled.file()?.write_all_at(&test_data("tail", 100_000), LEN as u64)?;
    pulled.pull_sends(100_000, 100_000).await?;

    for page in [3, 700, 900] {
        pulled.file()?.write_all_at(&test_data("page", 4096), page * 4096)?;
    }
    pulled.pull_sends(3 * 4096, 40_000).await?;

    let mut bytes = fs::read(pulled.client.data())?;
    for at in [3_000_001, 2_000_003, 1_000_007] {
        bytes.splice(at..at, *b"an insertion");
    }
    fs::write(pulled.client.data(), bytes)?;
    pulled.pull_sends(3 * 12, 60_000).await?;

    pulled.file()?.set_len(2 * MIB as u64 + 17)?;
    let truncated = pulled.pull_sends(0, 20_000).await?;
    assert_eq!(truncated["base"], "copied", "{truncated}");

    let fresh = pulled.pull("&fresh").await?;
    assert_eq!((&fresh["bytes_sent"], &fresh["base"]), (&(2 * MIB + 17).into(), &"unused".into()));
    Ok(())
}

#[tokio::test]
async fn a_hole_costs_no_byte_and_no_disk() -> anyhow::Result<()> {
    let pulled = KnownFile::new(&test_data("client4", MIB), "1GiB/s").await?;
    let sparse = File::create(pulled.client.data())?;
    sparse.set_len(512 << 20)?;
    sparse.write_all_at(b"ten bytes!", 100 << 20)?;
    sparse.write_all_at(b"ten bytes.", 400 << 20)?;
    let location = pulled.start("").await?;
    let done = pulled.server.done(&location).await?;
    let sent = done["bytes_sent"].as_u64().unwrap_or(u64::MAX);
    assert!(sent <= 2 * 65_536, "{done}");
    let download = fs::metadata(done["download"]["path"].as_str().unwrap_or_default())?;
    assert_eq!(download.len(), 512 << 20);
    assert!(download.blocks() * 512 <= 1_000_000, "{} blocks", download.blocks());
    Ok(())
}

/// Cuts the upload when `at` bytes have passed, and checks that it resumes.
async fn cut_and_resume(pulled: &KnownFile, at: u64, max: u64) -> anyhow::Result<Value> {
    let before = pulled.proxy.sent();
    let location = pulled.start("").await?;
    pulled.proxy.sent_at_least(before + at).await?;
    pulled.proxy.cut_uploads();
    let done = pulled.arrived(&location).await?;
    assert_eq!(done["attempt"], 2, "{done}");
    let sent = pulled.proxy.sent() - before;
    assert!(sent <= max, "{sent} bytes on the wire: {done}");
    Ok(done)
}

#[tokio::test]
async fn an_upload_of_each_kind_resumes_in_the_middle() -> anyhow::Result<()> {
    let pulled = KnownFile::new(&test_data("client4", LEN), "4MiB/s").await?;
    let tail = test_data("tail", LEN);
    pulled.file()?.write_all_at(&tail, LEN as u64)?;
    let max = LEN as u64 * 3 / 2;
    let grown = cut_and_resume(&pulled, LEN as u64 / 2, max).await?;
    assert_eq!(grown["base"], "copied", "{grown}");

    // Every second page of the first half is new.
    let file = pulled.file()?;
    for page in 0..LEN / 8192 {
        let new = test_data(&format!("page {page}"), 4096);
        file.write_all_at(&new, page as u64 * 8192)?;
    }
    let changed = cut_and_resume(&pulled, LEN as u64 / 4, max).await?;
    assert_eq!(changed["base"], "copied", "{changed}");

    // Data, a hole, and data again.
    let sparse = File::create(pulled.client.data())?;
    sparse.write_all_at(&test_data("before", LEN / 2), 0)?;
    sparse.write_all_at(&test_data("after", LEN / 2), 4 * LEN as u64)?;
    let holes = cut_and_resume(&pulled, LEN as u64 / 4, max).await?;
    let path = holes["download"]["path"].as_str().unwrap_or_default();
    assert!(fs::metadata(path)?.blocks() * 512 <= 2 * LEN as u64, "{holes}");
    Ok(())
}

/// Returns random digits, which shrink to half of their length.
fn digits(len: usize) -> Vec<u8> {
    test_data("digits", len)
        .into_iter()
        .map(|byte| b"0123456789abcdef"[usize::from(byte % 16)])
        .collect()
}

#[tokio::test]
async fn a_compressed_upload_resumes_in_the_middle() -> anyhow::Result<()> {
    // The network is slower than the compressor.
    let pulled = KnownFile::new(b"small", "1MiB/s").await?;
    let data = digits(LEN);
    fs::write(pulled.client.data(), &data)?;
    let done = cut_and_resume(&pulled, MIB as u64 / 2, LEN as u64 * 4 / 5).await?;
    let sent = done["bytes_sent"].as_u64().unwrap_or(u64::MAX);
    assert!(sent < LEN as u64 * 3 / 5, "{done}");
    Ok(())
}

#[tokio::test]
async fn an_unchanged_file_makes_no_download_with_if_changed() -> anyhow::Result<()> {
    let pulled = KnownFile::new(&test_data("client4", MIB), "1GiB/s").await?;
    let downloads = pulled.server.downloads("client4")?;
    let before = pulled.proxy.sent();
    let location = pulled.start("&if-changed").await?;
    let unchanged = pulled.server.finished(&location).await?;
    assert_eq!(unchanged["state"], "unchanged", "{unchanged}");
    let name = downloads[0].file_name().map(|name| name.to_string_lossy().into_owned());
    assert_eq!(unchanged["unchanged_since"].as_str(), name.as_deref(), "{unchanged}");
    assert!(pulled.proxy.sent() - before < OVERHEAD);
    assert_eq!(pulled.server.downloads("client4")?, downloads);

    pulled.file()?.write_all_at(b"changed", 500_000)?;
    let changed = pulled.pull("&if-changed").await?;
    assert!(changed["bytes_sent"].as_u64() < Some(OVERHEAD), "{changed}");
    Ok(())
}
