//! The table: a row for each figure, a column for each size of the fleet.

use super::measure::FleetMeasurement;
use crate::product::BothEnds;
use crate::report::{Table, mib};
use crate::stats::SortedSamples;
use crate::targets::{self, Target};

/// A figure: name, decimals and target.
struct FleetRow {
    name: &'static str,
    digits: usize,
    target: Option<Target>,
    figure: fn(&FleetMeasurement) -> f64,
}

pub(super) fn table(measured: &[FleetMeasurement], uses_tls: bool) -> String {
    let sizes: Vec<String> = measured.iter().map(|fleet| fleet.clients.to_string()).collect();
    let mut headings = vec!["clients"];
    headings.extend(sizes.iter().map(String::as_str));
    headings.push(" target");
    let mut table = Table::new(&headings);
    let judged = measured.iter().find(|fleet| fleet.clients == targets::FLEET);
    for FleetRow { name, digits, target, figure } in rows(uses_tls) {
        let cells = measured.iter().map(|fleet| cell(figure(fleet), digits));
        let verdict = target.zip(judged).map(|(target, fleet)| target.verdict(figure(fleet)));
        table.row([name.to_owned()].into_iter().chain(cells).chain(verdict));
    }
    table.to_string()
}

/// Returns an empty text for NaN.
fn cell(figure: f64, digits: usize) -> String {
    if figure.is_nan() { String::new() } else { format!("{figure:.digits$}") }
}

fn rows(uses_tls: bool) -> Vec<FleetRow> {
    let (client_kib, connect_seconds) = match uses_tls {
        true => (targets::TLS_CLIENT_KIB, targets::TLS_CONNECT_SECONDS),
        false => (targets::CLIENT_KIB, targets::CONNECT_SECONDS),
    };
    let row = |name, digits, figure| FleetRow { name, digits, target: None, figure };
    let judged =
        |name, digits, target, figure| FleetRow { name, digits, target: Some(target), figure };
    vec![
        judged("server, KiB for each", 1, client_kib, |f| f.kib().server),
        row("  added, KiB for each", 1, |f| added(f).server),
        row("agents, KiB for each", 1, |f| f.kib().agent),
        row("  added, KiB for each", 1, |f| added(f).agent),
        judged("connected, s", 2, connect_seconds, |f| f.connect.seconds),
        row("  server, CPU ms for each", 3, |f| f.each_ms(f.connect.cpu_seconds.server)),
        row("  agents, CPU ms for each", 3, |f| f.each_ms(f.connect.cpu_seconds.agent)),
        judged("  sessions lost", 0, targets::NONE_LOST, |f| count(f.connect.lost_sessions)),
        judged("idle, server, % of a core", 2, targets::REST_PERCENT, |f| {
            f.rest_cpu_percent.server
        }),
        row("  agents, % of a core", 2, |f| f.rest_cpu_percent.agent),
        row("server lost, s until the new one is ready", 2, |f| f.restart_seconds),
        judged("  connected again, s", 2, connect_seconds, |f| f.reconnect.seconds),
        row("  server, CPU ms for each", 3, |f| f.each_ms(f.reconnect.cpu_seconds.server)),
        judged("  sessions lost", 0, targets::NONE_LOST, |f| count(f.reconnect.lost_sessions)),
        judged("pulls, files/s", 0, targets::FILES_PER_SECOND, files_per_second),
        row("  p50, ms", 1, |f| pull_ms(f).percentile(50)),
        row("  p99, ms", 1, |f| pull_ms(f).percentile(99)),
        row("  server, CPU ms for each", 3, |f| f.each_ms(f.pulls.cpu_seconds.server)),
        row("  agents, CPU ms for each", 3, |f| f.each_ms(f.pulls.cpu_seconds.agent)),
        judged("  lost", 0, targets::NONE_LOST, |f| count(f.pulls.n_lost)),
        row("peak memory, server, MiB", 1, |f| mib(f.peak_rss_bytes.server)),
    ]
}

fn added(fleet: &FleetMeasurement) -> BothEnds<f64> {
    fleet.added_kib.unwrap_or(BothEnds { server: f64::NAN, agent: f64::NAN })
}

fn files_per_second(fleet: &FleetMeasurement) -> f64 {
    count(fleet.pulls.each_seconds.len()) / fleet.pulls.seconds
}

fn pull_ms(fleet: &FleetMeasurement) -> SortedSamples {
    SortedSamples::of(fleet.pulls.each_seconds.iter().map(|seconds| seconds * 1e3))
}

fn count(n: usize) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "no fleet is as large")]
    let count = n as f64;
    count
}
