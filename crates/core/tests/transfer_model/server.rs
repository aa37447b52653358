//! A server process: what it holds in memory, and how it drives the core's rules.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use filepull_core::digest::Digest;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::name::DownloadName;
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::{Prefix, ReceiveError, Receiver};
use filepull_core::source::Source;
use filepull_core::transfer::{Begin, Effect, Phase, Reached, Recovery, SealedFound, Transfer};

use crate::agent::Order;
use crate::machine::{Machine, Outcome, Said, Stop, is_partial, partial_name};

/// The clock stands still, so that every name is fought over.
pub(crate) const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

#[derive(Clone, Debug)]
pub(crate) struct Server {
    transfers: BTreeMap<TransferId, Live>,
    /// In every order of this process, and of no other.
    token: usize,
}

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

impl Server {
    /// Starts after a crash, or for the first time: RELIABILITY.md 3.4, rules 1 to 3.
    pub(crate) fn start(machine: &mut Machine) -> Result<Self, Stop> {
        machine.n_starts += 1;
        let mut transfers = BTreeMap::new();
        for transfer in machine.records.values().cloned().collect::<Vec<_>>() {
            transfers.insert(transfer.id, Live::new(transfer));
        }
        let mut server = Self { transfers, token: machine.n_starts };
        // Before anything is recovered, as the server does it: by what is on record.
        let owned = server.partials();
        let found: Vec<_> = machine.disk.names().map(str::to_owned).collect();
        for leftover in found.iter().filter(|name| is_partial(name) && !owned.contains(*name)) {
            machine.tick()?;
            machine.disk.unlink(leftover);
        }
        for live in server.transfers.values_mut() {
            match live.recover(machine) {
                // A transfer that fails over it has ended.
                Ok(()) | Err(Stop::Refused) => {}
                Err(stop) => return Err(stop),
            }
        }
        machine.said.push(Said::Restarted);
        Ok(server)
    }

    pub(crate) fn transfers(&self) -> impl Iterator<Item = &Live> {
        self.transfers.values()
    }

    /// The partials that unfinished transfers own.
    pub(crate) fn partials(&self) -> BTreeSet<String> {
        let owned = |live: &Live| match live.transfer.phase {
            Phase::Receiving { .. } | Phase::Sealed(_) => {
                Some(partial_name(&live.transfer, live.transfer.generation))
            }
            Phase::Queued | Phase::Done(_) | Phase::Failed(_) | Phase::Cancelled(_) => None,
        };
        self.transfers().filter_map(owned).collect()
    }

    fn open(&mut self) -> impl DoubleEndedIterator<Item = &mut Live> {
        self.transfers.values_mut().filter(|live| !live.transfer.is_final())
    }

    /// Does it know this transfer?
    pub(crate) fn knows(&self, id: TransferId) -> bool {
        self.transfers.contains_key(&id)
    }

    /// Joins the open transfer, or makes one; a fresh one joins only what was not ordered yet.
    /// Answers whether the source will be opened after this trigger; nothing if none was made.
    pub(crate) fn trigger(
        &mut self,
        machine: &mut Machine,
        fresh: bool,
    ) -> Result<Option<(TransferId, bool)>, Stop> {
        let joinable = self.open().rfind(|live| !fresh || live.transfer.attempt == 0);
        if let Some(Live { transfer, .. }) = joinable {
            machine.said.push(Said::Accepted(transfer.id));
            return Ok(Some((transfer.id, transfer.attempt == 0)));
        }
        let client = ClientId::parse("client4").expect("it is an id");
        let mut transfer = Transfer::new(client, None, "test".to_owned(), NOW);
        let id = format!("00000000-0000-7000-8000-{:012}", machine.records.len());
        transfer.id = TransferId::parse(&id).expect("it is an id");
        if !machine.save(&transfer)? {
            // Whoever asked is told that nothing was started. It may be on record all the same.
            let problem = Problem::new(Code::StorageFailed, "in the model");
            transfer.fail(problem, Reached::default(), NOW);
            machine.save(&transfer)?;
            return Ok(None);
        }
        machine.said.push(Said::Accepted(transfer.id));
        let id = transfer.id;
        self.transfers.insert(id, Live::new(transfer));
        Ok(Some((id, true)))
    }

    /// Orders the oldest open transfer, if there is one. The attempt is not recorded, so the next
    /// process may count it again: the token tells the two orders apart.
    pub(crate) fn order(&mut self, machine: &mut Machine) -> Result<Option<Order>, Stop> {
        let token = self.token;
        let Some(live) = self.open().next() else { return Ok(None) };
        live.settle(machine)?;
        let Live { transfer, receiver, .. } = live;
        let attempt = transfer.next_attempt(NOW);
        machine.said.push(Said::Ordered(transfer.id, attempt));
        let held = receiver.as_ref().map_or_else(Prefix::empty, Receiver::prefix);
        Ok(Some(Order { id: transfer.id, attempt, held, token }))
    }

    /// The transfer that `order` was for, if it is an order of this process.
    pub(crate) fn live(&mut self, order: &Order) -> Result<&mut Live, Stop> {
        let is_ours = order.token == self.token;
        self.transfers.get_mut(&order.id).filter(|_| is_ours).ok_or(Stop::Refused)
    }

    /// Makes what was received of the oldest open transfer survive a power cut.
    pub(crate) fn checkpoint(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        let Some(live) = self.open().next() else { return Ok(()) };
        live.settle(machine)?;
        live.checkpoint_step(machine)?;
        live.settle(machine)
    }

    /// Takes a checkpoint one step further; chunks may come before the next.
    pub(crate) fn checkpoint_step(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        match self.open().next() {
            Some(live) => live.checkpoint_step(machine),
            None => Ok(()),
        }
    }

    pub(crate) fn cancel(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        let Some(live) = self.open().next() else { return Ok(()) };
        live.settle(machine)?;
        live.fail(machine, Code::Cancelled)
    }
}

impl Live {
    fn new(transfer: Transfer) -> Self {
        Self { transfer, receiver: None, making: None }
    }

    fn recover(&mut self, machine: &mut Machine) -> Result<(), Stop> {
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
    fn checkpoint_step(&mut self, machine: &mut Machine) -> Result<(), Stop> {
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
    fn settle(&mut self, machine: &mut Machine) -> Result<(), Stop> {
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

    fn fail(&mut self, machine: &mut Machine, code: Code) -> Result<(), Stop> {
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
