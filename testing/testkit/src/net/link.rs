//! The link between agent and server: its round trip, its rate and its loss.

use std::env;
use std::fmt;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Serialize, Serializer};

use super::{Namespace, Network, TO_AGENT, TO_SERVER, delay};
use crate::tool::{self, ToolProcess};

/// The wanted properties of a link.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Link {
    /// The round trip: each direction delays by half of it.
    #[serde(serialize_with = "seconds", rename = "rtt_seconds")]
    pub rtt: Duration,
    /// Bits per second towards the server; `None` is unlimited.
    pub rate: Option<u64>,
    /// Bits per second towards the agent; `None` is unlimited.
    pub downlink: Option<u64>,
    /// The percentage of packets lost in each direction.
    pub loss_percent: f64,
    /// The queue of the router for a sender that is faster than the link.
    #[serde(serialize_with = "seconds", rename = "queue_seconds")]
    pub queue: Duration,
}

/// A network whose router behaves as a [`Link`].
#[derive(Debug)]
pub struct LinkedNetwork {
    delay: ToolProcess,
}

impl Link {
    /// Gives the router these properties. No traffic may pass during the call.
    pub async fn apply(&self, network: &Network) -> anyhow::Result<LinkedNetwork> {
        self.apply_rate(network).await?;
        let delay_us = (self.rtt / 2).as_micros().to_string();
        let mut command = network.command_in(Namespace::Router, &env::current_exe()?);
        command.args([tool::NAME, "delay", "--delay-us", &delay_us]);
        command.args(["--loss-percent", &self.loss_percent.to_string()]);
        let delay = ToolProcess::start(command, delay::READY).await?;
        let queue = delay::QUEUE.to_string();
        let args = ["--append", "FORWARD", "--jump", "NFQUEUE", "--queue-num", &queue];
        network.run_in(Namespace::Router, "iptables", &args).await?;
        Ok(LinkedNetwork { delay })
    }

    /// Sets the rates only: no packet is delayed or lost.
    pub async fn apply_rate(&self, network: &Network) -> anyhow::Result<()> {
        for (port, rate) in [(TO_SERVER, self.rate), (TO_AGENT, self.downlink)] {
            self.limit(network, port, rate).await?;
        }
        Ok(())
    }

    /// Limits what the router sends through `port`.
    async fn limit(&self, network: &Network, port: &str, rate: Option<u64>) -> anyhow::Result<()> {
        let tc = async |args: &str| {
            let args: Vec<&str> = args.split(' ').collect();
            network.run_in(Namespace::Router, "tc", &args).await
        };
        // An error means that no rate was set before.
        let _ = tc(&format!("qdisc del dev {port} root")).await;
        if let Some(rate) = rate {
            // Two milliseconds of traffic, and at least two packets.
            let burst = (rate / 8 / 500).max(3200);
            let queue_us = self.queue.as_micros();
            tc(&format!(
                "qdisc add dev {port} root tbf rate {rate}bit burst {burst} latency {queue_us}us"
            ))
            .await?;
        }
        Ok(())
    }
}

impl fmt::Display for Link {
    /// Writes `100 ms round trip, 5 Mbit/s, 50 Mbit/s down, 1 % lost`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms round trip, {}", self.rtt.as_millis(), format_rate(self.rate))?;
        if self.downlink.is_some() {
            write!(f, ", {} down", format_rate(self.downlink))?;
        }
        match self.loss_percent {
            0.0 => Ok(()),
            percent => write!(f, ", {percent} % lost"),
        }
    }
}

impl LinkedNetwork {
    /// Fails if the delay was too slow and the kernel dropped packets: the result would be the
    /// speed of the delay.
    pub fn check(&self) -> anyhow::Result<()> {
        let pid = self.delay.process.pid();
        let path = format!("/proc/{pid}/net/netfilter/nfnetlink_queue");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let lost = parse_lost(&text).with_context(|| format!("{path} has an unknown format"))?;
        anyhow::ensure!(lost == 0, "the delay was too slow and lost {lost} packets");
        Ok(())
    }

    /// Removes delay and loss. The rate stays.
    pub async fn remove(self, network: &Network) -> anyhow::Result<()> {
        self.check()?;
        // The kernel drops all packets of a queue without a reader.
        network.run_in(Namespace::Router, "iptables", &["--flush", "FORWARD"]).await?;
        self.delay.process.kill().await
    }
}

/// Counts the packets for which the queue or the socket was full.
fn parse_lost(text: &str) -> Option<u64> {
    let fields: Vec<u64> =
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(fields.get(5)? + fields.get(6)?)
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// Parses bits per second: `1Gbit`, `5Mbit`, `64kbit`, or `none`.
pub fn parse_rate(text: &str) -> Result<Option<u64>, String> {
    if text == "none" {
        return Ok(None);
    }
    let units = [("Gbit", 1_000_000_000), ("Mbit", 1_000_000), ("kbit", 1000)];
    let parsed = units.iter().find_map(|(unit, bits)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*bits).filter(|&rate| rate != 0)
    });
    parsed.map(Some).ok_or_else(|| format!("{text:?} is not a rate such as 1Gbit, 5Mbit or none"))
}

fn format_rate(rate: Option<u64>) -> String {
    match rate {
        None => "no limit".to_owned(),
        Some(bits) if bits % 1_000_000_000 == 0 => format!("{} Gbit/s", bits / 1_000_000_000),
        Some(bits) if bits % 1_000_000 == 0 => format!("{} Mbit/s", bits / 1_000_000),
        Some(bits) => format!("{} kbit/s", bits / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_parsed_and_formatted() {
        let check = |text: &str, rate, formatted: &str| {
            assert_eq!(parse_rate(text), Ok(rate));
            assert_eq!(format_rate(rate), formatted);
        };
        check("1Gbit", Some(1_000_000_000), "1 Gbit/s");
        check("5Mbit", Some(5_000_000), "5 Mbit/s");
        check("64kbit", Some(64_000), "64 kbit/s");
        check("none", None, "no limit");
        for text in ["", "fast", "5", "0Mbit", "-1Mbit", "99999999999Gbit"] {
            assert!(parse_rate(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_link_names_its_downlink_and_its_loss_only_if_it_has_them() {
        let rtt = Duration::from_millis(60);
        let queue = Duration::ZERO;
        let plain = Link { rtt, rate: Some(5_000_000), downlink: None, loss_percent: 0.0, queue };
        assert_eq!(plain.to_string(), "60 ms round trip, 5 Mbit/s");
        let lossy = Link { downlink: Some(50_000_000), loss_percent: 1.0, ..plain };
        assert_eq!(lossy.to_string(), "60 ms round trip, 5 Mbit/s, 50 Mbit/s down, 1 % lost");
    }

    #[test]
    fn packets_that_the_queue_lost_are_counted() {
        let line = "    0   4242    17 1  0     3     4     9182  1\n";
        assert_eq!(parse_lost(line), Some(7));
        assert_eq!(parse_lost("0 1 2"), None);
    }
}
