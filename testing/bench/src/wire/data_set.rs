//! The files of the measurement. A seed and the sizes determine every byte of them.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use fastrand::Rng;
use serde::Serialize;

use super::database;
use super::log_text::{insert_lines, write_log};

/// A file, and what has happened to it since the last pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DataSet {
    /// A text log, pulled for the first time.
    Text,
    /// A text log that has not changed since the last pull.
    Unchanged,
    /// A text log that has grown by 1 MB since the last pull.
    Appended,
    /// An SQLite file, of which 1 % of the pages have changed since the last pull.
    Database,
    /// A text log with 200 lines inserted since the last pull.
    Insertions,
    /// Random bytes, pulled for the first time.
    Random,
    /// A sparse file with 20 bytes of data, pulled for the first time.
    Sparse,
}

/// What determines the bytes of all files.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct DataPlan {
    /// Bytes of each file except for the sparse one, before anything is appended or inserted.
    pub(crate) size: u64,
    /// Bytes of the sparse file.
    pub(crate) sparse_size: u64,
    pub(crate) seed: u64,
}

/// Bytes that are appended.
const N_APPENDED: u64 = 1_000_000;

/// Lines that are inserted.
const N_INSERTIONS: usize = 200;

/// The data of the sparse file.
const SPARSE_DATA: &[u8; 20] = b"twenty bytes of data";

/// The age of a file that was pulled before.
const EARLIER: Duration = Duration::from_hours(1);

impl DataSet {
    pub(crate) const ALL: [Self; 7] = [
        Self::Text,
        Self::Unchanged,
        Self::Appended,
        Self::Database,
        Self::Insertions,
        Self::Random,
        Self::Sparse,
    ];

