//! Makes records as a server would have them after two months.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use filepull_core::digest::Digest;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::name::DownloadName;
use filepull_core::problem::{Code, Problem};
use filepull_core::source::Source;
use filepull_core::transfer::{Download, Ended, Phase, Reached, Transfer};
use filepull_server::client::{Agent, Greeting};
use filepull_server::records::Records;
use filepull_server::store::RECORDS_FOLDER;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use uuid::{ContextV7, Timestamp, Uuid};

use crate::VERSION;

/// The transfers were made in the days before the measurement.
const SPAN: TimeDelta = TimeDelta::days(60);

/// Of so many downloads one lies on the disk.
const ONE_STORED_IN: usize = 10;

/// Saves at once: more than one commit takes.
const AT_ONCE: usize = 1000;

/// What was made.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Filled {
    pub(super) transfers: u32,
    pub(super) clients: u32,
    pub(super) seconds: f64,
    /// The size of the database.
    pub(super) bytes: u64,
}

/// Fills the data folder `server-data` in `folder`.
pub(super) async fn fill(folder: &Path, transfers: u32, clients: u32) -> anyhow::Result<Filled> {
    let data_dir = folder.join("server-data");
    let records_folder = data_dir.join(RECORDS_FOLDER);
    let records = Records::open(&records_folder).await?;
    let made = Made { since: Utc::now() - SPAN, every: SPAN / transfers.cast_signed(), clients };
    for number in 0..clients {
        records.client_connected(&greeting(number)?, Utc::now()).await?;
    }
    let began = Instant::now();
    let ids = ContextV7::new();
    let saves = (0..transfers).map(|number| {
        let (made, records) = (made.transfer(number, &ids), &records);
        async move { anyhow::Ok(records.save(&made?).await?) }
    });
    let mut saves = stream::iter(saves).buffer_unordered(AT_ONCE);
    while saves.try_next().await?.is_some() {}
    drop(saves);
    let seconds = began.elapsed().as_secs_f64();
    records.close().await?;
    made.store(&data_dir, transfers)?;
    let bytes = fs::metadata(records_folder.join("records.db"))?.len();
    Ok(Filled { transfers, clients, seconds, bytes })
}

/// Which transfers are made.
struct Made {
    since: DateTime<Utc>,
    every: TimeDelta,
    clients: u32,
}

impl Made {
    fn transfer(&self, number: u32, ids: &ContextV7) -> anyhow::Result<Transfer> {
        let created_at = self.since + self.every * number.cast_signed();
        let (seconds, nanos) = (created_at.timestamp(), created_at.timestamp_subsec_nanos());
        let id = Timestamp::from_unix(ids, u64::try_from(seconds)?, nanos);
        let source = source();
        let phase = match number % 100 {
            0..90 => Phase::Done(Download {
                name: DownloadName::new(created_at, &source.name),
                size: source.size,
                digest: Digest::of(&number.to_le_bytes()),
                inode: number.into(),
                source,
            }),
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

    /// Makes files for some of the downloads.
    fn store(&self, data_dir: &Path, transfers: u32) -> anyhow::Result<()> {
        let ids = ContextV7::new();
        for number in (0..transfers).step_by(ONE_STORED_IN) {
            let transfer = self.transfer(number, &ids)?;
            let Some(download) = transfer.download() else { continue };
            let folder = data_dir.join(transfer.client.as_str());
            fs::create_dir_all(&folder)?;
            File::create(folder.join(download.name.to_string()))?;
        }
        Ok(())
    }
}

/// The id of one of the clients.
pub(super) fn client(number: u32) -> anyhow::Result<ClientId> {
    Ok(ClientId::parse(&format!("store-{number:05}"))?)
}

fn source() -> Source {
    Source { name: "menu.txt".to_owned(), size: 100 << 20, modified_ns: 1_770_000_000_000_000_000 }
}

fn ended(problem: Problem) -> Ended {
    Ended { problem, reached: Reached::default() }
}

fn greeting(number: u32) -> anyhow::Result<Greeting> {
    Ok(Greeting {
        client: client(number)?,
        instance: Uuid::new_v4(),
        agent: Agent { version: VERSION.to_owned(), os: "linux".to_owned(), ..Agent::default() },
        shares: vec!["menu.txt".to_owned(), "logs/*.log".to_owned()],
        default_file: Ok(source()),
        active_transfers: Vec::new(),
        remote_addr: ([127, 0, 0, 1], 1).into(),
    })
}
