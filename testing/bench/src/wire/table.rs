//! The tables: bytes on the uplink, bytes in both directions, and seconds.

use filepull_testkit::net::{PacketCount, RouterCount};

use super::data_set::DataSet;
use super::program_names;
use super::run::{WireRun, WireSeries};
use crate::report::Table;
use crate::targets::{self, Target};

/// What the bytes of filepull are compared with.
#[derive(Clone, Copy, Debug)]
enum BytesTarget {
    /// The bytes of `rsync -z` in the same run.
    OverRsync(Target),
    /// Megabytes.
    Megabytes(Target),
    /// The size of the file, without the headers of packets.
    OverFile(Target),
}

/// The places of the programs among the runs of a file.
const RSYNC: usize = 1;
const RSYNC_Z: usize = 2;

impl DataSet {
    /// Returns the target (PERFORMANCE.md). It holds for the uplink and for both directions.
    fn bytes_target(self) -> BytesTarget {
        match self {
            Self::Text | Self::Appended => BytesTarget::OverRsync(Target::AtMost(1.1)),
            Self::Database | Self::Insertions => BytesTarget::OverRsync(Target::AtMost(1.2)),
            Self::Unchanged => BytesTarget::Megabytes(Target::AtMost(0.1)),
            Self::Random => BytesTarget::OverFile(Target::AtMost(1.01)),
            Self::Sparse => BytesTarget::Megabytes(Target::AtMost(1.0)),
        }
    }
}

/// Returns the tables of all figures. `has_targets`: whether the targets are for these conditions.
pub(crate) fn tables(series: &[WireSeries], has_targets: bool) -> String {
    let bytes_of = |title: &'static str, count: fn(&RouterCount) -> PacketCount| {
        let figure = |run: &WireRun| megabytes(count(&run.sent).bytes);
        let compared = |one: &WireSeries| bytes_verdict(one, count, has_targets);
        table(title, series, figure, compared)
    };
    let uplink = bytes_of("uplink, MB", |sent| sent.to_server);
    let both = bytes_of("both directions, MB", |sent| sent.both());
    let seconds = |run: &WireRun| run.seconds;
    let time = table("seconds", series, seconds, |one| time_verdict(one, has_targets));
    let disk: String = series.iter().filter_map(|one| disk(one, has_targets)).collect();
    format!("{uplink}\n{both}\n{time}{disk}")
}

fn table(
    title: &'static str,
    series: &[WireSeries],
    figure: impl Fn(&WireRun) -> f64,
    compared: impl Fn(&WireSeries) -> String,
) -> String {
    let headings: Vec<&str> = [title, "file, MB"].into_iter().chain(program_names()).collect();
    let mut table = Table::new(&[headings.as_slice(), &[" filepull is"]].concat());
    for one in series {
        let first = [one.data_set.title().to_owned(), number(megabytes(one.bytes))];
        let runs = one.runs.iter().map(|run| shown(run, figure(run)));
        table.row(first.into_iter().chain(runs).chain([compared(one)]));
    }
    table.to_string()
}

/// Returns text such as `1.05 x rsync -z (target: at most 1.1: met)`.
fn bytes_verdict(
    series: &WireSeries,
    count: fn(&RouterCount) -> PacketCount,
    has_targets: bool,
) -> String {
    let [Some(ours), Some(rsync)] = [0, RSYNC_Z].map(|idx| series.runs.get(idx)) else {
        return String::new();
    };
    let sent = count(&ours.sent);
    let (text, figure, target) = match series.data_set.bytes_target() {
        BytesTarget::OverRsync(target) => {
            let figure = megabytes(sent.bytes) / megabytes(count(&rsync.sent).bytes);
            (format!("{} x rsync -z", compared(figure, ours, rsync)), figure, target)
        }
        BytesTarget::Megabytes(target) => {
            let figure = megabytes(sent.bytes);
            (format!("{} MB", shown(ours, figure)), figure, target)
        }
        BytesTarget::OverFile(target) => {
            let figure = megabytes(sent.payload()) / megabytes(series.bytes);
            let sign = if ours.is_complete { "" } else { ">" };
            (format!("{sign}{figure:.3} x the file"), figure, target)
        }
    };
    format!("{text}{}", verdict(target, figure, ours, has_targets))
}

