//! Damages a download, returns what verify must find, and undoes the damage.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use fastrand::Rng;
use serde_json::Value;

#[derive(Clone, Debug)]
pub(super) enum DownloadDamage {
    Flip {
        download: PathBuf,
        at: usize,
        bit: u8,
    },
    /// A range of bytes becomes zero.
    Zero {
        download: PathBuf,
        at: usize,
    },
    Cut {
        download: PathBuf,
        len: usize,
    },
    Grow {
        download: PathBuf,
    },
    Remove {
        download: PathBuf,
    },
    /// Two files exchange their names.
    Swap {
        one: PathBuf,
        other: PathBuf,
    },
    /// No damage, but a file that no transfer created.
    ForeignFile {
        beside: PathBuf,
    },
}

/// The kind and the path of each finding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ExpectedFinding(BTreeSet<(String, String)>);

/// Restores the state before a damage.
pub(super) enum Undo {
    Write(PathBuf, Vec<u8>),
    Rename(PathBuf, PathBuf),
    Swap(PathBuf, PathBuf),
    Remove(PathBuf),
}

const HOLE_LEN: usize = 512;

impl DownloadDamage {
    pub(super) fn any(rng: &mut Rng, round: u32, downloads: &[PathBuf]) -> Self {
        let nth = rng.usize(0..downloads.len());
        let download = downloads[nth].clone();
        let len = fs::metadata(&download).map_or(0, |stat| stat.len());
        let at = rng.usize(0..usize::try_from(len).unwrap_or(0).max(HOLE_LEN + 1) - HOLE_LEN);
        match round % 12 {
            0 => Self::Zero { download, at },
            2 => Self::Cut { download, len: at },
            4 => Self::Grow { download },
            6 => Self::Remove { download },
            8 => {
                Self::Swap { one: download, other: downloads[(nth + 1) % downloads.len()].clone() }
            }
            10 => Self::ForeignFile { beside: download },
            _ => Self::Flip { download, at, bit: rng.u8(0..8) },
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Flip { .. } => "bits flipped",
            Self::Zero { .. } => "holes",
            Self::Cut { .. } => "cuts",
            Self::Grow { .. } => "tails",
            Self::Remove { .. } => "removals",
            Self::Swap { .. } => "swaps",
            Self::ForeignFile { .. } => "foreign files",
        }
    }

    pub(super) fn inflict(&self, folder: &Path) -> anyhow::Result<Undo> {
        let rewrite = |path: &Path, change: &dyn Fn(&mut Vec<u8>)| {
            let bytes = fs::read(path)?;
            let mut damaged = bytes.clone();
            change(&mut damaged);
            write(path, &damaged)?;
            anyhow::Ok(Undo::Write(path.to_owned(), bytes))
        };
        match self {
            Self::Flip { download, at, bit } => rewrite(download, &|bytes| bytes[*at] ^= 1 << bit),
            Self::Zero { download, at } => {
                rewrite(download, &|bytes| {
                    let range = &mut bytes[*at..*at + HOLE_LEN];
                    // A hole of the file itself would stay as it is.
                    let other = if range.iter().all(|&byte| byte == 0) { 1 } else { 0 };
                    range.fill(other);
                })
            }
            Self::Cut { download, len } => rewrite(download, &|bytes| bytes.truncate(*len)),
            Self::Grow { download } => rewrite(download, &|bytes| bytes.push(b'\n')),
            Self::Remove { download } => {
                let away = folder.join("taken-away");
                fs::rename(download, &away)?;
                Ok(Undo::Rename(away, download.clone()))
            }
            Self::Swap { one, other } => {
                swap(one, other)?;
                Ok(Undo::Swap(one.clone(), other.clone()))
            }
            Self::ForeignFile { beside } => {
                let path = foreign_file(beside);
                fs::write(&path, "mine")?;
                Ok(Undo::Remove(path))
            }
        }
    }

    pub(super) fn found(&self) -> ExpectedFinding {
        let found: Vec<(&str, PathBuf)> = match self {
            Self::Flip { download, .. }
            | Self::Zero { download, .. }
            | Self::Cut { download, .. }
            | Self::Grow { download } => vec![("changed", download.clone())],
            Self::Remove { download } => vec![("missing", download.clone())],
            Self::Swap { one, other } => {
                vec![("changed", one.clone()), ("changed", other.clone())]
            }
            Self::ForeignFile { beside } => vec![("foreign", foreign_file(beside))],
        };
        let text = |(kind, path): (&str, PathBuf)| (kind.to_owned(), path.display().to_string());
        ExpectedFinding(found.into_iter().map(text).collect())
    }
}

impl ExpectedFinding {
    pub(super) fn read(report: &Value) -> anyhow::Result<Self> {
        let findings = report["findings"].as_array().context("a report has findings")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Self(findings.iter().map(|f| (text(&f["kind"]), text(&f["path"]))).collect()))
    }

    pub(super) fn is_loss(&self) -> bool {
        0 < self.n_lost()
    }

    pub(super) fn n_lost(&self) -> usize {
        self.0.iter().filter(|(kind, _)| kind != "foreign").count()
    }
}

impl Undo {
    pub(super) fn perform(self) -> anyhow::Result<()> {
        match self {
            Self::Write(path, bytes) => write(&path, &bytes),
            Self::Rename(from, to) => Ok(fs::rename(from, to)?),
            Self::Swap(one, other) => swap(&one, &other),
            Self::Remove(path) => Ok(fs::remove_file(path)?),
        }
    }
}

/// Writes as a failing disk would: inode and modification time stay the same.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let modified = fs::metadata(path)?.modified()?;
    fs::write(path, bytes)?;
    fs::File::open(path)?.set_modified(modified)?;
    Ok(())
}

fn swap(one: &Path, other: &Path) -> anyhow::Result<()> {
    use rustix::fs::{CWD, RenameFlags};
    Ok(rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

fn foreign_file(beside: &Path) -> PathBuf {
    beside.with_file_name("notes.txt")
}
