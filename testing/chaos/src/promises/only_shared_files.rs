//! S5: a hostile server requests what is not shared, while a local program exchanges files and folders for
//! links. The agent runs with and without its sandbox.

mod hostile_paths;
mod moving_links;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use filepull_core::id::TransferId;
use filepull_proto::v1::transfer_update::State;
use filepull_proto::v1::{StartTransfer, TransferUpdate};
use filepull_testkit::process::{self, Process};
use futures::FutureExt as _;

use crate::fake_server::{ControlledServer, ControlledSession};
use crate::promise::Promise;
use crate::tool;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "S5",
    statement: "The agent sends only what its settings share, even to a hostile server.",
    requirements: &[],
    limit: Duration::from_secs(60),
    run: |trial| run(trial).boxed_local(),
};

/// The content of every file that is not shared.
const CANARY: &str = "CANARY-2b7e151628aed2a6";
/// The content of every file that is shared.
const SHARED: &str = "shared content";
const CLIENT: &str = "till1";
/// The agent answers an order within this time, also for a pipe or an endless file.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// A slow machine is no hang.
const WAIT_LIMIT: Duration = Duration::from_secs(10);

async fn run(trial: &Trial) -> anyhow::Result<()> {
    for sandbox in ["auto", "off"] {
        let mut scenario = HostileServer::start(trial, sandbox).await?;
        let tried = async {
            hostile_paths::run(trial, &mut scenario).await?;
            moving_links::run(trial, &mut scenario).await
        };
        let tried = tried.await;
        tried.with_context(|| format!("SANDBOX={sandbox}, {}", scenario.agent.last_output()))?;
    }
    Ok(())
}

/// A hostile server, and a real agent that dials it.
struct HostileServer {
    server: ControlledServer,
    session: ControlledSession,
    agent: Process,
    /// The folder of the shared files: `data.txt`, `logs/*.log` and `deep/**`.
    files: PathBuf,
    /// A folder that is not shared, with a canary under each name.
    outside: PathBuf,
    _folder: tempfile::TempDir,
}

impl HostileServer {
    async fn start(trial: &Trial, sandbox: &str) -> anyhow::Result<Self> {
        let mut server = ControlledServer::start().await?;
        let folder = tempfile::tempdir_in(trial.sandbox.folder())?;
        let files = folder.path().join("till");
        let outside = folder.path().join("outside");
        for (place, text) in [(&files, SHARED), (&outside, CANARY)] {
            for name in ["data.txt", "a.log", "logs/a.log", "deep/sub/b.txt"] {
                write(&place.join(name), text)?;
            }
        }
        let mut command =
            tool::command(&trial.sandbox, &trial.programs.agent.display().to_string());
        command.arg("run").envs([
            ("CLIENT_ID", CLIENT),
            ("SERVER_ADDR", &format!("http://{}", server.addr)),
            ("FILE_PATH", &files.join("data.txt").display().to_string()),
            ("SHARE", "logs/*.log,deep/**"),
            ("STATE_DIR", &folder.path().join("state").display().to_string()),
            ("SANDBOX", sandbox),
            ("NO_COLOR", "1"),
        ]);
        let agent = process::Process::spawn(command)?;
        let session = server.session().await.with_context(|| agent.last_output())?;
        Ok(Self { server, session, agent, files, outside, _folder: folder })
    }

    /// Requests a path. Returns whether the agent opened a file.
    async fn request(&mut self, path: &str) -> anyhow::Result<bool> {
        let transfer_id = TransferId::generate().to_string();
        let order = StartTransfer {
            transfer_id: transfer_id.clone(),
            attempt: 1,
            path: path.to_owned(),
            upload_token: vec![7; 16].into(),
            max_size: 1 << 30,
            ..StartTransfer::default()
        };
        let began = Instant::now();
        self.session.order(order).await?;
        let update = self.answer_to(&transfer_id).await.with_context(|| format!("{path:?}"))?;
        let took = began.elapsed();
        anyhow::ensure!(took < ANSWER_LIMIT * 3, "{path:?} was answered after {took:?}");
        let is_open = matches!(update.state, Some(State::Accepted(_)));
        if is_open {
            let upload = self.server.next_upload(WAIT_LIMIT).await.context("no upload follows")?;
            self.check(&upload.bytes, path)?;
        }
        while let Some(upload) = self.server.upload() {
            self.check(&upload.bytes, path)?;
        }
        Ok(is_open)
    }

    async fn answer_to(&mut self, transfer_id: &str) -> anyhow::Result<TransferUpdate> {
        loop {
            let update = self.session.update(WAIT_LIMIT).await.context("the agent hangs")?;
            if update.transfer_id == transfer_id {
                return Ok(update);
            }
        }
    }

    fn check(&self, bytes: &[u8], path: &str) -> anyhow::Result<()> {
        let shown = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        anyhow::ensure!(!shown, "the agent sent a file that is not shared, for the path {path:?}");
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
    Ok(std::fs::write(path, text)?)
}
