//! A local program exchanges the folder of a client for a link to another folder, while files arrive.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use filepull_testkit::{ScriptedAgent, ScriptedUpload};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::scenario::{Scenario, WAIT_LIMIT};
use crate::scripted_scenario::final_answer;
use crate::trial::Trial;

const SWAPS: u32 = 10_000;
const MIN_PULLS: u32 = 20;
const CLIENT: &str = "client1";

pub(super) async fn run(trial: &Trial) -> anyhow::Result<()> {
    let settings = [("RESUME_WITHIN", "2s"), ("DEAD_AFTER", "15m")];
    let mut scenario = Scenario::prepare(trial, &settings).await?;
    scenario.start_server().await?;
    let outside = scenario.server.folder().join("outside");
    std::fs::create_dir(&outside)?;
    let link = scenario.server.folder().join("link");
    symlink(&outside, &link)?;
    let folder = scenario.data_dir().join(CLIENT);
    std::fs::create_dir_all(&folder)?;
    let stop = Arc::new(AtomicBool::new(false));
    let swaps = Arc::new(AtomicU64::new(0));
    let swapping = spawn_blocking({
        let stop = Arc::clone(&stop);
        let swaps = Arc::clone(&swaps);
        move || swap(&folder, &link, &stop, &swaps)
    });
    let wanted = u64::from(trial.times(SWAPS));
    let tried = pull_until(&mut scenario, &swaps, wanted).await;
    stop.store(true, Ordering::Relaxed);
    swapping.await??;
    scenario.explain("swapped folders", tried)?;
    trial.counters.faults("folders swapped for a link", swaps.load(Ordering::Relaxed));
    let escaped = std::fs::read_dir(&outside)?.flatten().next();
    anyhow::ensure!(escaped.is_none(), "the server wrote outside of its folder: {escaped:?}");
    scenario.teardown().await
}

/// Exchanges the folder and the link until it must stop. Each exchange is atomic.
fn swap(folder: &Path, link: &Path, stop: &AtomicBool, swaps: &AtomicU64) -> anyhow::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        renameat_with(CWD, folder, CWD, link, RenameFlags::EXCHANGE)?;
        swaps.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Sends small files until the folder was swapped often enough. A transfer may fail.
async fn pull_until(scenario: &mut Scenario, swaps: &AtomicU64, n: u64) -> anyhow::Result<()> {
    let mut agent = ScriptedAgent::connect(scenario.server.grpc(), CLIENT, WAIT_LIMIT).await?;
    let mut n_pulls = 0;
    while swaps.load(Ordering::Relaxed) < n || n_pulls < MIN_PULLS {
        n_pulls += 1;
        let body = json!({ "client": CLIENT, "queue": "1h", "fresh": true });
        let created = scenario.post_transfer(&body).await?;
        if !matches!(created.status, 200 | 201) {
            continue;
        }
        let id = created.json()?["id"].as_str().unwrap_or_default().to_owned();
        let order = agent.order().await?;
        if let Ok(mut upload) = ScriptedUpload::start(agent.channel(), &order, 0, 5).await {
            drop(upload.chunk(0, b"hello"[..].to_vec().into()).await);
            drop(upload.trailer(b"hello").await);
            let _ = final_answer(&mut upload, WAIT_LIMIT).await;
        }
        scenario.server.cancel(&format!("/api/v1/transfers/{id}")).await?;
    }
    Ok(())
}
