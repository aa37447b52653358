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
}

impl Server {
    /// Starts after a crash, or for the first time: RELIABILITY.md 3.4, rules 1 to 3.
    pub(crate) fn start(machine: &mut Machine) -> Result<Self, Stop> {
        machine.n_starts += 1;
        let mut transfers = BTreeMap::new();
        for transfer in machine.records.values().cloned().collect::<Vec<_>>() {
            let mut live = Live { transfer, receiver: None };
            live.recover(machine)?;
            transfers.insert(live.transfer.id, live);
        }
        let server = Self { transfers, token: machine.n_starts };
        let owned = server.partials();
        let found: Vec<_> = machine.disk.names().map(str::to_owned).collect();
        for leftover in found.iter().filter(|name| is_partial(name) && !owned.contains(*name)) {
            machine.tick()?;
            machine.disk.unlink(leftover);
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

    /// Joins the open transfer, or makes one; a fresh one joins only what was not ordered yet.
    /// Answers whether the source will be opened after this trigger.
    pub(crate) fn trigger(
        &mut self,
        machine: &mut Machine,
        fresh: bool,
    ) -> Result<(TransferId, bool), Stop> {
        let joinable = self.open().rfind(|live| !fresh || live.transfer.attempt == 0);
        if let Some(Live { transfer, .. }) = joinable {
            machine.said.push(Said::Accepted(transfer.id));
            return Ok((transfer.id, transfer.attempt == 0));
        }
        let client = ClientId::parse("client4").expect("it is an id");
        let mut transfer = Transfer::new(client, None, "test".to_owned(), NOW);
        let id = format!("00000000-0000-7000-8000-{:012}", machine.records.len());
        transfer.id = TransferId::parse(&id).expect("it is an id");
        machine.perform(&transfer, &[Effect::Record])?;
        machine.said.push(Said::Accepted(transfer.id));
        let id = transfer.id;
        self.transfers.insert(id, Live { transfer, receiver: None });
        Ok((id, true))
    }

    /// Orders the oldest open transfer, if there is one. The attempt is not recorded, so the next
    /// process may count it again: the token tells the two orders apart.
    pub(crate) fn order(&mut self, machine: &mut Machine) -> Option<Order> {
        let token = self.token;
        let Live { transfer, receiver } = self.open().next()?;
        let attempt = transfer.next_attempt(NOW);
        machine.said.push(Said::Ordered(transfer.id, attempt));
        let held = receiver.as_ref().map_or_else(Prefix::empty, Receiver::prefix);
        Some(Order { id: transfer.id, attempt, held, token })
    }

    /// The transfer that `order` was for, if it is an order of this process.
    pub(crate) fn live(&mut self, order: &Order) -> Result<&mut Live, Stop> {
        let is_ours = order.token == self.token;
        self.transfers.get_mut(&order.id).filter(|_| is_ours).ok_or(Stop::Refused)
    }

    /// Makes what was received of the oldest open transfer survive a power cut.
    pub(crate) fn checkpoint(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        let Some(live) = self.open().next() else { return Ok(()) };
        let Some(receiver) = &live.receiver else { return Ok(()) };
        let effects = live.transfer.checkpoint(receiver.prefix());
        let received = receiver.received();
        machine.perform(&live.transfer, &effects)?;
        machine.said.push(Said::Durable(live.transfer.id, received));
        Ok(())
    }

    pub(crate) fn cancel(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        let Some(live) = self.open().next() else { return Ok(()) };
        live.fail(machine, Code::Cancelled)
    }
}

impl Live {
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
                machine.perform(&self.transfer, &effects).map(drop)
            }
            Recovery::FindSealed(download) => {
                let found = machine.find_sealed(&self.transfer, &download);
                let effects = self.transfer.sealed_found(found, NOW);
                match found {
                    SealedFound::Partial => self.publish(machine, &effects),
                    SealedFound::Named | SealedFound::Nowhere => {
                        machine.perform(&self.transfer, &effects).map(drop)
                    }
                }
            }
        }
    }

    pub(crate) fn begin(
        &mut self,
        machine: &mut Machine,
        order: &Order,
        offset: u64,
        source: Source,
    ) -> Result<(), Stop> {
        let size = source.size;
        let held = self.receiver.as_ref().map(Receiver::received);
        let begin = self.transfer.begin(order.attempt, offset, source, held);
        match begin.map_err(|_| Stop::Refused)? {
            Begin::GoOn => {
                let receiver = self.receiver.as_mut().ok_or(Stop::Refused)?;
                receiver.expect(size).map_err(|_| Stop::Refused)?;
            }
            Begin::Anew(effects) => {
                // Only an agent that could not prove the server's bytes may have them dropped.
                if offset == 0 {
                    machine.said.push(Said::Lapsed(order.id));
                }
                machine.perform(&self.transfer, &effects)?;
                self.receiver = Some(Receiver::new(size));
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
        machine.tick()?;
        let partial = partial_name(&self.transfer, self.transfer.generation);
        let at = usize::try_from(offset).expect("model files are small");
        machine.disk.write(&partial, at, bytes);
        Ok(())
    }

    /// The agent says that this was the whole file.
    pub(crate) fn trailer(
        &mut self,
        machine: &mut Machine,
        order: &Order,
        size: u64,
        digest: Digest,
    ) -> Result<(), Stop> {
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
        machine.perform(&self.transfer, &effects).map(drop)
    }

    fn fail(&mut self, machine: &mut Machine, code: Code) -> Result<(), Stop> {
        machine.said.push(Said::Lapsed(self.transfer.id));
        let received = self.receiver.take().map_or(0, |receiver| receiver.received());
        let reached = Reached { source: self.transfer.source().cloned(), received };
        let effects = self.transfer.fail(Problem::new(code, "in the model"), reached, NOW);
        machine.perform(&self.transfer, &effects).map(drop)
    }

    fn publish(&mut self, machine: &mut Machine, effects: &[Effect]) -> Result<(), Stop> {
        let mut outcome = machine.perform(&self.transfer, effects)?;
        while outcome == Outcome::NameTaken {
            let effects = self.transfer.name_taken();
            outcome = machine.perform(&self.transfer, &effects)?;
        }
        let effects = self.transfer.published(NOW);
        machine.perform(&self.transfer, &effects).map(drop)
    }
}
