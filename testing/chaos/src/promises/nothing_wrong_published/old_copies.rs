//! The download from which the next upload copies is damaged on the server's disk. The next pull
//! ends with the right file or fails; it never takes the damage over.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use fastrand::Rng;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::scenario::Scenario;
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

/// Enough for a list of blocks.
const FILE_LEN: usize = 160 << 10;
/// Rounds after which all files and transfers are checked again.
const AUDIT_EVERY: u32 = 20;
/// With this many rounds, a worker must have seen copies and failed copies; otherwise it has tested
/// nothing.
const MANY: u32 = 50;
/// An upload takes about this long.
const LONGEST_UPLOAD_US: u64 = 15_000;

/// What happens to the old copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    FlippedBit,
    Truncated,
    Extended,
    /// Another file gets its name.
    Replaced,
    Removed,
}

/// When it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    BeforeTheOrder,
    /// The agent has the order and is stopped.
    BeforeTheUpload,
    /// At a random time after the trigger.
    DuringTheUpload,
}

impl Damage {
    const ALL: [Self; 5] =
        [Self::FlippedBit, Self::Truncated, Self::Extended, Self::Replaced, Self::Removed];

    /// Damages a download.
    fn apply(self, path: &Path, rng: &mut Rng) -> anyhow::Result<()> {
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let len = file.metadata()?.len();
        match self {
            Self::FlippedBit => {
                let at = rng.u64(0..len);
                let mut byte = [0];
                file.read_exact_at(&mut byte, at)?;
                file.write_all_at(&[byte[0] ^ 1 << rng.u8(0..8)], at)?;
            }
            Self::Truncated => file.set_len(rng.u64(0..len))?,
            Self::Extended => file.write_all_at(b"more", len)?,
            Self::Replaced => {
                let mut bytes = fs::read(path)?;
                rng.fill(&mut bytes[..]);
                let other = path.with_extension("other");
                fs::write(&other, bytes)?;
                fs::rename(other, path)?;
            }
            Self::Removed => fs::remove_file(path)?,
        }
        Ok(())
    }
}

impl Moment {
    const ALL: [Self; 3] = [Self::BeforeTheOrder, Self::BeforeTheUpload, Self::DuringTheUpload];
}

pub(super) async fn run(trial: &Trial, n: u32, count: u32) -> anyhow::Result<()> {
    let name = format!("r5-old-copies-{n}");
    let scenario = Scenario::prepare(trial, &[("SCRUB_EVERY", "off")]).await?;
    let rng = trial.rng(&name);
    let mut worker =
        OldCopyWorker { trial, rng, scenario, old_copy: None, n_copied: 0, n_failed: 0 };
    let tried = worker.run(count).await;
    worker.scenario.explain(&name, tried)
}

struct OldCopyWorker<'a> {
    trial: &'a Trial,
    rng: Rng,
    scenario: Scenario,
    /// The last good download.
    old_copy: Option<PathBuf>,
    /// Uploads that copied, and uploads whose copies were wrong.
    n_copied: u32,
    n_failed: u32,
}

impl OldCopyWorker<'_> {
    async fn run(&mut self, count: u32) -> anyhow::Result<()> {
        self.scenario.start_server().await?;
        self.scenario.add_client("client1", FILE_LEN, &[])?;
        self.scenario.connect(0).await?;
        for round in 0..count {
            let damage = Damage::ALL[self.rng.usize(0..Damage::ALL.len())];
            let moment = Moment::ALL[self.rng.usize(0..Moment::ALL.len())];
            let tried = self.round(damage, moment).await;
            tried.with_context(|| format!("round {round}: {damage:?} {moment:?}"))?;
            self.trial.counters.fault("damaged old copies");
            if round % AUDIT_EVERY == 0 {
                self.scenario.audit(false).await?;
                self.scenario.oracle.delete_old_downloads(&self.scenario.data_dir(), 3)?;
            }
        }
        let n_copied = self.n_copied.min(self.n_failed);
        anyhow::ensure!(count < MANY || 0 < n_copied, "none of {count} uploads copied damage");
        self.scenario.audit(true).await?;
        self.scenario.teardown().await
    }

    /// Pulls the file, damages the download, changes the file or not, and pulls it again.
    async fn round(&mut self, damage: Damage, moment: Moment) -> anyhow::Result<()> {
        let old_copy = match self.old_copy.take() {
            Some(old_copy) => old_copy,
            None => {
                let id = self.scenario.trigger(0).await?;
                let done = self.scenario.wait_until_done(&id).await?;
                self.download(&done)?
            }
        };
        if self.rng.u8(0..4) != 0 {
            self.scenario.new_version(0)?;
        }
        let if_changed = self.rng.bool();
        let transfer = self.pull_with_damage(&old_copy, damage, moment, if_changed).await?;
        match transfer["state"].as_str() {
            Some("done") => self.old_copy = Some(self.check_right(&transfer)?),
            // The damage of a moment before may have come too late for this answer.
            Some("unchanged") => {
                anyhow::ensure!(moment != Moment::BeforeTheOrder, "{transfer}");
            }
            Some("failed") => {}
            _ => anyhow::bail!("{transfer}"),
        }
        self.n_copied += u32::from(transfer["base"] == "copied");
        self.n_failed += u32::from(transfer["base"] == "failed");
        let _ = fs::remove_file(&old_copy);
        self.scenario.oracle.forget(&old_copy)
    }

    async fn pull_with_damage(
        &mut self,
        old_copy: &Path,
        damage: Damage,
        moment: Moment,
        if_changed: bool,
    ) -> anyhow::Result<Value> {
        let body = json!({ "client": "client1", "if_changed": if_changed });
        if moment == Moment::BeforeTheOrder {
            damage.apply(old_copy, &mut self.rng)?;
        }
        if moment == Moment::BeforeTheUpload {
            self.scenario.agent(0)?.signal(Signal::STOP)?;
        }
        let id = self.scenario.trigger_with(&body).await?;
        if moment == Moment::BeforeTheUpload {
            let path = format!("/api/v1/transfers/{id}");
            self.scenario.wait_until(&path, |transfer| transfer["attempt"] == 1).await?;
        }
        if moment == Moment::DuringTheUpload {
            sleep(Duration::from_micros(self.rng.u64(0..LONGEST_UPLOAD_US))).await;
        }
        if moment != Moment::BeforeTheOrder {
            damage.apply(old_copy, &mut self.rng)?;
        }
        if moment == Moment::BeforeTheUpload {
            self.scenario.agent(0)?.signal(Signal::CONT)?;
        }
        self.scenario.wait_until_final(&id).await
    }

    /// Requires that the download is the current file. Returns its path.
    fn check_right(&self, transfer: &Value) -> anyhow::Result<PathBuf> {
        let download = self.download(transfer)?;
        let found = TestPattern::read("client1", &fs::read(&download)?);
        if found != Ok(self.scenario.pattern(0)) {
            self.trial.counters.wrong_file();
            anyhow::bail!("{found:?} was published: {transfer}");
        }
        Ok(download)
    }

    fn download(&self, transfer: &Value) -> anyhow::Result<PathBuf> {
        let name = transfer["download"]["name"].as_str().context("a download has a name")?;
        Ok(self.scenario.data_dir().join("client1").join(name))
    }
}
