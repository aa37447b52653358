//! Another program writes into a client's folder: it takes the next ten names in advance and
//! competes for the others, while 200 files want the same name.

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

pub(super) async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare(trial, &[("MAX_RUNNING", "64")]).await?;
    let _clock = Clock::install(&mut scenario, "2026-10-25 02:30:00")?;
    let tried = race(trial, &mut scenario, trial.times(FILES)).await;
    scenario.explain("against an intruder", tried)
}

async fn race(trial: &Trial, scenario: &mut Scenario, n_files: u32) -> anyhow::Result<()> {
    scenario.start_server().await?;
    scenario.add_client(CLIENT, 6400, &[("SHARE", "*.txt")])?;
    scenario.connect(0).await?;
    let folder = scenario.data_dir().join(CLIENT);
    fs::create_dir_all(&folder)?;
    for n in 1..=TAKEN_BEFORE {
        take(&folder, n)?;
    }
    let intruder = Intruder::start(folder, trial.rng("r2-intruder"));
    let mut ids = Vec::new();
    for n in 0..n_files {
        let name = format!("{n}.txt");
        let file = TestPattern::new(CLIENT, n, 6400);
        fs::write(scenario.files(0).join(&name), file.bytes())?;
        let body = json!({ "client": CLIENT, "path": name, "queue": "1h" });
        ids.push(scenario.trigger_with(&body).await?);
    }
    for id in ids {
        scenario.wait_until_done(&id).await?;
    }
    let taken = intruder.stop()?;
    let data_dir = scenario.data_dir();
    for n in (1..=TAKEN_BEFORE).chain(taken) {
        let text = fs::read_to_string(data_dir.join(CLIENT).join(name(n))).unwrap_or_default();
        anyhow::ensure!(text == mark(n), "the server overwrote {} of the intruder", name(n));
        scenario.oracle.add_foreign_file(&data_dir, CLIENT, &name(n))?;
        trial.counters.fault("names taken by an intruder");
    }
    scenario.audit(true).await?;
    let found = scenario.oracle.n_downloads();
    anyhow::ensure!(found == n_files as usize, "{n_files} transfers created {found} files");
    scenario.end().await
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

/// A thread that takes one of the next names at random times.
struct Intruder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u32>>,
}

impl Intruder {
    fn start(folder: PathBuf, mut rng: Rng) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut taken = Vec::new();
            let mut next = TAKEN_BEFORE + 1;
            while !until.load(Ordering::SeqCst) {
                while folder.join(name(next)).exists() {
                    next += 1;
                }
                let n = next + rng.u32(0..3);
                if take(&folder, n).is_ok() {
                    taken.push(n);
                }
                #[allow(clippy::disallowed_methods, reason = "its own thread")]
                std::thread::sleep(Duration::from_micros(rng.u64(0..30_000)));
            }
            taken
        });
        Self { stop, thread }
    }

    fn stop(self) -> anyhow::Result<Vec<u32>> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().ok().context("the intruder panicked")
    }
}
