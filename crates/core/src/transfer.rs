//! The life cycle of a transfer: what is on record about it, and which changes are allowed next.
//!
//! A method that relies on the disk takes [`Durable`] as proof, so that the [disk](crate::disk) is
//! always ahead of the record. After every change the transfer is put on record before anything that
//! follows from it is done; a crash between any two steps is survived by [`Transfer::recovery`].
//! `tests/transfer_model` checks this with random crashes.

mod phase;

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use crate::disk::{Durable, PartialKey};
use crate::id::{ClientId, TransferId};
use crate::name::DownloadName;
use crate::path::SharedPath;
use crate::problem::{Code, Problem};
use crate::receive::{Prefix, Verified};
use crate::source::Source;
pub use phase::{Download, Failure, LastProgress, Phase};

/// One file on its way, as it is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Its name, and the key that makes every order and upload of it the same transfer.
    pub id: TransferId,
    /// Whose file.
    pub client: ClientId,
    /// Which file; none is the client's default file.
    pub path: Option<SharedPath>,
    /// Who asked, for the record.
    pub requested_by: String,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When the client must have come back, if the trigger said `queue`.
    pub queue_until: Option<DateTime<Utc>>,
    /// When the first order went out.
    pub started_at: Option<DateTime<Utc>>,
    /// When it became final.
    pub finished_at: Option<DateTime<Utc>>,
    /// Counts the orders sent; only the newest attempt may upload.
    pub attempt: u32,
    /// The session of the client that got the newest order; 0 before the first.
    pub epoch: u64,
    /// Counts the partials begun; bytes of two generations never share a file.
    pub generation: u32,
    /// Counts the sources that did not hold still, and the uploads that arrived damaged.
    pub setbacks: Setbacks,
    /// How far it is.
    pub phase: Phase,
}

/// What went wrong so far without ending the transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setbacks {
    /// The source changed while it was read.
    pub changed: u32,
    /// What arrived was not what had been read.
    pub damaged: u32,
    /// Attempts in a row that brought nothing although the line was up.
    pub stalled: u32,
}

/// How an upload begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadStart {
    /// The upload continues after the bytes of the partial.
    Resume,
    /// The upload needs a new partial: begin [`Transfer::next_partial`] on the disk, then call
    /// [`Transfer::receive`].
    Create,
    /// The received bytes are useless. Call [`Transfer::start_over`] first, so that their space is
    /// free for the new partial, then begin the upload again.
    Restart,
}

/// Why an upload may not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeginError {
    /// A later attempt has been ordered since, or the transfer is no longer receiving.
    #[error("attempt {found} is not the current one, {current}")]
    StaleAttempt {
        /// The attempt that may upload.
        current: u32,
        /// The attempt that tried.
        found: u32,
    },
    /// It starts neither where the partial ends nor at zero, or it starts after its own end.
    #[error("expected an upload from {expected}, found one from {found}")]
    WrongOffset {
        /// Where the partial ends.
        expected: u64,
        /// Where the upload starts.
        found: u64,
    },
}

/// What must be looked at on the disk before a transfer can go on after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing.
    Nothing,
    /// [Resume](crate::disk::resume) the partial from this checkpoint. If the partial does not hold
    /// it, call [`Transfer::start_over`].
    ReadPrefix(Prefix),
    /// [Search](crate::disk::find_sealed) for the download. If it is nowhere, call
    /// [`Transfer::start_over`]; otherwise continue as after [`Transfer::seal`].
    FindSealed(Download),
}

impl Transfer {
    /// How often a source may change under the reader before the transfer fails.
    pub const MAX_CHANGED: u32 = 3;
    /// How often an upload may arrive damaged before the transfer fails.
    pub const MAX_DAMAGED: u32 = 2;
    /// How often in a row an attempt may bring nothing, over a line that is up, before the transfer
    /// fails; if that took long enough, for five attempts may be over in five seconds.
    pub const MAX_STALLED: u32 = 5;

    /// How often in a row an attempt may be lost with its line before the transfer fails, on the
    /// same condition: an agent that dies of each order comes back for ever.
    pub const MAX_LOST: u32 = 50;