    /// Returns the description in tables and pictures.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Text => "text log, first pull",
            Self::Unchanged => "unchanged",
            Self::Appended => "1 MB appended",
            Self::Database => "1 % of SQLite pages",
            Self::Insertions => "200 insertions",
            Self::Random => "random bytes",
            Self::Sparse => "sparse, 20 bytes",
        }
    }

    pub(crate) fn file_name(self) -> &'static str {
        match self {
            Self::Text => "text.bin",
            Self::Unchanged => "unchanged.bin",
            Self::Appended => "appended.bin",
            Self::Database => "database.bin",
            Self::Insertions => "insertions.bin",
            Self::Random => "random.bin",
            Self::Sparse => "sparse.bin",
        }
    }

    /// Whether the file was pulled before it is measured.
    pub(crate) fn was_pulled(self) -> bool {
        match self {
            Self::Unchanged | Self::Appended | Self::Database | Self::Insertions => true,
            Self::Text | Self::Random | Self::Sparse => false,
        }
    }

    /// Writes the version that was pulled before, if there is one, with a time in the past.
    pub(crate) fn write_earlier(self, path: &Path, plan: &DataPlan) -> anyhow::Result<()> {
        let mut rng = self.rng(plan, 0);
        match self {
            Self::Unchanged | Self::Appended | Self::Insertions => {
                let mut file = BufWriter::new(File::create(path)?);
                write_log(&mut file, &mut rng, plan.size)?;
                file.flush()?;
            }
            Self::Database => database::create(path, &mut rng, plan.size)?,
            Self::Text | Self::Random | Self::Sparse => return Ok(()),
        }
        File::options().write(true).open(path)?.set_modified(SystemTime::now() - EARLIER)?;
        Ok(())
    }

    /// Writes the version that is measured: a new file, or a change of the earlier version.
    pub(crate) fn write_measured(self, path: &Path, plan: &DataPlan) -> anyhow::Result<()> {
        let mut rng = self.rng(plan, 1);
        match self {
            Self::Unchanged => {}
            Self::Text => {
                let mut file = BufWriter::new(File::create(path)?);
                write_log(&mut file, &mut rng, plan.size)?;
                file.flush()?;
            }
            Self::Appended => {
                let mut file = BufWriter::new(OpenOptions::new().append(true).open(path)?);
                write_log(&mut file, &mut rng, N_APPENDED)?;
                file.flush()?;
            }
            Self::Database => database::change(path, &mut rng)?,
            Self::Insertions => {
                let text = fs::read(path)?;
                fs::write(path, insert_lines(&text, &mut rng, N_INSERTIONS))?;
            }
            Self::Random => {
                let len = usize::try_from(plan.size).context("more than the memory")?;
                let mut bytes = vec![0; len];
                rng.fill(&mut bytes);
                fs::write(path, bytes)?;
            }
            Self::Sparse => {
                let file = File::create(path)?;
                file.set_len(plan.sparse_size)?;
                file.write_all_at(SPARSE_DATA, plan.sparse_size / 2)?;
            }
        }
        Ok(())
    }

    /// Returns the random numbers for one version of the file.
    fn rng(self, plan: &DataPlan, version: u64) -> Rng {
        let number = Self::ALL.into_iter().position(|other| other == self).unwrap_or_default();
        Rng::with_seed(plan.seed.wrapping_mul(1000) + 2 * number as u64 + version)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    const PLAN: DataPlan = DataPlan { size: 4_000_000, sparse_size: 1 << 30, seed: 7 };

    /// Returns the earlier version, which is empty if there is none, and the measured one.
    fn versions(data_set: DataSet, plan: &DataPlan) -> [Vec<u8>; 2] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(data_set.file_name());
        data_set.write_earlier(&path, plan).unwrap();
        assert_eq!(path.exists(), data_set.was_pulled());
        let earlier = fs::read(&path).unwrap_or_default();
        data_set.write_measured(&path, plan).unwrap();
        [earlier, fs::read(&path).unwrap()]
    }

    #[test]
    fn the_seed_determines_every_byte() {
        for data_set in DataSet::ALL.into_iter().filter(|&set| set != DataSet::Sparse) {
            let first = versions(data_set, &PLAN);
            assert!(first == versions(data_set, &PLAN), "{data_set:?}");
            let other = versions(data_set, &DataPlan { seed: 8, ..PLAN });
            assert!(first[1] != other[1], "{data_set:?}");
        }
    }

    #[test]
    fn an_unchanged_file_keeps_its_time_and_the_others_do_not() {
        for data_set in DataSet::ALL.into_iter().filter(|set| set.was_pulled()) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            data_set.write_earlier(&path, &PLAN).unwrap();
            let earlier = fs::metadata(&path).unwrap().modified().unwrap();
            data_set.write_measured(&path, &PLAN).unwrap();
            let measured = fs::metadata(&path).unwrap().modified().unwrap();
            assert_eq!(earlier == measured, data_set == DataSet::Unchanged, "{data_set:?}");
        }
    }

    #[test]
    fn text_has_the_announced_size() {
        let [earlier, measured] = versions(DataSet::Text, &PLAN);
        assert_eq!((earlier.len(), measured.len() as u64), (0, PLAN.size));
        assert!(measured.is_ascii());
    }

    #[test]
    fn the_appended_file_begins_with_the_earlier_one() {
        let [earlier, measured] = versions(DataSet::Appended, &PLAN);
        assert_eq!(earlier.len() as u64, PLAN.size);
        assert_eq!(measured.len() as u64, PLAN.size + N_APPENDED);
        assert!(measured.starts_with(&earlier));
    }

    #[test]
    fn one_percent_of_the_pages_change() {
        let [earlier, measured] = versions(DataSet::Database, &PLAN);
        assert_eq!(earlier.len(), measured.len());
        assert!(earlier.starts_with(b"SQLite format 3\0"));
        let pages = earlier.chunks(4096).zip(measured.chunks(4096));
        let n_pages = pages.len();
        let n_changed = pages.filter(|(before, after)| before != after).count();
        assert!((976..=1000).contains(&n_pages), "{n_pages} pages");
        // The first page counts the changes of the file.
        assert!((9..=11).contains(&n_changed), "{n_changed} of {n_pages} pages");
    }

    #[test]
    fn the_sparse_file_has_twenty_bytes_of_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let plan = DataPlan { sparse_size: 8 << 20, ..PLAN };
        DataSet::Sparse.write_measured(&path, &plan).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 8 << 20);
        assert_eq!(bytes.iter().filter(|&&byte| byte != 0).count(), 20);
        let n_allocated = fs::metadata(&path).unwrap().blocks() * 512;
        assert!(n_allocated <= 64 << 10, "{n_allocated} bytes on the disk");
    }
}
