//! R16: one of 200 downloads is damaged in some way, and `filepull verify` reports exactly that
//! one. It changes nothing itself.

mod damage;

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use fastrand::Rng;
use filepull_core::digest::Digest;
use futures::FutureExt as _;
use serde_json::Value;

use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::tool::{self, Requirement};
use crate::trial::Trial;
use damage::{DownloadDamage, ExpectedFinding};

pub(super) const PROMISE: Promise = Promise {
    id: "R16",
    statement: "Provable later: verify reports exactly the downloads that have changed.",
    // Downloads are read-only, but root can damage them.
    requirements: &[Requirement::Root],
    limit: Duration::from_secs(20),
    run: |trial| run(trial).boxed_local(),
};

const CLIENTS: usize = 4;
const DOWNLOADS: usize = 50;
const FILE_LEN: usize = 64 << 10;
/// Half of the damages are single flipped bits.
const DAMAGES: u32 = 24;

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    let mut rng = trial.rng("r16");
    let tried = damages(trial, &mut scenario, &mut rng).await;
    scenario.explain("verify", tried)
}

async fn damages(trial: &Trial, scenario: &mut Scenario, rng: &mut Rng) -> anyhow::Result<()> {
    let downloads = create_downloads(scenario).await?;
    check_verify(trial, scenario, &ExpectedFinding::default())
        .await
        .context("nothing is damaged")?;
    let count = trial.times(DAMAGES);
    for round in 0..count {
        if round == count / 2 {
            // Verify must also read what a killed server leaves beside its records.
            scenario.kill_server().await?;
        }
        let damage = DownloadDamage::any(rng, round, &downloads);
        let undo = damage.inflict(scenario.server.folder())?;
        trial.counters.fault(damage.name());
        let verified = check_verify(trial, scenario, &damage.found()).await;
        verified.with_context(|| format!("round {round}: {damage:?}"))?;
        undo.perform()?;
    }
    check_verify(trial, scenario, &ExpectedFinding::default()).await.context("damage is undone")?;
    scenario.start_server().await?;
    scenario.audit(true).await?;
    scenario.teardown().await
}

async fn create_downloads(scenario: &mut Scenario) -> anyhow::Result<Vec<PathBuf>> {
    scenario.start_server().await?;
    let mut downloads = Vec::new();
    for n in 0..CLIENTS {
        let index = scenario.add_client(&format!("client{n}"), FILE_LEN, &[])?;
        scenario.connect(index).await?;
        for _ in 0..DOWNLOADS {
            let id = scenario.trigger(index).await?;
            let done = scenario.wait_until_done(&id).await?;
            let name = done["download"]["name"].as_str().context("a download has a name")?;
            downloads.push(scenario.data_dir().join(scenario.id(index)).join(name));
            scenario.new_version(index)?;
        }
        scenario.kill_agent(index).await;
    }
    scenario.audit(true).await?;
    Ok(downloads)
}

/// Runs `filepull verify`: it must find exactly this and change nothing.
async fn check_verify(
    trial: &Trial,
    scenario: &Scenario,
    expected: &ExpectedFinding,
) -> anyhow::Result<()> {
    let before = all_files(scenario)?;
    let mut command = tool::command(&trial.sandbox, &trial.programs.server.display().to_string());
    command.args(["verify", "--json"]).env("DATA_DIR", scenario.data_dir());
    let output = command.output().await.context("starting filepull")?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let found = ExpectedFinding::read(&report)?;
    anyhow::ensure!(found == *expected, "verify found {found:?}, expected {expected:?}");
    let code = output.status.code();
    let expected_code = i32::from(expected.is_loss());
    anyhow::ensure!(code == Some(expected_code), "exit code {code:?}, expected {expected_code}");
    let n_same = (CLIENTS * DOWNLOADS - expected.n_lost()) as u64;
    anyhow::ensure!(report["same"] == n_same, "{} unchanged, expected {n_same}", report["same"]);
    anyhow::ensure!(all_files(scenario)? == before, "verify changed the data folder");
    Ok(())
}

/// Returns every file with its digest and modification time, except the shared memory of SQLite.
/// Includes the records only if no server runs.
fn all_files(scenario: &Scenario) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let mut all = Vec::new();
    for folder in std::fs::read_dir(scenario.data_dir())? {
        let folder = folder?.path();
        let is_records = folder.ends_with(".filepull");
        if !folder.is_dir() || is_records && scenario.server_process().is_ok() {
            continue;
        }
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let is_memory = path.extension().is_some_and(|extension| extension == "db-shm");
            if is_memory || !path.is_file() {
                continue;
            }
            let stat = path.metadata()?;
            // The change time is not compared: SQLite, run by root, sets the owner of its log
            // again.
            let inode = stat.ino();
            let modified = (stat.mtime(), stat.mtime_nsec());
            let digest = Digest::of(&std::fs::read(&path)?);
            all.push((path, format!("{inode} {:o} {modified:?} {digest}", stat.mode())));
        }
    }
    all.sort();
    Ok(all)
}
