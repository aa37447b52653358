//! The block device under the file system fails in the middle of a transfer, and the file system
//! goes read-only: under the downloads alone, or under the records too.

use anyhow::Context as _;
use fastrand::Rng;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    OTHER, STORAGE_CODE, VICTIM, VICTIM_LEN, WHILE_IT_LASTS, begin, next_ones, ordered, told,
};
use crate::disk::{FileSystem, LoopDisk};
use crate::failing::FailingDisk;
use crate::oracle::is_final;
use crate::scenario::{PATIENCE, Scenario};
use crate::trial::Trial;

/// What lies on the disk that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeviceLayer {
    /// The records have a disk of their own, and go on.
    Downloads,
    Everything,
}

impl DeviceLayer {
    pub(super) const ALL: [Self; 2] = [Self::Downloads, Self::Everything];

    fn fault(self) -> &'static str {
        match self {
            Self::Downloads => "devices that failed under the downloads",
            Self::Everything => "devices that failed under everything",
        }
    }
}

/// The disks of the data folder.
struct DeviceStack {
    failing: FailingDisk,
    records: Option<LoopDisk>,
}

impl DeviceStack {
    /// Takes both away, makes the one well, and brings them back.
    async fn heal(&self) -> anyhow::Result<()> {
        if let Some(records) = &self.records {
            records.unmount().await?;
        }
        self.failing.heal().await?;
        if let Some(records) = &self.records {
            records.mount().await?;
        }
        Ok(())
    }
}

pub(super) async fn lane(trial: &Trial, under: DeviceLayer, count: u32) -> anyhow::Result<()> {
    let name = format!("r13-{under:?}");
    let mut stage = Scenario::set(trial, &[("SHUTDOWN_GRACE", "500ms")]).await?;
    let failing = FailingDisk::make(&trial.ground, &name, &stage.data_dir()).await?;
    let records = match under {
        DeviceLayer::Downloads => {
            let at = stage.data_dir().join(".filepull");
            let name = format!("{name}-records");
            Some(LoopDisk::make(&trial.ground, FileSystem::Ext4, &name, &at).await?)
        }
        DeviceLayer::Everything => None,
    };
    let disks = DeviceStack { failing, records };
    let mut dice = trial.dice(&name);
    let tried = rounds(trial, &mut stage, &disks, under, count, &mut dice).await;
    stage.explain(under.fault(), tried)
}

async fn rounds(
    trial: &Trial,
    stage: &mut Scenario,
    disks: &DeviceStack,
    under: DeviceLayer,
    count: u32,
    dice: &mut Rng,
) -> anyhow::Result<()> {
    begin(stage).await?;
    for round in 0..count {
        let tried = round_of(stage, disks, under, dice).await;
        tried.with_context(|| format!("round {round}"))?;
        trial.tally.fault(under.fault());
    }
    stage.audit(true).await?;
    stage.strike().await
}

async fn round_of(
    stage: &mut Scenario,
    disks: &DeviceStack,
    under: DeviceLayer,
    dice: &mut Rng,
) -> anyhow::Result<()> {
    // At a random moment of a transfer: its bytes have to cross the proxy.
    let part = stage.proxy.sent() + dice.u64(1..VICTIM_LEN as u64);
    let hit = stage.order(VICTIM).await?;
    stage.proxy.sent_at_least(part).await?;
    disks.failing.fail().await?;
    // Half of the time the server meets `EIO` first, half of the time a disk that is read-only.
    if dice.bool() {
        let _ = timeout(WHILE_IT_LASTS, stage.finished(&hit)).await;
    }
    disks.failing.gone_read_only().await?;
    let before = while_it_lasts(stage, under, &hit).await?;
    // An operator ends the server to get at the disk; or it is killed, because somebody is in haste.
    if dice.bool() {
        stage.end_server().await?;
    } else {
        stage.kill_server().await?;
    }
    // What no answer has called done, the disk may have lost.
    stage.oracle.power_cut();
    disks.heal().await?;
    stage.start_server().await?;
    for ended in before.iter().filter(|transfer| is_final(transfer)) {
        let now = stage.transfer(ended["id"].as_str().unwrap_or_default()).await?;
        let same = now["state"] == ended["state"];
        anyhow::ensure!(same, "after the restart {ended} is {now}");
    }
    next_ones(stage).await
}

/// The disk is read-only: nothing is done, everything is told, and all else goes on. What the
/// transfers of the round were last said to be.
async fn while_it_lasts(
    stage: &mut Scenario,
    under: DeviceLayer,
    hit: &str,
) -> anyhow::Result<Vec<Value>> {
    let mut ids = vec![hit.to_owned()];
    for client in [OTHER, VICTIM] {
        ids.extend(ordered(stage, client, STORAGE_CODE).await?);
    }
    let _ = timeout(WHILE_IT_LASTS, stage.finished(hit)).await;
    let mut last = Vec::new();
    for id in &ids {
        // With a name already, and no proof that the name is on the disk, it is neither done nor
        // failed until the disk is well. And without records nobody may be told that it failed.
        let may_stay_open = id == hit || under == DeviceLayer::Everything;
        let transfer = match may_stay_open {
            true => stage.transfer(id).await?,
            false => stage.finished(id).await?,
        };
        // The first one may have been whole, and safe, before the disk failed.
        let done = transfer["state"] == "done";
        anyhow::ensure!(!done || id == hit, "done on a disk that takes no byte: {transfer}");
        if !done && is_final(&transfer) {
            told(stage, &transfer, STORAGE_CODE)?;
        }
        last.push(transfer);
    }
    let ready = stage.bed.get("/readyz").await?;
    anyhow::ensure!(ready.status == 503, "ready: {}", ready.text());
    let alive = stage.bed.get("/livez").await?;
    anyhow::ensure!(alive.status == 200, "not alive: {}", alive.text());
    for client in [VICTIM, OTHER] {
        let path = format!("/api/v1/clients/{}", stage.id(client));
        let found = timeout(PATIENCE, stage.bed.json(&path)).await??;
        anyhow::ensure!(found["online"] == true, "a client has gone: {found}");
    }
    let said = stage.bed.server()?.said();
    let failures = ["store.failed", "records.failed"];
    let is_told = said.iter().any(|line| failures.iter().any(|event| line.contains(event)));
    anyhow::ensure!(is_told, "the log does not tell that the disk fails");
    Ok(last)
}
