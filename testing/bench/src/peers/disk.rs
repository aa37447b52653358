//! The disk alone: `dd` copies the file and calls fsync, without a network. It is the upper bound
//! for every program that calls fsync.

use std::path::Path;

use filepull_testkit::process;

use super::{Facts, Peer, find, folders, version};
use crate::source::SourceFile;

/// Starts nothing: `dd` writes through the page cache.
pub(crate) async fn start(folder: &Path) -> anyhow::Result<Peer> {
    dd("dd, no network", &["bs=1M"], folder, "disk").await
}

/// Starts nothing: `dd` writes past the page cache.
pub(crate) async fn start_direct(folder: &Path) -> anyhow::Result<Peer> {
    dd("dd, direct, no network", &["bs=8M", "oflag=direct"], folder, "disk-direct").await
}

async fn dd(
    name: &'static str,
    options: &'static [&str],
    folder: &Path,
    home: &str,
) -> anyhow::Result<Peer> {
    let program = find("dd")?;
    let (_, inbox) = folders(folder, home)?;
    let version = version(&program, "--version", 3).await?;
    let facts = Facts { name, version, guarantees: "synced", target: None };
    let target = inbox.clone();
    let copy = move |source: &SourceFile, name: &str| {
        let mut command = process::command(&program);
        command.arg(format!("if={}", source.path.display()));
        command.arg(format!("of={}", target.join(name).display()));
        command.args(options).args(["conv=fsync", "status=none"]);
        command
    };
    Ok(Peer { facts, inbox, daemon: None, copy: Box::new(copy) })
}
