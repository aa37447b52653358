//! Bytes on the wire and seconds of a pull over a store's uplink, beside rsync over the same router.

mod data_set;
mod database;
mod files;
mod log_text;
mod plot;
mod rsync;
mod run;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use filepull_core::human::{parse_duration, parse_size};
use filepull_testkit::net::{Hosts, Link, Network, parse_rate};
use serde::Serialize;

use crate::Bench;
use crate::report::{BenchReport, log_progress, print, write_json};
use crate::setup::Setup;
use crate::source;
use data_set::{DataPlan, DataSet};
use files::WireFile;
use rsync::{COMMANDS, RsyncDaemon, RsyncProgram};
use run::{WireRun, WireSeries};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Rate from the client to the server.
    #[arg(long, default_value = "5Mbit", value_parser = parse_limit)]
    uplink: u64,
    /// Rate from the server to the client.
    #[arg(long, default_value = "50Mbit", value_parser = parse_limit)]
    downlink: u64,
    /// Round trip time.
    #[arg(long, default_value = "60ms", value_parser = parse_duration)]
    rtt: Duration,
    /// Buffer of the router for a sender that is too fast, as the time to send it.
    #[arg(long, default_value = "100ms", value_parser = parse_duration)]
    queue: Duration,
    /// Data sets, comma separated.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = DataSet::ALL)]
    data: Vec<DataSet>,
    /// Size of each file except for the sparse one.
    #[arg(long, default_value = "100MB", value_parser = parse_size)]
    size: u64,
    /// Size of the sparse file.
    #[arg(long, default_value = "5GiB", value_parser = parse_size)]
    sparse_size: u64,
    /// Determines the bytes of all files.
    #[arg(long, default_value_t = 11)]
    seed: u64,
    /// A pull that takes longer is stopped and has a `>` before its figures.
    #[arg(long, default_value = "10m", value_parser = parse_duration)]
    limit: Duration,
    /// Draws bytes and seconds into this file, as SVG.
    #[arg(long)]
    svg: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct WireResults {
    link: Link,
    #[serde(flatten)]
    plan: DataPlan,
    limit_seconds: f64,
    /// The programs of all runs, in their order.
    programs: Vec<&'static str>,
    series: Vec<WireSeries>,
}

/// The conditions of the targets (PERFORMANCE.md).
const TARGET_PLAN: (u64, u64) = (100_000_000, 5 << 30);
const TARGET_UPLINK: u64 = 5_000_000;
const TARGET_RTT: Duration = Duration::from_millis(60);

pub(crate) async fn run(args: &Args, bench: &Bench) -> anyhow::Result<()> {
    let rsync = RsyncProgram::find().await?;
    let folder = source::folder(&bench.folder)?;
    let mut head = bench.head(folder.path()).await?;
    head.versions.push(rsync.version.clone());
    print(&head);
    let network = Network::create(&Hosts::usual()).await?;
    network.split_segments().await?;
    let wire = Wire { args, bench, network: &network, folder: folder.path() };
    let series = wire.measure(rsync).await?;
    print(format!("\n{}", table::tables(&series, args.has_targets())));
    print(NOTES);
    let programs = program_names().collect();
    let Args { limit, .. } = args;
    let results = WireResults {
        link: args.link(),
        plan: args.plan(),
        limit_seconds: limit.as_secs_f64(),
        programs,
        series,
    };
    if let Some(path) = &args.svg {
        let svg = plot::draw(&results.series, &head, &args.link().to_string());
        fs::write(path, svg).with_context(|| path.display().to_string())?;
    }
    write_json(bench.json.as_deref(), &BenchReport { mode: "wire", head: &head, results })
}

const NOTES: &str = "\
MB is 10^6 bytes, with the headers of Ethernet, IP and TCP, as the router has sent them: the uplink goes from the client to the
server. For random bytes the target is compared with the bytes without these headers, in both directions. Seconds: filepull from
the HTTP request to the answer `done`, rsync from its start to its end. rsync has a daemon on the client and runs on the server
with --times. A copy of the earlier version is there before, and every copy is compared with its source. `>`: stopped at the
limit. filepull runs first, then each rsync; no other program uses the router meanwhile.";

/// Returns the names of the measured programs; filepull is the first.
fn program_names() -> impl Iterator<Item = &'static str> {
    ["filepull"].into_iter().chain(COMMANDS.iter().map(|(name, _)| *name))
}

/// Parses a rate that is a limit.
fn parse_limit(text: &str) -> Result<u64, String> {
    parse_rate(text)?.ok_or_else(|| format!("{text:?} is not a rate such as 1Gbit or 5Mbit"))
}

impl Args {
    fn link(&self) -> Link {
        let Self { uplink, downlink, rtt, queue, .. } = *self;
        Link { rtt, rate: Some(uplink), downlink: Some(downlink), loss_percent: 0.0, queue }
    }

