//! The block device fails during a transfer, and the file system becomes read-only. The device
//! holds only the downloads, or the records too.

use anyhow::Context as _;
use fastrand::Rng;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    DURING_FAULT, OTHER, RECORDS_CODE, STORAGE_CODE, VICTIM, VICTIM_LEN, begin, check_failure,
    check_next_transfers, trigger_during_fault,
};
use crate::disk::{FileSystem, LoopDisk};
use crate::failing_disk::FailingDisk;
use crate::oracle::is_final;
use crate::scenario::{Scenario, WAIT_LIMIT};
use crate::trial::Trial;

/// What is on the failing disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeviceLayer {
    /// The records are on another disk and keep working.
    Downloads,
    Everything,
}

impl DeviceLayer {
    pub(super) const ALL: [Self; 2] = [Self::Downloads, Self::Everything];

    fn fault(self) -> &'static str {
        match self {
            Self::Downloads => "devices that failed of the downloads",
            Self::Everything => "devices that failed of the whole data folder",
        }
    }
}

struct DeviceStack {
    failing: FailingDisk,
    records: Option<LoopDisk>,
}

impl DeviceStack {
    /// Unmounts the disks, repairs the device and mounts the disks again.
    async fn repair(&self) -> anyhow::Result<()> {
        if let Some(records) = &self.records {
            records.unmount().await?;
        }
        self.failing.repair().await?;
        if let Some(records) = &self.records {
            records.mount().await?;
        }
        Ok(())
    }
}

pub(super) async fn run_worker(
    trial: &Trial,
    under: DeviceLayer,
    count: u32,
) -> anyhow::Result<()> {
    let name = format!("r13-{under:?}");
    let mut scenario = Scenario::prepare(trial, &[("SHUTDOWN_GRACE", "500ms")]).await?;
    let failing = FailingDisk::make(&trial.sandbox, &name, &scenario.data_dir()).await?;
    let records = match under {
        DeviceLayer::Downloads => {
            let at = scenario.data_dir().join(".filepull");
            let name = format!("{name}-records");
            Some(LoopDisk::make(&trial.sandbox, FileSystem::Ext4, &name, &at).await?)
        }
        DeviceLayer::Everything => None,
    };
    let disks = DeviceStack { failing, records };
    let mut rng = trial.rng(&name);
    let tried = rounds(trial, &mut scenario, &disks, under, count, &mut rng).await;
    scenario.explain(under.fault(), tried)
}

async fn rounds(
    trial: &Trial,
    scenario: &mut Scenario,
    disks: &DeviceStack,
    under: DeviceLayer,
    count: u32,
    rng: &mut Rng,
) -> anyhow::Result<()> {
    begin(scenario).await?;
    for round in 0..count {
        let tried = round_of(scenario, disks, under, rng).await;
        tried.with_context(|| format!("round {round}"))?;
        trial.counters.fault(under.fault());
    }
    scenario.audit(true).await?;
    scenario.teardown().await
}

async fn round_of(
    scenario: &mut Scenario,
    disks: &DeviceStack,
    under: DeviceLayer,
    rng: &mut Rng,
) -> anyhow::Result<()> {
    scenario.rewrite(VICTIM, VICTIM_LEN)?;
    // At a random moment of the transfer, measured in bytes that pass the proxy.
    let part = scenario.proxy.sent() + rng.u64(1..VICTIM_LEN as u64);
    let hit = scenario.trigger(VICTIM).await?;
    scenario.proxy.sent_at_least(part).await?;
    disks.failing.fail().await?;
    // The server sees `EIO` first, or a read-only disk.
    if rng.bool() {
        let _ = timeout(DURING_FAULT, scenario.wait_until_final(&hit)).await;
    }
    disks.failing.wait_until_read_only().await?;
    let before = check_during_fault(scenario, under, &hit).await?;
    // An operator stops or kills the server, to repair the disk.
    if rng.bool() {
        scenario.end_server().await?;
    } else {
        scenario.kill_server().await?;
    }
    // The disk may lose what no answer called done.
    scenario.oracle.after_power_cut();
    disks.repair().await?;
    scenario.start_server().await?;
    for ended in before.iter().filter(|transfer| is_final(transfer)) {
        let now = scenario.transfer(ended["id"].as_str().unwrap_or_default()).await?;
        let same = now["state"] == ended["state"];
        anyhow::ensure!(same, "after the restart {ended} became {now}");
    }
    check_next_transfers(scenario).await
}

/// While the disk is read-only: no transfer is done, every failure is reported, and the server
/// keeps running. Returns the transfers of the round.
async fn check_during_fault(
    scenario: &mut Scenario,
    under: DeviceLayer,
    hit: &str,
) -> anyhow::Result<Vec<Value>> {
    let mut ids = vec![hit.to_owned()];
    for client in [OTHER, VICTIM] {
        ids.extend(trigger_during_fault(scenario, client, STORAGE_CODE).await?);
    }
    let _ = timeout(DURING_FAULT, scenario.wait_until_final(hit)).await;
    let mut last = Vec::new();
    for id in &ids {
        // A transfer that is already renamed stays unfinished until the disk proves its name.
        // Without records, no failure can be recorded.
        let may_stay_open = id == hit || under == DeviceLayer::Everything;
        let transfer = if may_stay_open {
            scenario.server.json(&format!("/api/v1/transfers/{id}")).await?
        } else {
            scenario.wait_until_final(id).await?
        };
        if under == DeviceLayer::Everything && is_unreadable(&transfer) {
            continue;
        }
        scenario.oracle.record_answer(&transfer)?;
        // The first transfer may have been durable before the fault.
        let done = transfer["state"] == "done";
        anyhow::ensure!(!done || id == hit, "done on a read-only disk: {transfer}");
        if !done && is_final(&transfer) {
            check_failure(scenario, &transfer, STORAGE_CODE)?;
        }
        last.push(transfer);
    }
    let ready = scenario.server.get("/readyz").await?;
    let checks = ready.text();
    anyhow::ensure!(ready.status == 503, "the server is ready: {checks}");
    anyhow::ensure!(checks.contains("2 of 2 clients online"), "a client is offline: {checks}");
    // The content is intact: it is there again after the repair.
    let is_damage = |line: &str| line.contains("damaged") && !line.ends_with("none is damaged");
    anyhow::ensure!(!checks.lines().any(is_damage), "a failed disk is called damage: {checks}");
    let alive = scenario.server.get("/livez").await?;
    anyhow::ensure!(alive.status == 200, "the server is not alive: {}", alive.text());
    for client in [VICTIM, OTHER] {
        let path = format!("/api/v1/clients/{}", scenario.id(client));
        let found = timeout(WAIT_LIMIT, scenario.server.json(&path)).await??;
        let allowed = under == DeviceLayer::Everything && is_unreadable(&found);
        anyhow::ensure!(allowed || found["online"] == true, "a client is offline: {found}");
    }
    let lines = scenario.server_process()?.said();
    let failures = ["store.failed", "records.failed"];
    let is_reported = lines.iter().any(|line| failures.iter().any(|event| line.contains(event)));
    anyhow::ensure!(is_reported, "the failing disk is not in the log");
    Ok(last)
}

/// Whether the server could not read a record, because the disk of the records is dead.
fn is_unreadable(answer: &Value) -> bool {
    answer["code"] == RECORDS_CODE
}
