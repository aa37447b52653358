//! `filepull verify`: checks that every download is unchanged since it arrived.
//!
//! It reads the records instead of a server's API, because the check must also work when no server
//! runs.

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

use crate::output::{print, print_error};
use progress::VerifyProgress;
use report::VerifyReport;

/// Command line of `filepull verify`, unvalidated.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Folder of the downloads and the records.
    #[arg(long, env = "DATA_DIR", default_value = "server-data")]
    data_dir: PathBuf,
    /// Verify only the downloads of this client.
    #[arg(long, value_name = "ID")]
    client: Option<ClientId>,
    /// Print the report as one JSON document.
    #[arg(long)]
    json: bool,
}

const EXIT_CODES: &str = "\
Each finding is one line: `changed`, `missing` or `unreadable` names a download; `record` names a \
record that cannot be read; `foreign` names an entry of a client's folder that is not on \
record, which is not a failure.

Exit codes: 0 every download is unchanged; 1 a download is changed, missing or unreadable, a \
record is unreadable, or the check failed; 2 DATA_DIR has no records; 4 no such client.

It changes no download and no record, reads every byte from the disk, and may run beside the \
server.";

const NO_RECORDS: u8 = 2;

const NO_SUCH_CLIENT: u8 = 4;

/// Maximum number of events that wait to be printed. If the queue is full the reads pause.
const QUEUE_LEN: usize = 64;

/// Verifies the downloads, prints each finding, then a summary.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { data_dir, client, json } = args;
    let verification = match Verification::open(&data_dir).await {
        Err(error) if is_missing(&error) => {
            let hint = format!("no records in DATA_DIR={}", data_dir.display());
            print_error(&anyhow::Error::new(error).context(hint));
            return Ok(ExitCode::from(NO_RECORDS));
        }
        opened => opened.map_err(|error| data_folder::explained(&data_dir, error.into()))?,
    };
    if let Some(client) = &client
        && !verification.knows(client).await?
    {
        print_error(&anyhow::anyhow!("no client {client} is known in {}", data_dir.display()));
        return Ok(ExitCode::from(NO_SUCH_CLIENT));
    }
    let started = Instant::now();
    let totals = verification.totals(client.as_ref()).await?;
    let progress = VerifyProgress::start(totals.bytes);
    let (sender, mut events) = mpsc::channel(QUEUE_LEN);
    let verifying = verification.run(client, sender);
    let printing = async {
        let mut report = VerifyReport::default();
        let mut printed = Ok(());
        while let Some(event) = events.recv().await {
            match event {
                VerifyEvent::Read(bytes) => progress.read(bytes),
                VerifyEvent::Same => {}
                VerifyEvent::Found(ref finding) if !json => {
                    let print = || print(&report::line(finding));
                    printed = printed.and_then(|()| progress.pause(print));
                }
                VerifyEvent::Found(_) => {}
            }
            report.add(event);
        }
        (report, printed)
    };
    let (verified, (report, printed)) = tokio::join!(verifying, printing);
    progress.end();
    verified.context("the downloads could not all be verified")?;
    printed?;
    let took = started.elapsed();
    print(&if json { report.json(took)? } else { report.summary(took) })?;
    Ok(if report.is_loss() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Returns whether the data folder has no records at all, not even damaged ones.
fn is_missing(error: &VerifyError) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(
        error,
        VerifyError::Records(RecordsError::Folder { source, .. })
            if matches!(source.kind(), NotFound | NotADirectory)
    )
}