    /// Creates a transfer that was requested at `now`. Put it on record before any caller learns of
    /// it.
    pub fn new(
        client: ClientId,
        path: Option<SharedPath>,
        requested_by: String,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            id: TransferId::generate(),
            client,
            path,
            requested_by,
            created_at: now,
            queue_until: None,
            started_at: None,
            finished_at: None,
            attempt: 0,
            epoch: 0,
            generation: 0,
            setbacks: Setbacks::default(),
            phase: Phase::Queued,
        }
    }

    /// Done, failed or cancelled: nothing happens to it any more.
    pub fn is_final(&self) -> bool {
        match self.phase {
            Phase::Queued | Phase::Receiving { .. } | Phase::Sealed(_) => false,
            Phase::Done(_) | Phase::Failed(_) | Phase::Cancelled(_) => true,
        }
    }

    /// The problem it ended with, if it did.
    pub fn problem(&self) -> Option<&Problem> {
        match &self.phase {
            Phase::Failed(ended) | Phase::Cancelled(ended) => Some(&ended.problem),
            Phase::Queued | Phase::Receiving { .. } | Phase::Sealed(_) | Phase::Done(_) => None,
        }
    }

    /// The finished download, if there is one.
    pub fn download(&self) -> Option<&Download> {
        match &self.phase {
            Phase::Done(download) => Some(download),
            Phase::Queued
            | Phase::Receiving { .. }
            | Phase::Sealed(_)
            | Phase::Failed(_)
            | Phase::Cancelled(_) => None,
        }
    }

    /// The source, as far as it is known.
    pub fn source(&self) -> Option<&Source> {
        match &self.phase {
            Phase::Receiving { source, .. } => Some(source),
            Phase::Sealed(download) | Phase::Done(download) => Some(&download.source),
            Phase::Failed(ended) | Phase::Cancelled(ended) => ended.reached.source.as_ref(),
            Phase::Queued => None,
        }
    }

    /// How many bytes have come, as far as that is on record.
    pub fn received(&self) -> u64 {
        match &self.phase {
            Phase::Failed(ended) | Phase::Cancelled(ended) => ended.reached.received,
            Phase::Queued | Phase::Receiving { .. } | Phase::Sealed(_) | Phase::Done(_) => {
                self.durable()
            }
        }
    }

    /// How many received bytes survive a power cut.
    pub fn durable(&self) -> u64 {
        match &self.phase {
            Phase::Receiving { checkpoint, .. } => checkpoint.len,
            Phase::Sealed(download) | Phase::Done(download) => download.size,
            Phase::Queued | Phase::Failed(_) | Phase::Cancelled(_) => 0,
        }
    }

    /// Counts a new order to the client, whose upload supersedes all earlier ones.
    ///
    /// The server records it before the order goes out, but for the first: that one costs nothing,
    /// and a server killed right after it may hand out the number 1 twice. Each order therefore
    /// carries a random token besides, and an upload is let in by both.
    pub fn next_attempt(&mut self, now: DateTime<Utc>) -> u32 {
        self.attempt += 1;
        self.started_at.get_or_insert(now);
        self.attempt
    }

    /// The partial of the current generation.
    pub fn partial(&self) -> PartialKey {
        self.partial_of(self.generation)
    }

    /// The partial with which the next generation begins.
    pub fn next_partial(&self) -> PartialKey {
        self.partial_of(self.generation + 1)
    }

    fn partial_of(&self, generation: u32) -> PartialKey {
        PartialKey { client: self.client.clone(), transfer: self.id, generation }
    }

    /// Lets an upload of `source` begin at `offset`; the partial holds `held` bytes, if any.
    ///
    /// An upload that starts where the partial ends has proved that its source begins with the
    /// partial's bytes. One that starts at zero could not: it gets a partial of its own, so that
    /// two versions of a file are never mixed.
    ///
    /// # Errors
    /// The upload is not of the current attempt, or starts anywhere else.
    pub fn begin(
        &mut self,
        attempt: u32,
        offset: u64,
        source: &Source,
        held: Option<u64>,
    ) -> Result<UploadStart, BeginError> {
        let receiving = matches!(self.phase, Phase::Queued | Phase::Receiving { .. });
        if !receiving || attempt != self.attempt {
            return Err(BeginError::StaleAttempt { current: self.attempt, found: attempt });
        }
        match (&mut self.phase, held) {
            (Phase::Receiving { source: opened, .. }, Some(held))
                if held == offset && offset <= source.size =>
            {
                *opened = source.clone();
                Ok(UploadStart::Resume)
            }
            (_, held) if offset != 0 => {
                Err(BeginError::WrongOffset { expected: held.unwrap_or(0), found: offset })
            }
            (Phase::Receiving { .. }, _) => Ok(UploadStart::Restart),
            _ => Ok(UploadStart::Create),
        }
    }

    /// Receives `source` into [`next_partial`](Self::next_partial), whose entry is durable: recovery
    /// finds a partial wherever the record names one.
    pub fn receive(&mut self, source: Source, _begun: Durable) {
        self.generation += 1;
        self.phase = Phase::Receiving { source, checkpoint: Prefix::empty() };
    }

    /// Notes that `prefix` has been received and synced. Once this is on record the agent may be
    /// told that the bytes are durable.
    pub fn checkpoint(&mut self, prefix: Prefix, _synced: Durable) {
        if let Phase::Receiving { checkpoint, .. } = &mut self.phase {
            debug_assert!(checkpoint.len <= prefix.len, "a checkpoint never goes back");
            *checkpoint = prefix;
        }
    }

    /// Seals a verified upload under `name`. Its partial was synced as a whole. Once this is on
    /// record the server can publish it alone: commit the partial, then call
    /// [`published`](Self::published), or [`name_taken`](Self::name_taken).
    ///
    /// An error after that record does not fail the transfer, because the name may be there. The
    /// transfer stays sealed, and [`recovery`](Self::recovery) determines the outcome.
    pub fn seal(&mut self, proof: Verified, name: DownloadName, inode: u64, _synced: Durable) {
        if let Phase::Receiving { source, .. } = &self.phase {
            let source = source.clone();
            let (size, digest) = (proof.size(), proof.digest());
            self.phase = Phase::Sealed(Download { source, name, size, digest, inode });
        }
    }

    /// Takes the next name, because another entry has the last one. Put the transfer on record
    /// before the next commit.
    pub fn name_taken(&mut self) {
        if let Phase::Sealed(download) = &mut self.phase {
            download.name = download.name.next();
        }
    }

    /// Takes the first name, starting with its own, that is not among `taken`.
    pub fn skip_names(&mut self, taken: &HashSet<DownloadName>) {
        if let Phase::Sealed(download) = &mut self.phase {
            while taken.contains(&download.name) {
                download.name = download.name.next();
            }
        }
    }

    /// Notes that the download has its name, and keeps it after a power cut.
    pub fn published(&mut self, now: DateTime<Utc>, _named: Durable) {
        if let Phase::Sealed(download) = &self.phase {
            self.phase = Phase::Done(download.clone());
            self.finished_at = Some(now);
        }
    }

    /// Drops the received bytes, because they are damaged or mix versions of the source. Abort
    /// the [`partial`](Self::partial) once this is on record.
    pub fn start_over(&mut self) {
        self.phase = Phase::Queued;
    }

    /// Ends the transfer with `problem`, and notes how many bytes were received. Abort the
    /// [`partial`](Self::partial) once this is on record.
    pub fn fail(&mut self, problem: Problem, reached: LastProgress, now: DateTime<Utc>) {
        let cancelled = problem.code == Code::Cancelled;
        let ended = Failure { problem, reached };
        self.phase = if cancelled { Phase::Cancelled(ended) } else { Phase::Failed(ended) };
        self.finished_at = Some(now);
    }

    /// What a server that starts must look at before this transfer can go on.
    pub fn recovery(&self) -> Recovery {
        match &self.phase {
            Phase::Queued | Phase::Done(_) | Phase::Failed(_) | Phase::Cancelled(_) => {
                Recovery::Nothing
            }
            Phase::Receiving { checkpoint, .. } => Recovery::ReadPrefix(*checkpoint),
            Phase::Sealed(download) => Recovery::FindSealed(download.clone()),
        }
    }
}