    fn plan(&self) -> DataPlan {
        let Self { size, sparse_size, seed, .. } = *self;
        DataPlan { size, sparse_size, seed }
    }

    /// Whether the targets are for these conditions.
    fn has_targets(&self) -> bool {
        (self.size, self.sparse_size) == TARGET_PLAN
            && self.uplink == TARGET_UPLINK
            && self.rtt == TARGET_RTT
    }
}

/// What a measurement needs.
struct Wire<'a> {
    args: &'a Args,
    bench: &'a Bench,
    network: &'a Network,
    folder: &'a Path,
}

impl Wire<'_> {
    async fn measure(&self, rsync: RsyncProgram) -> anyhow::Result<Vec<WireSeries>> {
        let shared = self.folder.join("source");
        let mut files = self.create_files(&shared)?;
        let mut series = self.measure_product(&mut files).await?;
        // Started without delay, as filepull is.
        let daemon = rsync.start(self.network, &shared, &self.folder.join("rsync")).await?;
        let linked = self.args.link().apply(self.network).await?;
        for (name, options) in COMMANDS {
            for (file, series) in files.iter().zip(&mut series) {
                log_progress(format!("{name}: {}", file.data_set.title()));
                series.runs.push(self.measure_rsync(&daemon, options, file).await?);
            }
        }
        linked.remove(self.network).await?;
        daemon.end().await?;
        Ok(series)
    }

    /// Writes the versions that are pulled before the measurement.
    fn create_files(&self, shared: &Path) -> anyhow::Result<Vec<WireFile>> {
        log_progress("generating the files");
        let earlier = self.folder.join("earlier");
        fs::create_dir_all(shared)?;
        fs::create_dir_all(&earlier)?;
        let plan = self.args.plan();
        let data_sets = self.args.data.iter();
        data_sets.map(|&set| WireFile::create(set, &plan, shared, &earlier)).collect()
    }

    /// Pulls the earlier versions without a limit, changes the files, and measures the next pulls.
    async fn measure_product(&self, files: &mut [WireFile]) -> anyhow::Result<Vec<WireSeries>> {
        let source = &files.first().context("a data set is needed")?.source.clone();
        let setup = Setup { bench: self.bench, network: self.network, source, folder: self.folder };
        let product = setup.start("product", &[], &[]).await?;
        for file in files.iter().filter(|file| file.earlier.is_some()) {
            let pulled = run::pull(&product, file, file.source.limit()).await?;
            pulled.with_context(|| format!("{}: the first pull hangs", file.data_set.title()))?;
        }
        for file in &mut *files {
            file.change(&self.args.plan())?;
        }
        let linked = self.args.link().apply(self.network).await?;
        let mut series = Vec::new();
        for file in files.iter() {
            log_progress(format!("filepull: {}", file.data_set.title()));
            source::settle(self.folder)?;
            let pull = run::pull(&product, file, self.args.limit);
            let measured = run::measure(self.network, file, pull).await?;
            let WireFile { data_set, source, .. } = file;
            series.push(WireSeries {
                data_set: *data_set,
                bytes: source.size,
                source_disk_bytes: run::disk_bytes(&source.path)?,
                runs: vec![measured],
            });
        }
        product.end().await?;
        linked.remove(self.network).await?;
        Ok(series)
    }

    async fn measure_rsync(
        &self,
        daemon: &RsyncDaemon,
        options: &[&str],
        file: &WireFile,
    ) -> anyhow::Result<WireRun> {
        daemon.prepare(file)?;
        source::settle(self.folder)?;
        let pull = daemon.pull(options, file, self.args.limit);
        let measured = run::measure(self.network, file, pull).await?;
        daemon.delete_copies()?;
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use clap::{Parser, ValueEnum as _};

    use super::*;

    #[derive(Debug, Parser)]
    struct WireCli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Args {
        WireCli::parse_from(format!("wire {line}").split_whitespace()).args
    }

    #[test]
    fn the_defaults_are_the_conditions_of_the_targets() {
        let args = parse("");
        assert!(args.has_targets());
        assert_eq!(args.link().to_string(), "60 ms round trip, 5 Mbit/s, 50 Mbit/s down");
        assert_eq!(args.data.as_slice(), DataSet::value_variants());
        assert!(!parse("--size 10MB").has_targets());
        assert!(!parse("--uplink 2Mbit").has_targets());
        assert!(!parse("--rtt 100ms").has_targets());
    }

    #[test]
    fn data_sets_are_selected_by_name() {
        assert_eq!(parse("--data sparse,text").data, [DataSet::Sparse, DataSet::Text]);
        assert!(WireCli::try_parse_from(["wire", "--data", "fast"]).is_err());
        assert!(WireCli::try_parse_from(["wire", "--uplink", "none"]).is_err());
    }
}
