//! Peak memory of fresh processes, in a small transfer and in a large one: the size of the file
//! must not be seen in it.

use filepull_core::human;
use serde::Serialize;

use crate::Bench;
use crate::must::{self, Must};
use crate::product::{Ends, Product};
use crate::report::{Report, Table, mib, print, tell, write_json};
use crate::source::{self, Source};

const SIZES: [u64; 2] = [10 << 20, 1 << 30];

#[derive(Debug, Serialize)]
struct Measured {
    bytes: u64,
    /// Connected, before the transfer.
    peak_before: Ends<u64>,
    peak_after: Ends<u64>,
}

/// Measures, prints and writes.
pub(crate) async fn run(bench: &Bench) -> anyhow::Result<()> {
    let head = bench.head(&bench.folder).await?;
    print(&head);
    let mut measured = Vec::new();
    for size in SIZES {
        tell(format!("one transfer of {}", human::size(size)));
        measured.push(measure(bench, size).await?);
    }
    print(format!("\n{}", table(&measured)));
    print(NOTES);
    write_json(bench.json.as_deref(), &Report { mode: "memory", head: &head, results: measured })
}

const NOTES: &str = "\
VmHWM in MiB: the most memory the process had resident since it started, its code included. Each
column is a fresh server and a fresh agent; `connected` is before the transfer.";

async fn measure(bench: &Bench, bytes: u64) -> anyhow::Result<Measured> {
    let folder = source::folder(&bench.folder)?;
    let source = Source::make(&folder.path().join("source"), bytes)?;
    let product = Product::start(&bench.programs, folder.path(), &source).await?;
    let peak_before = product.peak_rss()?;
    product.pull(&source).await?;
    let peak_after = product.peak_rss()?;
    product.end().await?;
    Ok(Measured { bytes, peak_before, peak_after })
}

fn table(measured: &[Measured]) -> String {
    let mut headings = vec!["peak memory, MiB".to_owned(), "connected".to_owned()];
    headings.extend(measured.iter().map(|measured| human::size(measured.bytes)));
    headings.push(" must".to_owned());
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let mut table = Table::new(&headings);
    type End = fn(&Ends<u64>) -> u64;
    let ends: [(&str, Must, End); 2] = [
        ("server", must::SERVER_MIB, |ends| ends.server),
        ("agent", must::AGENT_MIB, |ends| ends.agent),
    ];
    for (name, must, end) in ends {
        let before = measured.iter().map(|measured| end(&measured.peak_before)).max();
        let after = measured.iter().map(|measured| end(&measured.peak_after));
        let most = after.clone().max().map(mib).unwrap_or_default();
        let figures = before.into_iter().chain(after).map(mib).map(|mib| format!("{mib:.1}"));
        let row = std::iter::once(name.to_owned()).chain(figures).chain([must.verdict(most)]);
        table.row(row);
    }
    table.to_string()
}
