//! Remembers every published file and every answer it was given, and fails on any contradiction:
//! a file that is not whole (I1), one that changes or vanishes (I3), two files of one transfer (I4),
//! a partial that no open transfer owns (I12), an answer that the disk does not bear out (I15).

mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::task::block_in_place;

use crate::counters::Counters;
use crate::test_pattern::TestPattern;
use seen::{ObservedFile, Place, path, places, see};

/// The memory of one data folder.
#[derive(Debug, Default)]
pub struct Oracle {
    tally: Counters,
    files: BTreeMap<Place, ObservedFile>,
    /// Downloads that an answer called done, by the id of their transfer.
    done: BTreeMap<String, AnsweredTrigger>,
    /// Ids that an answer called recorded.
    promised: BTreeSet<String>,
    /// Downloads that the trial itself took away to make room.
    retired: BTreeSet<Place>,
}

/// A download is named after the second in which it was whole.
const YOUNG: Duration = Duration::from_secs(3);

/// What an answer said of a download.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AnsweredTrigger {
    place: Place,
    len: u64,
    digest: String,
}

impl Oracle {
    /// An oracle that counts what it sees.
    pub fn new(tally: Counters) -> Self {
        Self { tally, ..Self::default() }
    }

    /// An answer said that this transfer is on record.
    pub fn recorded(&mut self, transfer: &str) {
        self.promised.insert(transfer.to_owned());
    }

    /// An answer showed this transfer, as JSON; if it is done, its file must stay for ever.
    ///
    /// # Errors
    /// It contradicts an earlier answer.
    pub fn answered(&mut self, transfer: &Value) -> anyhow::Result<()> {
        let id = transfer["id"].as_str().context("a transfer has an id")?.to_owned();
        self.promised.insert(id.clone());
        let Some(answered) = AnsweredTrigger::read(transfer)? else { return Ok(()) };
        match self.done.insert(id.clone(), answered.clone()) {
            Some(before) if before != answered => {
                Err(self.wrong(format!("{id}: an answer said {before:?}, now {answered:?}")))
            }
            _ => Ok(()),
        }
    }

