//! `filepull audit verify`: checks that no record of the audit was changed, removed or inserted.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use filepull_core::audit::{ChainBreak, ChainHead};
use filepull_server::audit::{self, AuditRecordJson, AuditVerifier, ChainReport, ExpectedHead};
use filepull_server::data_folder;
use filepull_server::records::RecordsError;
use serde::Serialize;

use crate::output::{print, print_error};

/// Command line of `filepull audit`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Check the chain of the audit, beside a running server or without one.
    Verify(AuditVerifyArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
struct AuditVerifyArgs {
    /// Folder of the downloads and the records.
    #[arg(long, env = "DATA_DIR", default_value = "server-data")]
    data_dir: PathBuf,
    /// Check JSON lines of /api/v1/audit instead of the records; - is standard input.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The last record of an earlier check, which must still be part of the chain.
    #[arg(long, value_name = "SEQ:DIGEST", value_parser = parse_head)]
    expect: Option<ChainHead>,
    /// Print the result as one JSON document.
    #[arg(long)]
    json: bool,
}

const EXIT_CODES: &str = "\
Each record holds the digest of the record before it, so a change in the middle shows. A program that \
can write the records can also compute the digests again from some record to the last one: note the \
last record of each check on another machine, and pass it with --expect.

Exit codes: 0 the chain is complete; 1 a record was changed, removed or inserted, or the check \
failed; 2 there are no records, or an option is wrong.";

/// No records, or a file that is no audit.
const NO_RECORDS: u8 = 2;

fn parse_head(text: &str) -> Result<ChainHead, String> {
    ChainHead::parse(text).ok_or_else(|| "write SEQ:DIGEST, as audit verify prints it".to_owned())
}

/// Runs `filepull audit`.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let AuditCommand::Verify(args) = args.command;
    let report = match &args.from {
        Some(file) => verify_lines(open(file)?, args.expect)?,
        None => match audit::verify(&args.data_dir, args.expect).await {
            Err(error) if is_missing(&error) => {
                let hint = format!("no records in DATA_DIR={}", args.data_dir.display());
                print_error(&anyhow::Error::new(error).context(hint));
                return Ok(ExitCode::from(NO_RECORDS));
            }
            verified => {
                verified.map_err(|error| data_folder::explained(&args.data_dir, error.into()))?
            }
        },
    };
    print(&if args.json { json(&report)? } else { text(&report) })?;
    Ok(if report.is_intact() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn open(file: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if file == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let opened = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    Ok(Box::new(BufReader::new(opened)))
}

/// Verifies JSON lines, oldest first. They may begin at any record.
fn verify_lines(lines: impl BufRead, expect: Option<ChainHead>) -> anyhow::Result<ChainReport> {
    let mut verifier: Option<AuditVerifier> = None;
    for line in lines.lines() {
        let line = line.context("reading the lines")?;
        if line.trim().is_empty() {
            continue;
        }
        match (AuditRecordJson::parse_line(&line), &mut verifier) {
            (Ok(record), Some(verifier)) => verifier.push(record),
            (Ok(record), None) => {
                let head = match record.seq {
                    0 | 1 => ChainHead::empty(),
                    seq => ChainHead { seq: seq - 1, digest: record.previous },
                };
                verifier.insert(AuditVerifier::new(head, expect)).push(record);
            }
            (Err(_), Some(verifier)) => verifier.push_unreadable(None),
            (Err(error), None) => {
                return Err(error).context("the first line is no record of the audit");
            }
        }
    }
    let verifier = verifier.unwrap_or_else(|| AuditVerifier::new(ChainHead::empty(), expect));
    Ok(verifier.finish())
}

/// Returns whether the data folder has no records at all, not even damaged ones.
fn is_missing(error: &RecordsError) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(
        error,
        RecordsError::Folder { source, .. } if matches!(source.kind(), NotFound | NotADirectory)
    )
}

fn text(report: &ChainReport) -> String {
    let ChainReport { n_records, head, found, expected } = report;
    let mut lines = Vec::new();
    if let Some(found) = found {
        lines.push(format!("{:<8}  {found}", found.kind()));
    }
    match expected {
        Some(ExpectedHead::Other) => {
            lines.push("rewritten  the record of --expect has another digest now".to_owned());
        }
        Some(ExpectedHead::Missing) if found.is_none() => {
            lines.push("removed   the audit ends before the record of --expect".to_owned());
        }
        Some(ExpectedHead::Missing | ExpectedHead::Same) | None => {}
    }
    lines.push(match (found, n_records) {
        (None, 1) => "1 record: the chain is complete.".to_owned(),
        (None, n) => format!("{n} records: the chain is complete."),
        (Some(_), n) => format!("{n} records before it belong to the chain."),
    });
    lines.push(format!("last      {head}"));
    lines.join("\n")
}

#[derive(Serialize)]
struct ChainReportJson {
    intact: bool,
    records: u64,
    last: ChainHeadJson,
    found: Option<ChainBreakJson>,
    expected: Option<&'static str>,
}

#[derive(Serialize)]
struct ChainHeadJson {
    seq: u64,
    digest: String,
}

#[derive(Serialize)]
struct ChainBreakJson {
    kind: &'static str,
    seq: u64,
    last_seq: u64,
}

fn json(report: &ChainReport) -> anyhow::Result<String> {
    let found = report.found.map(|found| ChainBreakJson {
        kind: found.kind(),
        seq: found.seq(),
        last_seq: match found {
            ChainBreak::Removed { last, .. } => last,
            ChainBreak::Changed { seq } | ChainBreak::Inserted { seq } => seq,
        },
    });
    let expected = report.expected.map(|expected| match expected {
        ExpectedHead::Same => "same",
        ExpectedHead::Other => "other",
        ExpectedHead::Missing => "missing",
    });
    Ok(serde_json::to_string_pretty(&ChainReportJson {
        intact: report.is_intact(),
        records: report.n_records,
        last: ChainHeadJson { seq: report.head.seq, digest: report.head.digest.to_string() },
        found,
        expected,
    })?)
}
