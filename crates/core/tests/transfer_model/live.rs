//! One transfer in a server process. Applies the rules of the core.

use filepull_core::digest::Hasher;
use filepull_core::disk::{
    self, CommitResult, Disk as _, DiskError, Extent, PartialKey, ResumedPartial, SealedLocation,
};
use filepull_core::extent::{self, BaseRange, ExtentReceiver, Fill};
use filepull_core::file_digest::Blake3;
use filepull_core::name::DownloadName;
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::{Prefix, ReceiveError, Receiver};
use filepull_core::source::Source;
use filepull_core::transfer::{
    LastProgress, Phase, Published, Recovery, Sealed, Transfer, UploadStart,
};

use crate::agent::{Extent as SentExtent, Order};
use crate::disk::Inode;
use crate::machine::{Event, Machine, Stop, partial_name};
use crate::server::NOW;

/// How often a disk may reject a name before the deadline of the transfer passes.
const MAX_REFUSED: usize = 2;

#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) transfer: Transfer,
    /// While a partial of the current generation exists.
    pub(crate) extents: Option<ExtentReceiver>,
    /// The base of the current order, which is open.
    base: Option<Base>,
    /// Bytes of a base are in the partial.
    has_copied: bool,
    /// A base was damaged, so no further order has one.
    pub(crate) is_without_base: bool,
    /// Has the bytes of the receiver.
    sha256: Hasher,
    /// A running checkpoint, concurrent with the upload.
    checkpoint_job: Option<CheckpointJob>,
}

/// A running checkpoint.
#[derive(Clone, Debug)]
enum CheckpointJob {
    /// The prefix that the sync covers. Appends may come before the sync.
    Begun(Prefix),
    /// The synced checkpoint, not on record yet.
    Synced(Box<Transfer>),
}

/// An open download.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base {
    pub(crate) inode: Inode,
    pub(crate) len: u64,
}

impl Live {
    pub(crate) fn new(transfer: Transfer) -> Self {
        Self {
            transfer,
            extents: None,
            base: None,
            has_copied: false,
            is_without_base: false,
            sha256: Hasher::default(),
            checkpoint_job: None,
        }
    }

    pub(crate) fn recover(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        match self.transfer.recovery() {
            Recovery::Nothing => Ok(()),
            Recovery::ReadPrefix(checkpoint) => {
                let result = disk::resume(machine, &self.transfer.partial(), checkpoint);
                let resumed = self.check(machine, result)?;
                let Some(resumed) = resumed else { return self.start_over(machine) };
                self.extents = Some(ExtentReceiver::new(resumed.receiver, 0));
                self.sha256 = resumed.sha256;
                Ok(())
            }
            Recovery::FindSealed(_) => {
                let published = self.publish_found(machine);
                self.publish(machine, published)
            }
        }
    }

    /// A disk error ends the transfer, unless it is sealed on record.
    fn check<T>(
        &mut self,
        machine: &mut Machine,
        done: Result<T, DiskError<Stop>>,
    ) -> Result<T, Stop> {
        match done {
            Err(DiskError::NotDone(Stop::Failed) | DiskError::Unknown(Stop::Failed)) => {
                self.fail(machine, Code::StorageFailed)?;
                Err(Stop::Refused)
            }
            done => Ok(done?),
        }
    }

    /// Begins a checkpoint, syncs it, or records it.
    pub(crate) fn checkpoint_step(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        match self.checkpoint_job.take() {
            None => {
                self.checkpoint_job = self.receiver().map(|of| CheckpointJob::Begun(of.prefix()));
            }
            Some(CheckpointJob::Begun(prefix)) => {
                let result = machine.sync(&self.transfer.partial(), Extent::Prefix);
                let synced = self.check(machine, result)?;
                let mut noted = self.transfer.clone();
                let receiving = noted.receiving().expect("an upload is active");
                noted.phase = Phase::Receiving(receiving.with_checkpoint(prefix, synced));
                self.checkpoint_job = Some(CheckpointJob::Synced(Box::new(noted)));
            }
            Some(CheckpointJob::Synced(noted)) => {
                // If the records fail, the last checkpoint still holds.
                if machine.save(&noted)? {
                    machine.events.push(Event::Durable(noted.id, noted.durable()));
                    self.transfer.phase = noted.phase;
                }
            }
        }
        Ok(())
    }

    /// Finishes the running checkpoint, if there is one.
    pub(crate) fn settle(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        while self.checkpoint_job.is_some() {
            self.checkpoint_step(machine)?;
        }
        Ok(())
    }

