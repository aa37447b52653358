//! A disk of 8 MiB without free space or free inodes.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use fastrand::Rng;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tokio::time::{sleep, timeout};

use super::{
    DURING_FAULT, OTHER, VICTIM, VICTIM_LEN, begin, check_after_fault, trigger_during_fault,
};
use crate::scenario::Scenario;
use crate::strace_session::StraceSession;
use crate::tool;
use crate::trial::Trial;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FullDiskKind {
    Bytes,
    Inodes,
    /// Space cannot be reserved, and is used up while the file arrives.
    Late,
}

/// The error of a file system that cannot reserve space.
const UNRESERVED: &str = "inject=fallocate:error=EOPNOTSUPP";
const OPTIONS: &str = "size=8m,nr_inodes=40";
const CODE: &str = "server-full";
/// Free space and inodes that a round needs after the fault.
const MIN_FREE: u64 = 3 << 20;
const MIN_INODES: u64 = 8;

impl FullDiskKind {
    pub(super) const ALL: [Self; 3] = [Self::Bytes, Self::Inodes, Self::Late];

    fn fault(self) -> &'static str {
        match self {
            Self::Bytes => "disks without space",
            Self::Inodes => "disks without inodes",
            Self::Late => "disks that became full",
        }
    }
}

pub(super) async fn run_worker(
    trial: &Trial,
    kind: FullDiskKind,
    count: u32,
) -> anyhow::Result<()> {
    // The server's own check for free space must not prevent the fault.
    let mut scenario = Scenario::prepare(trial, &[("MIN_FREE", "1B")]).await?;
    let at = scenario.data_dir();
    fs::create_dir_all(&at)?;
    let path = at.to_str().context("the path is not UTF-8")?;
    tool::run(&trial.sandbox, "mount", &["-t", "tmpfs", "-o", OPTIONS, "tmpfs", path]).await?;
    let mut rng = trial.rng(&format!("r13-{kind:?}"));
    let tried = rounds(trial, &mut scenario, kind, count, &mut rng).await;
    scenario.explain(kind.fault(), tried)
}

async fn rounds(
    trial: &Trial,
    scenario: &mut Scenario,
    kind: FullDiskKind,
    count: u32,
    rng: &mut Rng,
) -> anyhow::Result<()> {
    begin(scenario).await?;
    for round in 0..count {
        free_space(scenario).await?;
        let tried = match kind {
            FullDiskKind::Bytes | FullDiskKind::Inodes => fill_before(scenario, kind, rng).await,
            FullDiskKind::Late => fill_during(trial, scenario, rng).await,
        };
        let (filler, id) = tried.with_context(|| format!("round {round}"))?;
        trial.counters.fault(kind.fault());
        let path = format!("/api/v1/clients/{}", scenario.id(OTHER));
        let other = scenario.server.json(&path).await?;
        anyhow::ensure!(other["online"] == true, "the other client is offline: {other}");
        fs::remove_dir_all(filler)?;
        check_after_fault(scenario, id.as_deref(), CODE)
            .await
            .with_context(|| format!("round {round}, after the fault"))?;
    }
    scenario.audit(true).await?;
    scenario.teardown().await
}

/// The disk is full before the trigger.
async fn fill_before(
    scenario: &mut Scenario,
    kind: FullDiskKind,
    rng: &mut Rng,
) -> anyhow::Result<(PathBuf, Option<String>)> {
    let filler = fill(scenario, kind, rng)?;
    Ok((filler, trigger_during_fault(scenario, VICTIM, CODE).await?))
}

/// The disk becomes full while the file arrives.
async fn fill_during(
    trial: &Trial,
    scenario: &mut Scenario,
    rng: &mut Rng,
) -> anyhow::Result<(PathBuf, Option<String>)> {
    let folder = scenario.server.folder().to_owned();
    let pid = scenario.server_process()?.pid();
    let session = StraceSession::failing(&trial.sandbox, pid, &folder, UNRESERVED).await?;
    scenario.rewrite(VICTIM, VICTIM_LEN)?;
    let part = scenario.proxy.sent() + rng.u64(1..VICTIM_LEN as u64 / 2);
    let id = scenario.trigger(VICTIM).await?;
    scenario.proxy.sent_at_least(part).await?;
    let filler = fill(scenario, FullDiskKind::Late, rng)?;
    let _ = timeout(DURING_FAULT, scenario.wait_until_final(&id)).await;
    session.detach().await?;
    Ok((filler, Some(id)))
}

/// Deletes old downloads until enough space is free.
async fn free_space(scenario: &mut Scenario) -> anyhow::Result<()> {
    loop {
        scenario.oracle.delete_old_downloads(&scenario.data_dir(), 0)?;
        let stat = statvfs(scenario.data_dir())?;
        if MIN_FREE < stat.f_bavail * stat.f_frsize && MIN_INODES < stat.f_ffree {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Uses up all inodes or almost all space: the rest may be enough for a part of a file or for a
/// record.
fn fill(scenario: &Scenario, kind: FullDiskKind, rng: &mut Rng) -> anyhow::Result<PathBuf> {
    let folder = scenario.data_dir().join(".filler");
    fs::create_dir(&folder)?;
    match kind {
        FullDiskKind::Inodes => {
            let left = rng.usize(0..3);
            let created =
                (0..).map_while(|n| File::create(folder.join(n.to_string())).ok()).count();
            for n in created.saturating_sub(left)..created {
                fs::remove_file(folder.join(n.to_string()))?;
            }
        }
        FullDiskKind::Bytes => {
            let left = if rng.bool() { 0 } else { rng.u64(0..VICTIM_LEN as u64) };
            let file = File::create(folder.join("all"))?;
            let stat = statvfs(&folder)?;
            let free = stat.f_bavail * stat.f_frsize;
            fallocate(&file, FallocateFlags::empty(), 0, free.saturating_sub(left).max(1))?;
        }
        // Written in small steps, because the file also grows meanwhile.
        FullDiskKind::Late => {
            let written = io::copy(&mut io::repeat(0), &mut File::create(folder.join("all"))?);
            anyhow::ensure!(written.is_err_and(|e| e.kind() == io::ErrorKind::StorageFull));
        }
    }
    Ok(folder)
}
