//! S14: the versions, the TLS stack and the lints of this workspace. `cargo deny` runs where it is installed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use filepull_testkit::process;
use futures::FutureExt as _;
use tokio::process::Command;

use crate::promise::Promise;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "S14",
    statement: "Supply chain: one TLS stack, no known hole in it, no unsafe code, locked versions.",
    requirements: &[],
    limit: Duration::from_secs(30),
    run: |trial| run(trial).boxed_local(),
};

const LIMIT: Duration = Duration::from_secs(30);
/// The first versions without a known hole.
const FLOORS: [(&str, [u64; 3]); 4] = [
    ("h2", [0, 4, 16]),
    ("tonic", [0, 14, 0]),
    ("rustls", [0, 23, 18]),
    ("tracing-subscriber", [0, 3, 20]),
];
/// Other stacks of TLS.
const UNWANTED: [&str; 4] = ["ring", "openssl", "native-tls", "openssl-sys"];

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let root = workspace().await?;
    let locked = locked_versions(&root)?;
    for (name, floor) in FLOORS {
        let versions = locked.get(name).with_context(|| format!("{name} is not used"))?;
        let old = versions.iter().find(|version| **version < floor);
        anyhow::ensure!(old.is_none(), "{name} {old:?} is older than {floor:?}");
        trial.counters.fault("versions checked");
    }
    cargo(&root, &["metadata", "--locked", "--offline", "--format-version=1"]).await?;
    for name in UNWANTED {
        let args = ["tree", "--locked", "--offline", "-e", "normal", "-i", name];
        let programs = ["-p", "filepull-cli", "-p", "filepull-agent"];
        let tree = cargo(&root, &[&args[..], &programs].concat()).await;
        let is_used = tree.is_ok_and(|tree| tree.starts_with(name));
        anyhow::ensure!(!is_used, "a program contains {name}");
        trial.counters.fault("TLS stacks searched");
    }
    let mut git = process::command("git");
    git.current_dir(&root).args(["ls-files", "--error-unmatch", "Cargo.lock"]);
    process::finish(git, LIMIT).await.context("Cargo.lock is not in the repository")?;
    no_unsafe_code(trial, &root)?;
    deny(&root).await
}

pub(super) async fn workspace() -> anyhow::Result<PathBuf> {
    let mut git = process::command("git");
    git.args(["rev-parse", "--show-toplevel"]);
    Ok(PathBuf::from(process::finish(git, LIMIT).await.context("run it in the repository")?))
}

/// Returns all versions of each package in Cargo.lock.
fn locked_versions(root: &Path) -> anyhow::Result<BTreeMap<String, Vec<[u64; 3]>>> {
    let text = std::fs::read_to_string(root.join("Cargo.lock"))?;
    let mut versions: BTreeMap<String, Vec<[u64; 3]>> = BTreeMap::new();
    let value = |line: &str, key: &str| {
        line.strip_prefix(key).map(|value| value.trim_matches('"').to_owned())
    };
    let mut name = String::new();
    for line in text.lines() {
        if let Some(found) = value(line, "name = ") {
            name = found;
        } else if let Some(version) = value(line, "version = ") {
            let mut numbers = version.split(['.', '-', '+']).map_while(|part| part.parse().ok());
            let version = [(); 3].map(|()| numbers.next().unwrap_or_default());
            versions.entry(name.clone()).or_default().push(version);
        }
    }
    Ok(versions)
}

/// The workspace forbids unsafe code, and every package inherits its lints.
fn no_unsafe_code(trial: &Trial, root: &Path) -> anyhow::Result<()> {
    let manifest = std::fs::read_to_string(root.join("Cargo.toml"))?;
    let forbids = manifest.lines().any(|line| line.replace(' ', "") == "unsafe_code=\"forbid\"");
    anyhow::ensure!(forbids, "the workspace does not forbid unsafe code");
    for parent in ["crates", "testing"] {
        for entry in std::fs::read_dir(root.join(parent))?.flatten() {
            let Ok(text) = std::fs::read_to_string(entry.path().join("Cargo.toml")) else {
                continue;
            };
            let inherits = text.contains("[lints]\nworkspace = true");
            anyhow::ensure!(inherits, "{} has its own lints", entry.path().display());
            trial.counters.fault("packages checked");
        }
    }
    Ok(())
}

async fn cargo(root: &Path, args: &[&str]) -> anyhow::Result<String> {
    // With the environment of the caller: cargo finds its registry through it.
    let mut command = Command::new("cargo");
    command.current_dir(root).args(args).env_remove("CARGO_TARGET_DIR");
    command.kill_on_drop(true);
    process::finish(command, LIMIT).await
}

/// Runs `cargo deny`, if it is installed. The e2e test `supply_chain` checks its settings in any case.
async fn deny(root: &Path) -> anyhow::Result<()> {
    let Ok(mut version) = Command::new("cargo").args(["deny", "--version"]).spawn() else {
        return Ok(());
    };
    if !version.wait().await.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    let checked = cargo(root, &["deny", "--offline", "check", "bans", "licenses", "sources"]).await;
    checked.map(drop).context("cargo deny")
}