/// Returns text such as `0.98 x rsync (target: at most 1.0: met)`.
fn time_verdict(series: &WireSeries, has_targets: bool) -> String {
    let [Some(ours), Some(rsync)] = [0, RSYNC].map(|idx| series.runs.get(idx)) else {
        return String::new();
    };
    let figure = ours.seconds / rsync.seconds;
    let over_rsync = verdict(targets::OVER_RSYNC_SECONDS, figure, ours, has_targets);
    let text = format!("{} x rsync{over_rsync}", compared(figure, ours, rsync));
    if series.data_set != DataSet::Sparse {
        return text;
    }
    let seconds = shown(ours, ours.seconds);
    let absolute = verdict(targets::SPARSE_SECONDS, ours.seconds, ours, has_targets);
    format!("{text}, {seconds} s{absolute}")
}

/// Returns how much of each disk the sparse file and its copies occupy.
fn disk(series: &WireSeries, has_targets: bool) -> Option<String> {
    let ours = series.runs.first().filter(|_| series.data_set == DataSet::Sparse)?;
    let target = targets::SPARSE_DISK_MB;
    let verdict = verdict(target, megabytes(ours.copy_disk_bytes), ours, has_targets);
    let occupied = |run: &WireRun| match run.is_complete {
        true => format!("{} MB", number(megabytes(run.copy_disk_bytes))),
        false => "no copy".to_owned(),
    };
    let rest: Vec<String> = program_names()
        .zip(&series.runs)
        .skip(1)
        .map(|(name, run)| format!("{name} {}", occupied(run)))
        .collect();
    let [ours, rest] = [occupied(ours), rest.join(", ")];
    let source = number(megabytes(series.source_disk_bytes));
    Some(format!(
        "\nThe sparse file occupies {source} MB of the client's disk; of the server's: filepull \
         {ours}{verdict}, {rest}.\n"
    ))
}

/// Returns text such as ` (target: at most 1.1: met)`. A pull that was stopped misses every target.
fn verdict(target: Target, figure: f64, ours: &WireRun, has_targets: bool) -> String {
    let figure = if ours.is_complete { figure } else { f64::NAN };
    if has_targets { format!(" {}", target.verdict(figure)) } else { String::new() }
}

/// Returns a ratio, as `>2.00` if filepull was stopped, and as `<2.00` if the other program was.
fn compared(ratio: f64, ours: &WireRun, other: &WireRun) -> String {
    match (ours.is_complete, other.is_complete) {
        (true, true) => format!("{ratio:.2}"),
        (false, true) => format!(">{ratio:.2}"),
        (true, false) => format!("<{ratio:.2}"),
        (false, false) => "?".to_owned(),
    }
}

/// Returns a figure of a run, as `>2.00` if the run was stopped.
fn shown(run: &WireRun, figure: f64) -> String {
    let sign = if run.is_complete { "" } else { ">" };
    format!("{sign}{}", number(figure))
}

