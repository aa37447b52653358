//! One transfer in a server process, and how it drives the core's rules.

use filepull_core::digest::Digest;
use filepull_core::name::DownloadName;
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::{ReceiveError, Receiver};
use filepull_core::source::Source;
use filepull_core::transfer::{Begin, Effect, Phase, Reached, Recovery, SealedFound, Transfer};

use crate::agent::Order;
use crate::machine::{Machine, Outcome, Said, Stop, partial_name};
use crate::server::NOW;

#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) transfer: Transfer,
    /// While a partial of the current generation exists.
    pub(crate) receiver: Option<Receiver>,
    /// A checkpoint in the making, beside the upload.
    making: Option<Making>,
}

/// A checkpoint that has begun: the transfer as it is to be on record.
#[derive(Clone, Debug)]
struct Making {
    noted: Transfer,
    synced: bool,
}

impl Live {
    pub(crate) fn new(transfer: Transfer) -> Self {
        Self { transfer, receiver: None, making: None }
    }

    pub(crate) fn recover(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        match self.transfer.recovery() {
            Recovery::Nothing => Ok(()),
            Recovery::ReadPrefix(checkpoint) => {
                let bytes = machine.read_prefix(&self.transfer, checkpoint)?;
                let effects = self.transfer.prefix_found(bytes.is_some());
                self.receiver = bytes.map(|bytes| {
                    let mut receiver = Receiver::new(checkpoint.len);
                    receiver.chunk(0, &bytes).expect("the first chunk fits");
                    receiver
                });
                self.perform(machine, &effects).map(drop)
            }
            Recovery::FindSealed(_) => self.publish(machine, &[]),
        }
    }

    /// What fails on the disk ends the transfer, as long as it is not sealed on record.
    fn perform(&mut self, machine: &mut Machine, effects: &[Effect]) -> Result<Outcome, Stop> {
        let done = machine.perform(&self.transfer, effects);
        let on_record = machine.records.get(&self.transfer.id);
        let is_sealed = on_record.is_some_and(|of| matches!(of.phase, Phase::Sealed(_)));
        if done == Err(Stop::Failed) && !is_sealed {
            self.fail(machine, Code::StorageFailed)?;
            return Err(Stop::Refused);
        }
        done
    }

    /// Begins a checkpoint, syncs it, or puts it on record.
    pub(crate) fn checkpoint_step(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        match self.making.take() {
            None => {
                let Some(receiver) = &self.receiver else { return Ok(()) };
                let mut noted = self.transfer.clone();
                noted.checkpoint(receiver.prefix());
                self.making = Some(Making { noted, synced: false });
            }
            Some(Making { noted, synced: false }) => {
                self.perform(machine, &[Effect::SyncPartial])?;
                self.making = Some(Making { noted, synced: true });
            }
            Some(Making { noted, synced: true }) => {
                // If the records fail, the last checkpoint still holds.
                if machine.save(&noted)? {
                    machine.said.push(Said::Durable(noted.id, noted.durable()));
                    self.transfer.phase = noted.phase;
                }
            }
        }
        Ok(())
    }

    /// Ends the checkpoint in the making, if there is one.
    pub(crate) fn settle(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        while self.making.is_some() {
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
            let held = self.receiver.as_ref().map(Receiver::received);
            let begin = self.transfer.begin(order.attempt, offset, source.clone(), held);
            match begin.map_err(|_| Stop::Refused)? {
                Begin::GoOn => {
                    let receiver = self.receiver.as_mut().ok_or(Stop::Refused)?;
                    receiver.expect(size).map_err(|_| Stop::Refused)?;
                    break;
                }
                Begin::Over(effects) => {
                    // Only an agent that could not prove the server's bytes may have them dropped.
                    if offset == 0 {
                        machine.said.push(Said::Lapsed(order.id));
                    }
                    self.receiver = None;
                    self.perform(machine, &effects)?;
                }
                Begin::Anew(effects) => {
                    self.perform(machine, &effects)?;
                    self.receiver = Some(Receiver::new(size));
                    break;
                }
            }
        }
        machine.said.push(Said::Began(order.id, order.attempt));
        Ok(())
    }

