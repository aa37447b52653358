//! The measured files on the disk of the client.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::data_set::{DataPlan, DataSet};
use crate::source::SourceFile;

/// A file, first in the version that is pulled before the measurement, then as it is measured.
pub(crate) struct WireFile {
    pub(crate) data_set: DataSet,
    /// In the folder that agent and daemon share.
    pub(crate) source: SourceFile,
    /// A copy of the version that was pulled before, if there is one.
    pub(crate) earlier: Option<PathBuf>,
}

impl WireFile {
    /// Writes the version that is pulled before the measurement to `shared`, and a copy with its
    /// time to `earlier`.
    pub(crate) fn create(
        data_set: DataSet,
        plan: &DataPlan,
        shared: &Path,
        earlier: &Path,
    ) -> anyhow::Result<Self> {
        let path = shared.join(data_set.file_name());
        let write = || data_set.write_earlier(&path, plan);
        write().with_context(|| path.display().to_string())?;
        if !data_set.was_pulled() {
            return Ok(Self { data_set, source: SourceFile { path, size: 0 }, earlier: None });
        }
        let metadata = fs::metadata(&path)?;
        let copy = earlier.join(data_set.file_name());
        fs::copy(&path, &copy)?;
        File::options().write(true).open(&copy)?.set_modified(metadata.modified()?)?;
        let source = SourceFile { path, size: metadata.len() };
        Ok(Self { data_set, source, earlier: Some(copy) })
    }

    /// Writes the version that is measured.
    pub(crate) fn change(&mut self, plan: &DataPlan) -> anyhow::Result<()> {
        let path = &self.source.path;
        let write = || self.data_set.write_measured(path, plan);
        write().with_context(|| path.display().to_string())?;
        self.source.size = fs::metadata(path)?.len();
        Ok(())
    }
}
