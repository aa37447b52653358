//! A wall clock that the trial sets, for one program: libfaketime, told by a file. The clock that
//! only goes forward is left alone, as the world leaves it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::scenario::Scenario;

/// The wall clock of a server.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// Gives the server of a stage such a clock from its next start on.
    ///
    /// # Errors
    /// libfaketime is not installed, or the disk failed.
    pub fn give(stage: &mut Scenario, first: &str) -> anyhow::Result<Self> {
        sweep();
        let folders = fs::read_dir("/usr/lib")?.flatten();
        let library = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
        let library = library.into_iter().find(|path| path.is_file());
        let library = library.context("no libfaketimeMT.so.1 beneath /usr/lib")?;
        let clock = Self { file: stage.bed.folder().join("clock") };
        clock.set(first)?;
        stage.bed.server_setting("LD_PRELOAD", &library.display().to_string());
        stage.bed.server_setting("FAKETIME_TIMESTAMP_FILE", &clock.file.display().to_string());
        for (key, value) in [
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
            ("TZ", "UTC"),
        ] {
            stage.bed.server_setting(key, value);
        }
        Ok(clock)
    }

    /// Sets it: `2026-03-29 01:30:00` stands still, `@2026-03-29 01:30:00` goes on from there,
    /// `+30d` is ahead of the true time.
    ///
    /// # Errors
    /// The disk failed.
    pub fn set(&self, to: &str) -> anyhow::Result<()> {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{to}\n"))?;
        Ok(fs::rename(new, &self.file)?)
    }
}

/// Removes what libfaketime leaves behind in programs that were killed.
fn sweep() {
    for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = ["faketime_shm_", "sem.faketime_sem_"].iter().find_map(|p| name.strip_prefix(p));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
