//! A local program exchanges a shared file and a shared folder for links to files that are not shared, as
//! fast as it can.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio::task::spawn_blocking;

use super::HostileServer;
use crate::trial::Trial;

const SWAPS: u32 = 100_000;
const MIN_REQUESTS: u32 = 200;
/// Each of these is exchanged for a link to its counterpart outside. None lies in another: the exchange
/// itself would follow the other link and move a canary into the share.
const MOVING: [&str; 2] = ["logs/a.log", "deep/sub"];

pub(super) async fn run(trial: &Trial, scenario: &mut HostileServer) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let swaps = Arc::new(AtomicU64::new(0));
    let pairs: Vec<(PathBuf, PathBuf)> = MOVING
        .iter()
        .enumerate()
        .map(|(n, name)| (scenario.files.join(name), scenario.outside.join(format!("link{n}"))))
        .collect();
    for ((_, link), name) in pairs.iter().zip(MOVING) {
        symlink(scenario.outside.join(name), link)?;
    }
    let swapping = spawn_blocking({
        let stop = Arc::clone(&stop);
        let swaps = Arc::clone(&swaps);
        move || {
            while !stop.load(Ordering::Relaxed) {
                for (inside, link) in &pairs {
                    if renameat_with(CWD, inside, CWD, link, RenameFlags::EXCHANGE).is_ok() {
                        swaps.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    });
    let wanted = u64::from(trial.times(SWAPS));
    let mut n_requests = 0;
    let mut tried = Ok(true);
    while tried.is_ok() && (swaps.load(Ordering::Relaxed) < wanted || n_requests < MIN_REQUESTS) {
        let path = ["logs/a.log", "deep/sub/b.txt"][n_requests as usize % 2];
        tried = scenario.request(path).await;
        n_requests += 1;
    }
    stop.store(true, Ordering::Relaxed);
    swapping.await?;
    trial.counters.faults("files and folders swapped for links", swaps.load(Ordering::Relaxed));
    trial.counters.faults("requests during the swaps", u64::from(n_requests));
    tried.map(drop)
}
