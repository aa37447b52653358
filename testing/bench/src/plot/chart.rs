//! One picture: curves over a logarithmic axis, in colours for light and for dark.

use std::error::Error;

use plotters::coord::ranged1d::Ranged as _;
use plotters::prelude::{
    ChartBuilder, DashedLineSeries, IntoDrawingArea as _, IntoFont as _, LineSeries, RGBColor,
    SVGBackend, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, TextStyle};

use super::axis::{Axis, Scale};
use crate::targets::Target;

/// What is to be drawn.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) x_title: &'static str,
    pub(super) x_in_words: fn(f64) -> String,
    pub(super) y_scale: Scale,
    /// What a release must keep.
    pub(super) floor: Option<Target>,
    pub(super) curves: Vec<Curve>,
    /// Where and how it was measured.
    pub(super) source: [String; 2],
}

/// Points in ascending order.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

const SIZE: (u32, u32) = (820, 440);

/// About what a letter of a label takes, in pixels.
const LETTER: usize = 7;

const PAPER: RGBColor = RGBColor(255, 255, 255);
const INK: RGBColor = RGBColor(31, 35, 40);
const FAINT_INK: RGBColor = RGBColor(89, 99, 110);
const GRID: RGBColor = RGBColor(209, 217, 224);

/// Told apart by most eyes, on white and on black.
const COLOURS: [RGBColor; 6] = [
    RGBColor(47, 129, 247),
    RGBColor(219, 109, 40),
    RGBColor(46, 160, 67),
    RGBColor(163, 113, 247),
    RGBColor(191, 135, 0),
    RGBColor(219, 97, 162),
];

