//! Cuts the power after the server acknowledged an offset as durable.

use std::fs::{self, OpenOptions};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use filepull_core::file_digest::Blake3;
use filepull_proto::v1::StartTransfer;
use filepull_proto::v1::upload_response::Kind as Answer;
use filepull_testkit::ScriptedAgent;
use serde_json::json;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::{check_after_power_cut, cut};
use crate::disk::{FileSystem, LoopDisks};
use crate::oracle::is_partial;
use crate::scenario::{Scenario, WAIT_LIMIT};
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

const CLIENT: &str = "scripted";
const FILE_LEN: usize = 192 << 20;
/// Beyond this offset, the rest of the file is too short for a round.
const MAX_OFFSET: u64 = 64 << 20;
const CHUNK_LEN: usize = 64 << 10;
/// Bytes in each chunk of a round. With the second length, nearly every checkpoint is in the middle of a
/// block of the disk.
const CHUNK_LENS: [usize; 2] = [CHUNK_LEN, 50_021];
/// Time between two chunks: slow enough for several checkpoints, or so fast that many bytes are
/// unsynced when the power fails.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(1)];
/// After a power cut a file may have zeroes after its valid bytes. ext4 and XFS cause this
/// sometimes; here it happens in half of the rounds.
const ZEROES_LEN: u64 = 1 << 20;

pub(super) async fn run_worker(trial: &Trial, kind: FileSystem, count: u32) -> anyhow::Result<()> {
    let name = format!("r3-acks-{}", kind.name());
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    let disks = LoopDisks::make(&trial.sandbox, kind, &name, &scenario.data_dir(), true).await?;
    let mut rng = trial.rng(&name);
    scenario.add_client(CLIENT, 1, &[])?;
    scenario.start_server().await?;
    let file = block_in_place(|| TestPattern::new(CLIENT, 1, FILE_LEN).bytes());
    let mut rounds = Rounds { trial, kind, scenario, disks, file: file.into(), proven: 0 };
    for round in 0..count {
        let tried = rounds.round(&mut rng).await;
        rounds.scenario.explain(&format!("{name}, round {round}"), tried)?;
    }
    rounds.scenario.teardown().await
}

struct Rounds<'a> {
    trial: &'a Trial,
    kind: FileSystem,
    scenario: Scenario,
    disks: LoopDisks,
    file: Bytes,
    /// The highest offset that the server acknowledged as durable.
    proven: u64,
}

impl Rounds<'_> {
    async fn round(&mut self, rng: &mut Rng) -> anyhow::Result<()> {
        let mut agent =
            ScriptedAgent::connect(self.scenario.server.grpc(), CLIENT, WAIT_LIMIT).await?;
        let mut order = self.next_order(&mut agent).await?;
        if MAX_OFFSET < order.offset {
            self.finish(&agent, &order).await?;
            order = self.next_order(&mut agent).await?;
        }
        let switches = self.disks.switches()?;
        let size = self.file.len() as u64;
        let mut upload = agent.upload(&order, order.offset, size).await?;
        let mut at = usize::try_from(order.offset)?;
        let deadline = Instant::now() + WAIT_LIMIT;
        let pause = PAUSES[rng.usize(0..PAUSES.len())];
        let chunk_len = CHUNK_LENS[rng.usize(0..CHUNK_LENS.len())];
        // Waits for one or two acknowledgements.
        let mut n_acks = rng.u8(1..3);
        loop {
            let end = (at + chunk_len).min(self.file.len());
            upload.chunk(at as u64, self.file.slice(at..end)).await?;
            at = end;
            anyhow::ensure!(
                Instant::now() < deadline,
                "timed out waiting for a durable acknowledgement"
            );
            let Ok(answer) = upload.response(pause).await else { continue };
            let Some(Answer::Ack(ack)) = answer else {
                anyhow::bail!("expected an ack, got {answer:?}")
            };
            anyhow::ensure!(
                ack.durable <= ack.received,
                "more bytes durable than received: {ack:?}"
            );
            if self.proven < ack.durable {
                self.proven = ack.durable;
                n_acks -= 1;
            }
            if n_acks == 0 {
                break;
            }
        }
        sleep(Duration::from_micros(rng.u64(0..5_000))).await;
        cut(&mut self.scenario, switches).await?;
        self.trial.counters.fault(self.kind.cut_name());
        self.trial.counters.fault("acknowledged offsets checked");
        self.disks.remount().await?;
        if rng.bool() {
            self.append_zeroes(&order.transfer_id)?;
        }
        check_after_power_cut(&mut self.scenario).await
    }

    /// Returns the order that continues the unfinished transfer or starts a new one.
    async fn next_order(&mut self, agent: &mut ScriptedAgent) -> anyhow::Result<StartTransfer> {
        self.scenario.trigger_with(&json!({ "client": CLIENT, "queue": "1h" })).await?;
        let order = agent.order().await?;
        self.check(order.offset, &order.prefix_blake3)?;
        Ok(order)
    }

    /// Sends the rest, so that the next transfer starts at offset 0.
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
            match upload.response(WAIT_LIMIT).await? {
                Some(Answer::Ack(_)) => {}
                Some(Answer::Stored(_)) => break,
                other => anyhow::bail!("expected stored, got {other:?}"),
            }
        }
        self.proven = 0;
        self.scenario.wait_until_done(&order.transfer_id).await?;
        self.scenario.audit(false).await?;
        self.scenario.oracle.delete_old_downloads(&self.scenario.data_dir(), 0)
    }

    fn append_zeroes(&self, transfer: &str) -> anyhow::Result<()> {
        for entry in fs::read_dir(self.scenario.data_dir().join(CLIENT))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(transfer) && is_partial(&name) {
                let file = OpenOptions::new().write(true).open(&path)?;
                file.set_len(file.metadata()?.len() + ZEROES_LEN)?;
                self.trial.counters.fault("partials with appended zeroes");
            }
        }
        Ok(())
    }

    /// Checks that the order continues at or after the acknowledged offset, with the right prefix.
    fn check(&self, offset: u64, digest: &[u8]) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.proven <= offset,
            "{} bytes were acknowledged as durable, {offset} are left",
            self.proven
        );
        let bytes = &self.file[..usize::try_from(offset)?];
        let prefix = block_in_place(|| Blake3::of(bytes));
        anyhow::ensure!(offset == 0 || prefix.as_bytes() == digest, "wrong bytes before {offset}");
        Ok(())
    }
}
