//! The records of a server after a crash or on a bad disk: any bytes of the database and its journal may
//! have changed.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use filepull_server::records::{Records, TransferFilter};
use filepull_testkit::TestServer;
use tempfile::TempDir;

use crate::runtime;

/// The names and the content of the files.
type RecordFiles = Vec<(String, Vec<u8>)>;

/// Opens records with changed bytes. Each change has six bytes: which file, an offset (three bytes, the
/// low byte first), a new value, and how often it is written. An input of other length truncates the
/// last file.
pub fn records(data: &[u8]) {
    static FILES: OnceLock<RecordFiles> = OnceLock::new();
    let mut files = FILES.get_or_init(recorded_files).clone();
    let (changes, rest) = data.as_chunks::<6>();
    for [file, low, middle, high, value, n_times] in changes {
        let n_files = files.len();
        let bytes = &mut files[usize::from(*file) % n_files].1;
        if bytes.is_empty() {
            continue;
        }
        let offset = u32::from_le_bytes([*low, *middle, *high, 0]) as usize % bytes.len();
        let end = (offset + usize::from(*n_times) + 1).min(bytes.len());
        bytes[offset..end].fill(*value);
    }
    if let Some((name, bytes)) = files.last_mut().filter(|_| !rest.is_empty()) {
        assert!(!name.is_empty());
        bytes.truncate(bytes.len() * usize::from(rest[0]) / 256);
    }
    let folder = TempDir::new().unwrap();
    for (name, bytes) in &files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    runtime().block_on(read_all(folder.path()));
}

/// Reads what a start and the lists read. An error is a correct answer, a panic is not.
async fn read_all(folder: &Path) {
    let Ok(records) = Records::open(folder).await else { return };
    drop(records.unfinished().await);
    drop(records.transfers(&TransferFilter::default()).await);
    let _n_clients = records.n_clients().await;
    drop(records.close().await);
}

/// Returns the files of a server that has one finished transfer, copied while it runs: the journal is
/// not empty.
fn recorded_files() -> RecordFiles {
    runtime().block_on(async {
        let server = TestServer::start().await.unwrap();
        let client = server.connect("client4", b"data").await.unwrap();
        server.pull("client4").await.unwrap();
        let mut files = RecordFiles::new();
        for entry in fs::read_dir(server.data_dir().join(".filepull")).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("records.db") && !name.ends_with("-shm") {
                files.push((name, fs::read(entry.path()).unwrap()));
            }
        }
        files.sort();
        drop(client);
        assert_eq!(files.len(), 2, "the database and its journal");
        files
    })
}
