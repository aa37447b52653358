//! The complete model, one step at a time.

use filepull_core::name::DownloadName;
use filepull_core::source::{Consistency, Source};
use filepull_core::transfer::Transfer;

use crate::agent::{Client, Lie, Message, Mutation, Upload};
use crate::disk::Fate;
use crate::machine::{Fault, Machine, Stop};
use crate::oracle::{Commit, Oracle};
use crate::server::{NOW, Server};

#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) op: Op,
    pub(crate) crash: Option<Crash>,
    pub(crate) fault: Option<Fault>,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Idle,
    Trigger {
        fresh: bool,
    },
    Deliver {
        n_steps: usize,
    },
    DropConnection,
    KillAgent,
    Checkpoint,
    CheckpointStep,
    Cancel,
    Mutate(Mutation),
    Lie(Lie),
    NameTaken {
        n_names: usize,
        same_bytes: bool,
    },
    StaleUpload {
        pick: usize,
    },
    /// Damages the last download, which may be the base of an upload.
    Spoil(Spoil),
}

/// What happens to the bytes of a download outside the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spoil {
    Flip { pick: usize },
    Truncate { len: usize },
}

/// A crash of the server process, at the end of the step or earlier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crash {
    /// How many operations remain.
    pub(crate) after: usize,
    /// None: only the process is killed.
    pub(crate) power_cut: Option<Fate>,
    /// Damages a partial while no process runs.
    pub(crate) flip: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct World {
    machine: Machine,
    server: Option<Server>,
    client: Client,
    upload: Option<Upload>,
    /// The bug of the next upload.
    lie: Option<Lie>,
    /// No agent had a bug, and no byte was damaged.
    is_honest: bool,
    /// The headers of uploads. They may arrive again later.
    begun: Vec<(Upload, u64, Source)>,
    oracle: Oracle,
}

impl World {
    pub(crate) fn new(n_cells: usize, consistency: Consistency, links: bool) -> Self {
        Self {
            machine: Machine { links, ..Machine::default() },
            server: None,
            client: Client::new(n_cells, consistency),
            upload: None,
            lie: None,
            is_honest: true,
            begun: Vec::new(),
            oracle: Oracle::default(),
        }
    }

    pub(crate) fn step(&mut self, step: &Step) {
        self.machine.fuse = step.crash.map(|crash| crash.after);
        self.machine.fault = step.fault;
        let stop = self.act(&step.op);
        (self.machine.fuse, self.machine.fault) = (None, None);
        match step.crash {
            Some(crash) => self.crash(crash),
            None if step.fault.is_some() && stop == Err(Stop::Refused) => {}
            None => assert_eq!(stop, Ok(()), "no failure was planned in {step:?}"),
        }
        self.check();
        self.check_power_cut(Fate(0));
        if let Some(fate) = step.crash.and_then(|crash| crash.power_cut) {
            self.check_power_cut(fate);
        }
    }

    /// I11: once no failure occurs, every transfer ends.
    pub(crate) fn settle(&mut self) {
        let limit = 1000 * (1 + self.machine.records.len());
        // A rejected trigger may be on record: the next process continues it.
        let is_known = |id: &_| self.server.as_ref().is_some_and(|server| server.knows(*id));
        if !self.machine.records.iter().all(|(id, of)| of.is_final() || is_known(id)) {
            (self.server, self.upload) = (None, None);
        }
        for _ in 0..limit {
            assert_eq!(self.advance(), Ok(()), "no failure is planned");
            if self.machine.records.values().all(|transfer| transfer.is_final()) {
                return self.check();
            }
        }
        panic!("I11: no end in {limit} steps: {:?}", self.machine.records);
    }

    pub(crate) fn all_are_done(&self) -> bool {
        self.records().all(|transfer| transfer.download().is_some())
    }

