//! An offset that an agent was told is durable, and then the power fails.

use std::fs::{self, OpenOptions};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use filepull_core::digest::Digest;
use filepull_proto::v1::StartTransfer;
use filepull_proto::v1::upload_response::Kind as Answer;
use filepull_testkit::ScriptedAgent;
use serde_json::json;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::{back, cut};
use crate::disk::{FileSystem, LoopDisks};
use crate::oracle::is_partial;
use crate::scenario::{PATIENCE, Scenario};
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

const CLIENT: &str = "hand";
const FILE_LEN: usize = 192 << 20;
/// Less is left behind it than a round may need.
const NEARLY_ALL: u64 = 64 << 20;
const CHUNK_LEN: usize = 64 << 10;
/// Between two chunks: slow enough for a checkpoint each second long before the end, and in half
/// of the rounds so fast that much is on its way to the disk when the power fails.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(1)];
/// A disk may keep the size of a file and lose its end: then zeroes follow what is valid. ext4 and
/// XFS do it now and then; here it happens in half of the rounds.
const TAIL_LEN: u64 = 1 << 20;

pub(super) async fn lane(trial: &Trial, kind: FileSystem, count: u32) -> anyhow::Result<()> {
    let name = format!("r3-acks-{}", kind.name());
    let mut stage = Scenario::set(trial, &[]).await?;
    let disks = LoopDisks::make(&trial.ground, kind, &name, &stage.data_dir(), true).await?;
    let mut dice = trial.dice(&name);
    stage.add_client(CLIENT, 1, &[])?;
    stage.start_server().await?;
    let file = block_in_place(|| TestPattern::new(CLIENT, 1, FILE_LEN).bytes());
    let mut rounds = Rounds { trial, kind, stage, disks, file: file.into(), proven: 0 };
    for round in 0..count {
        let tried = rounds.round(&mut dice).await;
        rounds.stage.explain(&format!("{name}, round {round}"), tried)?;
    }
    rounds.stage.strike().await
}

struct Rounds<'a> {
    trial: &'a Trial,
    kind: FileSystem,
    stage: Scenario,
    disks: LoopDisks,
    file: Bytes,
    /// What the server has called durable so far.
    proven: u64,
}

impl Rounds<'_> {
    async fn round(&mut self, dice: &mut Rng) -> anyhow::Result<()> {
        let mut agent = ScriptedAgent::connect(self.stage.bed.grpc(), CLIENT, PATIENCE).await?;
        let mut order = self.ordered(&mut agent).await?;
        if NEARLY_ALL < order.offset {
            self.finish(&agent, &order).await?;
            order = self.ordered(&mut agent).await?;
        }
        let switches = self.disks.switches()?;
        let size = self.file.len() as u64;
        let mut upload = agent.upload(&order, order.offset, size).await?;
        let mut at = usize::try_from(order.offset)?;
        let deadline = Instant::now() + PATIENCE;
        let pause = PAUSES[dice.usize(0..PAUSES.len())];
        // One acknowledgement, or two.
        let mut n_acks = dice.u8(1..3);
        loop {
            let end = (at + CHUNK_LEN).min(self.file.len());
            upload.chunk(at as u64, self.file.slice(at..end)).await?;
            at = end;
            anyhow::ensure!(Instant::now() < deadline, "nothing was acknowledged as durable");
            let Ok(answer) = upload.response(pause).await else { continue };
            let Some(Answer::Ack(ack)) = answer else {
                anyhow::bail!("instead of an ack: {answer:?}")
            };
            anyhow::ensure!(ack.durable <= ack.received, "more durable than received: {ack:?}");
            if self.proven < ack.durable {
                self.proven = ack.durable;
                n_acks -= 1;
            }
            if n_acks == 0 {
                break;
            }
        }
        sleep(Duration::from_micros(dice.u64(0..5_000))).await;
        cut(&mut self.stage, switches).await?;
        self.trial.tally.fault(self.kind.cut_name());
        self.trial.tally.fault("acks put to the proof");
        self.disks.remount().await?;
        if dice.bool() {
            self.zeroes_behind(&order.transfer_id)?;
        }
        back(&mut self.stage).await
    }

    /// The order that goes on with the open transfer, or begins one.
    async fn ordered(&mut self, agent: &mut ScriptedAgent) -> anyhow::Result<StartTransfer> {
        self.stage.order_as(&json!({ "client": CLIENT, "queue": "1h" })).await?;
        let order = agent.order().await?;
        self.check(order.offset, &order.prefix_sha256)?;
        Ok(order)
    }

    /// Sends what is left, so that the next transfer begins at zero.
    async fn finish(&mut self, agent: &ScriptedAgent, order: &StartTransfer) -> anyhow::Result<()> {
        let mut upload = agent.upload(order, order.offset, self.file.len() as u64).await?;
        let mut at = usize::try_from(order.offset)?;
        while at < self.file.len() {
            let end = (at + CHUNK_LEN).min(self.file.len());
            upload.chunk(at as u64, self.file.slice(at..end)).await?;
            at = end;
        }
        upload.trailer(&self.file).await?;
        loop {
            match upload.response(PATIENCE).await? {
                Some(Answer::Ack(_)) => {}
                Some(Answer::Stored(_)) => break,
                other => anyhow::bail!("instead of stored: {other:?}"),
            }
        }
        self.proven = 0;
        self.stage.done(&order.transfer_id).await?;
        self.stage.audit(false).await?;
        self.stage.oracle.retire(&self.stage.data_dir(), 0)
    }

    fn zeroes_behind(&self, transfer: &str) -> anyhow::Result<()> {
        for entry in fs::read_dir(self.stage.data_dir().join(CLIENT))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(transfer) && is_partial(&name) {
                let file = OpenOptions::new().write(true).open(&path)?;
                file.set_len(file.metadata()?.len() + TAIL_LEN)?;
                self.trial.tally.fault("partials with zeroes behind them");
            }
        }
        Ok(())
    }

    /// The server orders the rest: at least what it called durable is there, and is ours.
    fn check(&self, offset: u64, digest: &[u8]) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.proven <= offset,
            "{} were acknowledged, {offset} are left",
            self.proven
        );
        let prefix = &self.file[..usize::try_from(offset)?];
        let prefix = block_in_place(|| Digest::of(prefix));
        anyhow::ensure!(offset == 0 || prefix.as_bytes() == digest, "other bytes up to {offset}");
        Ok(())
    }
}
