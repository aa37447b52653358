//! Records every promise and every state, and fails on the first contradiction.
//!
//! I1 to I15 are the invariants of RELIABILITY.md 3.6.

use std::collections::{BTreeMap, BTreeSet};

use filepull_core::file_digest::{Blake3, FileDigests};
use filepull_core::id::TransferId;
use filepull_core::transfer::{Download, Phase, Transfer};

use crate::agent::{CELL_LEN, Client};
use crate::disk::Inode;
use crate::live::Live;
use crate::machine::{Event, Machine, is, is_partial, partial_name};
use crate::server::Server;

#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle {
    /// The records after the previous step.
    seen: BTreeMap<TransferId, Transfer>,
    accepted: BTreeSet<TransferId>,
    durable: BTreeMap<TransferId, u64>,
    ordered: BTreeMap<TransferId, u32>,
    /// Files that must never change: downloads that are done, and files of other programs.
    kept: BTreeMap<String, (Inode, FileDigests)>,
    intruders: BTreeSet<String>,
    /// Downloads that were damaged after they were done. They may be the base of others.
    spoiled: BTreeSet<String>,
    /// The version of the source when the transfer was triggered.
    requested: BTreeMap<TransferId, usize>,
    commits: Vec<Commit>,
}

/// The agent has read a file twice with the same result, between two versions of its path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    pub(crate) id: TransferId,
    pub(crate) digest: Blake3,
    pub(crate) opened: usize,
    pub(crate) closed: usize,
}

impl Oracle {
    pub(crate) fn requested(&mut self, id: TransferId, version: usize) {
        self.requested.insert(id, version);
    }

    pub(crate) fn was_accepted(&self, id: TransferId) -> bool {
        self.accepted.contains(&id)
    }

    pub(crate) fn intruded(&mut self, machine: &Machine, name: &str) {
        self.intruders.insert(name.to_owned());
        self.keep(machine, name);
    }

    pub(crate) fn spoiled(&mut self, name: String) {
        self.kept.remove(&name);
        self.spoiled.insert(name);
    }

    pub(crate) fn committed(&mut self, commit: Commit) {
        self.commits.push(commit);
    }

    /// Compares the current state with everything recorded so far.
    pub(crate) fn check(&mut self, machine: &mut Machine, server: Option<&Server>) {
        std::mem::take(&mut machine.events).into_iter().for_each(|event| self.record(event));
        for (id, now) in &machine.records {
            if let Some(before) = self.seen.get(id) {
                check_history(before, now);
            }
            let is_new = |download: &Download| {
                !self.has_kept(download) && !self.spoiled.contains(&download.name.to_string())
            };
            if now.download().is_some_and(is_new) {
                self.done(machine, now);
            }
        }
        self.seen.clone_from(&machine.records);
        let lost = self.accepted.iter().find(|id| !machine.records.contains_key(id));
        assert_eq!(lost, None, "I15: accepted and then lost");
        self.check_names(machine);
        if let Some(server) = server {
            let found = machine.disk.names().filter(|name| is_partial(name));
            assert_eq!(found.map(str::to_owned).collect::<BTreeSet<_>>(), server.partials(), "I12");
            server.transfers().for_each(|live| self.check_live(machine, live));
        }
    }

    /// Checks that each download equals the source at one instant after its trigger.
    pub(crate) fn check_truth(&self, machine: &Machine, client: &Client) {
        for done in machine.records.values() {
            let Some(download) = done.download() else { continue };
            let name = download.name.to_string();
            if self.spoiled.contains(&name) {
                continue;
            }
            let bytes = machine.disk.bytes(&name).expect("I3: a download is gone");
            assert_eq!(download.size, download.source.size, "I9: not all that was announced");
            let is_its =
                |commit: &&Commit| commit.id == done.id && commit.digest == download.digests.blake3;
            let mut commits = self.commits.iter().filter(is_its).peekable();
            assert!(commits.peek().is_some(), "I9: published without a commit: {done:?}");
            let is_true = |commit: &Commit| {
                // A rejected trigger may be on record all the same. It is no promise.
                let is_fresh = self.requested.get(&done.id) <= Some(&commit.opened);
                is_fresh && stood(&client.versions[commit.opened..=commit.closed], bytes)
            };
            assert!(commits.any(is_true), "I10: not the source at one instant: {bytes:?}");
        }
    }

    fn record(&mut self, event: Event) {
        match event {
            Event::Accepted(id) => _ = self.accepted.insert(id),
            Event::Durable(id, len) => _ = self.durable.insert(id, len),
            Event::Lapsed(id) => _ = self.durable.remove(&id),
            Event::Ordered(id, attempt) => {
                let before = self.ordered.insert(id, attempt);
                assert!(before < Some(attempt), "I2: attempt {attempt} was ordered before");
            }
            Event::Restarted => self.ordered.clear(),
            Event::Began(id, attempt) => {
                let newest = Some(&attempt) == self.ordered.get(&id);
                assert!(newest, "I2: an upload of a superseded attempt may write");
            }
        }
    }

    fn keep(&mut self, machine: &Machine, name: &str) {
        let inode = machine.disk.inode(name).expect("what is kept exists");
        let bytes = machine.disk.bytes(name).expect("what is kept exists");
        self.kept.insert(name.to_owned(), (inode, FileDigests::of(bytes)));
    }

