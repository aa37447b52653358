//! Truncated records, and records with a flipped bit. The server reports the damage, and ends or
//! waits for its repair, or serves only what is true. Downloads stay unchanged, and nothing panics.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use fastrand::Rng;
use serde_json::{Value, json};

use crate::oracle::is_final;
use crate::scenario::{Scenario, poll};
use crate::trial::Trial;

const DONE: usize = 60;
const OPEN: usize = 140;
const DAMAGES: u32 = 1_000;
/// In every tenth round a file is pulled too.
const PULL_EVERY: u32 = 10;

pub(super) async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    let mut rng = trial.rng("r14-damage");
    let tried = damages(trial, &mut scenario, &mut rng).await;
    scenario.explain("with damaged records", tried)
}

async fn damages(trial: &Trial, scenario: &mut Scenario, rng: &mut Rng) -> anyhow::Result<()> {
    let intact = create_records(scenario).await?;
    for round in 0..trial.times(DAMAGES) {
        let damage = intact.random_damage(rng);
        intact.write(&scenario.data_dir(), &damage)?;
        let tried = restart(scenario, round % PULL_EVERY == 0).await;
        let found = tried.with_context(|| format!("round {round}: {}", damage.text(&intact)))?;
        trial.counters.fault(match found {
            RecordFinding::Rejected => "damages reported and not served",
            RecordFinding::Served => "damages tolerated",
        });
    }
    Ok(())
}

enum RecordFinding {
    Rejected,
    Served,
}

/// Starts a server on the damaged records.
async fn restart(scenario: &mut Scenario, pull: bool) -> anyhow::Result<RecordFinding> {
    let started = scenario.start_server().await;
    let found = match started {
        Err(error) => check_start_error(&format!("{error:#}")),
        Ok(_) => check_served(scenario, pull).await,
    };
    let log = scenario.server_process().map(|server| server.said().join("\n")).unwrap_or_default();
    anyhow::ensure!(!log.contains("panicked"), "the server panicked:\n{log}");
    scenario.kill_agent(0).await;
    scenario.kill_server().await?;
    scenario.oracle.check_files(&scenario.data_dir(), false)?;
    found
}

/// Checks that a server that does not start names its records as the reason.
fn check_start_error(text: &str) -> anyhow::Result<RecordFinding> {
    let honest = text.contains("exit status: 1") && !text.contains("panicked");
    let reason =
        ["records", "database", "transfer", "client"].iter().any(|word| text.contains(word));
    anyhow::ensure!(honest && reason, "the server ended without a reason: {text}");
    Ok(RecordFinding::Rejected)
}

async fn check_served(scenario: &mut Scenario, pull: bool) -> anyhow::Result<RecordFinding> {
    let page = scenario.server.json("/api/v1/transfers?limit=1000").await?;
    if page["code"] == "records-failed" || page["code"] == "internal" {
        return Ok(RecordFinding::Rejected);
    }
    let transfers = page["items"].as_array().with_context(|| format!("no list: {page}"))?;
    scenario.oracle.check_downloads(transfers)?;
    if pull { check_pull(scenario).await } else { Ok(RecordFinding::Served) }
}

/// Pulls a file. Damage may show only when a row is written: then the file need not become a download,
/// but `/readyz` must name the damage, and no answer may be wrong.
async fn check_pull(scenario: &mut Scenario) -> anyhow::Result<RecordFinding> {
    // An agent is admitted only once its session is on record.
    if !connect_unless_damaged(scenario).await? {
        return Ok(RecordFinding::Rejected);
    }
    scenario.new_version(0)?;
    let body = json!({ "client": "client1", "queue": "1h", "fresh": true });
    let response = scenario.post_transfer(&body).await?;
    if response.status == 503 {
        let problem = response.json()?;
        let is_reported = problem["code"] == "records-failed" && names_damage(scenario).await?;
        anyhow::ensure!(is_reported, "rejected: {problem}");
        return Ok(RecordFinding::Rejected);
    }
    let id = scenario.record_trigger(&response)?;
    let path = format!("/api/v1/transfers/{id}");
    let mut last = Value::Null;
    let settled = poll(&path, async || {
        last = scenario.server.json(&path).await?;
        let not_on_record = last["waiting_for"] == "disk" || last["code"] == "records-failed";
        Ok((is_final(&last) || not_on_record && names_damage(scenario).await?).then_some(()))
    });
    settled.await.with_context(|| format!("the last response was {last}"))?;
    if !is_final(&last) {
        return Ok(RecordFinding::Rejected);
    }
    scenario.oracle.record_answer(&last)?;
    anyhow::ensure!(last["state"] == "done", "not done: {last}");
    Ok(RecordFinding::Served)
}

