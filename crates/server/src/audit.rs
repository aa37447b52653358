//! The audit for other programs: each record as JSON, and the verification of the chain without a
//! server.

mod json;

use std::path::Path;

use filepull_core::audit::{ChainBreak, ChainHead, ChainVerifier};

use crate::data_folder::RECORDS_FOLDER;
use crate::records::{RecordsError, RecordsReader};
pub use json::{AuditLineError, AuditRecordJson};

/// Number of records that are read at once.
const PAGE_LEN: u32 = 1000;

/// The outcome of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainReport {
    /// How many records belong to the chain, from the first one on.
    pub n_records: u64,
    /// The last of them.
    pub head: ChainHead,
    /// The first difference; none if every record belongs to the chain.
    pub found: Option<ChainBreak>,
    /// What the record with the expected number is; none without an expectation.
    pub expected: Option<ExpectedHead>,
}

/// A record that was noted elsewhere, compared with the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedHead {
    /// The chain has the record with this digest.
    Same,
    /// The record has another digest.
    Other,
    /// The chain ends before the record.
    Missing,
}

impl ChainReport {
    /// Returns whether the chain is what the server wrote, as far as it can be known.
    pub fn is_intact(&self) -> bool {
        self.found.is_none() && matches!(self.expected, None | Some(ExpectedHead::Same))
    }
}

/// Verifies records in the order of their numbers, and compares one with a note.
#[derive(Clone, Debug)]
pub struct AuditVerifier {
    chain: ChainVerifier,
    expect: Option<ChainHead>,
    expected: Option<ExpectedHead>,
    found: Option<ChainBreak>,
}

impl AuditVerifier {
    /// Expects the record that follows `head`, and later the record `expect`.
    pub fn new(head: ChainHead, expect: Option<ChainHead>) -> Self {
        let expected = expect.map(|expect| compare(head, expect));
        Self { chain: ChainVerifier::after(head), expect, expected, found: None }
    }

    /// Verifies the next record. After the first difference it ignores the others.
    pub fn push(&mut self, record: filepull_core::audit::AuditRecord) {
        if self.found.is_some() {
            return;
        }
        self.found = self.chain.push(record).err();
        if let Some(expect) = self.expect
            && self.chain.head().seq == expect.seq
        {
            self.expected = Some(compare(self.chain.head(), expect));
        }
    }

    /// Notes that a record cannot be read.
    pub fn push_unreadable(&mut self, seq: Option<u64>) {
        let next = self.chain.head().seq + 1;
        self.found.get_or_insert(ChainBreak::Changed { seq: seq.unwrap_or(next) });
    }

    /// Ends the verification.
    pub fn finish(mut self) -> ChainReport {
        if self.found.is_none() {
            self.found = self.chain.finish().err();
        }
        ChainReport {
            n_records: self.chain.n_records(),
            head: self.chain.head(),
            found: self.found,
            expected: self.expected,
        }
    }
}

fn compare(head: ChainHead, expect: ChainHead) -> ExpectedHead {
    if head.seq != expect.seq {
        ExpectedHead::Missing
    } else if head.digest == expect.digest {
        ExpectedHead::Same
    } else {
        ExpectedHead::Other
    }
}

/// Verifies the audit of a data folder, beside a running server or without one.
///
/// # Errors
/// The folder has no records, or they cannot be read at all.
pub async fn verify(
    data_dir: &Path,
    expect: Option<ChainHead>,
) -> Result<ChainReport, RecordsError> {
    let reader = RecordsReader::open(&data_dir.join(RECORDS_FOLDER)).await?;
    let mut verifier = AuditVerifier::new(ChainHead::empty(), expect);
    let mut walk = reader.audit();
    while let Some(page) = walk.next(PAGE_LEN).await? {
        for item in page {
            match item {
                Ok(record) => verifier.push(record),
                Err(_) => verifier.push_unreadable(None),
            }
        }
    }
    Ok(verifier.finish())
}
