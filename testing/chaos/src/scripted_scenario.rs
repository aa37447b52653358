//! A scenario with one client, whose agent is scripted.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use fastrand::Rng;
use filepull_core::file_digest::Blake3;
use filepull_proto::v1::StartTransfer;
use filepull_proto::v1::upload_response::Kind as Answer;
use filepull_testkit::{ScriptedAgent, ScriptedUpload};
use serde_json::json;

use crate::oracle::is_partial;
use crate::scenario::{Scenario, WAIT_LIMIT, poll};
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

pub(crate) const CLIENT: &str = "scripted";
pub(crate) const CHUNK_LEN: usize = 16 << 10;
const MAX_LEN: usize = 200_000;

/// A server, and a scripted agent that uploads one file after another.
pub(crate) struct ScriptedScenario {
    pub(crate) scenario: Scenario,
    pub(crate) agent: ScriptedAgent,
    pub(crate) rng: Rng,
    pub(crate) file: Bytes,
    pub(crate) n_files: u32,
}

impl ScriptedScenario {
    pub(crate) async fn prepare(
        trial: &Trial,
        name: &str,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        // A scripted agent does not answer pings.
        let needed = [("SHUTDOWN_GRACE", "50ms"), ("DEAD_AFTER", "15m")];
        let mut scenario = Scenario::prepare(trial, &[&needed, settings].concat()).await?;
        scenario.start_server().await?;
        scenario.add_client(CLIENT, 1, &[])?;
        let agent = ScriptedAgent::connect(scenario.server.grpc(), CLIENT, WAIT_LIMIT).await?;
        let rng = trial.rng(name);
        Ok(Self { scenario, agent, rng, file: Bytes::new(), n_files: 0 })
    }

    /// Triggers a pull of a new file of `min_len` to 200,000 bytes. Returns the transfer id and the
    /// order.
    pub(crate) async fn next_transfer(
        &mut self,
        min_len: usize,
    ) -> anyhow::Result<(String, StartTransfer)> {
        self.n_files += 1;
        let len = self.rng.usize(min_len..MAX_LEN);
        self.file = TestPattern::new(CLIENT, self.n_files, len).bytes().into();
        let id = self.scenario.trigger_with(&json!({ "client": CLIENT, "queue": "1h" })).await?;
        let order = self.order(&id).await?;
        Ok((id, order))
    }

    /// Waits for the next order and checks that it belongs to this transfer.
    pub(crate) async fn order(&mut self, id: &str) -> anyhow::Result<StartTransfer> {
        let order = self.agent.order().await?;
        anyhow::ensure!(
            order.transfer_id == id,
            "the order is for {}, not {id}",
            order.transfer_id
        );
        Ok(order)
    }

    /// Returns the chunks from `from` to `to`, each with its offset.
    pub(crate) fn chunks(&self, from: usize, to: usize) -> Vec<(u64, Bytes)> {
        let starts = (from..to).step_by(CHUNK_LEN);
        starts.map(|at| (at as u64, self.file.slice(at..to.min(at + CHUNK_LEN)))).collect()
    }

    /// Starts an upload and sends these chunks. The server may end it early.
    pub(crate) async fn upload(
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

    /// Uploads the whole file with its trailer. The server may end the upload early.
    pub(crate) async fn upload_whole(
        &self,
        order: &StartTransfer,
    ) -> anyhow::Result<ScriptedUpload> {
        let upload = self.upload(order, 0, self.chunks(0, self.file.len())).await?;
        let _ = upload.trailer(&self.file).await;
        Ok(upload)
    }

    /// Uploads the file as an honest agent does. Returns whether the server stored it.
    pub(crate) async fn upload_honestly(&self, order: &StartTransfer) -> anyhow::Result<bool> {
        let len = self.file.len();
        let offset = usize::try_from(order.offset)?;
        let prefix = self.file.get(..offset).context("the server holds more than the file")?;
        let same = order.prefix_blake3.as_ref() == Blake3::of(prefix).as_bytes();
        let start = if same { offset } else { 0 };
        let upload = self.upload(order, start as u64, self.chunks(start, len)).await?;
        let _ = upload.trailer(&self.file).await;
        Ok(is_stored(upload).await)
    }

    /// Checks that the transfer ends with the right file and that all files are right.
    pub(crate) async fn check_end(&mut self, id: &str) -> anyhow::Result<()> {
        self.scenario.wait_until_done(id).await?;
        self.scenario.audit(false).await?;
        let n_files = self.scenario.oracle.n_downloads();
        anyhow::ensure!(n_files == self.n_files as usize, "there are {n_files} files");
        self.scenario.oracle.delete_old_downloads(&self.scenario.data_dir(), 3)
    }

    /// Checks all files and ends the programs.
    pub(crate) async fn finish(&mut self) -> anyhow::Result<()> {
        self.scenario.audit(true).await?;
        self.scenario.teardown().await
    }

    /// Waits until the partial has `len` bytes. Returns its path.
    pub(crate) async fn wait_for_partial(&self, len: usize) -> anyhow::Result<PathBuf> {
        let folder = self.scenario.data_dir().join(CLIENT);
        let what = format!("a partial of {len} bytes in {}", folder.display());
        poll(&what, async || {
            let mut entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            let found = entries.find(|entry| {
                let has_len = entry.metadata().is_ok_and(|stat| stat.len() == len as u64);
                has_len && is_partial(&entry.file_name().to_string_lossy())
            });
            Ok(found.map(|entry| entry.path()))
        })
        .await
    }

    /// Flips one bit of the first `len` bytes of a partial.
    pub(crate) fn flip(&mut self, partial: &std::path::Path, len: usize) -> anyhow::Result<()> {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(partial)?;
        let at = self.rng.u64(0..len as u64);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        byte[0] ^= 1 << self.rng.u8(0..8);
        Ok(file.write_all_at(&byte, at)?)
    }
}

/// Returns the last message of the server in an upload, or `None` if it sends none for `limit`.
pub(crate) async fn final_answer(upload: &mut ScriptedUpload, limit: Duration) -> Option<Answer> {
    let mut last = None;
    while let Ok(Some(answer)) = upload.response(limit).await {
        last = Some(answer);
        if matches!(last, Some(Answer::Stored(_) | Answer::Error(_))) {
            break;
        }
    }
    last
}

/// Waits for the end of an upload. Returns whether the server stored it.
pub(crate) async fn is_stored(mut upload: ScriptedUpload) -> bool {
    let answer = final_answer(&mut upload, Duration::from_secs(20)).await;
    matches!(answer, Some(Answer::Stored(_)))
}
