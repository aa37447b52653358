//! S10: the complete life of a secret at the log level `trace`, and then a search for it in everything that a
//! process shows or writes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use filepull_testkit::{HttpClient, Process};
use futures::FutureExt as _;
use hyper::Method;

use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "S10",
    statement: "Secrets never show: not in logs, arguments, answers or readable files.",
    requirements: &[],
    limit: Duration::from_secs(30),
    run: |trial| run(trial).boxed_local(),
};

/// The end of a secret that must not show: long enough to be unique.
const SHOWN_LEN: usize = 20;
/// Files of a secret are for their owner only.
const OTHERS: u32 = 0o077;

/// A secret, and what it is.
struct SearchedSecret {
    name: &'static str,
    text: String,
}

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare_secure(trial, &[("LOG_LEVEL", "trace")]).await?;
    scenario.start_server().await?;
    let tried = search(trial, &mut scenario).await;
    scenario.explain("secrets", tried)?;
    scenario.teardown().await
}

async fn search(trial: &Trial, scenario: &mut Scenario) -> anyhow::Result<()> {
    let invite = scenario.server.invite_client("client1").await?.encode();
    let index = scenario.add_client("client1", 100_000, &[("LOG_LEVEL", "trace")])?;
    scenario.client_setting(index, "INVITE", &invite);
    scenario.connect(index).await?;
    let id = scenario.trigger(index).await?;
    scenario.wait_until_done(&id).await?;
    let token = scenario.server.token().context("a secure server has a token")?.to_owned();
    let answers = answers(scenario, &token).await?;
    let data = scenario.data_dir().join(".filepull");
    let state = scenario.state(index);

    let mut secrets = vec![
        SearchedSecret { name: "the token", text: token },
        SearchedSecret { name: "the invite", text: invite },
    ];
    let mut files = Vec::new();
    list_files(&data, &mut files)?;
    list_files(&state, &mut files)?;
    for path in &files {
        let bytes = std::fs::read(path)?;
        let keys = private_keys(&String::from_utf8_lossy(&bytes));
        let is_secret = !keys.is_empty() || is_for_owner(path);
        let mode = std::fs::metadata(path)?.permissions().mode();
        let open = is_secret && mode & OTHERS != 0;
        anyhow::ensure!(!open, "{} has the mode {mode:o}", path.display());
        secrets.extend(keys.into_iter().map(|text| SearchedSecret { name: "a private key", text }));
    }
    let n_keys = secrets.iter().filter(|secret| secret.name == "a private key").count();
    anyhow::ensure!(2 <= n_keys, "only {n_keys} private keys were found");

    let server = scenario.server_process()?;
    let agent = scenario.agent(index)?;
    let mut places = vec![
        ("the log of the server", log_of(server)),
        ("the log of the agent", log_of(agent)),
        ("the arguments of the server", proc_file(server, "cmdline")?),
        ("the arguments of the agent", proc_file(agent, "cmdline")?),
        ("the environment of the server", proc_file(server, "environ")?),
        ("an answer of the server", answers),
    ];
    for path in files {
        let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
        let is_own = !private_keys(&text).is_empty();
        if !is_own {
            places.push(("a file", text));
        }
    }
    for SearchedSecret { name, text } in &secrets {
        let end = &text[text.len().saturating_sub(SHOWN_LEN)..];
        for (place, shown) in &places {
            anyhow::ensure!(!shown.contains(end), "{name} is in {place}");
        }
    }
    trial.counters.faults("secrets searched", secrets.len() as u64);
    trial.counters.faults("places searched", places.len() as u64);
    Ok(())
}

/// Returns the bodies and headers of answers, also of rejected requests that contain a secret.
async fn answers(scenario: &Scenario, token: &str) -> anyhow::Result<String> {
    let mut all = String::new();
    let stranger = HttpClient::new(scenario.server.http());
    let nearly = format!("{}x", &token[..token.len() - 1]);
    let encoded = format!("/api/v1/clients?token={token}");
    for value in [format!("Bearer {token}x"), format!("Bearer {nearly}"), format!("Basic {token}")]
    {
        let headers = [("authorization", value.as_str())];
        let answer = stranger.send(Method::GET, "/api/v1/clients", &headers, "").await?;
        anyhow::ensure!(answer.status == 401, "a wrong token gets {}", answer.status);
        all.push_str(&format!("{:?}{}", answer.headers, answer.text()));
    }
    for path in [
        "/api/v1/clients",
        "/api/v1/clients/client1",
        "/api/v1/server",
        "/api/v1/audit",
        "/api/v1/ca",
        "/api/v1/whoami",
        "/clients/client1",
        "/readyz?verbose",
        "/",
    ] {
        let answer = scenario.server.get(path).await?;
        all.push_str(&format!("{:?}{}", answer.headers, answer.text()));
    }
    // A secret in a URL is rejected, and not repeated.
    let answer = stranger.get(&encoded).await?;
    all.push_str(&format!("{:?}{}", answer.headers, answer.text()));
    Ok(all)
}

/// Returns the last line of each private key in PEM.
fn private_keys(text: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (n, line) in lines.iter().enumerate() {
        if n != 0 && line.starts_with("-----END") && line.contains("PRIVATE KEY") {
            keys.push(lines[n - 1].to_owned());
        }
    }
    keys
}

fn is_for_owner(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == "tokens" || name == "identity.json" || name == "key"
}

fn list_files(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)?.flatten() {
        match entry.file_type()? {
            kind if kind.is_dir() => list_files(&entry.path(), found)?,
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}

fn log_of(process: &Process) -> String {
    process.said().join("\n")
}

fn proc_file(process: &Process, name: &str) -> anyhow::Result<String> {
    let bytes = std::fs::read(format!("/proc/{}/{name}", process.pid()))?;
    Ok(String::from_utf8_lossy(&bytes).replace('\0', "\n"))
}
