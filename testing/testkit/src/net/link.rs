//! What lies between agent and server: how long it takes, how fast it is, how much it loses.

use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Serialize, Serializer};

use super::{Namespace, Network, TO_SERVER, delay};
use crate::tool::{self, Started};

/// A line, as it is to be.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Link {
    /// There and back, half of it each way.
    #[serde(serialize_with = "seconds", rename = "rtt_seconds")]
    pub rtt: Duration,
    /// Bits per second on the way to the server; none is as fast as the machine.
    pub rate: Option<u64>,
    /// Packets of a hundred, on either way.
    pub loss_percent: f64,
    /// How much the router keeps for a line that is slower than its sender.
    #[serde(serialize_with = "seconds", rename = "queue_seconds")]
    pub queue: Duration,
}

/// A line, as it is.
#[derive(Debug)]
pub struct LinkedNetwork {
    delay: Started,
}

impl Link {
    /// Makes the router behave so. Nothing else must use the network meanwhile.
    pub async fn lay(&self, network: &Network, folder: &Path) -> anyhow::Result<LinkedNetwork> {
        self.slow_down(network).await?;
        let hold_us = (self.rtt / 2).as_micros().to_string();
        let mut command = network.command_in(Namespace::Router, &env::current_exe()?);
        command.args([tool::NAME, "delay", "--hold-us", &hold_us]);
        command.args(["--loss-percent", &self.loss_percent.to_string()]);
        let delay = Started::start("delay", command, delay::READY, folder).await?;
        let queue = delay::QUEUE.to_string();
        let args = ["--append", "FORWARD", "--jump", "NFQUEUE", "--queue-num", &queue];
        network.run_in(Namespace::Router, "iptables", &args).await?;
        Ok(LinkedNetwork { delay })
    }

    /// Sets the rate alone: no packet is held back or lost.
    pub async fn slow_down(&self, network: &Network) -> anyhow::Result<()> {
        let tc = async |args: &str| {
            let args: Vec<&str> = args.split(' ').collect();
            network.run_in(Namespace::Router, "tc", &args).await
        };
        // One that was never set cannot be deleted.
        let _ = tc(&format!("qdisc del dev {TO_SERVER} root")).await;
        if let Some(rate) = self.rate {
            // Two milliseconds at once, and no less than two packets.
            let burst = (rate / 8 / 500).max(3200);
            let queue_us = self.queue.as_micros();
            tc(&format!(
                "qdisc add dev {TO_SERVER} root tbf rate {rate}bit burst {burst} latency {queue_us}us"
            ))
            .await?;
        }
        Ok(())
    }

    /// `100 ms, 5 Mbit/s, 1 % lost`
    pub fn in_words(&self) -> String {
        let rate = rate_in_words(self.rate);
        let lost = match self.loss_percent {
            0.0 => String::new(),
            percent => format!(", {percent} % lost"),
        };
        format!("{} ms there and back, {rate}{lost}", self.rtt.as_millis())
    }
}

impl LinkedNetwork {
    /// Fails if the kernel lost packets because the delay could not keep up: then what was
    /// measured is our own router.
    pub fn check(&self) -> anyhow::Result<()> {
        let pid = self.delay.process.pid();
        let path = format!("/proc/{pid}/net/netfilter/nfnetlink_queue");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let lost = parse_lost(&text).with_context(|| format!("{path} has another form"))?;
        anyhow::ensure!(lost == 0, "the delay could not keep up: {lost} packets were lost by it");
        Ok(())
    }

    /// Ends the delay: nothing comes between the ends any more but the rate.
    pub async fn take_up(self, network: &Network) -> anyhow::Result<()> {
        self.check()?;
        // Without anybody to judge them the kernel would drop all packets.
        network.run_in(Namespace::Router, "iptables", &["--flush", "FORWARD"]).await?;
        self.delay.process.end().await
    }
}

/// Packets that found the queue full, and such that found our socket full.
fn parse_lost(text: &str) -> Option<u64> {
    let fields: Vec<u64> =
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(fields.get(5)? + fields.get(6)?)
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// `1Gbit`, `5Mbit`, or `none`.
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

/// The other way.
fn rate_in_words(rate: Option<u64>) -> String {
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
    fn a_rate_is_read_as_people_write_it() {
        let check = |text: &str, rate, words: &str| {
            assert_eq!(parse_rate(text), Ok(rate));
            assert_eq!(rate_in_words(rate), words);
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
    fn packets_that_the_queue_lost_are_counted() {
        let line = "    0   4242    17 1  0     3     4     9182  1\n";
        assert_eq!(parse_lost(line), Some(7));
        assert_eq!(parse_lost("0 1 2"), None);
    }
}
