//! S4: hostile ids in URLs, greetings and invites, while strace lists every path that the server opens; and
//! a local program that exchanges the folder of a client for a link.

mod hostile_names;
mod swapped_folder;

use std::time::Duration;

use anyhow::Context as _;
use filepull_core::id::ClientId;
use filepull_testkit::{HttpClient, ScriptedAgent};
use futures::FutureExt as _;
use futures::future::try_join_all;
use serde_json::json;
use tonic::transport::Channel;

use crate::promise::Promise;
use crate::scenario::{Scenario, WAIT_LIMIT};
use crate::strace_session::StraceSession;
use crate::tool::Requirement;
use crate::trial::Trial;
use hostile_names::hostile_name;

pub(super) const PROMISE: Promise = Promise {
    id: "S4",
    statement: "Names cannot escape: no id and no link leads the server out of its folder.",
    requirements: &[Requirement::Root, Requirement::Program("strace", "strace")],
    limit: Duration::from_secs(90),
    run: |trial| run(trial).boxed_local(),
};

const NAMES: u32 = 10_000;
const WORKERS: u32 = 4;
/// One in this many names is in a greeting, and one in an invite; the others are in URLs.
const GREETING_EVERY: u32 = 8;
const INVITE_EVERY: u32 = 8;

async fn run(trial: &Trial) -> anyhow::Result<()> {
    try_names(trial).await?;
    swapped_folder::run(trial).await
}

async fn try_names(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare(trial, &[]).await?;
    scenario.start_server().await?;
    let folder = scenario.server.folder().to_owned();
    let pid = scenario.server_process()?.pid();
    let session = StraceSession::paths(&trial.sandbox, pid, &folder).await?;
    let workers = (0..WORKERS).map(|n| run_worker(trial, &scenario, n));
    let tried = try_join_all(workers).await;
    scenario.explain("hostile names", tried)?;
    let log = session.log_at_end().await?;
    check_paths(&log, &scenario.data_dir().display().to_string())?;
    for entry in std::fs::read_dir(scenario.data_dir())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = name.starts_with('.') || ClientId::parse(&name).is_ok();
        anyhow::ensure!(known, "the data folder contains {name:?}");
    }
    scenario.teardown().await
}

async fn run_worker(trial: &Trial, scenario: &Scenario, worker: u32) -> anyhow::Result<()> {
    let mut rng = trial.rng(&format!("s4-{worker}"));
    let http = HttpClient::keep_alive(scenario.server.http(), 1);
    let channel = Channel::from_shared(format!("http://{}", scenario.server.grpc()))?;
    for n in 0..trial.share(NAMES, WORKERS) {
        let name = hostile_name(&mut rng, n);
        let is_valid = ClientId::parse(&name).is_ok();
        let place = format!("{:?}", name.chars().take(60).collect::<String>());
        if n % GREETING_EVERY == 0 {
            let opened = ScriptedAgent::open(channel.connect().await?, &name, WAIT_LIMIT).await;
            let accepted = opened.is_ok_and(|opened| opened.is_ok());
            anyhow::ensure!(is_valid || !accepted, "an agent is called {place}");
        } else if n % INVITE_EVERY == 1 {
            let answer = http.post("/api/v1/invites", &json!({ "client": name })).await?;
            let status = answer.status;
            anyhow::ensure!(status < 500, "an invite for {place}: {status}");
            anyhow::ensure!(is_valid || status == 400, "an invite for {place}: {status}");
        } else {
            for path in url_paths(&name, n) {
                let answer = http.get(&path).await.with_context(|| place.clone())?;
                let rejected = matches!(answer.status, 400 | 404 | 405 | 409 | 414 | 431);
                anyhow::ensure!(is_valid || rejected, "{place} in a URL: {}", answer.status);
            }
        }
        trial.counters.fault("hostile names");
    }
    Ok(())
}

/// Returns the URLs of one name: as a parameter, and as a part of the path.
fn url_paths(name: &str, n: u32) -> Vec<String> {
    let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
    match n % 3 {
        0 => vec![format!("/trigger?id={encoded}")],
        1 => vec![format!("/api/v1/clients/{encoded}/file")],
        _ => vec![format!("/clients/{encoded}"), format!("/transfers/{encoded}/file")],
    }
}

/// What the server may open besides its data folder: the state of the system.
const SYSTEM: [&str; 4] = ["/proc/", "/sys/", "/etc/", "/dev/sysgenid"];

/// Checks each path of a trace: an absolute one is in the data folder, a relative one stays beneath its
/// folder.
fn check_paths(log: &str, data_dir: &str) -> anyhow::Result<()> {
    let mut n_paths = 0;
    for line in log.lines() {
        for path in line.split('"').skip(1).step_by(2) {
            n_paths += 1;
            let inside = if path.starts_with('/') {
                path.starts_with(data_dir) || SYSTEM.iter().any(|part| path.starts_with(part))
            } else {
                true
            };
            let climbs = path.split('/').any(|part| part == "..");
            anyhow::ensure!(inside && !climbs, "the server uses the path {path:?}: {line}");
        }
    }
    anyhow::ensure!(n_paths != 0, "the trace has no path");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_outside_the_data_folder_is_found() {
        let inside = "7 openat(5</d>, \"client4\", O_RDONLY) = 6\n7 statfs(\"/d/x\", {}) = 0\n";
        check_paths(inside, "/d").unwrap();
        for outside in ["\"/home/x\"", "\"../x\"", "\"a/../../x\""] {
            assert!(
                check_paths(&format!("7 openat(5</d>, {outside}, O_RDONLY) = 6"), "/d").is_err()
            );
        }
    }
}