    fn has_kept(&self, download: &Download) -> bool {
        let kept = self.kept.get(&download.name.to_string());
        kept == Some(&(download.inode, download.digests))
    }

    fn done(&mut self, machine: &Machine, done: &Transfer) {
        let name = done.download().expect("it is done").name.to_string();
        assert!(machine.disk.inode(&name).is_some(), "I15: done and not there: {done:?}");
        assert!(!self.kept.contains_key(&name), "I3: {name} belongs to another program");
        self.keep(machine, &name);
    }

    fn check_names(&self, machine: &Machine) {
        for (name, kept) in &self.kept {
            let now = machine.disk.inode(name).zip(machine.disk.bytes(name).map(FileDigests::of));
            assert_eq!(now, Some(*kept), "I3: {name} has changed");
        }
        for name in machine.disk.names() {
            if is_partial(name) || self.intruders.contains(name) || self.spoiled.contains(name) {
                continue;
            }
            let inode = machine.disk.inode(name);
            let owners = machine.records.values().filter_map(|of| of.phase.complete_file());
            let owners = owners.filter(|download| {
                download.name.to_string() == name && Some(download.inode) == inode
            });
            let owners: Vec<_> = owners.collect();
            assert_eq!(owners.len(), 1, "I4: {name} belongs to {owners:?}");
            let bytes = machine.disk.bytes(name).expect("it was just listed");
            assert!(is(owners[0], bytes), "I1: {name} is not what was committed: {bytes:?}");
        }
    }

    fn check_live(&self, machine: &Machine, live: &Live) {
        let transfer = &live.transfer;
        let durable = self.durable.get(&transfer.id).copied().unwrap_or(0);
        match &transfer.phase {
            Phase::Queued => assert_eq!(durable, 0, "I5: acknowledged and lost: {transfer:?}"),
            Phase::Receiving(receiving) => {
                let receiver = live.receiver().expect("a partial has a receiver");
                let partial = partial_name(&transfer.partial());
                let bytes = machine.disk.bytes(&partial).expect("I12 holds");
                assert_eq!(receiver.received(), bytes.len() as u64, "I7: a hole in {partial}");
                assert_eq!(receiver.prefix().digest, Blake3::of(bytes), "I7: other bytes");
                assert!(durable <= receiver.received(), "I5: acknowledged and lost: {transfer:?}");
                let checkpoint = receiving.checkpoint().len;
                assert!(checkpoint <= receiver.received(), "I6: {transfer:?}");
                assert!(receiver.received() <= receiving.source().size, "I8: more than announced");
            }
            Phase::Sealed(_) => panic!("a sealed transfer was not continued: {transfer:?}"),
            Phase::Done(_) | Phase::Unchanged(_) | Phase::Failed(_) | Phase::Cancelled(_) => {
                assert_eq!(Some(transfer), machine.records.get(&transfer.id), "I15");
            }
        }
    }
}

fn check_history(before: &Transfer, now: &Transfer) {
    if before.is_final() {
        assert_eq!(before, now, "I4: a final state does not change");
    }
    assert!(before.generation <= now.generation, "I6: {before:?} became {now:?}");
    assert!(before.attempt <= now.attempt, "I2: {before:?} became {now:?}");
    if now.problem().is_some() {
        let size = now.source().map_or(0, |source| source.size);
        assert!(now.received() <= size, "more bytes than the source has: {now:?}");
    }
    let same_generation = before.generation == now.generation;
    if let (Phase::Receiving(before), Phase::Receiving(now)) = (&before.phase, &now.phase)
        && same_generation
    {
        assert!(before.checkpoint().len <= now.checkpoint().len, "I6: {before:?} became {now:?}");
    }
}

/// Returns whether these bytes are the beginning of one version. Reading twice cannot detect a byte
/// that changed and changed back in between. Then each cell must have existed at some time.
fn stood(versions: &[Vec<u8>], bytes: &[u8]) -> bool {
    let is_one_version = versions.iter().any(|version| version.starts_with(bytes));
    is_one_version || came_back(versions) && is_patchwork(versions, bytes)
}

/// Returns whether a cell of one version returned in a later version, after another one.
fn came_back(versions: &[Vec<u8>]) -> bool {
    let cells: BTreeSet<&[u8]> = versions.iter().flat_map(|v| v.chunks(CELL_LEN)).collect();
    // Each version has the same holes.
    cells.into_iter().filter(|cell| *cell != [0; CELL_LEN]).any(|cell| {
        let holds = |version: &Vec<u8>| version.chunks(CELL_LEN).any(|other| other == cell);
        let mut spans = versions.iter().map(holds).collect::<Vec<_>>();
        spans.dedup();
        2 <= spans.into_iter().filter(|&held| held).count()
    })
}

fn is_patchwork(versions: &[Vec<u8>], bytes: &[u8]) -> bool {
    bytes.chunks(CELL_LEN).enumerate().all(|(idx, cell)| {
        let at = idx * CELL_LEN;
        versions.iter().any(|version| version.get(at..at + cell.len()) == Some(cell))
    })
}
