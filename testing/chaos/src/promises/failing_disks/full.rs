//! A disk of 8 MiB without room, or without inodes.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use fastrand::Rng;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tokio::time::{sleep, timeout};

use super::{OTHER, VICTIM, VICTIM_LEN, WHILE_IT_LASTS, begin, ordered, over};
use crate::attached::Attached;
use crate::scenario::Scenario;
use crate::tool;
use crate::trial::Trial;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FullDiskKind {
    Bytes,
    Inodes,
    /// Room is there, but cannot be reserved, and others take it while the file comes.
    Late,
}

/// As on a file system that cannot reserve room.
const UNRESERVED: &str = "inject=fallocate:error=EOPNOTSUPP";
const OPTIONS: &str = "size=8m,nr_inodes=40";
const CODE: &str = "server-full";
/// What a round needs once the disk has room again.
const ROOM: u64 = 3 << 20;
const INODES: u64 = 8;

impl FullDiskKind {
    pub(super) const ALL: [Self; 3] = [Self::Bytes, Self::Inodes, Self::Late];

    fn fault(self) -> &'static str {
        match self {
            Self::Bytes => "disks without room",
            Self::Inodes => "disks without inodes",
            Self::Late => "disks that became full",
        }
    }
}

pub(super) async fn lane(trial: &Trial, kind: FullDiskKind, count: u32) -> anyhow::Result<()> {
    // The server's own look at what is free must not spare the disk the trouble.
    let mut stage = Scenario::set(trial, &[("MIN_FREE", "1B")]).await?;
    let at = stage.data_dir();
    fs::create_dir_all(&at)?;
    let path = at.to_str().context("a path of ours is text")?;
    tool::run(&trial.ground, "mount", &["-t", "tmpfs", "-o", OPTIONS, "tmpfs", path]).await?;
    let mut dice = trial.dice(&format!("r13-{kind:?}"));
    let tried = rounds(trial, &mut stage, kind, count, &mut dice).await;
    stage.explain(kind.fault(), tried)
}

async fn rounds(
    trial: &Trial,
    stage: &mut Scenario,
    kind: FullDiskKind,
    count: u32,
    dice: &mut Rng,
) -> anyhow::Result<()> {
    begin(stage).await?;
    for round in 0..count {
        room(stage).await?;
        let tried = match kind {
            FullDiskKind::Bytes | FullDiskKind::Inodes => at_once(stage, kind, dice).await,
            FullDiskKind::Late => late(trial, stage, dice).await,
        };
        let (filler, id) = tried.with_context(|| format!("round {round}"))?;
        trial.tally.fault(kind.fault());
        let path = format!("/api/v1/clients/{}", stage.id(OTHER));
        let other = stage.bed.json(&path).await?;
        anyhow::ensure!(other["online"] == true, "the other client has gone: {other}");
        fs::remove_dir_all(filler)?;
        over(stage, id.as_deref(), CODE).await.with_context(|| format!("round {round}, after"))?;
    }
    stage.audit(true).await?;
    stage.strike().await
}

/// The disk is full before the order.
async fn at_once(
    stage: &mut Scenario,
    kind: FullDiskKind,
    dice: &mut Rng,
) -> anyhow::Result<(PathBuf, Option<String>)> {
    let filler = fill(stage, kind, dice)?;
    Ok((filler, ordered(stage, VICTIM, CODE).await?))
}

/// It is full when a part of the file has come.
async fn late(
    trial: &Trial,
    stage: &mut Scenario,
    dice: &mut Rng,
) -> anyhow::Result<(PathBuf, Option<String>)> {
    let (folder, pid) = (stage.bed.folder().to_owned(), stage.bed.server()?.pid());
    let attached = Attached::failing(&trial.ground, pid, &folder, UNRESERVED).await?;
    let part = stage.proxy.sent() + dice.u64(1..VICTIM_LEN as u64 / 2);
    let id = stage.order(VICTIM).await?;
    stage.proxy.sent_at_least(part).await?;
    let filler = fill(stage, FullDiskKind::Late, dice)?;
    let _ = timeout(WHILE_IT_LASTS, stage.finished(&id)).await;
    attached.detach().await?;
    Ok((filler, Some(id)))
}

/// Waits until downloads are old enough to go, and makes room.
async fn room(stage: &mut Scenario) -> anyhow::Result<()> {
    loop {
        stage.oracle.retire(&stage.data_dir(), 0)?;
        let stat = statvfs(stage.data_dir())?;
        if ROOM < stat.f_bavail * stat.f_frsize && INODES < stat.f_ffree {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Takes all inodes, or nearly all room: what is left may do for some of a file, or for a record.
fn fill(stage: &Scenario, kind: FullDiskKind, dice: &mut Rng) -> anyhow::Result<PathBuf> {
    let folder = stage.data_dir().join(".filler");
    fs::create_dir(&folder)?;
    match kind {
        FullDiskKind::Inodes => {
            let left = dice.usize(0..3);
            let made = (0..).map_while(|n| File::create(folder.join(n.to_string())).ok()).count();
            for n in made.saturating_sub(left)..made {
                fs::remove_file(folder.join(n.to_string()))?;
            }
        }
        FullDiskKind::Bytes => {
            let left = if dice.bool() { 0 } else { dice.u64(0..VICTIM_LEN as u64) };
            let file = File::create(folder.join("all"))?;
            let stat = statvfs(&folder)?;
            let all = stat.f_bavail * stat.f_frsize;
            fallocate(&file, FallocateFlags::empty(), 0, all.saturating_sub(left).max(1))?;
        }
        // Byte by byte: the file takes room too, meanwhile.
        FullDiskKind::Late => {
            let written = io::copy(&mut io::repeat(0), &mut File::create(folder.join("all"))?);
            anyhow::ensure!(written.is_err_and(|e| e.kind() == io::ErrorKind::StorageFull));
        }
    }
    Ok(folder)
}