    /// Returns whether all transfers are done, except those with a rejected trigger.
    pub(crate) fn all_accepted_are_done(&self) -> bool {
        let accepted = |transfer: &&Transfer| self.oracle.was_accepted(transfer.id);
        self.records().filter(accepted).all(|transfer| transfer.download().is_some())
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &Transfer> {
        self.machine.records.values()
    }

    fn check(&mut self) {
        self.oracle.check(&mut self.machine, self.server.as_ref());
        self.oracle.check_truth(&self.machine, &self.client);
        let is_damaged = self.machine.records.values().any(|of| of.setbacks.damaged != 0);
        assert!(!(is_damaged && self.is_honest), "a change of the source was reported as damage");
    }

    /// Cuts the power in a copy of the world. All invariants must hold after one and two recoveries.
    fn check_power_cut(&self, fate: Fate) {
        let mut machine = self.machine.clone();
        let mut oracle = self.oracle.clone();
        machine.disk.power_cut(fate);
        let mut recover = || {
            let server = Server::start(&mut machine).expect("no crash was planned");
            oracle.check(&mut machine, Some(&server));
            (machine.disk.contents(), machine.records.clone())
        };
        let once = recover();
        assert_eq!(once, recover(), "I13: a second recovery changed more");
    }

    fn crash(&mut self, Crash { power_cut, flip, .. }: Crash) {
        (self.server, self.upload) = (None, None);
        if let Some(fate) = power_cut {
            self.machine.disk.power_cut(fate);
        }
        if let Some(pick) = flip {
            self.is_honest = false;
            self.machine.flip_bit(pick);
        }
    }

    fn act(&mut self, op: &Op) -> Result<(), Stop> {
        match *op {
            Op::Idle => {}
            Op::Trigger { fresh } => self.trigger(fresh)?,
            Op::Deliver { n_steps } => (0..n_steps).try_for_each(|_| self.advance())?,
            Op::DropConnection => self.upload = None,
            Op::KillAgent => (self.upload, self.begun) = (None, Vec::new()),
            Op::Checkpoint => {
                let (server, machine) = self.running()?;
                server.checkpoint(machine)?;
            }
            Op::CheckpointStep => {
                let (server, machine) = self.running()?;
                server.checkpoint_step(machine)?;
            }
            Op::Cancel => {
                let (server, machine) = self.running()?;
                server.cancel(machine)?;
            }
            Op::Mutate(mutation) => self.client.mutate(mutation),
            Op::Lie(lie) => {
                self.is_honest = false;
                match &mut self.upload {
                    Some(upload) => upload.lie = Some(lie),
                    None => self.lie = Some(lie),
                }
            }
            Op::NameTaken { n_names, same_bytes } => self.intrude(n_names, same_bytes),
            Op::StaleUpload { pick } => self.replay(pick)?,
            Op::Spoil(spoil) => self.spoil(spoil),
        }
        Ok(())
    }

    /// The server process and its machine; a new process recovers first.
    fn running(&mut self) -> Result<(&mut Server, &mut Machine), Stop> {
        let server = match self.server.take() {
            Some(server) => server,
            None => Server::start(&mut self.machine)?,
        };
        Ok((self.server.insert(server), &mut self.machine))
    }

    fn trigger(&mut self, fresh: bool) -> Result<(), Stop> {
        let version = self.client.version();
        let (server, machine) = self.running()?;
        if let Some((id, true)) = server.trigger(machine, fresh)? {
            self.oracle.requested(id, version);
        }
        Ok(())
    }

    fn spoil(&mut self, spoil: Spoil) {
        let last = self.machine.records.values().rev().find_map(Transfer::download);
        let Some(name) = last.map(|download| download.name.to_string()) else { return };
        match spoil {
            Spoil::Flip { pick } => self.machine.disk.flip_bit(&name, pick),
            Spoil::Truncate { len } => self.machine.disk.truncate(&name, len),
        }
        self.oracle.spoiled(name);
    }

    /// Another program creates files with the names of the next downloads.
    fn intrude(&mut self, n_names: usize, same_bytes: bool) {
        let mut name = DownloadName::new(NOW, "data.bin");
        let bytes = if same_bytes { &self.client.versions[self.client.version()] } else { &vec![] };
        for _ in 0..n_names {
            let text = name.to_string();
            if self.machine.disk.inode(&text).is_none() {
                self.machine.disk.create(&text);
                self.machine.disk.write(&text, 0, bytes);
                self.machine.disk.sync(&text);
                self.machine.disk.sync_folder();
                self.oracle.intruded(&self.machine, &text);
            }
            name = name.next();
        }
    }

    /// The agent takes one small step, and the server handles it.
    fn advance(&mut self) -> Result<(), Stop> {
        self.running()?;
        let Some(upload) = &mut self.upload else {
            let (server, machine) = self.running()?;
            let order = server.order(machine)?;
            let lie = self.lie.take();
            self.upload = order.map(|order| Upload::open(&self.client, order, lie));
            return Ok(());
        };
        let message = upload.next(&self.client);
        if let Message::Begin { offset, source } = &message {
            self.begun.push((upload.clone(), *offset, source.clone()));
        }
        let ends = matches!(message, Message::Trailer { .. } | Message::Changed);
        let upload = upload.clone();
        let outcome = self.deliver(&upload, message);
        if ends || outcome == Err(Stop::Refused) {
            self.upload = None;
        }
        if outcome == Err(Stop::Refused) { Ok(()) } else { outcome }
    }

    /// The header of an earlier upload arrives again.
    fn replay(&mut self, pick: usize) -> Result<(), Stop> {
        if self.begun.is_empty() {
            return Ok(());
        }
        let (upload, offset, source) = self.begun[pick % self.begun.len()].clone();
        match self.deliver(&upload, Message::Begin { offset, source }) {
            Ok(()) => self.upload = Some(upload),
            Err(Stop::Refused) => {}
            Err(stop) => return Err(stop),
        }
        Ok(())
    }

    fn deliver(&mut self, upload: &Upload, message: Message) -> Result<(), Stop> {
        let order = &upload.order;
        if let Message::Trailer { digest, .. } = message {
            let opened = upload.opened;
            let closed = self.client.version();
            self.oracle.committed(Commit { id: order.id, digest, opened, closed });
        }
        let (server, machine) = self.running()?;
        let live = server.live(order)?;
        match message {
            Message::Nothing => Ok(()),
            Message::Begin { offset, source } => live.begin(machine, order, offset, &source),
            Message::Extent { offset, extent } => live.extent(machine, order, offset, &extent),
            Message::Trailer { size, digest } => live.trailer(machine, order, size, digest),
            Message::Changed => live.changed(machine, order),
        }
    }
}