/// The same picture for readers who prefer dark pages. It stands in the file itself.
const DARK: &str = "\
<style>
text { font-family: system-ui, sans-serif }
@media (prefers-color-scheme: dark) {
  [fill='#FFFFFF'] { fill: #0D1117 }
  [stroke='#FFFFFF'] { stroke: #0D1117 }
  [fill='#1F2328'] { fill: #F0F6FC }
  [fill='#59636E'] { fill: #9198A1 }
  [stroke='#D1D9E0'] { stroke: #3D444D }
  [stroke='#59636E'] { stroke: #9198A1 }
}
</style>
";

impl Chart {
    /// The picture as SVG.
    pub(super) fn draw(&self) -> anyhow::Result<String> {
        let mut svg = String::new();
        // The errors of this backend borrow the text it writes to.
        self.draw_on(&mut svg).map_err(|error| anyhow::anyhow!("{}: {error}", self.title))?;
        let (head, body) = svg.split_once('\n').unwrap_or_default();
        Ok(format!("{head}\n{DARK}{body}"))
    }

    fn draw_on(&self, svg: &mut String) -> Result<(), Box<dyn Error>> {
        let page = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        page.fill(&PAPER)?;
        page.draw(&Text::new(self.title, (24, 18), text(19, INK)))?;
        let [machine, command] = &self.source;
        page.draw(&Text::new(machine.as_str(), (24, 400), text(14, FAINT_INK)))?;
        page.draw(&Text::new(command.as_str(), (24, 418), text(14, FAINT_INK)))?;

        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let x_axis = Axis::of_places(points().map(|(x, _)| *x).collect());
        let figures = points().map(|(_, y)| *y).chain(self.floor.map(Target::figure));
        let y_axis = Axis::of_figures(self.y_scale, &figures.collect::<Vec<_>>());
        let width = x_axis.range();
        let mut chart = ChartBuilder::on(&page)
            .margin_top(56)
            .margin_right(self.label_width())
            .margin_bottom(52)
            .margin_left(24)
            .x_label_area_size(46)
            .y_label_area_size(44)
            .build_cartesian_2d(x_axis, y_axis)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(GRID)
            .bold_line_style(GRID)
            .axis_style(FAINT_INK)
            .label_style(text(15, FAINT_INK))
            .y_label_formatter(&|figure| in_words(*figure))
            .x_label_formatter(&|x| (self.x_in_words)(*x))
            .x_desc(self.x_title)
            .draw()?;
        let mut labels = Vec::new();
        if let Some(floor) = self.floor {
            let ends = [width.start, width.end].map(|x| (x, floor.figure()));
            chart.draw_series(DashedLineSeries::new(ends, 4, 4, FAINT_INK.stroke_width(1)))?;
            labels.push((chart.backend_coord(&ends[1]), floor_label(floor), FAINT_INK));
        }
        for (curve, colour) in self.curves.iter().zip(COLOURS.into_iter().cycle()) {
            let points = curve.points.iter().copied();
            let line = LineSeries::new(points, colour.stroke_width(2).filled());
            chart.draw_series(line.point_size(4))?;
            let end = curve.points.last();
            labels.extend(end.map(|end| (chart.backend_coord(end), curve.label(), colour)));
        }
        for ((x, y), label, colour) in spread(labels) {
            page.draw(&Text::new(label, (x + 12, y), text(15, colour).pos(LEFT)))?;
        }
        page.present()?;
        Ok(())
    }

    /// The room that the longest label takes.
    fn label_width(&self) -> u32 {
        let labels = self.curves.iter().map(Curve::label).chain(self.floor.map(floor_label));
        let longest = labels.map(|label| label.chars().count()).max().unwrap_or_default();
        u32::try_from(longest * LETTER + 32).unwrap_or(SIZE.0)
    }
}

impl Curve {
    /// Its name and where it ends.
    fn label(&self) -> String {
        let (_, last) = self.points.last().copied().unwrap_or_default();
        format!("{}, {}", self.name, in_words(last))
    }
}

fn floor_label(floor: Target) -> String {
    format!("must be {floor}")
}

/// No more digits than anybody reads.
fn in_words(figure: f64) -> String {
    let digits = match figure.abs() {
        0.0 | 10.0.. => 0,
        1.0.. => 1,
        _ => 2,
    };
    let text = format!("{figure:.digits$}");
    if digits == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

type Label = ((i32, i32), String, RGBColor);

/// Moves labels apart that would be written over each other.
fn spread(mut labels: Vec<Label>) -> Vec<Label> {
    const LINE: i32 = 17;
    labels.sort_by_key(|((_, y), _, _)| *y);
    let mut free_from = 0;
    for ((_, y), _, _) in &mut labels {
        *y = (*y).max(free_from);
        free_from = *y + LINE;
    }
    labels
}

/// Beside a point, at its height.
const LEFT: Pos = Pos { h_pos: HPos::Left, v_pos: VPos::Center };

fn text(size: u32, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let curve = |name: &str, last| Curve {
            name: name.to_owned(),
            points: vec![(10.0, 40.0), (1000.0, last)],
        };
        Chart {
            title: "Memory",
            x_title: "clients",
            x_in_words: |x| format!("{x:.0}"),
            y_scale: Scale::Linear,
            floor: Some(Target::AtMost(45.0)),
            curves: vec![curve("one", 30.0), curve("two", 30.5)],
            source: ["a <machine>".to_owned(), "bench fleet".to_owned()],
        }
    }

    #[test]
    fn a_picture_says_where_it_comes_from() {
        let svg = chart().draw().unwrap();
        for text in ["Memory", "a &lt;machine&gt;", "bench fleet", "must be 45.0 or less", "1000"] {
            assert!(svg.contains(text), "{text:?} is missing in {svg}");
        }
    }

    #[test]
    fn every_colour_of_the_page_has_another_in_the_dark() {
        let svg = chart().draw().unwrap();
        for colour in [PAPER, INK, FAINT_INK, GRID] {
            let RGBColor(red, green, blue) = colour;
            let colour = format!("#{red:02X}{green:02X}{blue:02X}");
            assert!(svg.contains(&format!("\"{colour}\"")), "{colour} is not used");
            assert!(DARK.contains(&colour), "{colour} stays as it is");
        }
    }

    #[test]
    fn figures_have_no_more_digits_than_needed() {
        let words = [0.0, 0.25, 0.5, 2.0, 2.5, 45.4, 100.0].map(in_words);
        assert_eq!(words, ["0", "0.25", "0.5", "2", "2.5", "45", "100"]);
    }

    #[test]
    fn labels_do_not_cover_each_other() {
        let label = |y| ((0, y), String::new(), INK);
        let ys = spread(vec![label(100), label(20), label(101)]).into_iter().map(|((_, y), ..)| y);
        assert_eq!(ys.collect::<Vec<_>>(), [20, 100, 117]);
    }
}
