//! The name of a partial, and its path.

use std::io;
use std::path::PathBuf;

use filepull_core::disk::PartialKey;
use filepull_core::id::{ClientId, TransferId};

use super::StoreError;

/// The path of a partial: its folder and its name.
#[derive(Debug)]
pub(crate) struct PartialPath {
    pub(crate) folder_path: PathBuf,
    pub(crate) name: String,
}

impl PartialPath {
    pub(crate) fn failed(&self, step: &'static str, source: io::Error) -> StoreError {
        StoreError { step, path: self.folder_path.join(&self.name), source }
    }
}

pub(crate) fn partial_name(transfer: TransferId, generation: u32) -> String {
    format!("{transfer}-{generation}.tmp")
}

/// Returns the partial with this file name. Returns none if [`partial_name`] cannot return the name.
pub(crate) fn key_of(client: &ClientId, name: &str) -> Option<PartialKey> {
    let (_, generation_text) = name.strip_suffix(".tmp")?.rsplit_once('-')?;
    let transfer = transfer_of(name)?;
    let generation = generation_text.parse().ok()?;
    // A file name in another form is not a partial of the server.
    let is_partial = partial_name(transfer, generation) == name;
    is_partial.then(|| PartialKey { client: client.clone(), transfer, generation })
}

/// Returns the transfer whose partial has this name.
pub(crate) fn transfer_of(name: &str) -> Option<TransferId> {
    let (transfer, generation) = name.strip_suffix(".tmp")?.rsplit_once('-')?;
    let transfer = TransferId::parse(transfer).ok()?;
    generation.parse::<u32>().is_ok().then_some(transfer)
}
