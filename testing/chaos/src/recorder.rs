//! A disk that writes down in which order it was written to and flushed, so that every state in
//! which a power cut could have left it can be made again.
//!
//! nbdkit keeps the image and the log, nbdfuse shows it as a file, and a loop device makes a disk of
//! that. A flush keeps all that was written before it. Of what was written since, a power cut keeps
//! any part: a block here or there, in no order.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use fastrand::Rng;
use tokio::process::Child;
use tokio::time::sleep;

use crate::disk::{LoopDisk, text};
use crate::sandbox::Sandbox;
use crate::scenario::{LOOK_AGAIN, PATIENCE};
use crate::tool;

const PLUGIN: &str = include_str!("recorder.py");
const IMAGE_LEN: u64 = 64 << 20;
/// A disk writes a block whole or not at all.
const BLOCK_LEN: usize = 4096;
/// What the file system writes later by itself would only be noise.
const MKFS: &[&str] =
    &["-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"];
/// As the plugin packs them: what it was, where, how many bytes follow.
const HEAD_LEN: usize = 1 + 8 + 4;
const WRITE: u8 = 1;
const FLUSH: u8 = 2;

/// A recorded disk, mounted.
#[derive(Debug)]
pub struct Recorder {
    ground: Arc<Sandbox>,
    /// The image as mkfs left it.
    empty: PathBuf,
    log: PathBuf,
    file: PathBuf,
    disk: LoopDisk,
    server: Child,
}

impl Recorder {
    /// Makes an ext4 and mounts it at `at`, which is made too.
    ///
    /// # Errors
    /// A tool failed.
    pub async fn start(ground: &Arc<Sandbox>, name: &str, at: &Path) -> anyhow::Result<Self> {
        let path = |what: &str| ground.folder().join(format!("{name}-{what}"));
        let (empty, image, log, file) = (path("empty"), path("image"), path("log"), path("disk"));
        File::create(&empty)?.set_len(IMAGE_LEN)?;
        tool::run(ground, "mkfs.ext4", &[MKFS, &[text(&empty)?]].concat()).await?;
        fs::copy(&empty, &image)?;
        File::create(&file)?;
        let plugin = path("plugin.py");
        fs::write(&plugin, PLUGIN)?;
        let mut command = tool::command(ground, "nbdfuse");
        command.arg(&file).args(["[", "nbdkit", "--exit-with-parent", "python"]).arg(&plugin);
        command.arg(format!("image={}", text(&image)?)).arg(format!("log={}", text(&log)?));
        let server = command.arg("]").spawn().context("starting nbdfuse")?;
        let deadline = Instant::now() + PATIENCE;
        while fs::metadata(&file)?.len() != IMAGE_LEN {
            anyhow::ensure!(Instant::now() < deadline, "nbdfuse and nbdkit show no disk");
            sleep(LOOK_AGAIN).await;
        }
        let disk = LoopDisk::of(ground, &file, at).await?;
        Ok(Self { ground: Arc::clone(ground), empty, log, file, disk, server })
    }

    /// Now, as a place in the log.
    ///
    /// # Errors
    /// There is no log.
    pub fn now(&self) -> anyhow::Result<u64> {
        Ok(fs::metadata(&self.log)?.len())
    }

    /// Takes the disk away; what has been recorded.
    ///
    /// # Errors
    /// It stays in use, or the log cannot be read.
    pub async fn stop(mut self) -> anyhow::Result<Recording> {
        self.disk.unmount().await?;
        tool::run(&self.ground, "umount", &[text(&self.file)?]).await?;
        self.server.wait().await?;
        Ok(Recording { empty: self.empty, steps: steps(&fs::read(&self.log)?)? })
    }
}

/// All that was written to a disk.
#[derive(Debug)]
pub struct Recording {
    empty: PathBuf,
    steps: Vec<RecordedStep>,
}

/// A block, or part of one, that was written; or a flush.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RecordedStep {
    /// Where it begins in the log.
    begins: u64,
    write: Option<(u64, Vec<u8>)>,
}

/// A state in which a power cut could leave the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashState {
    /// So many steps had been done.
    pub cut: usize,
    /// These, of those since the last flush, had not reached the disk.
    pub lost: Vec<usize>,
}

impl Recording {
    /// How many steps had begun at this place in the log.
    pub fn steps_until(&self, place: u64) -> usize {
        self.steps.iter().filter(|step| step.begins < place).count()
    }

