//! Creates the records that a server would have after two months.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use filepull_core::extent::ExtentKinds;
use filepull_core::file_digest::FileDigests;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::name::DownloadName;
use filepull_core::problem::{Code, Problem};
use filepull_core::source::Source;
use filepull_core::transfer::{Download, Failure, LastProgress, Phase, Published, Transfer};
use filepull_server::client::{AgentInfo, Greeting};
use filepull_server::data_folder::RECORDS_FOLDER;
use filepull_server::records::Records;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use uuid::{ContextV7, Timestamp, Uuid};

use crate::VERSION;

/// The transfers were created in this time before the measurement.
const SPAN: TimeDelta = TimeDelta::days(60);

/// One of this number of downloads is on the disk.
const STORED_RATIO: usize = 10;

/// Concurrent saves: more than one commit takes.
const N_CONCURRENT: usize = 1000;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct FilledDatabase {
    pub(crate) transfers: u32,
    pub(crate) clients: u32,
    pub(crate) seconds: f64,
    /// Size of the database file, in bytes.
    pub(crate) bytes: u64,
}

/// Fills the data folder `server-data` in `folder`.
pub(crate) async fn fill(
    folder: &Path,
    transfers: u32,
    clients: u32,
) -> anyhow::Result<FilledDatabase> {
    let data_dir = folder.join("server-data");
    let records_folder = data_dir.join(RECORDS_FOLDER);
    let records = Records::open(&records_folder).await?;
    let seconds = fill_records(&records, transfers, clients).await?;
    records.close().await?;
    create_downloads(&data_dir, transfers, clients)?;
    let bytes = fs::metadata(records_folder.join("records.db"))?.len();
    Ok(FilledDatabase { transfers, clients, seconds, bytes })
}

/// Records the clients, then the transfers. Returns the seconds for the transfers.
pub(crate) async fn fill_records(
    records: &Records,
    transfers: u32,
    clients: u32,
) -> anyhow::Result<f64> {
    let connects = (0..clients).map(|number| async move {
        anyhow::Ok(
            records.client_connected(&greeting(number)?, u64::MAX, Utc::now()).await.map(drop)?,
        )
    });
    run_all(connects).await?;
    let generated = GeneratedRecords::new(transfers, clients);
    let ids = ContextV7::new();
    let began = Instant::now();
    let saves = (0..transfers).map(|number| {
        let transfer = generated.transfer(number, &ids);
        async move { anyhow::Ok(records.save(&transfer?).await?) }
    });
    run_all(saves).await?;
    Ok(began.elapsed().as_secs_f64())
}

/// Runs many writes, at most [`N_CONCURRENT`] concurrently.
pub(crate) async fn run_all(
    writes: impl Iterator<Item = impl Future<Output = anyhow::Result<()>>>,
) -> anyhow::Result<()> {
    let mut writes = stream::iter(writes).buffer_unordered(N_CONCURRENT);
    while writes.try_next().await?.is_some() {}
    Ok(())
}

/// Creates files for some of the downloads.
pub(crate) fn create_downloads(
    data_dir: &Path,
    transfers: u32,
    clients: u32,
) -> anyhow::Result<()> {
    let generated = GeneratedRecords::new(transfers, clients);
    let ids = ContextV7::new();
    for number in (0..transfers).step_by(STORED_RATIO) {
        let transfer = generated.transfer(number, &ids)?;
        let Some(download) = transfer.download() else { continue };
        let folder = data_dir.join(transfer.client.as_str());
        fs::create_dir_all(&folder)?;
        File::create(folder.join(download.name.to_string()))?;
    }
    Ok(())
}

struct GeneratedRecords {
    since: DateTime<Utc>,
    every: TimeDelta,
    clients: u32,
}

impl GeneratedRecords {
    fn new(transfers: u32, clients: u32) -> Self {
        // Rounded to the day, so that a later call on the same day generates the same transfers.
        let today = Utc::now().date_naive().and_time(NaiveTime::MIN).and_utc();
        let every = SPAN / transfers.max(1).cast_signed();
        Self { since: today - SPAN, every, clients }
    }

    fn transfer(&self, number: u32, ids: &ContextV7) -> anyhow::Result<Transfer> {
        let created_at = self.since + self.every * number.cast_signed();
        let seconds = created_at.timestamp();
        let nanos = created_at.timestamp_subsec_nanos();
        let id = Timestamp::from_unix(ids, u64::try_from(seconds)?, nanos);
        let source = source();
        let phase = match number % 100 {
            0..90 => Phase::Done(Published::from_record(Download {
                name: DownloadName::new(created_at, &source.name),
                size: source.size,
                digests: FileDigests::of(&number.to_le_bytes()),
                inode: number.into(),
                source,
            })),
            90..98 => Phase::Failed(ended(Problem::new(
                Code::FileMissing,
                "There is no menu.txt on this client.",
            ))),
            _ => Phase::Cancelled(ended(Problem::new(Code::Cancelled, "Cancelled by curl."))),
        };
        Ok(Transfer {
            id: TransferId::parse(&Uuid::new_v7(id).to_string())?,
            started_at: Some(created_at),
            finished_at: Some(created_at + TimeDelta::seconds(1)),
            attempt: 1,
            generation: 1,
            phase,
            ..Transfer::new(
                client(number % self.clients)?,
                None,
                "curl from 127.0.0.1".to_owned(),
                created_at,
            )
        })
    }
}

/// Returns the id of the client with this number.
pub(crate) fn client(number: u32) -> anyhow::Result<ClientId> {
    Ok(ClientId::parse(&format!("store-{number:05}"))?)
}

fn source() -> Source {
    Source { name: "menu.txt".to_owned(), size: 100 << 20, modified_ns: 1_770_000_000_000_000_000 }
}

fn ended(problem: Problem) -> Failure {
    Failure { problem, reached: LastProgress::default() }
}

fn greeting(number: u32) -> anyhow::Result<Greeting> {
    Ok(Greeting {
        client: client(number)?,
        instance: Uuid::new_v4(),
        agent: AgentInfo {
            version: VERSION.to_owned(),
            os: "linux".to_owned(),
            ..AgentInfo::default()
        },
        shares: vec!["menu.txt".to_owned(), "logs/*.log".to_owned()],
        default_file: Ok(source()),
        extents: ExtentKinds::default(),
        active_transfers: Vec::new(),
        remote_addr: ([127, 0, 0, 1], 1).into(),
        key: None,
    })
}