    pub(crate) fn begin(
        &mut self,
        machine: &mut Machine,
        order: &Order,
        offset: u64,
        source: &Source,
    ) -> Result<(), Stop> {
        self.settle(machine)?;
        let size = source.size;
        loop {
            let held = self.receiver().map(Receiver::received);
            let begin = self.transfer.begin(order.attempt, offset, source, held);
            match begin.map_err(|_| Stop::Refused)? {
                UploadStart::Resume(receiving) => {
                    self.transfer.phase = Phase::Receiving(receiving);
                    break;
                }
                UploadStart::Restart => {
                    // Only an agent that could not prove the server's bytes may cause their removal.
                    if offset == 0 {
                        machine.events.push(Event::Lapsed(order.id));
                    }
                    self.start_over(machine)?;
                }
                UploadStart::Create => {
                    let begun = machine.begin(&self.transfer.next_partial(), size);
                    let (_, begun) = self.check(machine, begun)?;
                    self.transfer.receive(source.clone(), begun).expect("it is queued");
                    machine.record(&self.transfer)?;
                    self.extents = Some(ExtentReceiver::new(Receiver::new(size), 0));
                    self.sha256 = Hasher::default();
                    self.has_copied = false;
                    break;
                }
            }
        }
        // The upload has no decoder and no extents of an earlier one.
        let mut receiver = self.receiver().ok_or(Stop::Refused)?.clone();
        receiver.expect(size).map_err(|_| Stop::Refused)?;
        let base_len = self.base.map_or(0, |base| base.len);
        self.extents = Some(ExtentReceiver::new(receiver, base_len));
        machine.events.push(Event::Began(order.id, order.attempt));
        Ok(())
    }

    /// Receives the next extent. The disk has its bytes before the next step.
    pub(crate) fn extent(
        &mut self,
        machine: &mut Machine,
        order: &Order,
        offset: u64,
        extent: &SentExtent,
    ) -> Result<(), Stop> {
        self.check_attempt(order)?;
        let mut partial = self.transfer.partial();
        let extents = self.extents.as_mut().ok_or(Stop::Refused)?;
        let filled = match extents.next(extent.borrow(offset)).map_err(|_| Stop::Refused)? {
            Fill::Bytes(bytes) => {
                self.sha256.update(bytes);
                machine.append(&mut partial, &[bytes])
            }
            Fill::Zeros(n_bytes) => {
                extent::zeros(n_bytes).for_each(|zeros| self.sha256.update(zeros));
                machine.append_zeros(&mut partial, n_bytes)
            }
            Fill::Base(range) => return self.copy(machine, &range),
        };
        self.check(machine, filled)
    }

    fn copy(&mut self, machine: &mut Machine, range: &BaseRange) -> Result<(), Stop> {
        let base = self.base.ok_or(Stop::Refused)?;
        let mut partial = self.transfer.partial();
        let Self { extents, sha256, .. } = self;
        let extents = extents.as_mut().ok_or(Stop::Refused)?;
        let len = range.n_bytes();
        let from = range.base_offset();
        let appended = machine.append_base(&mut partial, &base.inode, from, len, |bytes| {
            extents.base_bytes(range, bytes).expect("the base has them all");
            sha256.update(bytes);
        });
        self.has_copied = true;
        if self.check(machine, appended)? != len {
            self.is_without_base = true;
            return Err(Stop::Refused);
        }
        Ok(())
    }

    /// The agent has sent the complete file.
    pub(crate) fn trailer(
        &mut self,
        machine: &mut Machine,
        order: &Order,
        size: u64,
        digest: Blake3,
    ) -> Result<(), Stop> {
        self.check_attempt(order)?;
        self.settle(machine)?;
        let sha256 = self.sha256.digest();
        let received = self.receiver().ok_or(Stop::Refused)?;
        match received.finish(size, digest, sha256) {
            Ok(proof) => {
                let partial = self.transfer.partial();
                let name = partial_name(&partial);
                let inode = machine.disk.inode(&name).expect("the partial exists");
                let result = machine.sync(&partial, Extent::Whole);
                let synced = self.check(machine, result)?;
                let name = DownloadName::new(NOW, "data.bin");
                let receiving = self.transfer.receiving().expect("an upload is active");
                let sealed = receiving.seal(proof, name, inode, synced);
                self.transfer.phase = Phase::Sealed(sealed.clone());
                self.extents = None;
                machine.record(&self.transfer)?;
                let published = self.name(machine, sealed, &partial);
                self.publish(machine, published)
            }
            // The base is damaged. The next attempt sends everything.
            Err(ReceiveError::Damaged { .. }) if self.has_copied => {
                self.is_without_base = true;
                self.set_back(machine, false, Code::ChecksumMismatch)
            }
            Err(ReceiveError::Damaged { .. }) => {
                self.transfer.setbacks.damaged += 1;
                let too_often = Transfer::MAX_DAMAGED <= self.transfer.setbacks.damaged;
                self.set_back(machine, too_often, Code::ChecksumMismatch)
            }
            Err(
                ReceiveError::Gap { .. }
                | ReceiveError::Overrun { .. }
                | ReceiveError::Short { .. },
            ) => Err(Stop::Refused),
        }
    }

