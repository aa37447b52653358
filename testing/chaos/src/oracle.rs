//! Remembers every published file and every answer, and fails on any contradiction: a file that is
//! not complete (I1), that changes or disappears (I3), two files of one transfer (I4), a partial
//! without an unfinished transfer (I12), an answer that the disk contradicts (I15).

mod observed_file;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use filepull_core::digest::Digest;
use filepull_core::file_digest::{Blake3, FileDigests};
use serde_json::Value;
use tokio::task::block_in_place;

use crate::counters::Counters;
use crate::test_pattern::{Flaw, TestPattern};
use observed_file::{DownloadKey, ObservedFile, list, path, read};

/// What is known of one data folder.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    counters: Counters,
    files: BTreeMap<DownloadKey, ObservedFile>,
    /// Downloads that an answer called done, by transfer id.
    done: BTreeMap<String, AnsweredTrigger>,
    /// Transfer ids that an answer contained.
    answered_ids: BTreeSet<String>,
    /// The version of the file at the trigger of a transfer. Its download is not older.
    versions: BTreeMap<String, u32>,
    /// Downloads that the trial deleted to free space.
    deleted: BTreeSet<DownloadKey>,
}

/// Downloads are named after the second in which they were complete.
const RECENT: Duration = Duration::from_secs(3);

/// A download as an answer described it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AnsweredTrigger {
    key: DownloadKey,
    len: u64,
    digests: FileDigests,
}

impl Oracle {
    pub(crate) fn new(counters: Counters) -> Self {
        Self { counters, ..Self::default() }
    }

    /// Records that an answer contained this transfer id: the transfer must stay on record.
    pub(crate) fn record_id(&mut self, transfer: &str) {
        self.answered_ids.insert(transfer.to_owned());
    }

    /// Records the version that the source had when this transfer was triggered.
    pub(crate) fn record_version(&mut self, transfer: &str, oldest: u32) {
        self.versions.insert(transfer.to_owned(), oldest);
    }

