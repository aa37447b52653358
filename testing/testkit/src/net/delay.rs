//! A tool: holds back, or loses, whatever the router forwards. It stands in for tc
//! netem, which many kernels do not have.
//!
//! The kernel hands each packet of a netfilter queue to this program and waits for its verdict. In
//! the *router*, so that neither end knows: in the sender's own output, TCP would wait as well.

use std::collections::{BTreeSet, VecDeque};
use std::io::{ErrorKind, stdin};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nfq::{Message, Queue, Verdict};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::tool::say;

/// What the lab types.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How long each packet is held back, in microseconds.
    #[arg(long)]
    hold_us: u64,
    /// How many of a hundred packets are lost.
    #[arg(long)]
    loss_percent: f64,
}

/// The number of the queue, which is the namespace's own.
pub(super) const QUEUE: u16 = 0;

/// What the process says when packets may come.
pub(super) const READY: &str = "ready to forward";

/// More packets than are ever under way.
const MAX_LEN: u32 = 1_000_000;

/// Room for what the kernel says of packets while this process waits for a core.
const BUFFER: usize = 64 << 20;

/// Forwards until standard input ends.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (mut queue, socket) = open().context("opening a netfilter queue")?;
    queue.bind(QUEUE)?;
    queue.set_queue_max_len(QUEUE, MAX_LEN)?;
    // Verdicts need no contents.
    queue.set_copy_range(QUEUE, 0)?;
    // Many packets as one cost less, but they must not be lost as one.
    queue.set_recv_gso(QUEUE, args.loss_percent == 0.0)?;
    queue.set_nonblocking(true);
    say(READY);
    let hold = Duration::from_micros(args.hold_us);
    let mut held: Held = VecDeque::new();
    let stdin = stdin();
    loop {
        let next = held.front().map(|(came, _)| hold.saturating_sub(came.elapsed()));
        let next = next.map(Timespec::try_from).transpose()?;
        let mut ready =
            [PollFd::new(&socket, PollFlags::IN), PollFd::new(&stdin, PollFlags::empty())];
        poll(&mut ready, next.as_ref())?;
        if ready[1].revents().contains(PollFlags::HUP) {
            return Ok(());
        }
        take(&mut queue, &mut held, args.loss_percent)?;
        forward(&mut queue, &mut held, hold)?;
    }
}

/// Packets, and when they came.
type Held = VecDeque<(Instant, Message)>;

/// A queue, and its socket, which `nfq` keeps to itself: to wait for it, and to make room in it.
fn open() -> anyhow::Result<(Queue, OwnedFd)> {
    let before = open_files()?;
    let queue = Queue::open()?;
    let number = open_files()?.difference(&before).next().copied().context("it has no socket")?;
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty())?;
    let socket = pidfd_getfd(ourselves, number, PidfdGetfdFlags::empty())?;
    set_socket_recv_buffer_size_force(&socket, BUFFER)?;
    Ok((queue, socket))
}

/// The numbers of all descriptors that stay open.
fn open_files() -> anyhow::Result<BTreeSet<i32>> {
    let names = std::fs::read_dir("/proc/self/fd")?.flatten().map(|entry| entry.file_name());
    let numbers: BTreeSet<i32> =
        names.filter_map(|name| name.to_str().and_then(|name| name.parse().ok())).collect();
    // That of the folder just read is closed by now.
    let is_open = |number: &i32| Path::new(&format!("/proc/self/fd/{number}")).is_symlink();
    Ok(numbers.into_iter().filter(is_open).collect())
}

/// Takes what has come, and loses some of it.
fn take(queue: &mut Queue, held: &mut Held, loss_percent: f64) -> anyhow::Result<()> {
    loop {
        match queue.recv() {
            Ok(mut packet) if fastrand::f64() * 100.0 < loss_percent => {
                packet.set_verdict(Verdict::Drop);
                queue.verdict(packet)?;
            }
            Ok(packet) => held.push_back((Instant::now(), packet)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("reading a netfilter queue"),
        }
    }
}

/// Lets go what has been held for long enough.
fn forward(queue: &mut Queue, held: &mut Held, hold: Duration) -> anyhow::Result<()> {
    while let Some((_, packet)) = held.pop_front_if(|(came, _)| hold <= came.elapsed()) {
        // It is to be accepted unless something else was said.
        queue.verdict(packet)?;
    }
    Ok(())
}