    /// The trial has put a file into a client's folder. Nobody else may touch it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn stranger(&mut self, data_dir: &Path, client: &str, name: &str) -> anyhow::Result<()> {
        let place = (client.to_owned(), name.to_owned());
        let seen = ObservedFile { stranger: true, ..see(&path(data_dir, &place))?.1 };
        self.files.insert(place, seen);
        Ok(())
    }

    /// The disk has lost power: what no answer has called done may be gone, and everything else
    /// must be read again.
    pub fn power_cut(&mut self) {
        let acknowledged: BTreeSet<Place> =
            self.done.values().map(|answered| answered.place.clone()).collect();
        self.files.retain(|place, seen| seen.stranger || acknowledged.contains(place));
        self.files.values_mut().for_each(|seen| seen.doubtful = true);
    }

    /// Looks at every file of the data folder that is not a partial. With `everything` also at the
    /// bytes of those that are known.
    ///
    /// # Errors
    /// One is not what it must be.
    pub fn look(&mut self, data_dir: &Path, everything: bool) -> anyhow::Result<()> {
        // Reading and hashing must not hold up whatever else this thread has to do.
        block_in_place(|| self.look_now(data_dir, everything))
    }

    fn look_now(&mut self, data_dir: &Path, everything: bool) -> anyhow::Result<()> {
        let mut found = BTreeSet::new();
        for place in places(data_dir)? {
            if is_partial(&place.1) {
                continue;
            }
            self.look_at(data_dir, &place, everything)?;
            found.insert(place);
        }
        let missing = self.files.keys().find(|place| !found.contains(*place)).cloned();
        if let Some((client, name)) = missing {
            return Err(self.wrong(format!("{client}/{name} is gone")));
        }
        for (id, answered) in &self.done {
            let retired = self.retired.contains(&answered.place);
            let (client, name) = &answered.place;
            match self.files.get(&answered.place) {
                None if retired => {}
                None => {
                    let text = format!("{client}/{name} was acknowledged ({id}) and is not there");
                    return Err(self.wrong(text));
                }
                Some(seen) if seen.len == answered.len && seen.digest == answered.digest => {}
                Some(seen) => {
                    let text =
                        format!("{client}/{name} is {seen:?}, acknowledged was {answered:?}");
                    return Err(self.wrong(text));
                }
            }
        }
        Ok(())
    }

    fn look_at(&mut self, data_dir: &Path, place: &Place, everything: bool) -> anyhow::Result<()> {
        let (client, name) = place;
        let path = path(data_dir, place);
        if let Some(known) = self.files.get(place) {
            let stat = fs::metadata(&path).with_context(|| path.display().to_string())?;
            let same = stat.ino() == known.inode && stat.len() == known.len;
            if same && !everything && !known.doubtful {
                return Ok(());
            }
        }
        let (bytes, seen) = see(&path)?;
        if let Some(known) = self.files.get_mut(place) {
            let now = ObservedFile { stranger: known.stranger, doubtful: known.doubtful, ..seen };
            if now != *known {
                let text = format!("{client}/{name} has changed: it was {known:?}, it is {now:?}");
                return Err(self.wrong(text));
            }
            known.doubtful = false;
        } else {
            if let Err(flaw) = TestPattern::read(client, &bytes) {
                return Err(self.wrong(format!("{client}/{name} (sha256 {}): {flaw}", seen.digest)));
            }
            self.files.insert(place.clone(), seen);
        }
        self.tally.right_file();
        Ok(())
    }

    /// Compares the list of all transfers, asked for before the last [`look`](Self::look), with
    /// what is on the disk and with all earlier answers.
    ///
    /// # Errors
    /// They contradict each other.
    pub fn agree(&mut self, transfers: &[Value]) -> anyhow::Result<()> {
        let mut named = BTreeMap::new();
        let mut listed = BTreeSet::new();
        let mut open: BTreeMap<&str, usize> = BTreeMap::new();
        for transfer in transfers {
            let id = transfer["id"].as_str().context("a transfer has an id")?;
            listed.insert(id.to_owned());
            self.answered(transfer)?;
            if !is_final(transfer) {
                *open.entry(transfer["client"].as_str().unwrap_or_default()).or_default() += 1;
            }
            let Some(answered) = AnsweredTrigger::read(transfer)? else {
                if self.done.contains_key(id) {
                    return Err(self.wrong(format!("{id} was done, and is now {transfer}")));
                }
                continue;
            };
            self.bears_out(std::slice::from_ref(transfer))?;
            if let Some(other) = named.insert(answered.place, id.to_owned()) {
                return Err(self.wrong(format!("{id} and {other} claim one file")));
            }
        }
        if let Some(lost) = self.promised.iter().find(|id| !listed.contains(*id)) {
            let text = format!("{lost} was answered, and is not on record");
            return Err(self.wrong(text));
        }
        let unclaimed =
            self.files.iter().filter(|(place, seen)| !seen.stranger && !named.contains_key(*place));
        for ((client, name), _) in unclaimed {
            // At most one for each transfer that is just being published.
            match open.get_mut(client.as_str()) {
                Some(left) if 0 < *left => *left -= 1,
                _ => {
                    let text = format!("no transfer knows {client}/{name}: a second file of one?");
                    self.tally.wrong_file();
                    bail!(text);
                }
            }
        }
        Ok(())
    }

    /// Compares what a list says of downloads with the disk, and with nothing else: the records
    /// behind it have been damaged, and may have lost the rest.
    ///
    /// # Errors
    /// An answer is not true.
    pub fn bears_out(&self, transfers: &[Value]) -> anyhow::Result<()> {
        for transfer in transfers {
            let Some(answered) = AnsweredTrigger::read(transfer)? else { continue };
            let on_disk = self.files.get(&answered.place);
            let same = on_disk.is_some_and(|seen| {
                !seen.stranger && seen.len == answered.len && seen.digest == answered.digest
            });
            if !same && !self.retired.contains(&answered.place) {
                let id = &transfer["id"];
                return Err(self.wrong(format!("{id} says {answered:?}, the disk {on_disk:?}")));
            }
        }
        Ok(())
    }

    /// After a recovery without agents: exactly the open transfers whose source is known own one
    /// partial each (I12).
    ///
    /// # Errors
    /// One has none or two, or a partial has no owner.
    pub fn partials(&self, data_dir: &Path, transfers: &[Value]) -> anyhow::Result<()> {
        let owners = transfers.iter().filter(|t| !is_final(t) && !t["file"].is_null());
        let mut owners: Vec<&str> = owners.filter_map(|t| t["id"].as_str()).collect();
        owners.sort_unstable();
        let mut partials = Vec::new();
        for (_, name) in places(data_dir)?.into_iter().filter(|(_, name)| is_partial(name)) {
            let stem = name.strip_suffix(".tmp").and_then(|stem| stem.rsplit_once('-'));
            partials.push(stem.map_or(name.clone(), |(id, _)| id.to_owned()));
        }
        partials.sort();
        anyhow::ensure!(owners == partials, "partials of {partials:?}, open are {owners:?}");
        Ok(())
    }

    /// Takes all but the last `keep` downloads away, to make room. They have been looked at.
    /// Young ones stay: their names are of this second, and would be given again.
    ///
    /// # Errors
    /// The disk failed.
    pub fn retire(&mut self, data_dir: &Path, keep: usize) -> anyhow::Result<()> {
        let mine = self.files.iter().filter(|(_, seen)| !seen.stranger);
        let places: Vec<Place> = mine.map(|(place, _)| place.clone()).collect();
        for place in &places[..places.len().saturating_sub(keep)] {
            let path = path(data_dir, place);
            let age = fs::metadata(&path)?.modified()?.elapsed().unwrap_or_default();
            if age < YOUNG {
                continue;
            }
            fs::remove_file(path)?;
            self.files.remove(place);
            self.retired.insert(place.clone());
        }
        Ok(())
    }

    /// How many downloads it has seen, those it took away included.
    pub fn n_downloads(&self) -> usize {
        self.files.values().filter(|seen| !seen.stranger).count() + self.retired.len()
    }

    fn wrong(&self, text: String) -> anyhow::Error {
        self.tally.wrong_file();
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
        let read = || {
            let place = (text(&transfer["client"])?, text(&download["name"])?);
            let (len, digest) = (download["size"].as_u64()?, text(&download["sha256"])?);
            Some(Self { place, len, digest })
        };
        read().map(Some).with_context(|| format!("done without a download: {transfer}"))
    }
}

/// Whether nothing happens to a transfer any more.
pub fn is_final(transfer: &Value) -> bool {
    matches!(transfer["state"].as_str(), Some("done" | "failed" | "cancelled"))
}

/// Whether a name is that of a partial.
pub fn is_partial(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "tmp")
}

#[cfg(test)]
mod tests;
