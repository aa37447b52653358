//! Verifies a chain of audit records, and names the first record that does not belong to it.

use std::fmt;

use super::{AuditRecord, ChainHead};

/// The first difference between the records and the chain that the server wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainBreak {
    /// The record is not what the server wrote.
    Changed {
        /// The number of the record.
        seq: u64,
    },
    /// Records are missing.
    Removed {
        /// The number of the first missing record.
        first: u64,
        /// The number of the last missing record.
        last: u64,
    },
    /// The record was added later: the chain continues without it.
    Inserted {
        /// The number of the record.
        seq: u64,
    },
}

impl ChainBreak {
    /// Returns the name of the difference: `changed`, `removed` or `inserted`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Changed { .. } => "changed",
            Self::Removed { .. } => "removed",
            Self::Inserted { .. } => "inserted",
        }
    }

    /// Returns the number of the first record that is concerned.
    pub fn seq(&self) -> u64 {
        match *self {
            Self::Changed { seq } | Self::Inserted { seq } => seq,
            Self::Removed { first, .. } => first,
        }
    }
}

impl fmt::Display for ChainBreak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { seq } => write!(f, "record {seq} was changed"),
            Self::Inserted { seq } => write!(f, "record {seq} was inserted"),
            Self::Removed { first, last } if first == last => {
                write!(f, "record {first} was removed")
            }
            Self::Removed { first, last } => write!(f, "records {first} to {last} were removed"),
        }
    }
}

/// Verifies records in the order of their numbers. A record is judged together with its successor,
/// because the successor shows whether a record was changed or inserted.
#[derive(Clone, Debug)]
pub struct ChainVerifier {
    /// The last record that belongs to the chain.
    head: ChainHead,
    /// The record before that one.
    before: Option<ChainHead>,
    /// A record that does not fit, until its successor arrives.
    suspect: Option<AuditRecord>,
    n_records: u64,
}

impl ChainVerifier {
    /// Expects the first record of the chain.
    pub fn new() -> Self {
        Self::after(ChainHead::empty())
    }

    /// Expects the record that follows `head`.
    pub fn after(head: ChainHead) -> Self {
        Self { head, before: None, suspect: None, n_records: 0 }
    }

    /// Returns the last record that belongs to the chain.
    pub fn head(&self) -> ChainHead {
        self.head
    }

    /// Returns how many records belong to the chain.
    pub fn n_records(&self) -> u64 {
        self.n_records
    }

    /// Verifies the next record.
    ///
    /// # Errors
    /// The first difference. Further records must not be verified.
    pub fn push(&mut self, record: AuditRecord) -> Result<(), ChainBreak> {
        if let Some(suspect) = self.suspect.take() {
            return Err(self.judge(&suspect, Some(&record)));
        }
        let expected = self.head.seq + 1;
        if expected < record.seq {
            return Err(ChainBreak::Removed { first: expected, last: record.seq - 1 });
        }
        let follows = record.seq == expected && record.previous == self.head.digest;
        if !follows || record.digest != record.expected_digest() {
            self.suspect = Some(record);
            return Ok(());
        }
        let head = ChainHead { seq: record.seq, digest: record.digest };
        self.before = Some(std::mem::replace(&mut self.head, head));
        self.n_records += 1;
        Ok(())
    }

    /// Ends the verification.
    ///
    /// # Errors
    /// The last record does not belong to the chain.
    pub fn finish(&mut self) -> Result<(), ChainBreak> {
        match self.suspect.take() {
            Some(suspect) => Err(self.judge(&suspect, None)),
            None => Ok(()),
        }
    }

    /// Returns what is wrong with a record that does not fit behind the head.
    fn judge(&self, suspect: &AuditRecord, next: Option<&AuditRecord>) -> ChainBreak {
        let seq = suspect.seq;
        let follows_before = self.before.is_some_and(|before| suspect.previous == before.digest);
        if seq <= self.head.seq {
            return ChainBreak::Inserted { seq };
        }
        if follows_before {
            // The chain continues behind the record before the head.
            return ChainBreak::Inserted { seq: self.head.seq };
        }
        if suspect.previous == self.head.digest {
            let continues_without = next.is_some_and(|next| next.previous == self.head.digest);
            let inserted = continues_without || next.is_some_and(|next| next.seq == seq);
            return if inserted {
                ChainBreak::Inserted { seq }
            } else {
                ChainBreak::Changed { seq }
            };
        }
        let is_intact = suspect.digest == suspect.expected_digest();
        let is_followed = next.is_none_or(|next| next.previous == suspect.digest);
        if is_intact && is_followed && 0 < self.n_records {
            // The rest of the chain continues with this record, so the record before was written
            // again together with its digest.
            return ChainBreak::Changed { seq: self.head.seq };
        }
        ChainBreak::Changed { seq }
    }
}

