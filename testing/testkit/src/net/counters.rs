//! What the router has sent, counted by the kernel for each of its interfaces.

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::time::sleep;

use super::{Namespace, Network, TO_AGENT, TO_SERVER, ip};
use crate::soon;

/// The counters of all interfaces of a namespace.
const COUNTERS: &str = "/proc/net/dev";

/// Bytes of a packet that are no payload: the headers of Ethernet (14), IPv4 (20), and TCP with
/// timestamps (32).
const HEADER_LEN: u64 = 66;

/// Time without a packet after which a transfer is over: longer than a round trip and the queue of
/// the router.
const QUIET: Duration = Duration::from_millis(500);

/// Packets in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PacketCount {
    /// Bytes including the headers of Ethernet, IP and TCP.
    pub bytes: u64,
    /// The number of packets.
    pub packets: u64,
}

/// What the router has sent in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouterCount {
    /// The uplink of the agents.
    pub to_server: PacketCount,
    /// The downlink of the agents.
    pub to_agent: PacketCount,
}

impl PacketCount {
    /// Returns the bytes without the headers of Ethernet, IP and TCP, as far as all packets are of
    /// TCP connections with timestamps.
    pub fn payload(self) -> u64 {
        self.bytes.saturating_sub(self.packets * HEADER_LEN)
    }

    fn since(self, earlier: Self) -> Self {
        Self { bytes: self.bytes - earlier.bytes, packets: self.packets - earlier.packets }
    }
}

impl RouterCount {
    /// Returns what was sent after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            to_server: self.to_server.since(earlier.to_server),
            to_agent: self.to_agent.since(earlier.to_agent),
        }
    }

    /// Returns the sum of both directions.
    pub fn both(self) -> PacketCount {
        let Self { to_server, to_agent } = self;
        PacketCount {
            bytes: to_server.bytes + to_agent.bytes,
            packets: to_server.packets + to_agent.packets,
        }
    }
}

impl Network {
    /// Makes both hosts send each TCP segment as a packet of its own. By default the kernel passes
    /// many segments on as one packet, and counts their headers once.
    pub async fn split_segments(&self) -> anyhow::Result<()> {
        let link = format!("link{}", self.number);
        let agent = self.name(Namespace::Agent);
        ip(&format!("-n {agent} link set {link} gso_max_segs 1")).await?;
        ip(&format!("link set {link} gso_max_segs 1")).await?;
        Ok(())
    }

    /// Returns what the router has sent since its start.
    pub async fn count(&self) -> anyhow::Result<RouterCount> {
        let text = self.run_in(Namespace::Router, "cat", &[COUNTERS]).await?;
        parse(&text).with_context(|| format!("{COUNTERS} has an unknown format: {text}"))
    }

    /// Waits until no packet passes any more, and returns what the router has sent since its start.
    pub async fn count_when_quiet(&self) -> anyhow::Result<RouterCount> {
        let waiting = async {
            let mut last = self.count().await?;
            loop {
                sleep(QUIET).await;
                let now = self.count().await?;
                if now == last {
                    return Ok(now);
                }
                last = now;
            }
        };
        soon("a quiet network", waiting).await?
    }
}

/// Parses `/proc/net/dev` of the router.
fn parse(text: &str) -> Option<RouterCount> {
    Some(RouterCount { to_server: sent(text, TO_SERVER)?, to_agent: sent(text, TO_AGENT)? })
}

/// Returns what an interface has sent. A line has eight columns of received packets, then eight of
/// sent ones; both begin with bytes and packets.
fn sent(text: &str, interface: &str) -> Option<PacketCount> {
    let columns = text.lines().find_map(|line| {
        let (name, columns) = line.split_once(':')?;
        (name.trim() == interface).then_some(columns)
    })?;
    let mut sent = columns.split_whitespace().skip(8).map(str::parse::<u64>);
    Some(PacketCount { bytes: sent.next()?.ok()?, packets: sent.next()?.ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
to-agent: 9999999    7000    0    5    0     0          0         0   266000    4000    0    0    0     0       0          0
to-server:  266066    4001    0    0    0     0          0         0 9000066    6001    0    3    0     0       0          0
";

    #[test]
    fn the_sent_columns_of_both_interfaces_are_counted() {
        let count = parse(TEXT).unwrap();
        assert_eq!(count.to_server, PacketCount { bytes: 9_000_066, packets: 6001 });
        assert_eq!(count.to_agent, PacketCount { bytes: 266_000, packets: 4000 });
        assert_eq!(count.both(), PacketCount { bytes: 9_266_066, packets: 10_001 });
        assert_eq!(parse(&TEXT.replace("to-server", "eth0")), None);
        assert_eq!(parse("to-server: 1 2\nto-agent: 1 2"), None);
    }

    #[test]
    fn a_transfer_is_the_difference_of_two_counts() {
        let after = parse(TEXT).unwrap();
        let before = RouterCount {
            to_server: PacketCount { bytes: 66, packets: 1 },
            to_agent: PacketCount::default(),
        };
        let transfer = after.since(before);
        assert_eq!(transfer.to_server, PacketCount { bytes: 9_000_000, packets: 6000 });
        assert_eq!(transfer.to_agent, after.to_agent);
    }

    #[test]
    fn acknowledgements_have_no_payload() {
        assert_eq!(PacketCount { bytes: 660, packets: 10 }.payload(), 0);
        assert_eq!(PacketCount { bytes: 1514, packets: 1 }.payload(), 1448);
        // A packet without timestamps is shorter.
        assert_eq!(PacketCount { bytes: 54, packets: 1 }.payload(), 0);
    }
}
