//! A server process: its transfers, and what it is asked to do with them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::{Prefix, Receiver};
use filepull_core::transfer::{LastProgress, Phase, Transfer};

use crate::agent::Order;
use crate::live::Live;
use crate::machine::{Machine, Said, Stop, is_partial, partial_name};

/// The clock stands still, so that every name is fought over.
pub(crate) const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

#[derive(Clone, Debug)]
pub(crate) struct Server {
    transfers: BTreeMap<TransferId, Live>,
    /// In every order of this process, and of no other.
    token: usize,
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
            Phase::Receiving(_) | Phase::Sealed(_) => Some(partial_name(&live.transfer.partial())),
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
            transfer.fail(problem, LastProgress::default(), NOW).expect("it is not final");
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
