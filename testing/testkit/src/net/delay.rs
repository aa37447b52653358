//! A tool: delays and loses the packets that the router forwards. It replaces `tc netem`, which
//! many kernels do not have.
//!
//! The kernel passes each packet of a netfilter queue to this program and waits for its verdict.
//! The queue is in the router, because TCP notices a delay in the output of its own host.

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

use crate::tool::print;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The delay of each packet in microseconds.
    #[arg(long)]
    delay_us: u64,
    /// The percentage of lost packets.
    #[arg(long)]
    loss_percent: f64,
}

/// The number of the netfilter queue. Each namespace has its own numbers.
pub(crate) const QUEUE: u16 = 0;

/// Printed when packets may arrive.
pub(crate) const READY: &str = "ready to forward";

/// Maximum number of packets in the queue: more than a link ever has in flight.
const MAX_LEN: u32 = 1_000_000;

/// Bytes of the socket that receives packets from the kernel, while this process waits for a CPU.
const BUFFER: usize = 64 << 20;

/// Forwards until standard input ends.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (mut queue, socket) = open().context("opening a netfilter queue")?;
    queue.bind(QUEUE)?;
    queue.set_queue_max_len(QUEUE, MAX_LEN)?;
    // A verdict does not need the contents of a packet.
    queue.set_copy_range(QUEUE, 0)?;
    // Merged packets cost less CPU, but each packet must be lost on its own.
    queue.set_recv_gso(QUEUE, args.loss_percent == 0.0)?;
    queue.set_nonblocking(true);
    print(READY);
    let delay = Duration::from_micros(args.delay_us);
    let mut delayed: Delayed = VecDeque::new();
    let stdin = stdin();
    loop {
        let next = delayed.front().map(|(arrived, _)| delay.saturating_sub(arrived.elapsed()));
        let timeout = next.map(Timespec::try_from).transpose()?;
        let mut ready =
            [PollFd::new(&socket, PollFlags::IN), PollFd::new(&stdin, PollFlags::empty())];
        poll(&mut ready, timeout.as_ref())?;
        if ready[1].revents().contains(PollFlags::HUP) {
            return Ok(());
        }
        receive(&mut queue, &mut delayed, args.loss_percent)?;
        forward(&mut queue, &mut delayed, delay)?;
    }
}

/// Packets with their time of arrival.
type Delayed = VecDeque<(Instant, Message)>;

/// Opens a queue and duplicates its socket, which `nfq` does not expose. The socket is needed for
/// `poll` and for its buffer size.
fn open() -> anyhow::Result<(Queue, OwnedFd)> {
    let before = open_files()?;
    let queue = Queue::open()?;
    let number = open_files()?.difference(&before).next().copied().context("it has no socket")?;
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty())?;
    let socket = pidfd_getfd(ourselves, number, PidfdGetfdFlags::empty())?;
    set_socket_recv_buffer_size_force(&socket, BUFFER)?;
    Ok((queue, socket))
}

/// Returns the numbers of all open file descriptors.
fn open_files() -> anyhow::Result<BTreeSet<i32>> {
    let names = std::fs::read_dir("/proc/self/fd")?.flatten().map(|entry| entry.file_name());
    let numbers: BTreeSet<i32> =
        names.filter_map(|name| name.to_str().and_then(|name| name.parse().ok())).collect();
    // The file descriptor of `/proc/self/fd` itself is closed by now.
    let is_open = |number: &i32| Path::new(&format!("/proc/self/fd/{number}")).is_symlink();
    Ok(numbers.into_iter().filter(is_open).collect())
}

/// Receives the waiting packets and drops some of them.
fn receive(queue: &mut Queue, delayed: &mut Delayed, loss_percent: f64) -> anyhow::Result<()> {
    loop {
        match queue.recv() {
            Ok(mut packet) if fastrand::f64() * 100.0 < loss_percent => {
                packet.set_verdict(Verdict::Drop);
                queue.verdict(packet)?;
            }
            Ok(packet) => delayed.push_back((Instant::now(), packet)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("reading a netfilter queue"),
        }
    }
}

/// Forwards the packets whose delay is over.
fn forward(queue: &mut Queue, delayed: &mut Delayed, delay: Duration) -> anyhow::Result<()> {
    while let Some((_, packet)) = delayed.pop_front_if(|(arrived, _)| delay <= arrived.elapsed()) {
        // The default verdict is to accept the packet.
        queue.verdict(packet)?;
    }
    Ok(())
}
