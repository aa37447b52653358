//! Notices a record that the disk has changed. SQLite guards its log with check sums, and its file
//! with none: a flipped bit in a digest would be told to an operator as the truth.

use chrono::{DateTime, Utc};
use filepull_core::digest::Hasher;
use filepull_core::source::Source;
use filepull_core::transfer::{Download, Failure, Phase, Transfer};

use super::list::PhaseName;

/// A digest of everything that a record says, as it is stored: of the same for ever, or every
/// record looks damaged.
pub(super) fn row_check(transfer: &Transfer) -> String {
    let mut check = ChecksumHasher::default();
    check.text(&transfer.id.to_string());
    check.text(transfer.client.as_str());
    check.text_if_any(transfer.path.as_ref().map(|path| path.as_str()));
    check.text(&transfer.requested_by);
    check.time(Some(transfer.created_at));
    check.time(transfer.queue_until);
    check.time(transfer.started_at);
    check.time(transfer.finished_at);
    let setbacks = transfer.setbacks;
    for count in [
        transfer.attempt,
        transfer.generation,
        setbacks.changed,
        setbacks.damaged,
        setbacks.stalled,
    ] {
        check.number(count.into());
    }
    check.phase(&transfer.phase);
    // A row from before the first order has the checksum that it had without this field.
    if transfer.epoch != 0 {
        check.number(transfer.epoch);
    }
    check.0.digest().to_string()
}

#[derive(Default)]
struct ChecksumHasher(Hasher);

impl ChecksumHasher {
    fn phase(&mut self, phase: &Phase) {
        self.text(PhaseName::of(phase).as_str());
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
        self.text(&download.digest.to_string());
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

    /// The length comes first, or two texts could be cut elsewhere and look the same.
    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }
}
