//! One pull from each client, as fast as the server accepts them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use filepull_testkit::HttpClient;
use filepull_testkit::fleet::client;
use futures::{StreamExt as _, stream};
use serde::Serialize;
use serde_json::json;

use super::setup::FleetSetup;
use crate::product::BothEnds;
use crate::report::log_progress;
use crate::source::SourceFile;

/// Concurrent requests, each on its own kept-alive connection.
pub(super) const N_CONCURRENT: usize = 256;

/// The pulls of one fleet.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Pulls {
    /// From the first request to the last answer.
    pub(super) seconds: f64,
    /// From each request to its answer, if done.
    pub(super) each_seconds: Vec<f64>,
    pub(super) cpu_seconds: BothEnds<f64>,
    /// Not `done`, or without a complete file.
    pub(super) n_lost: usize,
}

/// Pulls from every client and counts the files.
pub(super) async fn pull_all(setup: &FleetSetup, source: &SourceFile) -> anyhow::Result<Pulls> {
    let http = HttpClient::keep_alive(setup.server.http, N_CONCURRENT);
    let before = setup.cpu_seconds()?;
    let began = Instant::now();
    let pulls = stream::iter(0..setup.n_clients)
        .map(|number| pull(&http, number))
        .buffer_unordered(N_CONCURRENT)
        .collect::<Vec<_>>();
    let answers = pulls.await;
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = setup.cpu_seconds()?.less(before);
    let (done, failed): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    for error in failed.iter().take(3).filter_map(|failed| failed.as_ref().err()) {
        log_progress(format!("lost: {error:#}"));
    }
    let arrived = arrived(&setup.server.data_dir, source, setup.n_clients)?;
    let n_lost = failed.len().max(setup.n_clients as usize - arrived);
    let each_seconds = done.into_iter().flatten().map(|took| took.as_secs_f64()).collect();
    Ok(Pulls { seconds, each_seconds, cpu_seconds, n_lost })
}

async fn pull(http: &HttpClient, number: u32) -> anyhow::Result<Duration> {
    let order = json!({ "client": client(number)?.as_str() });
    let began = Instant::now();
    let answer = http.post("/api/v1/transfers?wait=100s", &order).await;
    let took = began.elapsed();
    let transfer = answer?.success_json()?;
    anyhow::ensure!(transfer["state"] == "done", "the transfer is not done: {transfer:#}");
    Ok(took)
}

/// Returns how many clients have exactly one complete file and nothing else.
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