    /// The agent reports that the source has changed.
    pub(crate) fn changed(&mut self, machine: &mut Machine, order: &Order) -> Result<(), Stop> {
        self.check_attempt(order)?;
        self.settle(machine)?;
        self.transfer.setbacks.changed += 1;
        let too_often = Transfer::MAX_CHANGED <= self.transfer.setbacks.changed;
        self.set_back(machine, too_often, Code::FileChanged)
    }

    /// Returns the received bytes, while a partial of the current generation exists.
    pub(crate) fn receiver(&self) -> Option<&Receiver> {
        self.extents.as_ref().map(ExtentReceiver::receiver)
    }

    /// Opens the base of the next order.
    pub(crate) fn open_base(&mut self, base: Option<Base>) {
        self.base = base;
    }

    /// Rejects an order that is not the current attempt, and one without a partial.
    fn check_attempt(&self, order: &Order) -> Result<(), Stop> {
        let is_current = order.attempt == self.transfer.attempt && self.extents.is_some();
        if is_current { Ok(()) } else { Err(Stop::Refused) }
    }

    fn set_back(&mut self, machine: &mut Machine, too_often: bool, code: Code) -> Result<(), Stop> {
        machine.events.push(Event::Lapsed(self.transfer.id));
        if too_often {
            return self.fail(machine, code);
        }
        self.start_over(machine)
    }

    fn start_over(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        self.extents = None;
        self.transfer.start_over().expect("it is not final");
        machine.record(&self.transfer)?;
        Ok(machine.abort(&self.transfer.partial(), None)?)
    }

    pub(crate) fn fail(&mut self, machine: &mut Machine, code: Code) -> Result<(), Stop> {
        machine.events.push(Event::Lapsed(self.transfer.id));
        self.checkpoint_job = None;
        let received = self.receiver().map_or(0, Receiver::received);
        self.extents = None;
        let reached = LastProgress { source: self.transfer.source().cloned(), received };
        let problem = Problem::new(code, "in the model");
        self.transfer.fail(problem, reached, NOW).expect("it is not final");
        machine.record(&self.transfer)?;
        Ok(machine.abort(&self.transfer.partial(), None)?)
    }

    /// Retries until the file is published or found nowhere. Once the transfer is sealed on record,
    /// a failure with an unknown outcome does not fail it; a certain failure does after the
    /// deadline.
    fn publish(
        &mut self,
        machine: &mut Machine,
        mut published: Result<Option<Published>, DiskError<Stop>>,
    ) -> Result<(), Stop> {
        let mut n_refused = 0;
        while let Err(DiskError::NotDone(Stop::Failed) | DiskError::Unknown(Stop::Failed)) =
            published
        {
            if published.is_err_and(|error| error == DiskError::NotDone(Stop::Failed)) {
                n_refused += 1;
                if MAX_REFUSED <= n_refused {
                    return self.fail(machine, Code::StorageFailed);
                }
            }
            published = self.publish_found(machine);
        }
        let Some(published) = published? else { return self.start_over(machine) };
        self.transfer.publish(published, NOW).expect("it is sealed");
        machine.record(&self.transfer)
    }

    /// Searches for the sealed file, and names it. Returns none if it is nowhere.
    fn publish_found(
        &mut self,
        machine: &mut Machine,
    ) -> Result<Option<Published>, DiskError<Stop>> {
        let Recovery::FindSealed(sealed) = self.transfer.recovery() else { return Ok(None) };
        match disk::find_sealed(machine, &self.transfer.partial(), sealed.download())? {
            SealedLocation::Named(named) => Ok(Some(sealed.published(named))),
            SealedLocation::Unnamed(ResumedPartial { partial, .. }) => {
                // A failed sync may have lost what was just read.
                let _synced = machine.sync(&partial, Extent::Whole)?;
                self.name(machine, sealed, &partial)
            }
            SealedLocation::Lost => Ok(None),
        }
    }

    fn name(
        &mut self,
        machine: &mut Machine,
        mut sealed: Sealed,
        partial: &PartialKey,
    ) -> Result<Option<Published>, DiskError<Stop>> {
        loop {
            match machine.commit(partial, &sealed.download().name)? {
                CommitResult::Named(named) => return Ok(Some(sealed.published(named))),
                CommitResult::Taken => sealed = sealed.name_taken(),
            }
            self.transfer.phase = Phase::Sealed(sealed.clone());
            machine.record(&self.transfer).map_err(DiskError::NotDone)?;
        }
    }
}
