//! A disk that records the order of its writes and flushes, so that the trial can recreate every
//! state that a power cut could leave.
//!
//! nbdkit keeps the image and the log, nbdfuse provides it as a file, and a loop device makes that
//! a disk. A flush makes all earlier writes durable. A power cut keeps any subset of the later
//! writes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use fastrand::Rng;
use tokio::process::Child;

use crate::disk::{LoopDisk, text};
use crate::sandbox::Sandbox;
use crate::scenario::poll;
use crate::tool;

const PLUGIN: &str = include_str!("recorder.py");
const IMAGE_LEN: u64 = 64 << 20;
/// A disk writes a block completely or not at all.
const BLOCK_LEN: usize = 4096;
/// Without lazy background writes, which are only noise.
const MKFS: &[&str] =
    &["-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"];
/// The format of the plugin: kind, offset, length.
const HEAD_LEN: usize = 1 + 8 + 4;
const WRITE: u8 = 1;
const FLUSH: u8 = 2;

#[derive(Debug)]
pub(crate) struct Recorder {
    sandbox: Arc<Sandbox>,
    /// A copy of the image after mkfs.
    empty: PathBuf,
    log: PathBuf,
    file: PathBuf,
    disk: LoopDisk,
    server: Child,
}

impl Recorder {
    /// Creates an ext4 disk and mounts it at `at`; creates that folder too.
    pub(crate) async fn start(
        sandbox: &Arc<Sandbox>,
        name: &str,
        at: &Path,
    ) -> anyhow::Result<Self> {
        let path = |what: &str| sandbox.folder().join(format!("{name}-{what}"));
        let empty = path("empty");
        let image = path("image");
        let log = path("log");
        let file = path("disk");
        File::create(&empty)?.set_len(IMAGE_LEN)?;
        tool::run(sandbox, "mkfs.ext4", &[MKFS, &[text(&empty)?]].concat()).await?;
        fs::copy(&empty, &image)?;
        File::create(&file)?;
        let plugin = path("plugin.py");
        fs::write(&plugin, PLUGIN)?;
        let mut command = tool::command(sandbox, "nbdfuse");
        command.arg(&file).args(["[", "nbdkit", "--exit-with-parent", "python"]).arg(&plugin);
        command.arg(format!("image={}", text(&image)?)).arg(format!("log={}", text(&log)?));
        let server = command.arg("]").spawn().context("starting nbdfuse")?;
        let is_there = async || Ok((fs::metadata(&file)?.len() == IMAGE_LEN).then_some(()));
        poll("the disk of nbdfuse", is_there).await?;
        let disk = LoopDisk::of(sandbox, &file, at).await?;
        Ok(Self { sandbox: Arc::clone(sandbox), empty, log, file, disk, server })
    }

    /// Returns the current position in the log.
    pub(crate) fn now(&self) -> anyhow::Result<u64> {
        Ok(fs::metadata(&self.log)?.len())
    }

    /// Unmounts the disk and returns the recording.
    pub(crate) async fn stop(mut self) -> anyhow::Result<Recording> {
        self.disk.unmount().await?;
        tool::run(&self.sandbox, "umount", &[text(&self.file)?]).await?;
        self.server.wait().await?;
        Ok(Recording { empty: self.empty, steps: steps(&fs::read(&self.log)?)? })
    }
}

#[derive(Debug)]
pub(crate) struct Recording {
    empty: PathBuf,
    steps: Vec<RecordedStep>,
}

/// A block or a part of one that was written (offset and bytes), or a flush.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RecordedStep {
    /// The position of the step in the log.
    begins: u64,
    write: Option<(u64, Vec<u8>)>,
}

/// A state that a power cut could leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CrashState {
    /// How many steps were done.
    pub(crate) cut: usize,
    /// Steps after the last flush that did not reach the disk.
    pub(crate) lost: Vec<usize>,
}

impl Recording {
    /// Returns how many steps begin before this position in the log.
    pub(crate) fn steps_until(&self, place: u64) -> usize {
        self.steps.iter().filter(|step| step.begins < place).count()
    }

    /// Returns the states of a disk that keeps the order of writes, after the first `from` steps.
    pub(crate) fn prefixes(&self, from: usize) -> Vec<CrashState> {
        (from..=self.steps.len()).map(|cut| CrashState { cut, lost: Vec::new() }).collect()
    }

