//! A model of a server process and its transfers.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::{Prefix, Receiver};
use filepull_core::transfer::{Download, LastProgress, Phase, Transfer};

use crate::agent::{BaseList, Order};
use crate::live::{Base, Live};
use crate::machine::{Event, Machine, Stop, is_partial, partial_name};

/// The clock does not move, so that all downloads compete for one name.
pub(crate) const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

#[derive(Debug)]
pub(crate) struct Server {
    transfers: BTreeMap<TransferId, Live>,
    /// The token of all orders of this process. Each process has another one.
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
        // Before any recovery, and based on the records, as in the server.
        let owned = server.partials();
        let found: Vec<_> = machine.disk.names().map(str::to_owned).collect();
        for leftover in found.iter().filter(|name| is_partial(name) && !owned.contains(*name)) {
            machine.tick()?;
            machine.disk.unlink(leftover);
        }
        for live in server.transfers.values_mut() {
            match live.recover(machine) {
                // A failed recovery has ended the transfer.
                Ok(()) | Err(Stop::Refused) => {}
                Err(stop) => return Err(stop),
            }
        }
        machine.events.push(Event::Restarted);
        Ok(server)
    }

    pub(crate) fn transfers(&self) -> impl Iterator<Item = &Live> {
        self.transfers.values()
    }

    /// The partials that unfinished transfers own.
    pub(crate) fn partials(&self) -> BTreeSet<String> {
        let owned = |live: &Live| match live.transfer.phase {
            Phase::Receiving(_) | Phase::Sealed(_) => Some(partial_name(&live.transfer.partial())),
            Phase::Queued
            | Phase::Done(_)
            | Phase::Unchanged(_)
            | Phase::Failed(_)
            | Phase::Cancelled(_) => None,
        };
        self.transfers().filter_map(owned).collect()
    }

    fn open(&mut self) -> impl DoubleEndedIterator<Item = &mut Live> {
        self.transfers.values_mut().filter(|live| !live.transfer.is_final())
    }

    /// Returns whether the process has this transfer.
    pub(crate) fn knows(&self, id: TransferId) -> bool {
        self.transfers.contains_key(&id)
    }

    /// Joins the unfinished transfer, or creates one. A fresh trigger joins only a transfer without an
    /// order. Returns whether the source will be opened after this trigger; none if no transfer was
    /// created.
    pub(crate) fn trigger(
        &mut self,
        machine: &mut Machine,
        fresh: bool,
    ) -> Result<Option<(TransferId, bool)>, Stop> {
        let joinable = self.open().rfind(|live| !fresh || live.transfer.attempt == 0);
        if let Some(Live { transfer, .. }) = joinable {
            machine.events.push(Event::Accepted(transfer.id));
            return Ok(Some((transfer.id, transfer.attempt == 0)));
        }
        let client = ClientId::parse("client4").expect("a valid id");
        let mut transfer = Transfer::new(client, None, "test".to_owned(), NOW);
        let id = format!("00000000-0000-7000-8000-{:012}", machine.records.len());
        transfer.id = TransferId::parse(&id).expect("a valid id");
        if !machine.save(&transfer)? {
            // The caller learns that nothing was started. The transfer may be on record all the same.
            let problem = Problem::new(Code::StorageFailed, "in the model");
            transfer.fail(problem, LastProgress::default(), NOW).expect("it is not final");
            machine.save(&transfer)?;
            return Ok(None);
        }
        machine.events.push(Event::Accepted(transfer.id));
        let id = transfer.id;
        self.transfers.insert(id, Live::new(transfer));
        Ok(Some((id, true)))
    }

    /// Orders the oldest unfinished transfer, if there is one. The attempt is not recorded, so the next
    /// process may count it again: the token tells the two orders apart.
    pub(crate) fn order(&mut self, machine: &mut Machine) -> Result<Option<Order>, Stop> {
        let token = self.token;
        let last_download = self.last_download(machine);
        let Some(live) = self.open().next() else { return Ok(None) };
        live.settle(machine)?;
        let download = last_download.filter(|_| !live.is_without_base);
        live.open_base(download.as_ref().map(|of| Base { inode: of.inode, len: of.size }));
        let base = download.map(|of| BaseList {
            whole: Prefix { len: of.size, digest: of.digests.blake3 },
            bytes: machine.disk.open_bytes(of.inode).unwrap_or_default().to_vec(),
        });
        let attempt = live.transfer.next_attempt(NOW);
        machine.events.push(Event::Ordered(live.transfer.id, attempt));
        let held = live.receiver().map_or_else(Prefix::empty, Receiver::prefix);
        Ok(Some(Order { id: live.transfer.id, attempt, held, token, base }))
    }

    /// Returns the last download, if it has its name, its inode and its size.
    fn last_download(&self, machine: &Machine) -> Option<Download> {
        let downloads = self.transfers().filter_map(|live| live.transfer.download());
        let last = downloads.last().filter(|of| 0 < of.size)?;
        let name = last.name.to_string();
        let len = machine.disk.bytes(&name)?.len() as u64;
        let is_there = machine.disk.inode(&name) == Some(last.inode) && len == last.size;
        is_there.then(|| last.clone())
    }

    /// Returns the transfer of `order`, if this process sent the order.
    pub(crate) fn live(&mut self, order: &Order) -> Result<&mut Live, Stop> {
        let is_ours = order.token == self.token;
        self.transfers.get_mut(&order.id).filter(|_| is_ours).ok_or(Stop::Refused)
    }

    /// Makes the received bytes of the oldest unfinished transfer durable.
    pub(crate) fn checkpoint(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        let Some(live) = self.open().next() else { return Ok(()) };
        live.settle(machine)?;
        live.checkpoint_step(machine)?;
        live.settle(machine)
    }

    /// Advances a checkpoint by one step. Chunks may arrive before the next step.
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
