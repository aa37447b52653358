//! An offset that an agent was told is durable, and then the power fails.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use fastrand::Rng;
use filepull_core::digest::Digest;
use filepull_proto::v1::upload_response::Kind as Answer;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{back, cut};
use crate::cells::Cells;
use crate::disk::{Disks, FileSystem};
use crate::hand_agent::HandAgent;
use crate::stage::{PATIENCE, Stage};
use crate::trial::Trial;

const CLIENT: &str = "hand";
const CHUNK_LEN: usize = 64 << 10;
/// Slow enough for a checkpoint each second, and for the rest to be far from its end.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) async fn lane(trial: &Trial, kind: FileSystem, count: u32) -> anyhow::Result<()> {
    let name = format!("r3-acks-{}", kind.name());
    let mut stage = Stage::set(trial, &[]).await?;
    let disks = Disks::make(&trial.ground, kind, &name, &stage.data_dir(), true).await?;
    let mut dice = trial.dice(&name);
    stage.add_client(CLIENT, 1, &[])?;
    stage.start_server().await?;
    let file = Cells::new(CLIENT, 1, 256 << 20).bytes();
    let mut rounds = Rounds { trial, kind, stage, disks, file: file.into(), proven: 0 };
    for round in 0..count {
        let tried = rounds.round(&mut dice).await;
        tried.with_context(|| format!("{name}, round {round}\n{}", rounds.stage.last_words()))?;
    }
    rounds.stage.strike().await
}

struct Rounds<'a> {
    trial: &'a Trial,
    kind: FileSystem,
    stage: Stage,
    disks: Disks,
    file: Bytes,
    /// What the server has called durable so far.
    proven: u64,
}

impl Rounds<'_> {
    async fn round(&mut self, dice: &mut Rng) -> anyhow::Result<()> {
        let mut agent = HandAgent::connect(self.stage.bed.grpc(), CLIENT).await?;
        self.stage.order_as(&json!({ "client": CLIENT, "queue": "1h" })).await?;
        let order = agent.order().await?;
        self.check(order.offset, &order.prefix_sha256)?;
        let switches = self.disks.switches()?;
        let size = self.file.len() as u64;
        let mut upload = agent.upload(&order, order.offset, size).await?;
        let mut at = usize::try_from(order.offset)?;
        let deadline = Instant::now() + PATIENCE;
        // One acknowledgement, or two or three.
        let mut n_acks = dice.u8(1..4);
        loop {
            let end = (at + CHUNK_LEN).min(self.file.len());
            upload.chunk(at as u64, self.file.slice(at..end)).await?;
            at = end;
            anyhow::ensure!(Instant::now() < deadline, "nothing was acknowledged as durable");
            let Ok(answer) = upload.answer(PAUSE).await else { continue };
            let Some(Answer::Ack(ack)) = answer else { anyhow::bail!("instead of an ack: {answer:?}") };
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
        back(&mut self.stage, &self.disks).await
    }

    /// The server orders the rest: at least what it called durable is there, and is ours.
    fn check(&self, offset: u64, digest: &[u8]) -> anyhow::Result<()> {
        anyhow::ensure!(self.proven <= offset, "{} were acknowledged, {offset} are left", self.proven);
        let prefix = Digest::of(&self.file[..usize::try_from(offset)?]);
        anyhow::ensure!(offset == 0 || prefix.as_bytes() == digest, "other bytes up to {offset}");
        Ok(())
    }
}
