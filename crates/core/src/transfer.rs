//! The life of a transfer: what is on record about it, what may happen to it next, and in which
//! order the effects of that must reach the disk and the records.
//!
//! Every method that changes what is on record returns [`Effect`]s. They are performed in that
//! order, each one finished before the next begins; a crash between any two of them is survived
//! by [`Transfer::recovery`]. `tests/transfer_model.rs` holds this against random crashes.

mod phase;

use chrono::{DateTime, Utc};

use crate::id::{ClientId, TransferId};
use crate::name::DownloadName;
use crate::path::SharedPath;
use crate::problem::{Code, Problem};
use crate::receive::{Prefix, Verified};
use crate::source::Source;
pub use phase::{Download, Ended, Phase, Reached};

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

/// What must reach the disk or the records next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make the transfer durable in the records, as it now stands.
    Record,
    /// Create the partial of the current generation, which must not exist, and reserve its size.
    CreatePartial,
    /// Bring the bytes of the partial to the disk.
    SyncPartial,
    /// Bring the entries of the client's folder to the disk.
    SyncFolder,
    /// Give the partial the name of the sealed download, unless that name is taken.
    Publish,
    /// Remove the partial of this generation, if there is one.
    RemovePartial(u32),
}

/// How an upload begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Its bytes follow those of the partial.
    GoOn,
    /// Its bytes go into a new partial, made by these effects.
    Anew([Effect; 3]),
    /// It makes what was received worthless. That goes first, by these effects, so that its room is
    /// free for the new one; then the upload begins again.
    Over([Effect; 2]),
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
    /// Cut the partial to the checkpoint's length and read it; tell [`Transfer::prefix_found`].
    ReadPrefix(Prefix),
    /// Look for the download under its name, then for its partial; tell [`Transfer::sealed_found`].
    FindSealed(Download),
}

/// Where recovery found the bytes of a sealed download, whole and with the right digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealedFound {
    /// Under its name.
    Named,
    /// In the partial only.
    Partial,
    /// Nowhere.
    Nowhere,
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

    /// A transfer that was asked for at `now`. [`Effect::Record`] it before anybody hears of it.
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

    /// Lets an upload of `source` begin at `offset`; the partial holds `held` bytes, if any.
    ///
    /// An upload that starts where the partial ends has proved that its source begins with the
    /// partial's bytes. One that starts at zero could not: it gets a partial of its own, so that
    /// two versions of a file are never glued together.
    ///
    /// # Errors
    /// The upload is not of the current attempt, or starts anywhere else.
    pub fn begin(
        &mut self,
        attempt: u32,
        offset: u64,
        source: Source,
        held: Option<u64>,
    ) -> Result<Begin, BeginError> {
        let receiving = matches!(self.phase, Phase::Queued | Phase::Receiving { .. });
        if !receiving || attempt != self.attempt {
            return Err(BeginError::StaleAttempt { current: self.attempt, found: attempt });
        }
        match (&mut self.phase, held) {
            (Phase::Receiving { source: opened, .. }, Some(held))
                if held == offset && offset <= source.size =>
            {
                *opened = source;
                Ok(Begin::GoOn)
            }
            (_, held) if offset != 0 => {
                Err(BeginError::WrongOffset { expected: held.unwrap_or(0), found: offset })
            }
            (Phase::Receiving { .. }, _) => Ok(Begin::Over(self.start_over())),
            (phase, _) => {
                *phase = Phase::Receiving { source, checkpoint: Prefix::empty() };
                self.generation += 1;
                // The entry is durable before the record that names it, so that recovery finds a
                // partial wherever the record speaks of one.
                Ok(Begin::Anew([Effect::CreatePartial, Effect::SyncFolder, Effect::Record]))
            }
        }
    }

    /// Notes that `prefix` has been received and shall survive a power cut.
    ///
    /// Only after these effects may the agent be told that the bytes are durable.
    pub fn checkpoint(&mut self, prefix: Prefix) -> [Effect; 2] {
        if let Phase::Receiving { checkpoint, .. } = &mut self.phase {
            debug_assert!(checkpoint.len <= prefix.len, "a checkpoint never goes back");
            *checkpoint = prefix;
        }
        [Effect::SyncPartial, Effect::Record]
    }

    /// Seals a verified upload under `name`: from here on the server can publish it alone.
    ///
    /// When [`Effect::Publish`] finds the name taken, leave the rest and go on with
    /// [`name_taken`](Self::name_taken); when all are performed, with
    /// [`published`](Self::published). What fails after the record has not failed the transfer: the
    /// name may be there. It stays sealed, and [`recovery`](Self::recovery) finds out.
    pub fn seal(&mut self, proof: Verified, name: DownloadName, inode: u64) -> [Effect; 4] {
        if let Phase::Receiving { source, .. } = &self.phase {
            let (size, digest) = (proof.size(), proof.digest());
            self.phase =
                Phase::Sealed(Download { source: source.clone(), name, size, digest, inode });
        }
        [Effect::SyncPartial, Effect::Record, Effect::Publish, Effect::SyncFolder]
    }

    /// Tries the next name: the last one belongs to another file.
    pub fn name_taken(&mut self) -> [Effect; 3] {
        if let Phase::Sealed(download) = &mut self.phase {
            download.name = download.name.next();
        }
        [Effect::Record, Effect::Publish, Effect::SyncFolder]
    }

    /// Notes that the download has its name, and keeps it after a power cut.
    pub fn published(&mut self, now: DateTime<Utc>) -> [Effect; 1] {
        if let Phase::Sealed(download) = &self.phase {
            self.phase = Phase::Done(download.clone());
            self.finished_at = Some(now);
        }
        [Effect::Record]
    }

    /// Drops what was received, because it is of no single version of the source, or damaged.
    pub fn start_over(&mut self) -> [Effect; 2] {
        self.phase = Phase::Queued;
        [Effect::Record, Effect::RemovePartial(self.generation)]
    }

    /// Ends the transfer with `problem`, and notes how far it came.
    pub fn fail(&mut self, problem: Problem, reached: Reached, now: DateTime<Utc>) -> [Effect; 2] {
        let cancelled = problem.code == Code::Cancelled;
        let ended = Ended { problem, reached };
        self.phase = if cancelled { Phase::Cancelled(ended) } else { Phase::Failed(ended) };
        self.finished_at = Some(now);
        [Effect::Record, Effect::RemovePartial(self.generation)]
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

    /// Goes on after a restart, now that the partial has been read: does it hold the checkpoint?
    pub fn prefix_found(&mut self, holds_checkpoint: bool) -> Vec<Effect> {
        if holds_checkpoint { Vec::new() } else { self.start_over().to_vec() }
    }

    /// Goes on now that the sealed download has been looked for. Unless it is nowhere, go on as
    /// after [`seal`](Self::seal).
    pub fn sealed_found(&mut self, found: SealedFound) -> Vec<Effect> {
        match found {
            // A rename made of a link and an unlink may have been cut in the middle.
            SealedFound::Named => vec![Effect::SyncFolder, Effect::RemovePartial(self.generation)],
            SealedFound::Partial => {
                vec![Effect::SyncPartial, Effect::Publish, Effect::SyncFolder]
            }
            SealedFound::Nowhere => self.start_over().to_vec(),
        }
    }
}
