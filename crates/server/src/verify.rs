//! Reads published downloads and compares them with the records. Changes no file, and needs no
//! server. Downloads that a running server publishes meanwhile are no findings.

mod finding;

use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZeroU64;
use std::path::Path;

use chrono::{TimeDelta, Utc};
use filepull_core::file_digest::{FileDigests, FileHasher};
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

/// Number of records that are read at once.
const PAGE_LEN: u32 = 256;

/// Number of bytes that are read at once.
const BLOCK_LEN: usize = 256 * 1024;

/// How long the partial of an ended transfer may exist. The server removes it after it has recorded
/// the end.
const JUST_ENDED: TimeDelta = TimeDelta::minutes(1);

/// A data folder that can be verified.
#[derive(Clone, Debug)]
pub struct Verification {
    records: RecordsReader,
    store: Store,
}

/// Why a verification ended early.
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
    /// Opens a data folder and its records.
    ///
    /// # Errors
    /// The folder has no records, or they cannot be read.
    pub async fn open(data_dir: &Path) -> Result<Self, VerifyError> {
        let records = RecordsReader::open(&data_dir.join(RECORDS_FOLDER)).await?;
        Ok(Self { records, store: Store::open(data_dir)? })
    }

    /// Returns whether the client is on record or has a folder.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn knows(&self, client: &ClientId) -> Result<bool, VerifyError> {
        let has_folder = self.store.clients()?.contains(client);
        Ok(has_folder || self.records.has_client(client).await?)
    }

    /// Returns how much there is to read, for one client or for all clients.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn totals(&self, only: Option<&ClientId>) -> Result<DownloadTotals, VerifyError> {
        Ok(self.records.totals(only).await?)
    }

    /// Verifies the downloads of one client or of all clients. Sends every result to `events`.
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

    /// Returns the clients that are on record or have a folder.
    async fn clients(
        &self,
        events: &mpsc::Sender<VerifyEvent>,
    ) -> Result<BTreeSet<ClientId>, VerifyError> {
        let mut clients = BTreeSet::from_iter(self.store.clients()?);
        for client in self.records.clients().await? {
            match client {
                Ok(client) => _ = clients.insert(client),
                Err(error) => send(events, self.unreadable_record(&error)).await,
            }
        }
        Ok(clients)
    }

    async fn client(
        &self,
        client: ClientId,
        events: &mpsc::Sender<VerifyEvent>,
    ) -> Result<(), VerifyError> {
        // The folder is read before the records, because the server records a download before it
        // publishes the file.
        let mut unknown = match self.store.entries(&client) {
            Ok(names) => names.into_iter().collect(),
            Err(error) => {
                let path = self.store.root().join(client.as_str());
                let (kind, detail) = match store::not_a_folder(&path) {
                    // If a download is lost with the folder, its record leads to another finding.
                    Some(what) => (FindingKind::Foreign, what.to_owned()),
                    None => (FindingKind::Unreadable, chain(&error)),
                };
                send(events, Finding { kind, path, transfer: None, detail }).await;
                HashSet::new()
            }
        };
        let mut transfers = self.records.transfers_of(client.clone());
        while let Some(page) = transfers.next(PAGE_LEN).await? {
            for transfer in page {
                match transfer {
                    Ok(transfer) => self.transfer(transfer, &mut unknown, events).await,
                    Err(error) => send(events, self.unreadable_record(&error)).await,
                }
            }
        }
        for name in BTreeSet::from_iter(unknown) {
            // An entry that is gone by now was a partial that the server has published since.
            if self.store.has_entry(&client, &name).unwrap_or(true) {
                let finding = Finding {
                    kind: FindingKind::Foreign,
                    path: self.store.root().join(client.as_str()).join(name),
                    transfer: None,
                    detail: "no download on record has this name".to_owned(),
                };
                send(events, finding).await;
            }
        }
        Ok(())
    }

    /// Verifies the download of a transfer, and removes the transfer's entries from `unknown`.
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
                // Complete, but the file may not have its name yet.
                unknown.remove(OsStr::new(&sealed.download().name.to_string()));
                return;
            }
            Phase::Queued
            | Phase::Receiving(_)
            | Phase::Unchanged(_)
            | Phase::Failed(_)
            | Phase::Cancelled(_) => return,
        };
        unknown.remove(OsStr::new(&download.name.to_string()));
        let store = self.store.clone();
        let sender = events.clone();
        let job = spawn_blocking(move || match check(&store, &transfer, &download, &sender) {
            Ok(()) => VerifyEvent::Same,
            Err((kind, detail)) => {
                let path = store.download_path(&transfer.client, &download.name);
                VerifyEvent::Found(Finding { kind, path, transfer: Some(transfer.id), detail })
            }
        });
        if let Ok(event) = job.await {
            // Fails if the receiver was dropped. Then the event is not needed.
            let _ = events.send(event).await;
        }
    }

    fn unreadable_record(&self, error: &RecordsError) -> Finding {
        Finding {
            kind: FindingKind::Record,
            path: self.store.root().join(RECORDS_FOLDER).join("records.db"),
            transfer: None,
            detail: error.to_string(),
        }
    }
}

