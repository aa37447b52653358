//! Reads published downloads again and holds them against the records. Changes nothing, and needs no
//! server; beside one, what it publishes meanwhile raises no alarm.

mod finding;

use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::Path;

use chrono::{TimeDelta, Utc};
use filepull_core::digest::Hasher;
use filepull_core::human;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::transfer::{Download, Phase, Transfer};
use rustix::fs::Advice;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::data_folder::RECORDS_FOLDER;
use crate::records::{DownloadTotals, RecordsError, RecordsReader};
use crate::store::{self, Store, StoreError};
pub use finding::{Finding, FindingKind, VerifyEvent};

/// Records looked up at once.
const PAGE_LEN: u32 = 256;

/// The partial of a transfer goes right after its end is on record, not in the same moment.
const JUST_ENDED: TimeDelta = TimeDelta::minutes(1);

/// A data folder that can be verified.
#[derive(Clone, Debug)]
pub struct Verification {
    records: RecordsReader,
    store: Store,
}

/// Why it cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The records cannot be read at all.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The data folder cannot be read at all.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Verification {
    /// Opens the records in a data folder.
    ///
    /// # Errors
    /// There are none, or they cannot be read.
    pub async fn open(data_dir: &Path) -> Result<Self, VerifyError> {
        let records = RecordsReader::open(&data_dir.join(RECORDS_FOLDER)).await?;
        Ok(Self { records, store: Store::open(data_dir)? })
    }

    /// Is the client on record, or does it have a folder?
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn knows(&self, client: &ClientId) -> Result<bool, VerifyError> {
        let has_folder = self.store.clients()?.contains(client);
        Ok(has_folder || self.records.has_client(client).await?)
    }

    /// How much there is to read: of one client, or of all.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn totals(&self, only: Option<&ClientId>) -> Result<DownloadTotals, VerifyError> {
        Ok(self.records.totals(only).await?)
    }

    /// Verifies the downloads of one client, or of all.
    ///
    /// # Errors
    /// The records or the data folder cannot be read.
    pub async fn run(
        &self,
        only: Option<ClientId>,
        events: mpsc::Sender<VerifyEvent>,
    ) -> Result<(), VerifyError> {
        let clients = match only {
            Some(client) => BTreeSet::from([client]),
            None => self.clients(&events).await?,
        };
        for client in clients {
            self.client(client, &events).await?;
        }
        Ok(())
    }

    /// Those on record and those with a folder.
    async fn clients(
        &self,
        events: &mpsc::Sender<VerifyEvent>,
    ) -> Result<BTreeSet<ClientId>, VerifyError> {
        let mut clients = BTreeSet::from_iter(self.store.clients()?);
        for client in self.records.clients().await? {
            match client {
                Ok(client) => _ = clients.insert(client),
                Err(error) => tell(events, self.unreadable_record(&error)).await,
            }
        }
        Ok(clients)
    }

    async fn client(
        &self,
        client: ClientId,
        events: &mpsc::Sender<VerifyEvent>,
    ) -> Result<(), VerifyError> {
        // The folder first, then the records: whatever has its name by now is on record by then.
        let mut unknown = match self.store.entries(&client) {
            Ok(names) => names.into_iter().collect(),
            Err(error) => {
                let path = self.store.root().join(client.as_str());
                let (kind, detail) = match store::not_a_folder(&path) {
                    // The record tells whether a download is lost with it.
                    Some(what) => (FindingKind::Foreign, what.to_owned()),
                    None => (FindingKind::Unreadable, chain(&error)),
                };
                tell(events, Finding::new(kind, path, None, detail)).await;
                HashSet::new()
            }
        };
        let mut transfers = self.records.transfers_of(client.clone());
        while let Some(page) = transfers.next(PAGE_LEN).await? {
            for transfer in page {
                match transfer {
                    Ok(transfer) => self.transfer(transfer, &mut unknown, events).await,
                    Err(error) => tell(events, self.unreadable_record(&error)).await,
                }
            }
        }
        for name in BTreeSet::from_iter(unknown) {
            // What is gone again was on its way: a partial that has its name now.
            if self.store.has_entry(&client, &name).unwrap_or(true) {
                let path = self.store.root().join(client.as_str()).join(name);
                let detail = "no download on record has this name".to_owned();
                tell(events, Finding::new(FindingKind::Foreign, path, None, detail)).await;
            }
        }
        Ok(())
    }

    /// Verifies what a transfer has left, and strikes off what is its own.
    async fn transfer(
        &self,
        transfer: Transfer,
        unknown: &mut HashSet<OsString>,
        events: &mpsc::Sender<VerifyEvent>,
    ) {
        let just_ended = transfer.finished_at.is_some_and(|at| Utc::now() - JUST_ENDED < at);
        if !transfer.is_final() || just_ended {
            unknown.retain(|name| transfer_of(name) != Some(transfer.id));
        }
        let download = match &transfer.phase {
            Phase::Done(published) => published.download().clone(),
            Phase::Sealed(sealed) => {
                // Whole, but whether it has its name is not said yet.
                unknown.remove(OsStr::new(&sealed.download().name.to_string()));
                return;
            }
            Phase::Queued | Phase::Receiving(_) | Phase::Failed(_) | Phase::Cancelled(_) => {
                return;
            }
        };
        unknown.remove(OsStr::new(&download.name.to_string()));
        let (store, told) = (self.store.clone(), events.clone());
        let look = spawn_blocking(move || match check(&store, &transfer, &download, &told) {
            Ok(()) => VerifyEvent::Same,
            Err((kind, detail)) => {
                let path = store.download_path(&transfer.client, &download.name);
                VerifyEvent::Found(Finding::new(kind, path, Some(transfer.id), detail))
            }
        });
        if let Ok(event) = look.await {
            // Whoever does not listen any more does not want to know.
            let _ = events.send(event).await;
        }
    }

    fn unreadable_record(&self, error: &RecordsError) -> Finding {
        let path = self.store.root().join(RECORDS_FOLDER).join("records.db");
        Finding::new(FindingKind::Record, path, None, error.to_string())
    }
}

