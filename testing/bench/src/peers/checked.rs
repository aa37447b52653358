//! The guarantees of filepull with common tools: a digest at both ends, and a copy that is synced.

use std::path::Path;

use filepull_testkit::process;
use tokio::process::Command;

use super::{Facts, Peer, find};
use crate::source::SourceFile;
use crate::targets::SizedTarget;

/// Runs the program between two runs of `sha256sum`. The source is hashed on this machine, without
/// the connection that another machine would need: to the advantage of the program.
const SCRIPT: &str = "\
    source=$1 copy=$2; shift 2; set -e; \
    before=$(sha256sum < \"$source\"); \
    \"$@\"; \
    sync \"$copy\" \"${copy%/*}\"; \
    after=$(sha256sum < \"$copy\"); \
    test \"$before\" = \"$after\"";

/// Adds to a program what filepull guarantees.
pub(crate) fn add_sums(
    plain: Peer,
    name: &'static str,
    target: Option<SizedTarget>,
) -> anyhow::Result<Peer> {
    for tool in ["sh", "sha256sum", "sync"] {
        find(tool)?;
    }
    let Peer { facts, inbox, daemon, copy } = plain;
    let facts = Facts { name, guarantees: "SHA-256 at both ends, synced", target, ..facts };
    let copies = inbox.clone();
    let checked = move |source: &SourceFile, name: &str| {
        surround(&copy(source, name), &source.path, &copies.join(name))
    };
    Ok(Peer { facts, inbox, daemon, copy: Box::new(checked) })
}

/// Returns a command that runs `program`, syncs the copy and compares the digests.
fn surround(program: &Command, source: &Path, copy: &Path) -> Command {
    let program = program.as_std();
    let mut command = process::command("sh");
    command.args(["-c", SCRIPT, "sh"]).arg(source).arg(copy);
    command.arg(program.get_program()).args(program.get_args());
    command
}

#[cfg(test)]
mod tests {
    use std::fs;

    use filepull_testkit::DEADLINE;

    use super::*;

    #[tokio::test]
    async fn a_copy_with_other_bytes_is_an_error() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let [source, other, copy] =
            ["source", "other", "copy"].map(|name| folder.path().join(name));
        fs::write(&source, "the bytes of the source")?;
        fs::write(&other, "the bytes of another file")?;
        let copy_from = async |from: &Path| {
            let mut program = process::command("cp");
            program.arg(from).arg(&copy);
            process::finish(surround(&program, &source, &copy), DEADLINE).await
        };
        copy_from(&source).await?;
        assert!(copy_from(&other).await.is_err());
        assert!(copy_from(&folder.path().join("missing")).await.is_err());
        Ok(())
    }
}