/// Compares the bytes of a download with its record. A file restored from a backup is the same.
fn check(
    store: &Store,
    transfer: &Transfer,
    download: &Download,
    events: &mpsc::Sender<VerifyEvent>,
) -> Result<(), (FindingKind, String)> {
    let unreadable = |error: &dyn std::error::Error| (FindingKind::Unreadable, chain(error));
    let found = store.find_download(&transfer.client, &download.name).map_err(|error| {
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
    compare(&file, download, &mut |len_bytes| {
        let _ = events.blocking_send(VerifyEvent::Read(len_bytes));
        Ok(())
    })
}

/// Reads an open download from the disk, and compares it with its record. `on_read` is called with
/// the number of bytes after each block; its error ends the reading.
///
/// # Errors
/// The file is changed or unreadable, and why.
pub(crate) fn compare(
    file: &File,
    download: &Download,
    on_read: &mut impl FnMut(u64) -> io::Result<()>,
) -> Result<(), (FindingKind, String)> {
    let unreadable = |error: io::Error| (FindingKind::Unreadable, chain(&error));
    let stat = file.metadata().map_err(unreadable)?;
    if !stat.is_file() {
        return Err((FindingKind::Changed, "this is not a file".to_owned()));
    }
    if stat.len() != download.size {
        let detail = format!("{} bytes instead of {}", stat.len(), download.size);
        return Err((FindingKind::Changed, detail));
    }
    let mut hasher = FileHasher::default();
    let read = read_from_disk(file, &mut |bytes| {
        hasher.update(bytes);
        on_read(bytes.len() as u64)
    });
    read.map_err(unreadable)?;
    match difference(hasher.digests(), download.digests) {
        None => Ok(()),
        Some(detail) => Err((FindingKind::Changed, detail)),
    }
}

/// Names each digest that differs.
fn difference(found: FileDigests, expected: FileDigests) -> Option<String> {
    let sha256 = (found.sha256 != expected.sha256)
        .then(|| format!("its SHA-256 is {}, not {}", found.sha256, expected.sha256));
    let blake3 = (found.blake3 != expected.blake3)
        .then(|| format!("its BLAKE3 is {}, not {}", found.blake3, expected.blake3));
    let differences: Vec<_> = sha256.into_iter().chain(blake3).collect();
    (!differences.is_empty()).then(|| differences.join("; "))
}

/// Reads a file from the disk. Drops it from the system's cache before, because cached bytes may
/// differ from the disk, and again while it is read, because no other program needs it.
fn read_from_disk(file: &File, take: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    // Errors are ignored, because the file can be read without the advice. A length of 0 is all.
    let advise = |len: u64, advice| {
        let _ = rustix::fs::fadvise(file, 0, NonZeroU64::new(len), advice);
    };
    advise(0, Advice::DontNeed);
    advise(0, Advice::Sequential);
    let mut buffer = vec![0; BLOCK_LEN];
    let mut n_read = 0;
    let mut reader = file;
    loop {
        let len = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        take(&buffer[..len])?;
        n_read += len as u64;
        // From the start: the system caches a file in pieces that may be longer than a block, and
        // drops a piece only as a whole.
        advise(n_read, Advice::DontNeed);
    }
    advise(0, Advice::DontNeed);
    Ok(())
}

fn transfer_of(name: &OsStr) -> Option<TransferId> {
    name.to_str().and_then(store::transfer_of)
}

async fn send(events: &mpsc::Sender<VerifyEvent>, finding: Finding) {
    let _ = events.send(VerifyEvent::Found(finding)).await;
}

/// Formats an error and its causes as one line. A file name cannot add a line.
fn chain(error: &dyn std::error::Error) -> String {
    human::printable(&human::chain(error), 500)
}

#[cfg(test)]
mod tests;
