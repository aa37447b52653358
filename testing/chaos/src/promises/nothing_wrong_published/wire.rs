//! One bit of what passes between agent and server flips: in a chunk, a header, a frame, an order.
//!
//! The wire is plain text through a proxy in the middle. A byte changed there has a right check sum
//! again, which is what a bad router does, or an NFQUEUE program that corrects the sum.

use anyhow::Context as _;
use fastrand::Rng;
use filepull_testkit::Direction;
use serde_json::Value;

use crate::oracle::is_final;
use crate::scenario::Scenario;
use crate::trial::Trial;

const FILE_LEN: usize = 192 << 10;
/// The frames and messages around the bytes of the file.
const AROUND: usize = 4 << 10;
/// What an agent hears in the course of a transfer.
const HEARD: u64 = 500;
/// A flip may make both ends wait for something that never comes. What tells them is a new line.
const LONG: &str = "2s";
/// For each flip.
const MOST_TRIES: u32 = 5;

pub(super) async fn attempt(trial: &Trial, n: u32, count: u32) -> anyhow::Result<()> {
    let settings = [("STALL_TIMEOUT", "1s"), ("RECONNECT_CAP", "200ms")];
    let mut stage = Scenario::set(trial, &settings).await?;
    let mut dice = trial.dice(&format!("r5-wire-{n}"));
    let tried = flips(trial, &mut stage, &mut dice, count).await;
    stage.explain("flips on the wire", tried)
}

async fn flips(
    trial: &Trial,
    stage: &mut Scenario,
    dice: &mut Rng,
    count: u32,
) -> anyhow::Result<()> {
    stage.start_server().await?;
    stage.add_client("client1", FILE_LEN, &[])?;
    stage.start_agent(0)?;
    // A flip that was to come after the end of its transfer is none.
    let (mut n_flips, mut left) = (0, count.saturating_mul(MOST_TRIES));
    while n_flips < u64::from(count) {
        left = left.checked_sub(1).context("hardly a flip comes to pass")?;
        stage.connect(0).await?;
        stage.resize(0, FILE_LEN - dice.usize(0..FILE_LEN / 2))?;
        let len = stage.cells(0).len();
        let (way, after) = match dice.u8(0..5) {
            0 => (Direction::ToAgents, dice.u64(0..HEARD)),
            _ => (Direction::ToServer, dice.u64(0..len + AROUND as u64)),
        };
        let before = stage.proxy.stop_flipping(way);
        stage.proxy.flip(way, after, 1 << dice.u8(0..8));
        let tried = transfer(stage).await;
        let flipped = stage.proxy.stop_flipping(way) - before;
        trial.tally.faults("flips on the wire", flipped);
        n_flips += flipped;
        let tried = tried.and_then(|transfer| ended_well(&transfer));
        tried.map_err(|error| error.context(format!("{way:?} after {after} bytes of {len}")))?;
        stage.audit(false).await?;
        stage.oracle.retire(&stage.data_dir(), 3)?;
    }
    stage.audit(true).await?;
    stage.strike().await
}

async fn transfer(stage: &mut Scenario) -> anyhow::Result<Value> {
    let id = stage.order(0).await?;
    let transfer = stage.bed.json(&format!("/api/v1/transfers/{id}?wait={LONG}")).await?;
    if is_final(&transfer) {
        stage.oracle.answered(&transfer)?;
        return Ok(transfer);
    }
    stage.proxy.cut();
    stage.finished(&id).await
}

/// One flip costs a new attempt. It may also make a message of another that says that the file
/// cannot be sent; then nothing of it is left, which the audit checks.
fn ended_well(transfer: &Value) -> anyhow::Result<()> {
    let ended = matches!(transfer["state"].as_str(), Some("done" | "failed"));
    anyhow::ensure!(ended, "{transfer}");
    Ok(())
}
