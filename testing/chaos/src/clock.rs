//! A wall clock that the trial sets for one program, through libfaketime and a file. The monotonic
//! clock is not changed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::scenario::Scenario;

#[derive(Debug)]
pub(crate) struct Clock {
    file: PathBuf,
}

impl Clock {
    /// Gives the server of a scenario this clock, from its next start.
    pub(crate) fn install(scenario: &mut Scenario, first: &str) -> anyhow::Result<Self> {
        remove_leftovers();
        let folders = fs::read_dir("/usr/lib")?.flatten();
        let libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));

        let library = libraries
            .into_iter()
            .find(|path| path.is_file())
            .context("no libfaketimeMT.so.1 beneath /usr/lib")?;
        let clock = Self { file: scenario.server.folder().join("clock") };
        clock.set(first)?;
        scenario.server.server_setting("LD_PRELOAD", &library.display().to_string());
        scenario
            .server
            .server_setting("FAKETIME_TIMESTAMP_FILE", &clock.file.display().to_string());
        for (key, value) in [
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
            ("TZ", "UTC"),
        ] {
            scenario.server.server_setting(key, value);
        }
        Ok(clock)
    }

    /// Sets the clock: `2026-03-29 01:30:00` stands still, `@2026-03-29 01:30:00` runs from there,
    /// `+30d` is ahead of the real time.
    pub(crate) fn set(&self, to: &str) -> anyhow::Result<()> {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{to}\n"))?;
        Ok(fs::rename(new, &self.file)?)
    }
}

/// Removes the shared memory that libfaketime leaves when a program is killed.
fn remove_leftovers() {
    for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = ["faketime_shm_", "sem.faketime_sem_"].iter().find_map(|p| name.strip_prefix(p));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
