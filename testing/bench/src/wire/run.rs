//! The figures of one pull through the router.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use filepull_testkit::net::{Network, RouterCount};
use filepull_testkit::same_bytes;
use serde::Serialize;
use serde_json::json;

use super::data_set::DataSet;
use super::files::WireFile;
use crate::product::{self, CLIENT, Product};

/// One pull.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct WireRun {
    pub(crate) seconds: f64,
    /// False if the pull was stopped at the limit: the other figures are those until then.
    pub(crate) is_complete: bool,
    /// What the router sent.
    pub(crate) sent: RouterCount,
    /// Bytes of the disk that the copy occupies.
    pub(crate) copy_disk_bytes: u64,
}

/// The pulls of one file, by filepull and then by each rsync.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct WireSeries {
    pub(crate) data_set: DataSet,
    pub(crate) bytes: u64,
    /// Bytes of the client's disk that the file occupies.
    pub(crate) source_disk_bytes: u64,
    pub(crate) runs: Vec<WireRun>,
}

/// Measures `pull`, which returns the path of the copy, or `None` at its limit. Compares the copy
/// with the source.
pub(crate) async fn measure(
    network: &Network,
    file: &WireFile,
    pull: impl Future<Output = anyhow::Result<Option<PathBuf>>>,
) -> anyhow::Result<WireRun> {
    let before = network.count_when_quiet().await?;
    let began = Instant::now();
    let copy = pull.await?;
    let seconds = began.elapsed().as_secs_f64();
    let sent = network.count_when_quiet().await?.since(before);
    let mut run = WireRun { seconds, is_complete: copy.is_some(), sent, copy_disk_bytes: 0 };
    if let Some(copy) = copy {
        let source = &file.source.path;
        let is_whole = same_bytes(source, &copy)?;
        anyhow::ensure!(is_whole, "{} and {} differ", source.display(), copy.display());
        run.copy_disk_bytes = disk_bytes(&copy)?;
    }
    Ok(run)
}

/// Returns how many bytes of its disk a file occupies: the unit of `st_blocks` is 512 bytes.
pub(crate) fn disk_bytes(path: &Path) -> anyhow::Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}

/// Pulls a file with filepull and returns the path of the download, or `None` if the transfer was
/// cancelled after `limit`.
pub(crate) async fn pull(
    product: &Product,
    file: &WireFile,
    limit: Duration,
) -> anyhow::Result<Option<PathBuf>> {
    let transfer = product::request(&product.server, CLIENT, &file.source, limit).await?;
    if transfer["state"] == "done" {
        return product::download_path(&transfer).map(Some);
    }
    let is_open = ["waiting", "running"].iter().any(|&state| transfer["state"] == state);
    anyhow::ensure!(is_open, "the transfer is not done: {transfer:#}");
    let cancel = format!("/api/v1/clients/{CLIENT}/cancel");
    product.http.post(&cancel, &json!({})).await?.success_json()?;
    Ok(None)
}