/// Reads a download. What counts is its bytes: one that was put back from a backup is the same.
fn check(
    store: &Store,
    transfer: &Transfer,
    download: &Download,
    events: &mpsc::Sender<VerifyEvent>,
) -> Result<(), (FindingKind, String)> {
    let unreadable = |error: &dyn std::error::Error| (FindingKind::Unreadable, chain(error));
    let found = store.find_download(&transfer.client, &download.name);
    let found = found.map_err(|error| {
        match store::not_a_folder(&store.root().join(transfer.client.as_str())) {
            Some(what) => {
                (FindingKind::Unreadable, format!("the folder of {} is {what}", transfer.client))
            }
            None => unreadable(&error),
        }
    });
    let Some(file) = found? else {
        return Err((FindingKind::Missing, "there is no such file".to_owned()));
    };
    let stat = file.metadata().map_err(|error| unreadable(&error))?;
    if !stat.is_file() {
        return Err((FindingKind::Changed, "this is not a file".to_owned()));
    }
    if stat.len() != download.size {
        let (found, expected) = (stat.len(), download.size);
        return Err((FindingKind::Changed, format!("{found} bytes instead of {expected}")));
    }
    let mut hasher = Hasher::default();
    let read = read_from_disk(&file, &mut |bytes| {
        hasher.update(bytes);
        let _ = events.blocking_send(VerifyEvent::Read(bytes.len() as u64));
    });
    read.map_err(|error| unreadable(&error))?;
    let (found, expected) = (hasher.digest(), download.digest);
    if found == expected {
        return Ok(());
    }
    Err((FindingKind::Changed, format!("its SHA-256 is {found}, not {expected}")))
}

/// What the system still has in memory of a file says nothing about the disk, so it is let go
/// first; and afterwards, since nobody else asked for it.
fn read_from_disk(file: &File, take: &mut impl FnMut(&[u8])) -> std::io::Result<()> {
    let advise = |advice| {
        // Advice: where it is not taken, the file is read all the same.
        let _ = rustix::fs::fadvise(file, 0, None, advice);
    };
    advise(Advice::DontNeed);
    advise(Advice::Sequential);
    let read = store::read_all(file, take);
    advise(Advice::DontNeed);
    read
}

fn transfer_of(name: &OsStr) -> Option<TransferId> {
    name.to_str().and_then(store::transfer_of)
}

async fn tell(events: &mpsc::Sender<VerifyEvent>, finding: Finding) {
    let _ = events.send(VerifyEvent::Found(finding)).await;
}

/// An error and its causes, in one line that no file name can forge.
fn chain(error: &dyn std::error::Error) -> String {
    human::printable(&human::chain(error), 500)
}

#[cfg(test)]
mod tests;