impl Default for ChainVerifier {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::audit::AuditContent;
    use crate::digest::Digest;

    fn content(subject: &str) -> AuditContent {
        AuditContent {
            at: DateTime::UNIX_EPOCH,
            actor: "a".to_owned(),
            address: String::new(),
            action: "x".to_owned(),
            subject: subject.to_owned(),
            detail: "{}".to_owned(),
            request: String::new(),
        }
    }

    fn chain(n: usize) -> Vec<AuditRecord> {
        let mut head = ChainHead::empty();
        (0..n).map(|number| head.append(content(&number.to_string()))).collect()
    }

    fn verify(records: Vec<AuditRecord>) -> Result<ChainHead, ChainBreak> {
        let mut verifier = ChainVerifier::new();
        records.into_iter().try_for_each(|record| verifier.push(record))?;
        verifier.finish()?;
        Ok(verifier.head())
    }

    #[test]
    fn an_unchanged_chain_is_verified_to_its_head() {
        let records = chain(9);
        let digest = records[8].digest;
        assert_eq!(verify(records), Ok(ChainHead { seq: 9, digest }));
        assert_eq!(verify(Vec::new()), Ok(ChainHead::empty()));
    }

    #[test]
    fn each_changed_record_is_named() {
        for idx in 0..9 {
            let seq = idx as u64 + 1;
            let mut edited = chain(9);
            edited[idx].content.subject = "other".to_owned();
            assert_eq!(verify(edited.clone()), Err(ChainBreak::Changed { seq }), "{seq}");
            // Also if its own digest was computed again, unless it is the last one.
            edited[idx].digest = edited[idx].expected_digest();
            let expected = if idx == 8 { Ok(9) } else { Err(ChainBreak::Changed { seq }) };
            assert_eq!(verify(edited).map(|head| head.seq), expected, "{seq}");
            for field in 0..2 {
                let mut edited = chain(9);
                let record = &mut edited[idx];
                *(if field == 0 { &mut record.previous } else { &mut record.digest }) =
                    Digest::of(b"x");
                assert_eq!(verify(edited).map_err(|found| found.seq()), Err(seq), "{seq} {field}");
            }
        }
    }

    #[test]
    fn removed_records_are_named_unless_they_are_the_last() {
        for seq in 1..9 {
            let mut records = chain(9);
            records.remove(usize::try_from(seq).unwrap() - 1);
            assert_eq!(verify(records), Err(ChainBreak::Removed { first: seq, last: seq }));
        }
        let mut records = chain(9);
        records.drain(3..6);
        assert_eq!(verify(records), Err(ChainBreak::Removed { first: 4, last: 6 }));
        assert_eq!(verify(chain(8)).map(|head| head.seq), Ok(8));
    }

    #[test]
    fn an_inserted_record_is_named() {
        for idx in 0..8 {
            let seq = idx as u64 + 1;
            // The later records get new numbers, and keep their digests.
            let mut records = chain(8);
            let before = match idx {
                0 => ChainHead::empty(),
                _ => ChainHead { seq: idx as u64, digest: records[idx - 1].digest },
            };
            let mut head = before;
            let added = head.append(content("added"));
            records.insert(idx, added);
            for (record, number) in records.iter_mut().zip(1..) {
                record.seq = number;
            }
            assert_eq!(verify(records.clone()), Err(ChainBreak::Inserted { seq }), "{seq}");
            records[idx].digest = Digest::of(b"wrong");
            assert_eq!(verify(records), Err(ChainBreak::Inserted { seq }), "{seq}");
            // Two records with one number.
            let mut records = chain(8);
            records.insert(idx + 1, AuditRecord { content: content("x"), ..records[idx].clone() });
            assert_eq!(verify(records), Err(ChainBreak::Inserted { seq }), "{seq}");
        }
    }

    #[test]
    fn a_part_of_a_chain_is_verified_behind_its_beginning() {
        let records = chain(9);
        let mut verifier = ChainVerifier::after(ChainHead { seq: 4, digest: records[3].digest });
        records[4..].iter().cloned().try_for_each(|record| verifier.push(record)).unwrap();
        verifier.finish().unwrap();
        assert_eq!((verifier.head().seq, verifier.n_records()), (9, 5));
    }
}
