//! `filepull receipt verify`: checks a file against the receipt that an agent signed. Needs no server.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use filepull_core::digest::Digest;
use filepull_core::file_digest::{Blake3, FileDigests, FileHasher};
use filepull_core::fingerprint::Fingerprint;
use filepull_core::human;
use filepull_trust::jws::MAX_LEN;
use filepull_trust::receipt::{Receipt, ReceiptClaims};
use serde::Serialize;

use crate::output::{print, print_error, print_note};

/// Command line of `filepull receipt`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: ReceiptCommand,
}

#[derive(Debug, Subcommand)]
enum ReceiptCommand {
    /// Check that a file is what an agent signed; needs no server.
    Verify(ReceiptVerifyArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
struct ReceiptVerifyArgs {
    /// The downloaded file.
    file: PathBuf,
    /// The receipt, from /api/v1/transfers/ID/receipt; - is standard input.
    receipt: PathBuf,
    /// The fingerprint of the key that must have signed it, as the server shows it for the client.
    #[arg(long, value_name = "SHA256:...", value_parser = parse_key)]
    key: Option<Fingerprint>,
    /// Print the result as one JSON document.
    #[arg(long)]
    json: bool,
}

const EXIT_CODES: &str = "\
The signature proves which key signed the receipt. Which client has that key, only the server's \
records or a note of yours can tell: pass the fingerprint with --key.

Exit codes: 0 the file is what was signed; 1 it is not, or the receipt is not valid; 2 a file \
cannot be read, or an option is wrong.";

/// A file that cannot be read.
const UNREADABLE: u8 = 2;

fn parse_key(text: &str) -> Result<Fingerprint, String> {
    Fingerprint::parse(text).ok_or_else(|| "write SHA256: and 64 hexadecimal digits".to_owned())
}

/// Runs `filepull receipt`.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let ReceiptCommand::Verify(args) = args.command;
    let read = read_receipt(&args.receipt).and_then(|text| Ok((text, measure(&args.file)?)));
    let (text, file) = match read {
        Ok(read) => read,
        Err(error) => {
            print_error(&error);
            return Ok(ExitCode::from(UNREADABLE));
        }
    };
    let receipt = Receipt::verify(&text);
    let reason = match &receipt {
        Ok(receipt) => difference(receipt, &file, args.key),
        Err(error) => Some(human::chain(error)),
    };
    if args.json {
        print(&json(receipt.as_ref().ok(), &file, reason.as_deref())?)?;
    } else {
        if let Ok(receipt) = &receipt {
            print(&claims_text(receipt, &file))?;
        }
        print(&match &reason {
            None => "valid: the file is what the agent signed".to_owned(),
            Some(reason) => format!("not valid: {reason}"),
        })?;
    }
    if reason.is_none() && args.key.is_none() {
        print_note("The key was not compared: add --key with the fingerprint of the client.");
    }
    Ok(if reason.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read_receipt(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    // One byte more than a receipt may have, so that a longer one is not valid.
    let max = u64::try_from(MAX_LEN).unwrap_or(u64::MAX).saturating_add(1);
    let read = if path == Path::new("-") {
        io::stdin().take(max).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(max).read_to_string(&mut text))
    };
    match read {
        Ok(_) => Ok(text),
        // Bytes that are no text are no receipt.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// The size and the digests of a file.
#[derive(Serialize)]
struct MeasuredFile {
    size: u64,
    blake3: Blake3,
    sha256: Digest,
}

fn measure(path: &Path) -> anyhow::Result<MeasuredFile> {
    let reading = || format!("reading {}", path.display());
    let mut file = File::open(path).with_context(reading)?;
    let mut hasher = FileHasher::default();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let n = file.read(&mut buffer).with_context(reading)?;
        if n == 0 {
            let FileDigests { blake3, sha256 } = hasher.digests();
            return Ok(MeasuredFile { size, blake3, sha256 });
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
    }
}

/// Returns why the receipt is not about the file, or is not of the key.
fn difference(receipt: &Receipt, file: &MeasuredFile, key: Option<Fingerprint>) -> Option<String> {
    let Receipt { claims, fingerprint } = receipt;
    if let Some(key) = key.filter(|key| key != fingerprint) {
        return Some(format!("signed by {fingerprint}, not by {key}"));
    }
    if claims.size != file.size {
        let ReceiptClaims { size, .. } = claims;
        return Some(format!("the receipt is about {size} bytes, the file has {}", file.size));
    }
    match claims.blake3() {
        None => Some("the receipt has no BLAKE3".to_owned()),
        Some(signed) if signed != file.blake3 => {
            Some(format!("the receipt is about BLAKE3 {signed}, the file has {}", file.blake3))
        }
        Some(_) => None,
    }
}

/// Returns what the receipt states, and the SHA-256 of the file, which the agent does not compute.
fn claims_text(receipt: &Receipt, file: &MeasuredFile) -> String {
    let Receipt { claims, fingerprint } = receipt;
    let MeasuredFile { sha256, .. } = file;
    let text = |text: &str| human::printable(text, 255);
    let path = claims.path.as_deref().map_or("the default file".to_owned(), text);
    let modified = claims.source.modified_at.as_deref().map_or("unknown".to_owned(), text);
    let signed = chrono::DateTime::from_timestamp(claims.iat, 0)
        .map_or("unknown".to_owned(), |at| at.format("%Y-%m-%d %H:%M:%S UTC").to_string());
    let digests = claims
        .digests
        .iter()
        .map(|(name, digest)| format!("  {:<12}  {}\n", text(name), text(digest)));
    format!(
        "  client        {}\n  key           {fingerprint}\n  transfer      {}\n  attempt       {}\n  \
         path          {path}\n  file          {}\n  modified      {modified}\n  size          {} bytes\n\
         {}  consistency   {}, {}\n  requested by  {}\n  signed        {signed}\n  \
         file sha256   {sha256}",
        text(&claims.iss),
        text(&claims.transfer),
        claims.attempt,
        text(&claims.source.name),
        claims.size,
        digests.collect::<String>(),
        text(&claims.consistency.method),
        text(&claims.consistency.verdict),
        text(&claims.requested_by),
    )
}

#[derive(Serialize)]
struct ReceiptReportJson<'a> {
    valid: bool,
    reason: Option<&'a str>,
    key: Option<Fingerprint>,
    claims: Option<&'a ReceiptClaims>,
    file: &'a MeasuredFile,
}

fn json(
    receipt: Option<&Receipt>,
    file: &MeasuredFile,
    reason: Option<&str>,
) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(&ReceiptReportJson {
        valid: reason.is_none(),
        reason,
        key: receipt.map(|receipt| receipt.fingerprint),
        claims: receipt.map(|receipt| &receipt.claims),
        file,
    })?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use filepull_trust::AgentKey;
    use filepull_trust::receipt::{ConsistencyClaims, SourceClaims};

    use super::*;

    fn receipt(key: &AgentKey, digests: BTreeMap<String, String>) -> Receipt {
        let claims = ReceiptClaims {
            iss: "client4".to_owned(),
            transfer: "t".to_owned(),
            attempt: 1,
            path: None,
            size: 3,
            digests,
            source: SourceClaims { name: "a\nb".to_owned(), modified_at: None },
            consistency: ConsistencyClaims {
                method: "stat".to_owned(),
                verdict: "unchanged".to_owned(),
            },
            requested_by: "nightly".to_owned(),
            iat: 0,
        };
        Receipt::verify(&claims.sign(key)).unwrap()
    }

    fn measured(bytes: &[u8]) -> MeasuredFile {
        let FileDigests { blake3, sha256 } = FileDigests::of(bytes);
        MeasuredFile { size: bytes.len() as u64, blake3, sha256 }
    }

    #[test]
    fn each_difference_is_named() {
        let key = AgentKey::generate();
        let right = ReceiptClaims::digests_of(Blake3::of(b"abc"));
        let check = |digests, bytes: &[u8], key: Option<Fingerprint>, expected: Option<&str>| {
            let signer = AgentKey::generate();
            let file = measured(bytes);
            let found = difference(&receipt(&signer, digests), &file, key);
            let is_expected = match (&found, expected) {
                (Some(found), Some(expected)) => found.contains(expected),
                (None, None) => true,
                _ => false,
            };
            assert!(is_expected, "{found:?} {expected:?}");
        };
        check(right.clone(), b"abc", None, None);
        check(right.clone(), b"abcd", None, Some("about 3 bytes, the file has 4"));
        check(right.clone(), b"abx", None, Some("about BLAKE3 6437"));
        check(BTreeMap::new(), b"abc", None, Some("no BLAKE3"));
        check(right.clone(), b"abc", Some(key.fingerprint()), Some("not by SHA256:"));
        let receipt = receipt(&key, right);
        let file = measured(b"abc");
        assert_eq!(difference(&receipt, &file, Some(key.fingerprint())), None);
        let text = claims_text(&receipt, &file);
        assert!(!text.contains("a\nb"), "a name cannot forge a line");
        assert!(text.contains(&format!("file sha256   {}", Digest::of(b"abc"))), "{text}");
    }
}
