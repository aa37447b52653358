//! Opens the records at the start of the server.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use chrono::Utc;
use tokio::task::spawn_blocking;

use super::error::RecordsError;
use super::file_damage::FileDamage;
use super::guard::DatabaseGuard;
use super::lock::Lock;
use super::readers::Readers;
use super::writer::RecordsWriter;
use super::{Records, clients, schema};

impl Records {
    /// Opens the records in `folder`, which is inside the data folder. Creates what is missing.
    ///
    /// # Errors
    /// Another server uses them, a newer version wrote them, or the disk failed.
    pub async fn open(folder: &Path) -> Result<Self, RecordsError> {
        let folder = folder.to_owned();
        spawn_blocking(move || open(&folder)).await.map_err(|_| RecordsError::Closed)?
    }
}

fn open(folder: &Path) -> Result<Records, RecordsError> {
    let lock = Lock::take(folder)?;
    let file = folder.join("records.db");
    let connection = schema::open_writer(&file)?;
    clients::mark_disconnected(&connection, Utc::now())?;
    let guard = DatabaseGuard::new(&file);
    let n_clients = clients::count_now(&connection)?;
    let damage = FileDamage::new(&file);
    let readers = Readers::open(&file, &damage)?;
    // The name of a new file must be as durable as its content.
    lock.sync_folder()?;
    Ok(Records {
        writer: RecordsWriter::start(connection, lock, guard, damage.clone()),
        readers,
        damage,
        n_clients: Arc::new(AtomicU64::new(n_clients)),
        logged: Arc::default(),
    })
}