    pub(crate) fn chunk(
        &mut self,
        machine: &mut Machine,
        order: &Order,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Stop> {
        self.receiver_of(order)?.chunk(offset, bytes).map_err(|_| Stop::Refused)?;
        let at = usize::try_from(offset).expect("model files are small");
        match machine.append(&self.transfer, at, bytes) {
            Err(Stop::Failed) => {
                self.fail(machine, Code::ServerFull)?;
                Err(Stop::Refused)
            }
            done => done,
        }
    }

    /// The agent says that this was the whole file.
    pub(crate) fn trailer(
        &mut self,
        machine: &mut Machine,
        order: &Order,
        size: u64,
        digest: Digest,
    ) -> Result<(), Stop> {
        self.receiver_of(order)?;
        self.settle(machine)?;
        match self.receiver_of(order)?.finish(size, digest) {
            Ok(proof) => {
                let partial = partial_name(&self.transfer, self.transfer.generation);
                let inode = machine.disk.inode(&partial).expect("the partial is there");
                let effects = self.transfer.seal(proof, DownloadName::new(NOW, "data.bin"), inode);
                self.receiver = None;
                self.publish(machine, &effects)
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

    /// The agent says that the source did not hold still.
    pub(crate) fn changed(&mut self, machine: &mut Machine, order: &Order) -> Result<(), Stop> {
        self.receiver_of(order)?;
        self.settle(machine)?;
        self.transfer.setbacks.changed += 1;
        let too_often = Transfer::MAX_CHANGED <= self.transfer.setbacks.changed;
        self.set_back(machine, too_often, Code::FileChanged)
    }

    /// Only the upload of the current attempt may do anything.
    fn receiver_of(&mut self, order: &Order) -> Result<&mut Receiver, Stop> {
        let is_current = order.attempt == self.transfer.attempt;
        self.receiver.as_mut().filter(|_| is_current).ok_or(Stop::Refused)
    }

    fn set_back(&mut self, machine: &mut Machine, too_often: bool, code: Code) -> Result<(), Stop> {
        machine.said.push(Said::Lapsed(self.transfer.id));
        if too_often {
            return self.fail(machine, code);
        }
        self.receiver = None;
        let effects = self.transfer.start_over();
        self.perform(machine, &effects).map(drop)
    }

    pub(crate) fn fail(&mut self, machine: &mut Machine, code: Code) -> Result<(), Stop> {
        machine.said.push(Said::Lapsed(self.transfer.id));
        self.making = None;
        let received = self.receiver.take().map_or(0, |receiver| receiver.received());
        let reached = Reached { source: self.transfer.source().cloned(), received };
        let effects = self.transfer.fail(Problem::new(code, "in the model"), reached, NOW);
        machine.perform(&self.transfer, &effects).map(drop)
    }

    /// Keeps at it until it is published or nowhere: once it is sealed on record, what fails does
    /// not fail the transfer.
    fn publish(&mut self, machine: &mut Machine, effects: &[Effect]) -> Result<(), Stop> {
        let mut published = match effects {
            [] => self.publish_found(machine),
            effects => self.name(machine, effects),
        };
        while published == Err(Stop::Failed) {
            published = self.publish_found(machine);
        }
        published
    }

    fn publish_found(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        let Recovery::FindSealed(download) = self.transfer.recovery() else { return Ok(()) };
        machine.tick()?;
        let found = machine.find_sealed(&self.transfer, &download);
        let effects = self.transfer.sealed_found(found);
        match found {
            SealedFound::Nowhere => self.perform(machine, &effects).map(drop),
            SealedFound::Named | SealedFound::Partial => self.name(machine, &effects),
        }
    }

    fn name(&mut self, machine: &mut Machine, effects: &[Effect]) -> Result<(), Stop> {
        let mut outcome = self.perform(machine, effects)?;
        while outcome == Outcome::NameTaken {
            let effects = self.transfer.name_taken();
            outcome = self.perform(machine, &effects)?;
        }
        let effects = self.transfer.published(NOW);
        self.perform(machine, &effects).map(drop)
    }
}
