//! The picture: bytes in both directions and seconds of each pull, as bars over logarithmic axes.

use std::fmt::Write as _;

use super::program_names;
use super::run::{WireRun, WireSeries};
use super::table::{megabytes, number};
use crate::report::ReportHead;

const WIDTH: u32 = 960;
/// The left edges of the bars of both panels.
const LEFT: [u32; 2] = [170, 575];
/// Pixels of the longest bar.
const BAR_LEN: f64 = 300.0;
/// Pixels from one bar to the next.
const BAR_STEP: u32 = 13;
const BAR_HEIGHT: u32 = 11;
/// Pixels between two files.
const GAP: u32 = 12;
/// The upper edge of the first bar.
const TOP: u32 = 96;
/// Pixels for the axis, the command and the machine.
const BOTTOM: u32 = 76;

const COLOURS: [&str; 4] = ["#2F81F7", "#DB6D28", "#2EA043", "#A371F7"];

/// The colours of `docs/plot.py`, for light and dark pages.
const STYLE: &str = "\
<style>
text { font-family: system-ui, sans-serif; dominant-baseline: middle }
@media (prefers-color-scheme: dark) {
  [fill='#FFFFFF'] { fill: #0D1117 }
  [fill='#1F2328'] { fill: #F0F6FC }
  [fill='#59636E'] { fill: #9198A1 }
  [stroke='#D1D9E0'] { stroke: #3D444D }
}
</style>
";

/// One half of the picture.
struct Panel {
    left: u32,
    title: &'static str,
    figure: fn(&WireRun) -> f64,
}

const PANELS: [Panel; 2] = [
    Panel {
        left: LEFT[0],
        title: "MB on the wire, both directions",
        figure: |run| megabytes(run.sent.both().bytes),
    },
    Panel { left: LEFT[1], title: "seconds", figure: |run| run.seconds },
];

/// Draws the picture of all pulls.
pub(crate) fn draw(series: &[WireSeries], head: &ReportHead, link: &str) -> String {
    let mut svg = Svg { text: String::new() };
    let bottom = series.iter().map(group_height).sum::<u32>() + TOP;
    let height = bottom + BOTTOM;
    svg.text(24, 25, 15, "#1F2328", &format!("Pulls over a router: {link}"));
    for (idx, (name, colour)) in program_names().zip(COLOURS).enumerate() {
        let left = 24 + 150 * u32::try_from(idx).unwrap_or_default();
        svg.bar(left, 44, 11.0, colour);
        svg.text(left + 17, 50, 12, "#59636E", name);
    }
    let mut top = TOP;
    for one in series {
        let middle = top + (group_height(one) - GAP) / 2;
        svg.text(24, middle, 12, "#1F2328", one.data_set.title());
        top += group_height(one);
    }
    for panel in &PANELS {
        panel.draw(series, bottom, &mut svg);
    }
    svg.text(24, height - 36, 11, "#59636E", &head.machine.hardware());
    svg.text(24, height - 18, 11, "#59636E", &head.command);
    let size = format!("width=\"{WIDTH}\" height=\"{height}\"");
    format!(
        "<svg {size} viewBox=\"0 0 {WIDTH} {height}\" xmlns=\"http://www.w3.org/2000/svg\">\n\
         {STYLE}<rect {size} fill=\"#FFFFFF\"/>\n{}</svg>\n",
        svg.text
    )
}

/// Returns the pixels for the bars of a file.
fn group_height(series: &WireSeries) -> u32 {
    let n_bars = u32::try_from(series.runs.len()).unwrap_or_default();
    n_bars * BAR_STEP + GAP
}

impl Panel {
    fn draw(&self, series: &[WireSeries], bottom: u32, svg: &mut Svg) {
        let Self { left, title, figure } = *self;
        svg.text(left, 76, 12, "#1F2328", title);
        let figures = || series.iter().flat_map(|one| &one.runs).map(figure);
        let axis = LogAxis::covering(figures());
        for (value, len) in axis.ticks() {
            svg.line(f64::from(left) + len, bottom - GAP / 2);
            svg.text_at(f64::from(left) + len, bottom + 8, &number_of_axis(value));
        }
        let mut top = TOP;
        for one in series {
            for (idx, (run, colour)) in one.runs.iter().zip(COLOURS).enumerate() {
                let y = top + BAR_STEP * u32::try_from(idx).unwrap_or_default();
                let len = axis.len(figure(run));
                let sign = if run.is_complete { "" } else { "> " };
                svg.bar(left, y, len, colour);
                let label = format!("{sign}{}", number(figure(run)));
                svg.label(f64::from(left) + len + 5.0, y + BAR_HEIGHT / 2, &label);
            }
            top += group_height(one);
        }
    }
}

/// Maps figures to pixels: from a power of ten below the smallest to one above the largest.
struct LogAxis {
    /// Exponents of ten.
    begin: i32,
    end: i32,
}

impl LogAxis {
    /// Returns an axis for positive figures. A figure of zero is drawn at its begin.
    fn covering(figures: impl Iterator<Item = f64>) -> Self {
        let logs: Vec<f64> = figures.filter(|figure| 0.0 < *figure).map(f64::log10).collect();
        let smallest = logs.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exponents = -9..=9;
        let begin = exponents.clone().rev().find(|&power| f64::from(power) < smallest);
        let end = exponents.into_iter().find(|&power| largest <= f64::from(power));
        let begin = begin.unwrap_or(-9);
        Self { begin, end: end.unwrap_or(9).max(begin + 1) }
    }

    fn len(&self, figure: f64) -> f64 {
        let share = (figure.log10() - f64::from(self.begin)) / f64::from(self.end - self.begin);
        // The logarithm of zero is below every axis.
        BAR_LEN * share.clamp(0.0, 1.0)
    }

    /// Returns the powers of ten with their pixels.
    fn ticks(&self) -> impl Iterator<Item = (f64, f64)> {
        (self.begin..=self.end).map(|power| {
            let value = 10_f64.powi(power);
            (value, self.len(value))
        })
    }
}

/// Returns a power of ten without trailing zeros after the point.
fn number_of_axis(value: f64) -> String {
    if value < 1.0 { value.to_string() } else { format!("{value:.0}") }
}

/// The elements of a picture.
struct Svg {
    text: String,
}

impl Svg {
    fn add(&mut self, element: &str) {
        self.text.push_str(element);
        self.text.push('\n');
    }

    fn bar(&mut self, left: u32, top: u32, len: f64, colour: &str) {
        self.add(&format!(
            "<rect x=\"{left}\" y=\"{top}\" width=\"{len:.1}\" height=\"{BAR_HEIGHT}\" \
             fill=\"{colour}\"/>"
        ));
    }

    /// Adds a vertical line of the grid, down to `bottom`.
    fn line(&mut self, x: f64, bottom: u32) {
        let top = TOP - GAP / 2;
        self.add(&format!(
            "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#D1D9E0\"/>"
        ));
    }

    fn text(&mut self, x: u32, y: u32, points: u32, colour: &str, words: &str) {
        let words = escape(words);
        self.add(&format!(
            "<text x=\"{x}\" y=\"{y}\" font-size=\"{points}\" fill=\"{colour}\">{words}</text>"
        ));
    }

    /// Adds a number below the axis, centred at `x`.
    fn text_at(&mut self, x: f64, y: u32, words: &str) {
        self.add(&format!(
            "<text x=\"{x:.1}\" y=\"{y}\" font-size=\"11\" fill=\"#59636E\" \
             text-anchor=\"middle\">{words}</text>"
        ));
    }

    /// Adds the number at the end of a bar.
    fn label(&mut self, x: f64, y: u32, words: &str) {
        let words = escape(words);
        self.add(&format!(
            "<text x=\"{x:.1}\" y=\"{y}\" font-size=\"10\" fill=\"#59636E\">{words}</text>"
        ));
    }
}

/// Escapes text for XML.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        let _ = match c {
            '&' => escaped.write_str("&amp;"),
            '<' => escaped.write_str("&lt;"),
            '>' => escaped.write_str("&gt;"),
            c => escaped.write_char(c),
        };
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::wire::data_set::DataSet;
    use crate::wire::table::tests::{series, stopped_run};

    #[test]
    fn a_bar_is_drawn_for_each_figure() {
        let head = ReportHead {
            machine: Machine::describe(std::path::Path::new("/")),
            versions: Vec::new(),
            command: "filepull-bench wire --data <all> & more".to_owned(),
        };
        let all = DataSet::ALL.map(|data_set| series(data_set, stopped_run()));
        let svg = draw(&all, &head, "60 ms round trip");
        // The background, the legend, and four programs for each file in both panels.
        assert_eq!(svg.matches("<rect").count(), 1 + 4 + 2 * 4 * all.len());
        assert_eq!(svg.matches(">&gt; 600</text>").count(), all.len());
        assert!(svg.contains("--data &lt;all&gt; &amp; more</text>"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn an_axis_covers_all_figures_with_powers_of_ten() {
        let check = |figures: &[f64], expected: (i32, i32)| {
            let axis = LogAxis::covering(figures.iter().copied());
            assert_eq!((axis.begin, axis.end), expected, "{figures:?}");
        };
        check(&[0.02, 104.0], (-2, 3));
        check(&[0.5, 10.0], (-1, 1));
        check(&[10.0], (0, 1));
        check(&[0.0, 3.0], (0, 1));
        let axis = LogAxis::covering([0.1, 100.0].into_iter());
        assert_eq!([axis.len(0.0), axis.len(100.0)], [0.0, BAR_LEN]);
        assert!(axis.len(1.0) < axis.len(2.0));
    }
}
