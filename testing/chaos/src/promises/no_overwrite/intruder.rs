//! Somebody else may write into a client's folder: he takes the next ten names beforehand, and
//! races for the rest, while 200 files want one name.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use fastrand::Rng;
use serde_json::json;

use crate::clock::Clock;
use crate::scenario::Scenario;
use crate::test_pattern::TestPattern;
use crate::trial::Trial;

const CLIENT: &str = "client1";
const FILES: u32 = 200;
const TAKEN_BEFORE: u32 = 10;

pub(super) async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let mut stage = Scenario::set(trial, &[("MAX_RUNNING", "64")]).await?;
    let _clock = Clock::give(&mut stage, "2026-10-25 02:30:00")?;
    let tried = race(trial, &mut stage, trial.times(FILES)).await;
    stage.explain("against an intruder", tried)
}

async fn race(trial: &Trial, stage: &mut Scenario, n_files: u32) -> anyhow::Result<()> {
    stage.start_server().await?;
    stage.add_client(CLIENT, 6400, &[("SHARE", "*.txt")])?;
    stage.connect(0).await?;
    let folder = stage.data_dir().join(CLIENT);
    fs::create_dir_all(&folder)?;
    for n in 1..=TAKEN_BEFORE {
        take(&folder, n)?;
    }
    let intruder = Intruder::start(folder, trial.dice("r2-intruder"));
    let mut ids = Vec::new();
    for n in 0..n_files {
        let (name, file) = (format!("{n}.txt"), TestPattern::new(CLIENT, n, 6400));
        fs::write(stage.files(0).join(&name), file.bytes())?;
        let order = json!({ "client": CLIENT, "path": name, "queue": "1h" });
        ids.push(stage.order_as(&order).await?);
    }
    for id in ids {
        stage.done(&id).await?;
    }
    let taken = intruder.stop()?;
    let data_dir = stage.data_dir();
    for n in (1..=TAKEN_BEFORE).chain(taken) {
        let text = fs::read_to_string(data_dir.join(CLIENT).join(name(n))).unwrap_or_default();
        anyhow::ensure!(text == mark(n), "{} of the intruder was overwritten", name(n));
        stage.oracle.stranger(&data_dir, CLIENT, &name(n))?;
        trial.tally.fault("names taken by an intruder");
    }
    stage.audit(true).await?;
    let found = stage.oracle.n_downloads();
    anyhow::ensure!(found == n_files as usize, "{n_files} transfers made {found} files");
    stage.end().await
}

fn name(n: u32) -> String {
    let suffix = if n == 1 { String::new() } else { format!("-{n}") };
    format!("download-20261025-023000{suffix}.txt")
}

fn mark(n: u32) -> String {
    format!("the intruder's {n}")
}

fn take(folder: &Path, n: u32) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(folder.join(name(n)))?;
    Ok(file.write_all(mark(n).as_bytes())?)
}

/// A thread that takes one of the next names now and then.
struct Intruder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u32>>,
}

impl Intruder {
    fn start(folder: PathBuf, mut dice: Rng) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut taken, mut next) = (Vec::new(), TAKEN_BEFORE + 1);
            while !until.load(Ordering::SeqCst) {
                while folder.join(name(next)).exists() {
                    next += 1;
                }
                let n = next + dice.u32(0..3);
                if take(&folder, n).is_ok() {
                    taken.push(n);
                }
                #[allow(clippy::disallowed_methods, reason = "a thread of its own")]
                std::thread::sleep(Duration::from_micros(dice.u64(0..30_000)));
            }
            taken
        });
        Self { stop, thread }
    }

    fn stop(self) -> anyhow::Result<Vec<u32>> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().ok().context("the intruder has died")
    }
}
