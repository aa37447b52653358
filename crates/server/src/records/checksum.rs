//! Detects a record that the disk has changed. SQLite has checksums for its log and none for its
//! database, so a flipped bit in a digest would look like a correct digest.

use chrono::{DateTime, Utc};
use filepull_core::base_offer::BaseUse;
use filepull_core::digest::Hasher;
use filepull_core::pull_mode::PullMode;
use filepull_core::source::Source;
use filepull_core::transfer::{Download, Failure, Phase, Transfer, UnchangedFile};

/// Returns the checksum over all stored fields. It must never change for the same fields, or every
/// record looks damaged.
pub(crate) fn checksum(transfer: &Transfer) -> String {
    let mut hasher = ChecksumHasher::default();
    hasher.text(&transfer.id.to_string());
    hasher.text(transfer.client.as_str());
    hasher.text_if_any(transfer.path.as_ref().map(|path| path.as_str()));
    hasher.text(&transfer.requested_by);
    hasher.time(Some(transfer.created_at));
    hasher.time(transfer.queue_until);
    hasher.time(transfer.started_at);
    hasher.time(transfer.finished_at);
    let setbacks = transfer.setbacks;
    for count in [
        transfer.attempt,
        transfer.generation,
        setbacks.changed,
        setbacks.damaged,
        setbacks.stalled,
    ] {
        hasher.number(count.into());
    }
    hasher.phase(&transfer.phase);
    // Older versions had no epoch. Without one the checksum is the same as theirs.
    if transfer.epoch != 0 {
        hasher.number(transfer.epoch);
    }
    let Transfer { mode, sent, base_use, .. } = *transfer;
    // Older versions had none of these. Without them the checksum is the same as theirs.
    if (mode, sent, base_use) != (PullMode::Changes, 0, BaseUse::Unused) {
        hasher.text(mode.as_str());
        hasher.number(sent);
        hasher.text(base_use.as_str());
    }
    hasher.0.digest().to_string()
}

#[derive(Default)]
struct ChecksumHasher(Hasher);

impl ChecksumHasher {
    fn phase(&mut self, phase: &Phase) {
        self.text(phase.name().as_str());
        match phase {
            Phase::Queued => {}
            Phase::Receiving(receiving) => {
                let checkpoint = receiving.checkpoint();
                self.source(receiving.source());
                self.number(checkpoint.len);
                self.text(&checkpoint.digest.to_string());
            }
            Phase::Sealed(sealed) => self.download(sealed.download()),
            Phase::Done(published) => self.download(published.download()),
            Phase::Unchanged(UnchangedFile { source, since }) => {
                self.source(source);
                self.text(&since.to_string());
            }
            Phase::Failed(Failure { problem, reached })
            | Phase::Cancelled(Failure { problem, reached }) => {
                self.number(u64::from(reached.source.is_some()));
                if let Some(source) = &reached.source {
                    self.source(source);
                }
                self.number(reached.received);
                self.text(problem.code.as_str());
                self.text(&problem.detail);
                self.text(&problem.hint);
            }
        }
    }

    fn download(&mut self, download: &Download) {
        self.source(&download.source);
        self.text(&download.name.to_string());
        self.number(download.size);
        self.text(&download.digests.blake3.to_string());
        self.text(&download.digests.sha256.to_string());
        self.number(download.inode);
    }

    fn source(&mut self, source: &Source) {
        self.text(&source.name);
        self.number(source.size);
        self.number(source.modified_ns.cast_unsigned());
    }

    fn time(&mut self, time: Option<DateTime<Utc>>) {
        self.text_if_any(time.map(|time| time.timestamp_millis().to_string()).as_deref());
    }

    fn text_if_any(&mut self, text: Option<&str>) {
        self.number(u64::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }

    /// Hashes the length first. Otherwise two adjacent texts could be split elsewhere without a
    /// change of the checksum.
    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }
}
