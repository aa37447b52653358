//! One bit between agent and server flips: in a chunk, a header, a frame or an order.
//!
//! The connection is plain text through a proxy, so the flipped byte gets a valid TCP checksum, as
//! with a defective router.

use anyhow::Context as _;
use fastrand::Rng;
use filepull_testkit::Direction;
use serde_json::Value;

use crate::oracle::is_final;
use crate::scenario::Scenario;
use crate::trial::Trial;

const FILE_LEN: usize = 192 << 10;
/// The frames and messages around the content.
const AROUND: usize = 4 << 10;
/// Bytes that an agent receives during a transfer.
const FROM_SERVER: u64 = 500;
/// A flip may make both ends wait for a message that never arrives. A new connection ends the wait.
const LONG: &str = "2s";
/// Maximum transfers for each flip.
const MAX_TRIES: u32 = 5;

pub(super) async fn run(trial: &Trial, n: u32, count: u32) -> anyhow::Result<()> {
    let settings = [("STALL_TIMEOUT", "1s"), ("RECONNECT_CAP", "200ms")];
    let mut scenario = Scenario::prepare(trial, &settings).await?;
    let mut rng = trial.rng(&format!("r5-wire-{n}"));
    let tried = flips(trial, &mut scenario, &mut rng, count).await;
    scenario.explain("flips on the connection", tried)
}

async fn flips(
    trial: &Trial,
    scenario: &mut Scenario,
    rng: &mut Rng,
    count: u32,
) -> anyhow::Result<()> {
    scenario.start_server().await?;
    scenario.add_client("client1", FILE_LEN, &[])?;
    scenario.start_agent(0)?;
    // A flip that was planned after the end of its transfer does not count.
    let mut n_flips = 0;
    let mut remaining = count.saturating_mul(MAX_TRIES);
    while n_flips < u64::from(count) {
        remaining = remaining.checked_sub(1).context("too few flips took place")?;
        scenario.connect(0).await?;
        scenario.resize(0, FILE_LEN - rng.usize(0..FILE_LEN / 2))?;
        let len = scenario.n_new_bytes(0);
        let (direction, after) = match rng.u8(0..5) {
            0 => (Direction::ToAgents, rng.u64(0..FROM_SERVER)),
            _ => (Direction::ToServer, rng.u64(0..len + AROUND as u64)),
        };
        let before = scenario.proxy.stop_flipping(direction);
        scenario.proxy.flip(direction, after, 1 << rng.u8(0..8));
        let tried = transfer(scenario).await;
        let flipped = scenario.proxy.stop_flipping(direction) - before;
        trial.counters.faults("flips on the connection", flipped);
        n_flips += flipped;
        let checked = tried.and_then(|transfer| check_ended(&transfer));
        checked.map_err(|error| {
            error.context(format!("{direction:?} after {after} bytes of {len}"))
        })?;
        scenario.audit(false).await?;
        scenario.oracle.delete_old_downloads(&scenario.data_dir(), 3)?;
    }
    scenario.audit(true).await?;
    scenario.teardown().await
}

async fn transfer(scenario: &mut Scenario) -> anyhow::Result<Value> {
    let id = scenario.trigger(0).await?;
    let transfer = scenario.server.json(&format!("/api/v1/transfers/{id}?wait={LONG}")).await?;
    if is_final(&transfer) {
        scenario.oracle.record_answer(&transfer)?;
        return Ok(transfer);
    }
    scenario.proxy.cut();
    scenario.wait_until_final(&id).await
}

/// A flip costs a new attempt. It may also turn a message into a rejection; then no file is left,
/// which the audit checks.
fn check_ended(transfer: &Value) -> anyhow::Result<()> {
    let ended = matches!(transfer["state"].as_str(), Some("done" | "failed"));
    anyhow::ensure!(ended, "{transfer}");
    Ok(())
}
