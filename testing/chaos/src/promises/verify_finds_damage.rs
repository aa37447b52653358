//! R16: one of 200 downloads is damaged, in every way that a disk or a hand can, and `filepull
//! verify` names exactly that one; it changes nothing itself.

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
    promised: "Provable later: verify names exactly the downloads that have changed.",
    // A download is read-only, and the trial writes to it all the same.
    needs: &[Requirement::Root],
    limit: Duration::from_secs(20),
    attempt: |trial| attempt(trial).boxed(),
};

const CLIENTS: usize = 4;
const DOWNLOADS: usize = 50;
const FILE_LEN: usize = 64 << 10;
/// Half of them are single bits.
const DAMAGES: u32 = 24;

async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let mut stage = Scenario::set(trial, &[]).await?;
    let mut dice = trial.dice("r16");
    let tried = damages(trial, &mut stage, &mut dice).await;
    stage.explain("verify", tried)
}

async fn damages(trial: &Trial, stage: &mut Scenario, dice: &mut Rng) -> anyhow::Result<()> {
    let downloads = two_hundred(stage).await?;
    agrees(trial, stage, &ExpectedFinding::default()).await.context("nothing is damaged")?;
    let count = trial.times(DAMAGES);
    for round in 0..count {
        if round == count / 2 {
            // What a killed server leaves beside its records is read too.
            stage.kill_server().await?;
        }
        let damage = DownloadDamage::any(dice, round, &downloads);
        let undo = damage.inflict(stage.bed.folder())?;
        trial.tally.fault(damage.name());
        let said = agrees(trial, stage, &damage.found()).await;
        said.with_context(|| format!("round {round}: {damage:?}"))?;
        undo.perform()?;
    }
    agrees(trial, stage, &ExpectedFinding::default()).await.context("all is as it was")?;
    stage.start_server().await?;
    stage.audit(true).await?;
    stage.strike().await
}

async fn two_hundred(stage: &mut Scenario) -> anyhow::Result<Vec<PathBuf>> {
    stage.start_server().await?;
    let mut downloads = Vec::new();
    for n in 0..CLIENTS {
        let index = stage.add_client(&format!("client{n}"), FILE_LEN, &[])?;
        stage.connect(index).await?;
        for _ in 0..DOWNLOADS {
            let id = stage.order(index).await?;
            let done = stage.done(&id).await?;
            let name = done["download"]["name"].as_str().context("a download has a name")?;
            downloads.push(stage.data_dir().join(stage.id(index)).join(name));
            stage.new_version(index)?;
        }
        stage.kill_agent(index).await;
    }
    stage.audit(true).await?;
    Ok(downloads)
}

/// Verifies: what is found must be this and nothing else, and everything stays as it is.
async fn agrees(trial: &Trial, stage: &Scenario, expected: &ExpectedFinding) -> anyhow::Result<()> {
    let before = everything(stage)?;
    let mut command = tool::command(&trial.ground, &trial.programs.server.display().to_string());
    let output = command.args(["verify", "--json"]).env("DATA_DIR", stage.data_dir()).output();
    let output = output.await.context("starting filepull")?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let found = ExpectedFinding::read(&report)?;
    anyhow::ensure!(found == *expected, "it found {found:?}, not {expected:?}");
    let code = output.status.code();
    let expected_code = i32::from(expected.is_loss());
    anyhow::ensure!(code == Some(expected_code), "exit code {code:?}, not {expected_code}");
    let n_same = (CLIENTS * DOWNLOADS - expected.n_lost()) as u64;
    anyhow::ensure!(report["same"] == n_same, "{} are the same, not {n_same}", report["same"]);
    anyhow::ensure!(everything(stage)? == before, "it has changed the data folder");
    Ok(())
}

/// Each file, its digest and when it was written last, but for the memory that SQLite shares. A
/// server writes its records when it likes: they are looked at when there is none.
fn everything(stage: &Scenario) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let mut all = Vec::new();
    for folder in std::fs::read_dir(stage.data_dir())? {
        let folder = folder?.path();
        let is_records = folder.ends_with(".filepull");
        if !folder.is_dir() || is_records && stage.bed.server().is_ok() {
            continue;
        }
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let is_memory = path.extension().is_some_and(|extension| extension == "db-shm");
            if is_memory || !path.is_file() {
                continue;
            }
            let stat = path.metadata()?;
            // Not when it was changed last in any way: SQLite, run by root, gives its log the owner that it
            // has already.
            let (inode, written) = (stat.ino(), (stat.mtime(), stat.mtime_nsec()));
            let digest = Digest::of(&std::fs::read(&path)?);
            all.push((path, format!("{inode} {:o} {written:?} {digest}", stat.mode())));
        }
    }
    all.sort();
    Ok(all)
}
