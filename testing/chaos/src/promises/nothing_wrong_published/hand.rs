//! A stage whose one client is led by hand, and what that hand can do.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use fastrand::Rng;
use filepull_core::digest::Digest;
use filepull_proto::v1::StartTransfer;
use filepull_proto::v1::upload_response::Kind as Answer;
use filepull_testkit::{ScriptedAgent, ScriptedUpload};
use serde_json::json;
use tokio::time::sleep;

use crate::oracle::is_partial;
use crate::scenario::{LOOK_AGAIN, PATIENCE, Scenario};
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

pub(super) const CLIENT: &str = "hand";
pub(super) const CHUNK_LEN: usize = 16 << 10;
/// At least three chunks.
const SHORTEST: usize = 3 * CHUNK_LEN;
const LONGEST: usize = 200_000;

/// An agent at its server, with one file after another.
pub(super) struct ScriptedScenario {
    pub(super) stage: Scenario,
    pub(super) agent: ScriptedAgent,
    pub(super) dice: Rng,
    /// What is sent.
    pub(super) file: Bytes,
    pub(super) n_files: u32,
}

impl ScriptedScenario {
    pub(super) async fn set(trial: &Trial, name: &str) -> anyhow::Result<Self> {
        // A hand does not answer the server's pings.
        let settings = [("SHUTDOWN_GRACE", "50ms"), ("DEAD_AFTER", "15m")];
        let mut stage = Scenario::set(trial, &settings).await?;
        stage.start_server().await?;
        stage.add_client(CLIENT, 1, &[])?;
        let agent = ScriptedAgent::connect(stage.bed.grpc(), CLIENT, PATIENCE).await?;
        let (dice, file) = (trial.dice(name), Bytes::new());
        Ok(Self { stage, agent, dice, file, n_files: 0 })
    }

    /// Orders a new file: its transfer, and the order that has reached the agent.
    pub(super) async fn ordered(&mut self) -> anyhow::Result<(String, StartTransfer)> {
        self.n_files += 1;
        let len = self.dice.usize(SHORTEST..LONGEST);
        self.file = TestPattern::new(CLIENT, self.n_files, len).bytes().into();
        let id = self.stage.order_as(&json!({ "client": CLIENT, "queue": "1h" })).await?;
        let order = self.order(&id).await?;
        Ok((id, order))
    }

    /// The next order, which is one of this transfer.
    pub(super) async fn order(&mut self, id: &str) -> anyhow::Result<StartTransfer> {
        let order = self.agent.order().await?;
        anyhow::ensure!(order.transfer_id == id, "ordered {}, not {id}", order.transfer_id);
        Ok(order)
    }

    /// The chunks of the file from `from` to `to`, each with its offset.
    pub(super) fn chunks(&self, from: usize, to: usize) -> Vec<(u64, Bytes)> {
        let starts = (from..to).step_by(CHUNK_LEN);
        starts.map(|at| (at as u64, self.file.slice(at..to.min(at + CHUNK_LEN)))).collect()
    }

    /// Begins an upload and sends these chunks; the server may end it before the last.
    pub(super) async fn sent(
        &self,
        order: &StartTransfer,
        offset: u64,
        chunks: Vec<(u64, Bytes)>,
    ) -> anyhow::Result<ScriptedUpload> {
        let upload = self.agent.upload(order, offset, self.file.len() as u64).await?;
        for (at, bytes) in chunks {
            let _ = upload.chunk(at, bytes).await;
        }
        Ok(upload)
    }

    /// Sends what an honest agent sends, and has it judged: whether it is stored.
    pub(super) async fn honest(&self, order: &StartTransfer) -> anyhow::Result<bool> {
        let (len, offset) = (self.file.len(), usize::try_from(order.offset)?);
        let prefix = self.file.get(..offset).context("the server holds more than the file")?;
        let same = order.prefix_sha256.as_ref() == Digest::of(prefix).as_bytes();
        let offset = if same { offset } else { 0 };
        let upload = self.sent(order, offset as u64, self.chunks(offset, len)).await?;
        let _ = upload.trailer(&self.file).await;
        Ok(is_stored(upload).await)
    }

    /// The transfer ends with the right file, and all files are right.
    pub(super) async fn ends_well(&mut self, id: &str) -> anyhow::Result<()> {
        self.stage.done(id).await?;
        self.stage.audit(false).await?;
        let n_files = self.stage.oracle.n_downloads();
        anyhow::ensure!(n_files == self.n_files as usize, "there are {n_files} files");
        self.stage.oracle.retire(&self.stage.data_dir(), 3)
    }

    /// The partial, once `len` bytes of the file are in it.
    pub(super) async fn partial(&self, len: usize) -> anyhow::Result<PathBuf> {
        let folder = self.stage.data_dir().join(CLIENT);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let found = entry.metadata().is_ok_and(|stat| stat.len() == len as u64);
                if found && is_partial(&entry.file_name().to_string_lossy()) {
                    return Ok(entry.path());
                }
            }
            sleep(LOOK_AGAIN).await;
        }
        anyhow::bail!("no partial of {len} bytes in {}", folder.display())
    }

    /// Flips one bit of the first `len` bytes of a partial.
    pub(super) fn flip(&mut self, partial: &std::path::Path, len: usize) -> anyhow::Result<()> {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(partial)?;
        let (at, mut byte) = (self.dice.u64(0..len as u64), [0]);
        file.read_exact_at(&mut byte, at)?;
        byte[0] ^= 1 << self.dice.u8(0..8);
        Ok(file.write_all_at(&byte, at)?)
    }
}

/// Whether the server says in the end that it has stored an upload.
pub(super) async fn is_stored(mut upload: ScriptedUpload) -> bool {
    let limit = Duration::from_secs(20);
    while let Ok(Some(answer)) = upload.response(limit).await {
        match answer {
            Answer::Stored(_) => return true,
            Answer::Error(_) => return false,
            Answer::Ack(_) => {}
        }
    }
    false
}