/// Returns three significant digits, or more before the point.
pub(crate) fn number(figure: f64) -> String {
    match figure {
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        1.0.. => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

pub(crate) fn megabytes(bytes: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "exact up to 9 PB")]
    let bytes = bytes as f64;
    bytes / 1e6
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns a run of `kilobytes` in packets of 1,000 bytes up, and a hundredth of it down.
    fn run(kilobytes: u64, seconds: f64) -> WireRun {
        let to_server = PacketCount { bytes: kilobytes * 1000, packets: kilobytes };
        let to_agent = PacketCount { bytes: kilobytes * 10, packets: 0 };
        let sent = RouterCount { to_server, to_agent };
        WireRun { seconds, is_complete: true, sent, copy_disk_bytes: 4096 }
    }

    pub(crate) fn series(data_set: DataSet, ours: WireRun) -> WireSeries {
        let runs = vec![ours, run(100_000, 160.0), run(10_000, 16.0), run(10_000, 16.5)];
        WireSeries { data_set, bytes: 100_000_000, source_disk_bytes: 8192, runs }
    }

    pub(crate) fn stopped_run() -> WireRun {
        WireRun { is_complete: false, ..run(50_000, 600.0) }
    }

    #[test]
    fn bytes_are_compared_with_what_the_target_names() {
        let check = |data_set, kilobytes, expected: &str| {
            let series = series(data_set, run(kilobytes, 1.0));
            assert_eq!(bytes_verdict(&series, |sent| sent.to_server, true), expected);
        };
        check(DataSet::Text, 11_000, "1.10 x rsync -z (target: at most 1.1: met)");
        check(DataSet::Database, 13_000, "1.30 x rsync -z (target: at most 1.2: MISSED)");
        check(DataSet::Unchanged, 99, "0.099 MB (target: at most 0.1: met)");
        check(DataSet::Sparse, 1001, "1.00 MB (target: at most 1.0: MISSED)");
        // 66 bytes of each packet are headers.
        check(DataSet::Random, 107_500, "1.004 x the file (target: at most 1.01: met)");
    }

    #[test]
    fn the_target_holds_for_both_directions_too() {
        let mut series = series(DataSet::Text, run(10_000, 1.0));
        series.runs[0].sent.to_agent.bytes = 5_000_000;
        let both = bytes_verdict(&series, |sent| sent.both(), true);
        assert_eq!(both, "1.49 x rsync -z (target: at most 1.1: MISSED)");
    }

    #[test]
    fn a_stopped_pull_misses_its_targets() {
        let ours = series(DataSet::Text, stopped_run());
        let bytes = bytes_verdict(&ours, |sent| sent.to_server, true);
        assert_eq!(bytes, ">5.00 x rsync -z (target: at most 1.1: MISSED)");
        assert_eq!(time_verdict(&ours, true), ">3.75 x rsync (target: at most 1.0: MISSED)");
        let mut neither = ours;
        neither.runs[RSYNC].is_complete = false;
        assert_eq!(time_verdict(&neither, true), "? x rsync (target: at most 1.0: MISSED)");
        neither.runs[0] = run(100, 1.6);
        assert_eq!(time_verdict(&neither, true), "<0.01 x rsync (target: at most 1.0: met)");
    }

    #[test]
    fn a_sparse_file_has_targets_for_time_and_disk() {
        let sparse = series(DataSet::Sparse, run(10, 1.6));
        let time = time_verdict(&sparse, true);
        let over_rsync = "0.01 x rsync (target: at most 1.0: met)";
        assert_eq!(time, format!("{over_rsync}, 1.60 s (target: at most 2.0: met)"));
        let text = disk(&sparse, true).unwrap();
        let expected = "occupies 0.008 MB of the client's disk; of the server's: filepull 0.004 MB \
                        (target: at most 1.0: met), rsync 0.004 MB, ";
        assert!(text.contains(expected), "{text}");
        assert_eq!(disk(&series(DataSet::Text, run(10, 1.6)), true), None);
    }

    #[test]
    fn every_file_has_a_row_in_each_table() {
        let series = [series(DataSet::Text, stopped_run()), series(DataSet::Random, run(9, 1.0))];
        let text = tables(&series, false);
        for data_set in [DataSet::Text, DataSet::Random] {
            assert_eq!(text.matches(data_set.title()).count(), 3, "{text}");
        }
        assert_eq!(text.matches("rsync -z --fsync").count(), 3, "{text}");
        assert!(text.contains(">50.0") && text.contains(">600"), "{text}");
        assert!(!text.contains("target"), "the targets are for other conditions: {text}");
    }
}