/// Starts the agent. Returns whether it is online, or the records are reported as damaged.
async fn connect_unless_damaged(scenario: &mut Scenario) -> anyhow::Result<bool> {
    scenario.start_agent(0)?;
    let path = "/api/v1/clients/client1";
    let mut last = Value::Null;
    let settled = poll(path, async || {
        last = scenario.server.json(path).await?;
        let online = last["online"] == true;
        Ok((online || names_damage(scenario).await?).then_some(online))
    });
    settled.await.with_context(|| format!("the last response was {last}"))
}

/// Returns whether the server says that it is not ready because its records are damaged.
async fn names_damage(scenario: &Scenario) -> anyhow::Result<bool> {
    let ready = scenario.server.get("/readyz").await?;
    Ok(ready.status == 503 && ready.text().contains("the records are damaged"))
}

/// Creates 200 records and 60 downloads, and kills the server.
async fn create_records(scenario: &mut Scenario) -> anyhow::Result<IntactRecords> {
    scenario.start_server().await?;
    scenario.add_client("client1", 6400, &[("SHARE", "*.txt")])?;
    scenario.connect(0).await?;
    for _ in 0..DONE {
        scenario.new_version(0)?;
        let id = scenario.trigger(0).await?;
        scenario.wait_until_done(&id).await?;
    }
    scenario.kill_agent(0).await;
    scenario.wait_until("/api/v1/clients/client1", |client| client["online"] == false).await?;
    for n in 0..OPEN {
        let body = json!({ "client": "client1", "path": format!("{n}.txt"), "queue": "1h" });
        scenario.trigger_with(&body).await?;
    }
    scenario.audit(true).await?;
    scenario.kill_server().await?;
    IntactRecords::read(&scenario.data_dir())
}

/// The undamaged files of the records.
struct IntactRecords {
    files: Vec<(String, Vec<u8>)>,
}

/// The damage to one of the files.
enum RecordDamage {
    Cut { file: usize, len: usize },
    Flip { file: usize, at: usize, bit: u8 },
}

impl IntactRecords {
    fn read(data_dir: &Path) -> anyhow::Result<Self> {
        let files = ["records.db", "records.db-wal"].map(|name| {
            let bytes = fs::read(data_dir.join(".filepull").join(name))?;
            anyhow::ensure!(!bytes.is_empty(), "{name} is empty: nothing to damage");
            Ok((name.to_owned(), bytes))
        });
        Ok(Self { files: files.into_iter().collect::<anyhow::Result<_>>()? })
    }

    fn random_damage(&self, rng: &mut Rng) -> RecordDamage {
        let file = rng.usize(0..self.files.len());
        let len = self.files[file].1.len();
        if rng.bool() {
            RecordDamage::Cut { file, len: rng.usize(0..len) }
        } else {
            RecordDamage::Flip { file, at: rng.usize(0..len), bit: rng.u8(0..8) }
        }
    }

    fn write(&self, data_dir: &Path, damage: &RecordDamage) -> anyhow::Result<()> {
        let folder = data_dir.join(".filepull");
        fs::remove_dir_all(&folder)?;
        fs::create_dir(&folder)?;
        for (n, (name, bytes)) in self.files.iter().enumerate() {
            let mut damaged = bytes.clone();
            match *damage {
                RecordDamage::Cut { file, len } if file == n => damaged.truncate(len),
                RecordDamage::Flip { file, at, bit } if file == n => damaged[at] ^= 1 << bit,
                RecordDamage::Cut { .. } | RecordDamage::Flip { .. } => {}
            }
            fs::write(folder.join(name), damaged)?;
        }
        Ok(())
    }
}

impl RecordDamage {
    fn text(&self, intact: &IntactRecords) -> String {
        match self {
            Self::Cut { file, len } => {
                let (name, bytes) = &intact.files[*file];
                format!("{name} cut to {len} of {} bytes", bytes.len())
            }
            Self::Flip { file, at, bit } => {
                format!("{}: bit {bit} of byte {at} flipped", intact.files[*file].0)
            }
        }
    }
}
