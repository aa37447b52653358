//! The disk alone: `dd` copies the file and calls fsync, without a network. It is the upper bound
//! for every program that calls fsync.

use std::path::Path;

use filepull_testkit::process;

use super::{Facts, Peer, find, folders, version};
use crate::source::SourceFile;

pub(super) async fn start(folder: &Path) -> anyhow::Result<Peer> {
    let program = find("dd")?;
    let (_, inbox) = folders(folder, "disk")?;
    let facts = Facts {
        name: "dd conv=fsync, no network",
        version: version(&program, "--version", 3).await?,
        guarantees: "synced",
        target: None,
    };
    let target = inbox.clone();
    let copy = move |source: &SourceFile, name: &str| {
        let mut command = process::command(&program);
        command.arg(format!("if={}", source.path.display()));
        command.arg(format!("of={}", target.join(name).display()));
        command.args(["bs=1M", "conv=fsync", "status=none"]);
        command
    };
    Ok(Peer { facts, inbox, daemon: None, copy: Box::new(copy) })
}
