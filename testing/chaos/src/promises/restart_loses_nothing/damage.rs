//! Records that are cut short or have a flipped bit. The server says so and ends, or goes on and
//! tells nothing that is not so; downloads stay as they are, and nothing panics.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use fastrand::Rng;
use serde_json::json;

use crate::scenario::Scenario;
use crate::trial::Trial;

const DONE: usize = 60;
const OPEN: usize = 140;
const DAMAGES: u32 = 1_000;
/// After one in this many a file is pulled too.
const PULL_EVERY: u32 = 10;

pub(super) async fn attempt(trial: &Trial) -> anyhow::Result<()> {
    let mut stage = Scenario::set(trial, &[]).await?;
    let mut dice = trial.dice("r14-damage");
    let tried = damages(trial, &mut stage, &mut dice).await;
    stage.explain("with damaged records", tried)
}

async fn damages(trial: &Trial, stage: &mut Scenario, dice: &mut Rng) -> anyhow::Result<()> {
    let whole = records(stage).await?;
    for round in 0..trial.times(DAMAGES) {
        let damage = whole.damage(dice);
        whole.put(&stage.data_dir(), &damage)?;
        let tried = restart(stage, round % PULL_EVERY == 0).await;
        let found = tried.with_context(|| format!("round {round}: {}", damage.words(&whole)))?;
        trial.tally.fault(match found {
            RecordFinding::Refused => "damages told and not served",
            RecordFinding::Served => "damages outlived",
        });
    }
    Ok(())
}

/// What came of a damage.
enum RecordFinding {
    Refused,
    Served,
}

/// A server starts on what is left of its records.
async fn restart(stage: &mut Scenario, pull: bool) -> anyhow::Result<RecordFinding> {
    let started = stage.start_server().await;
    let found = match started {
        Err(error) => refusal(&format!("{error:#}")),
        Ok(_) => served(stage, pull).await,
    };
    let said = stage.bed.server().map(|server| server.said().join("\n")).unwrap_or_default();
    anyhow::ensure!(!said.contains("panicked"), "it panicked:\n{said}");
    stage.kill_agent(0).await;
    stage.kill_server().await?;
    stage.oracle.look(&stage.data_dir(), false)?;
    found
}

/// A server that does not start says that its records are the reason.
fn refusal(words: &str) -> anyhow::Result<RecordFinding> {
    let honest = words.contains("exit status: 1") && !words.contains("panicked");
    let reason = ["records", "database", "transfer", "client"].iter().any(|w| words.contains(w));
    anyhow::ensure!(honest && reason, "it did not end with a reason: {words}");
    Ok(RecordFinding::Refused)
}

async fn served(stage: &mut Scenario, pull: bool) -> anyhow::Result<RecordFinding> {
    let page = stage.bed.json("/api/v1/transfers?limit=1000").await?;
    if page["code"] == "records-failed" || page["code"] == "internal" {
        return Ok(RecordFinding::Refused);
    }
    let transfers = page["items"].as_array().with_context(|| format!("a list, not {page}"))?;
    stage.oracle.bears_out(transfers)?;
    if pull {
        stage.connect(0).await?;
        stage.new_version(0)?;
        let order = json!({ "client": "client1", "queue": "1h", "fresh": true });
        let id = stage.order_as(&order).await?;
        stage.done(&id).await?;
    }
    Ok(RecordFinding::Served)
}

/// 200 records and 60 downloads, as a kill leaves them.
async fn records(stage: &mut Scenario) -> anyhow::Result<IntactRecords> {
    stage.start_server().await?;
    stage.add_client("client1", 6400, &[("SHARE", "*.txt")])?;
    stage.connect(0).await?;
    for _ in 0..DONE {
        stage.new_version(0)?;
        let id = stage.order(0).await?;
        stage.done(&id).await?;
    }
    stage.kill_agent(0).await;
    stage.until("/api/v1/clients/client1", |client| client["online"] == false).await?;
    for n in 0..OPEN {
        let order = json!({ "client": "client1", "path": format!("{n}.txt"), "queue": "1h" });
        stage.order_as(&order).await?;
    }
    stage.audit(true).await?;
    stage.kill_server().await?;
    IntactRecords::take(&stage.data_dir())
}

/// The files of the records, whole.
struct IntactRecords {
    files: Vec<(String, Vec<u8>)>,
}

/// What is done to one of them.
enum RecordDamage {
    Cut { file: usize, len: usize },
    Flip { file: usize, at: usize, bit: u8 },
}

impl IntactRecords {
    fn take(data_dir: &Path) -> anyhow::Result<Self> {
        let files = ["records.db", "records.db-wal"].map(|name| {
            let bytes = fs::read(data_dir.join(".filepull").join(name))?;
            anyhow::ensure!(!bytes.is_empty(), "{name} is empty: nothing to damage");
            Ok((name.to_owned(), bytes))
        });
        Ok(Self { files: files.into_iter().collect::<anyhow::Result<_>>()? })
    }

    fn damage(&self, dice: &mut Rng) -> RecordDamage {
        let file = dice.usize(0..self.files.len());
        let len = self.files[file].1.len();
        if dice.bool() {
            RecordDamage::Cut { file, len: dice.usize(0..len) }
        } else {
            RecordDamage::Flip { file, at: dice.usize(0..len), bit: dice.u8(0..8) }
        }
    }

    fn put(&self, data_dir: &Path, damage: &RecordDamage) -> anyhow::Result<()> {
        let folder = data_dir.join(".filepull");
        fs::remove_dir_all(&folder)?;
        fs::create_dir(&folder)?;
        for (n, (name, bytes)) in self.files.iter().enumerate() {
            let mut bytes = bytes.clone();
            match *damage {
                RecordDamage::Cut { file, len } if file == n => bytes.truncate(len),
                RecordDamage::Flip { file, at, bit } if file == n => bytes[at] ^= 1 << bit,
                RecordDamage::Cut { .. } | RecordDamage::Flip { .. } => {}
            }
            fs::write(folder.join(name), bytes)?;
        }
        Ok(())
    }
}

impl RecordDamage {
    fn words(&self, whole: &IntactRecords) -> String {
        match self {
            Self::Cut { file, len } => {
                let (name, bytes) = &whole.files[*file];
                format!("{name} cut to {len} of {} bytes", bytes.len())
            }
            Self::Flip { file, at, bit } => {
                format!("{}: bit {bit} of byte {at} flipped", whole.files[*file].0)
            }
        }
    }
}
