//! Pictures of what was measured, from the files that `--json` wrote.

mod axis;
mod chart;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use filepull_core::human;
use serde_json::Value;

use crate::report::tell;
use crate::stats::Sorted;
use crate::targets;
use axis::Scale;
use chart::{Chart, Curve};

/// What was typed.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Files that `fleet --json` or `throughput --json` wrote.
    #[arg(required = true)]
    results: Vec<PathBuf>,
    /// Where the pictures go.
    #[arg(long, default_value = "docs/images")]
    out: PathBuf,
}

/// Draws what each file has.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    for file in &args.results {
        for (name, chart) in charts(file).with_context(|| file.display().to_string())? {
            let path = args.out.join(name);
            fs::write(&path, chart.draw()?).with_context(|| path.display().to_string())?;
            tell(path.display());
        }
    }
    Ok(())
}

fn charts(file: &Path) -> anyhow::Result<Vec<(&'static str, Chart)>> {
    let report: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    let source = source(&report)?;
    match report["mode"].as_str() {
        Some("fleet") => {
            let fleets = report["results"].as_array().context("results")?;
            Ok(vec![
                ("fleet-memory.svg", memory(fleets, source.clone())?),
                ("fleet-cpu.svg", cpu(fleets, source)?),
            ])
        }
        Some("throughput") => {
            let series = report["results"]["series"].as_array().context("results.series")?;
            Ok(vec![("throughput.svg", throughput(series, source)?)])
        }
        mode => anyhow::bail!("nothing is drawn of {mode:?}: it must be fleet or throughput"),
    }
}

/// Under every picture: the kind of machine, and the command that measured.
fn source(report: &Value) -> anyhow::Result<[String; 2]> {
    let text = |place: &str| {
        let found = report.pointer(place).context(place.to_owned())?;
        anyhow::Ok(found.as_str().map_or_else(|| found.to_string(), str::to_owned))
    };
    let machine = |name| text(&format!("/head/machine/{name}"));
    // The device says nothing to anybody else.
    let disk = machine("file_system")?;
    let disk = disk.split(' ').next().unwrap_or_default();
    let (cpu, cores, memory) = (machine("cpu")?, machine("cores")?, machine("memory")?);
    let machine = format!("{cpu}, {cores} cores, {memory}, {disk}");
    Ok([machine, text("/head/command")?])
}

fn memory(fleets: &[Value], source: [String; 2]) -> anyhow::Result<Chart> {
    let kib = |fleet: &Value| {
        let [rest, empty] =
            ["/rest_rss_bytes/server", "/empty_rss_bytes/server"].map(|at| number(fleet, at));
        Ok((rest? - empty?) / 1024.0 / number(fleet, "/clients")?)
    };
    Ok(Chart {
        title: "Memory of the server for each client at rest, KiB",
        x_title: "clients",
        x_in_words: |clients| format!("{clients:.0}"),
        y_scale: Scale::Linear,
        floor: Some(targets::CLIENT_KIB),
        curves: vec![Curve { name: "server".to_owned(), points: by_clients(fleets, kib)? }],
        source,
    })
}

fn cpu(fleets: &[Value], source: [String; 2]) -> anyhow::Result<Chart> {
    let percent = |fleet: &Value| number(fleet, "/rest_cpu_percent/server");
    Ok(Chart {
        title: "CPU of the server with all clients at rest, % of a core",
        x_title: "clients",
        x_in_words: |clients| format!("{clients:.0}"),
        y_scale: Scale::Linear,
        floor: Some(targets::REST_PERCENT),
        curves: vec![Curve { name: "server".to_owned(), points: by_clients(fleets, percent)? }],
        source,
    })
}

fn by_clients(
    fleets: &[Value],
    figure: impl Fn(&Value) -> anyhow::Result<f64>,
) -> anyhow::Result<Vec<(f64, f64)>> {
    fleets.iter().map(|fleet| Ok((number(fleet, "/clients")?, figure(fleet)?))).collect()
}

fn throughput(series: &[Value], source: [String; 2]) -> anyhow::Result<Chart> {
    let mut curves: Vec<Curve> = Vec::new();
    for series in series {
        let name = series["name"].as_str().context("name")?;
        let bytes = number(series, "/bytes")?;
        let runs = series["runs"].as_array().context("runs")?;
        let rates = runs.iter().map(|run| Ok(bytes / 1e6 / number(run, "/seconds")?));
        let rates: Vec<f64> = rates.collect::<anyhow::Result<_>>()?;
        let point = (bytes, Sorted::of(rates).median());
        match curves.iter_mut().find(|curve| curve.name == name) {
            Some(curve) => curve.points.push(point),
            None => curves.push(Curve { name: name.to_owned(), points: vec![point] }),
        }
    }
    Ok(Chart {
        title: "Throughput from trigger to done, MB/s, median of the runs",
        x_title: "size of the file",
        x_in_words: |bytes| human::size(whole(bytes)),
        y_scale: Scale::Log,
        floor: None,
        curves,
        source,
    })
}

fn number(value: &Value, place: &str) -> anyhow::Result<f64> {
    value.pointer(place).and_then(Value::as_f64).with_context(|| format!("no number at {place}"))
}

fn whole(bytes: f64) -> u64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sizes of files are read as floats and are exact up to 9 PB"
    )]
    let bytes = bytes as u64;
    bytes
}
