//! One pull from each client, as fast as the server takes them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use filepull_testkit::fleet::client;
use futures::{StreamExt as _, stream};
use serde::Serialize;
use serde_json::json;

use super::setup::FleetSetup;
use crate::http::Http;
use crate::product::Ends;
use crate::report::tell;
use crate::source::SourceFile;

/// Requests at once, each on a connection that is kept.
pub(super) const AT_ONCE: usize = 256;

/// Nobody waits longer for one answer.
const LIMIT: Duration = Duration::from_secs(120);

/// All pulls of one fleet.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Pulls {
    /// From the first request to the last answer.
    pub(super) seconds: f64,
    /// From a request to its answer, for those that are done.
    pub(super) each_seconds: Vec<f64>,
    pub(super) cpu_seconds: Ends<f64>,
    /// Not `done`, or without a whole file.
    pub(super) n_lost: usize,
}

/// Pulls from every client and counts what has arrived.
pub(super) async fn pull_all(rig: &FleetSetup, source: &SourceFile) -> anyhow::Result<Pulls> {
    let http = Http::keeping(AT_ONCE, rig.server.http.clone());
    let before = rig.cpu_seconds()?;
    let began = Instant::now();
    let answers = stream::iter(0..rig.n_clients)
        .map(|number| pull(&http, number))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>();
    let answers = answers.await;
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = rig.cpu_seconds()?.less(before);
    let (done, failed): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    for error in failed.iter().take(3).filter_map(|failed| failed.as_ref().err()) {
        tell(format!("lost: {error:#}"));
    }
    let arrived = arrived(&rig.server.data_dir, source, rig.n_clients)?;
    let n_lost = failed.len().max(rig.n_clients as usize - arrived);
    let each_seconds = done.into_iter().flatten().map(|took| took.as_secs_f64()).collect();
    Ok(Pulls { seconds, each_seconds, cpu_seconds, n_lost })
}

async fn pull(http: &Http, number: u32) -> anyhow::Result<Duration> {
    let order = json!({ "client": client(number)?.as_str() });
    let began = Instant::now();
    let answer = http.post("/api/v1/transfers?wait=100s", &order, LIMIT).await;
    let took = began.elapsed();
    let transfer = answer?.json()?;
    anyhow::ensure!(transfer["state"] == "done", "the transfer is not done: {transfer:#}");
    Ok(took)
}

/// How many clients have sent exactly one file, whole, and left nothing half done.
fn arrived(data_dir: &Path, source: &SourceFile, n_clients: u32) -> anyhow::Result<usize> {
    let mut arrived = 0;
    for number in 0..n_clients {
        let folder = data_dir.join(client(number)?.as_str());
        let Ok(entries) = fs::read_dir(folder) else { continue };
        let paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        if let [path] = paths.as_slice()
            && source.check_copy(path).is_ok()
        {
            arrived += 1;
        }
    }
    Ok(arrived)
}