    /// Returns a power cut at a random moment after the first `from` steps. In half of the cases
    /// nothing is lost, in the others a random part of what was not flushed. Each interval between
    /// two flushes is equally likely.
    pub(crate) fn any(&self, from: usize, rng: &mut Rng) -> CrashState {
        let is_flush = |at: &usize| self.steps[*at].write.is_none();
        let mut flushes = vec![from];
        flushes.extend((from..self.steps.len()).filter(is_flush).map(|at| at + 1));
        flushes.push(self.steps.len());
        flushes.dedup();
        let nth = rng.usize(1..flushes.len());
        let cut = rng.usize(flushes[nth - 1] + 1..=flushes[nth]);
        let flushed = (0..cut).rev().find(is_flush).map_or(0, |at| at + 1);
        let mut lost = Vec::new();
        if rng.bool() {
            let eighths = rng.u8(1..8);
            lost.extend((flushed..cut).filter(|_| rng.u8(0..8) < eighths));
        }
        CrashState { cut, lost }
    }

    /// Creates an image of this state.
    pub(crate) fn make(&self, state: &CrashState, image: &Path) -> anyhow::Result<()> {
        fs::copy(&self.empty, image)?;
        let file = File::options().write(true).open(image)?;
        for (at, step) in self.steps[..state.cut].iter().enumerate() {
            if let Some((offset, bytes)) = &step.write
                && !state.lost.contains(&at)
            {
                file.write_all_at(bytes, *offset)?;
            }
        }
        Ok(())
    }

    /// Returns the number of blocks and flushes.
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }
}

fn steps(log: &[u8]) -> anyhow::Result<Vec<RecordedStep>> {
    let mut steps = Vec::new();
    let mut rest = log;
    while let Some((head, after)) = rest.split_first_chunk::<HEAD_LEN>() {
        let begins = (log.len() - rest.len()) as u64;
        let mut offset = u64::from_le_bytes(head[1..9].try_into()?);
        let len = usize::try_from(u32::from_le_bytes(head[9..].try_into()?))?;
        let (mut bytes, after) = after.split_at_checked(len).context("the log is truncated")?;
        rest = after;
        match head[0] {
            FLUSH => steps.push(RecordedStep { begins, write: None }),
            WRITE => {
                while !bytes.is_empty() {
                    let free = BLOCK_LEN - usize::try_from(offset)? % BLOCK_LEN;
                    let (block, others) = bytes.split_at(free.min(bytes.len()));
                    steps.push(RecordedStep { begins, write: Some((offset, block.to_vec())) });
                    offset += block.len() as u64;
                    bytes = others;
                }
            }
            other => anyhow::bail!("unknown kind {other} of a step in the log"),
        }
    }
    anyhow::ensure!(rest.is_empty(), "the log is truncated");
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(kind: u8, offset: u64, bytes: &[u8]) -> Vec<u8> {
        let len = u32::try_from(bytes.len()).expect("a short write");
        [&[kind][..], &offset.to_le_bytes(), &len.to_le_bytes(), bytes].concat()
    }

    #[test]
    fn a_log_becomes_blocks_and_flushes() {
        let log = [pack(WRITE, 4000, &[7; 200]), pack(FLUSH, 0, &[])].concat();
        let write = |offset, len| RecordedStep { begins: 0, write: Some((offset, vec![7; len])) };
        let flush = RecordedStep { begins: 213, write: None };
        assert_eq!(steps(&log).expect("a log"), [write(4000, 96), write(4096, 104), flush]);
        assert!(steps(&log[..100]).is_err());
        assert!(steps(&pack(3, 0, &[])).is_err());
    }

    #[test]
    fn flushed_blocks_are_never_lost() {
        let flush = pack(FLUSH, 0, &[]);
        let write = |n: u64| pack(WRITE, n * 4096, &[1; 4096]);
        let log = [write(0), write(1), flush.clone(), write(2), flush, write(3), write(4)].concat();
        let recording = Recording { empty: PathBuf::new(), steps: steps(&log).expect("a log") };
        let mut rng = Rng::with_seed(1);
        let states: Vec<CrashState> = (0..1000).map(|_| recording.any(0, &mut rng)).collect();
        for CrashState { cut, lost } in &states {
            let flushed = [3, 5].into_iter().rfind(|flushed| flushed <= cut).unwrap_or(0);
            assert!(lost.iter().all(|at| (flushed..*cut).contains(at)), "{cut}: {lost:?}");
        }
        for lost in [vec![], vec![5], vec![6], vec![5, 6]] {
            assert!(states.contains(&CrashState { cut: 7, lost }));
        }
    }
}