    /// What a disk that keeps the order can hold after the first `from` steps: each prefix.
    pub fn prefixes(&self, from: usize) -> Vec<CrashState> {
        (from..=self.steps.len()).map(|cut| CrashState { cut, lost: Vec::new() }).collect()
    }

    /// A power cut at a random moment after the first `from` steps. Half of the time nothing is lost;
    /// else of what was not flushed a random part. Each time between two flushes is as likely.
    pub fn any(&self, from: usize, dice: &mut Rng) -> CrashState {
        let is_flush = |at: &usize| self.steps[*at].write.is_none();
        let mut flushes = vec![from];
        flushes.extend((from..self.steps.len()).filter(is_flush).map(|at| at + 1));
        flushes.push(self.steps.len());
        flushes.dedup();
        let nth = dice.usize(1..flushes.len());
        let cut = dice.usize(flushes[nth - 1] + 1..=flushes[nth]);
        let flushed = (0..cut).rev().find(is_flush).map_or(0, |at| at + 1);
        let mut lost = Vec::new();
        if dice.bool() {
            let eighths = dice.u8(1..8);
            lost.extend((flushed..cut).filter(|_| dice.u8(0..8) < eighths));
        }
        CrashState { cut, lost }
    }

    /// Makes an image of this state.
    ///
    /// # Errors
    /// The disk failed.
    pub fn make(&self, state: &CrashState, image: &Path) -> anyhow::Result<()> {
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

    /// How many blocks and flushes there are.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

fn steps(log: &[u8]) -> anyhow::Result<Vec<RecordedStep>> {
    let mut steps = Vec::new();
    let mut rest = log;
    while let Some((head, after)) = rest.split_first_chunk::<HEAD_LEN>() {
        let begins = (log.len() - rest.len()) as u64;
        let mut offset = u64::from_le_bytes(head[1..9].try_into()?);
        let len = usize::try_from(u32::from_le_bytes(head[9..].try_into()?))?;
        let (mut bytes, after) = after.split_at_checked(len).context("the log is cut short")?;
        rest = after;
        match head[0] {
            FLUSH => steps.push(RecordedStep { begins, write: None }),
            WRITE => {
                while !bytes.is_empty() {
                    let room = BLOCK_LEN - usize::try_from(offset)? % BLOCK_LEN;
                    let (block, others) = bytes.split_at(room.min(bytes.len()));
                    steps.push(RecordedStep { begins, write: Some((offset, block.to_vec())) });
                    offset += block.len() as u64;
                    bytes = others;
                }
            }
            other => anyhow::bail!("a step of kind {other} in the log"),
        }
    }
    anyhow::ensure!(rest.is_empty(), "the log is cut short");
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(kind: u8, offset: u64, bytes: &[u8]) -> Vec<u8> {
        let len = u32::try_from(bytes.len()).expect("a short write");
        [&[kind][..], &offset.to_le_bytes(), &len.to_le_bytes(), bytes].concat()
    }

    #[test]
    fn a_log_becomes_blocks_and_flushes() {
        let log = [packed(WRITE, 4000, &[7; 200]), packed(FLUSH, 0, &[])].concat();
        let write = |offset, len| RecordedStep { begins: 0, write: Some((offset, vec![7; len])) };
        let flush = RecordedStep { begins: 213, write: None };
        assert_eq!(steps(&log).expect("a log"), [write(4000, 96), write(4096, 104), flush]);
        assert!(steps(&log[..100]).is_err());
        assert!(steps(&packed(3, 0, &[])).is_err());
    }

    #[test]
    fn what_was_flushed_is_never_lost() {
        let flush = packed(FLUSH, 0, &[]);
        let write = |n: u64| packed(WRITE, n * 4096, &[1; 4096]);
        let log = [write(0), write(1), flush.clone(), write(2), flush, write(3), write(4)].concat();
        let recording = Recording { empty: PathBuf::new(), steps: steps(&log).expect("a log") };
        let mut dice = Rng::with_seed(1);
        let states: Vec<CrashState> = (0..1000).map(|_| recording.any(0, &mut dice)).collect();
        for CrashState { cut, lost } in &states {
            let flushed = [3, 5].into_iter().rfind(|flushed| flushed <= cut).unwrap_or(0);
            assert!(lost.iter().all(|at| (flushed..*cut).contains(at)), "{cut}: {lost:?}");
        }
        for lost in [vec![], vec![5], vec![6], vec![5, 6]] {
            assert!(states.contains(&CrashState { cut: 7, lost }));
        }
    }
}
