//! `filepull verify`: are the downloads still what arrived?
//!
//! It reads the records themselves, not a server's API: what the disk has done to the files matters
//! most when no server runs.

mod progress;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use filepull_core::id::ClientId;
use filepull_server::data_folder;
use filepull_server::records::RecordsError;
use filepull_server::verify::{Verification, VerifyError, VerifyEvent};
use tokio::sync::mpsc;

use crate::output::{print, say_error};
use progress::VerifyProgress;
use report::VerifyReport;

/// What was typed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Folder of the downloads and the records.
    #[arg(long, env = "DATA_DIR", default_value = "server-data")]
    data_dir: PathBuf,
    /// Only the downloads of this client.
    #[arg(long, value_name = "ID")]
    client: Option<ClientId>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

const EXIT_CODES: &str = "\
Each finding is a line of its own: `changed`, `missing` or `unreadable` and a download; `record` \
where a record cannot be read; `foreign` for what lies in a client's folder and no record knows, \
which is said and is no failure.

Exit codes: 0 every download is what arrived; 1 one is not, or it cannot be told; 2 there are no \
records in DATA_DIR; 4 no such client.

It changes no download and no record, reads every byte from the disk, and may run beside the \
server.";

/// Nothing there that could be verified.
const NO_RECORDS: u8 = 2;

const NO_SUCH_CLIENT: u8 = 4;

/// Events that wait to be shown; whoever reads the disk waits for whoever prints.
const QUEUE_LEN: usize = 64;

/// Verifies, and prints what is not as it should be.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { data_dir, client, json } = args;
    let verification = match Verification::open(&data_dir).await {
        Err(error) if is_missing(&error) => {
            let hint = format!("no records in DATA_DIR={}", data_dir.display());
            say_error(&anyhow::Error::new(error).context(hint));
            return Ok(ExitCode::from(NO_RECORDS));
        }
        opened => opened.map_err(|error| data_folder::explained(&data_dir, error.into()))?,
    };
    if let Some(client) = &client
        && !verification.knows(client).await?
    {
        say_error(&anyhow::anyhow!("no client {client} is known in {}", data_dir.display()));
        return Ok(ExitCode::from(NO_SUCH_CLIENT));
    }
    let began = Instant::now();
    let totals = verification.totals(client.as_ref()).await?;
    let progress = VerifyProgress::start(totals.bytes);
    let (events, mut told) = mpsc::channel(QUEUE_LEN);
    let verifying = verification.run(client, events);
    let listening = async {
        let mut report = VerifyReport::default();
        let mut printed = Ok(());
        while let Some(event) = told.recv().await {
            match event {
                VerifyEvent::Read(bytes) => progress.read(bytes),
                VerifyEvent::Same => {}
                VerifyEvent::Found(ref finding) if !json => {
                    let print = || print(&report::line(finding));
                    printed = printed.and_then(|()| progress.pause(print));
                }
                VerifyEvent::Found(_) => {}
            }
            report.take(event);
        }
        (report, printed)
    };
    let (verified, (report, printed)) = tokio::join!(verifying, listening);
    progress.end();
    verified.context("the downloads could not all be verified")?;
    printed?;
    let took = began.elapsed();
    print(&if json { report.json(took)? } else { report.summary(took) })?;
    Ok(if report.is_loss() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// There are no records, not even damaged ones.
fn is_missing(error: &VerifyError) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(
        error,
        VerifyError::Records(RecordsError::Folder { source, .. })
            if matches!(source.kind(), NotFound | NotADirectory)
    )
}