    /// Records a transfer as an answer showed it. If it is done, its file must stay forever.
    pub(crate) fn record_answer(&mut self, transfer: &Value) -> anyhow::Result<()> {
        let id = transfer["id"].as_str().context("a transfer has an id")?.to_owned();
        self.answered_ids.insert(id.clone());
        let Some(answered) = AnsweredTrigger::read(transfer)? else { return Ok(()) };
        match self.done.insert(id.clone(), answered.clone()) {
            Some(before) if before != answered => {
                Err(self.wrong(format!("{id}: an earlier answer had {before:?}, now {answered:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Records a file that the trial put into a client's folder. The server must not change it.
    pub(crate) fn add_foreign_file(
        &mut self,
        data_dir: &Path,
        client: &str,
        name: &str,
    ) -> anyhow::Result<()> {
        let key = (client.to_owned(), name.to_owned());
        let observed = ObservedFile { foreign: true, ..read(&path(data_dir, &key))?.1 };
        self.files.insert(key, observed);
        Ok(())
    }

    /// After a power cut: files that no answer called done may be gone, and all others must be read
    /// again.
    pub(crate) fn after_power_cut(&mut self) {
        let acknowledged: BTreeSet<DownloadKey> =
            self.done.values().map(|answered| answered.key.clone()).collect();
        self.files.retain(|key, observed| observed.foreign || acknowledged.contains(key));
        self.files.values_mut().for_each(|observed| observed.unchecked = true);
    }

    /// Checks every file of the data folder except partials. Reads new files; with `everything`
    /// also the known ones.
    pub(crate) fn check_files(&mut self, data_dir: &Path, everything: bool) -> anyhow::Result<()> {
        // Reading and hashing would block the other tasks of this thread.
        block_in_place(|| self.check_files_now(data_dir, everything))
    }

    fn check_files_now(&mut self, data_dir: &Path, everything: bool) -> anyhow::Result<()> {
        let mut found = BTreeSet::new();
        for key in list(data_dir)? {
            if is_partial(&key.1) {
                continue;
            }
            self.check_file(data_dir, &key, everything)?;
            found.insert(key);
        }
        let missing = self.files.keys().find(|key| !found.contains(*key)).cloned();
        if let Some((client, name)) = missing {
            return Err(self.wrong(format!("{client}/{name} is gone")));
        }
        for (id, answered) in &self.done {
            let deleted = self.deleted.contains(&answered.key);
            let (client, name) = &answered.key;
            match self.files.get(&answered.key) {
                None if deleted => {}
                None => {
                    let text = format!("{client}/{name} was acknowledged ({id}) and is gone");
                    return Err(self.wrong(text));
                }
                Some(observed)
                    if observed.len == answered.len && observed.digests == answered.digests => {}
                Some(observed) => {
                    let text = format!(
                        "{client}/{name} is {observed:?}, but {answered:?} was acknowledged"
                    );
                    return Err(self.wrong(text));
                }
            }
        }
        Ok(())
    }

    fn check_file(
        &mut self,
        data_dir: &Path,
        key: &DownloadKey,
        everything: bool,
    ) -> anyhow::Result<()> {
        let (client, name) = key;
        let path = path(data_dir, key);
        if let Some(known) = self.files.get(key) {
            let stat = fs::metadata(&path).with_context(|| path.display().to_string())?;
            let same = stat.ino() == known.inode && stat.len() == known.len;
            if same && !everything && !known.unchecked {
                return Ok(());
            }
        }
        let (bytes, observed) = read(&path)?;
        if let Some(known) = self.files.get_mut(key) {
            let now = ObservedFile {
                foreign: known.foreign,
                unchecked: known.unchecked,
                version: known.version,
                ..observed
            };
            if now != *known {
                let text = format!("{client}/{name} has changed: it was {known:?}, it is {now:?}");
                return Err(self.wrong(text));
            }
            known.unchecked = false;
        } else {
            let found = TestPattern::read(client, &bytes).map_err(|flaw| {
                self.wrong(format!("{client}/{name} ({:?}): {flaw}", observed.digests))
            })?;
            let version = found.version;
            self.files.insert(key.clone(), ObservedFile { version, ..observed });
        }
        self.counters.right_file();
        Ok(())
    }

    /// Compares the list of all transfers with the disk and with all earlier answers. The list must
    /// be older than the last [`check_files`](Self::check_files).
    pub(crate) fn check_transfers(&mut self, transfers: &[Value]) -> anyhow::Result<()> {
        let mut named = BTreeMap::new();
        let mut listed = BTreeSet::new();
        let mut unfinished: BTreeMap<&str, usize> = BTreeMap::new();
        for transfer in transfers {
            let id = transfer["id"].as_str().context("a transfer has an id")?;
            listed.insert(id.to_owned());
            self.record_answer(transfer)?;
            if !is_final(transfer) {
                *unfinished.entry(transfer["client"].as_str().unwrap_or_default()).or_default() +=
                    1;
            }
            let Some(answered) = AnsweredTrigger::read(transfer)? else {
                if self.done.contains_key(id) {
                    return Err(self.wrong(format!("{id} was done and is now {transfer}")));
                }
                continue;
            };
            self.check_downloads(std::slice::from_ref(transfer))?;
            if let Some(other) = named.insert(answered.key, id.to_owned()) {
                return Err(self.wrong(format!("{id} and {other} have the same file")));
            }
        }
        if let Some(lost) = self.answered_ids.iter().find(|id| !listed.contains(*id)) {
            let text = format!("{lost} was in an answer and is not on record");
            return Err(self.wrong(text));
        }
        let unclaimed = self
            .files
            .iter()
            .filter(|(key, observed)| !observed.foreign && !named.contains_key(*key));
        for ((client, name), _) in unclaimed {
            // At most one for each transfer that is being published.
            match unfinished.get_mut(client.as_str()) {
                Some(left) if 0 < *left => *left -= 1,
                _ => {
                    let text =
                        format!("no transfer has {client}/{name}: a second file of one transfer?");
                    self.counters.wrong_file();
                    bail!(text);
                }
            }
        }
        Ok(())
    }

    /// Compares the downloads of a list with the disk only: the records are damaged and may have
    /// lost the rest.
    pub(crate) fn check_downloads(&self, transfers: &[Value]) -> anyhow::Result<()> {
        for transfer in transfers {
            let Some(answered) = AnsweredTrigger::read(transfer)? else { continue };
            let on_disk = self.files.get(&answered.key);
            let id = &transfer["id"];
            let oldest = id.as_str().and_then(|id| self.versions.get(id));
            if let (Some(observed), Some(oldest)) = (on_disk, oldest)
                && observed.version < *oldest
            {
                let found = observed.version;
                return Err(
                    self.wrong(format!("{id}: {}", Flaw::Stale { expected: *oldest, found }))
                );
            }
            let same = on_disk.is_some_and(|observed| {
                !observed.foreign
                    && observed.len == answered.len
                    && observed.digests == answered.digests
            });
            if !same && !self.deleted.contains(&answered.key) {
                return Err(
                    self.wrong(format!("{id}: the answer has {answered:?}, the disk {on_disk:?}"))
                );
            }
        }
        Ok(())
    }

    /// After a recovery without agents: every unfinished transfer with a known source has exactly
    /// one partial (I12).
    pub(crate) fn check_partials(
        &self,
        data_dir: &Path,
        transfers: &[Value],
    ) -> anyhow::Result<()> {
        let owning = transfers.iter().filter(|t| !is_final(t) && !t["file"].is_null());
        let mut owners: Vec<&str> = owning.filter_map(|t| t["id"].as_str()).collect();
        owners.sort_unstable();
        let mut partials = Vec::new();
        for (_, name) in list(data_dir)?.into_iter().filter(|(_, name)| is_partial(name)) {
            let stem = name.strip_suffix(".tmp").and_then(|stem| stem.rsplit_once('-'));
            partials.push(stem.map_or(name.clone(), |(id, _)| id.to_owned()));
        }
        partials.sort();
        anyhow::ensure!(
            owners == partials,
            "partials of {partials:?}, unfinished transfers {owners:?}"
        );
        Ok(())
    }

    /// Deletes all but the last `keep` downloads, to free space. They have been checked. Recent
    /// ones stay: the server could give their names again in this second.
    pub(crate) fn delete_old_downloads(
        &mut self,
        data_dir: &Path,
        keep: usize,
    ) -> anyhow::Result<()> {
        let mine = self.files.iter().filter(|(_, observed)| !observed.foreign);
        let places: Vec<DownloadKey> = mine.map(|(key, _)| key.clone()).collect();
        for key in &places[..places.len().saturating_sub(keep)] {
            let path = path(data_dir, key);
            let age = fs::metadata(&path)?.modified()?.elapsed().unwrap_or_default();
            if age < RECENT {
                continue;
            }
            fs::remove_file(path)?;
            self.files.remove(key);
            self.deleted.insert(key.clone());
        }
        Ok(())
    }

    /// Forgets a download that the trial damaged and removed.
    pub(crate) fn forget(&mut self, download: &Path) -> anyhow::Result<()> {
        let mut names = download.iter().rev().map(|name| name.to_string_lossy().into_owned());
        let (Some(name), Some(client)) = (names.next(), names.next()) else {
            bail!("{} is no download", download.display());
        };
        self.files.remove(&(client.clone(), name.clone()));
        self.deleted.insert((client, name));
        Ok(())
    }

    /// Returns how many downloads were observed, including the deleted ones.
    pub(crate) fn n_downloads(&self) -> usize {
        self.files.values().filter(|observed| !observed.foreign).count() + self.deleted.len()
    }

    fn wrong(&self, text: String) -> anyhow::Error {
        self.counters.wrong_file();
        anyhow::Error::msg(text)
    }
}

impl AnsweredTrigger {
    fn read(transfer: &Value) -> anyhow::Result<Option<Self>> {
        if transfer["state"] != "done" {
            return Ok(None);
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let download = &transfer["download"];
        let parse = || {
            let key = (text(&transfer["client"])?, text(&download["name"])?);
            let len = download["size"].as_u64()?;
            let blake3 = Blake3::parse(download["blake3"].as_str()?)?;
            let sha256 = Digest::parse(download["sha256"].as_str()?)?;
            Some(Self { key, len, digests: FileDigests { blake3, sha256 } })
        };
        parse().map(Some).with_context(|| format!("done without a download: {transfer}"))
    }
}

/// Returns true if a transfer will not change any more.
pub(crate) fn is_final(transfer: &Value) -> bool {
    matches!(transfer["state"].as_str(), Some("done" | "unchanged" | "failed" | "cancelled"))
}

pub(crate) fn is_partial(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "tmp")
}

#[cfg(test)]
mod tests;
