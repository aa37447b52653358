#!/usr/bin/env python3
"""Draws the pictures in docs/images from the JSON of `filepull-bench throughput` and `fleet`.

Usage: docs/plot.py RESULT.json...   (the results of `--json`; needs only Python)
"""
import json
import math
import statistics
import sys
from html import escape
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 820, 440
LEFT, TOP, BOTTOM = 68, 56, 342  # edges of the plot area; the labels of the curves set the right edge
COLOURS = ["#2F81F7", "#DB6D28", "#2EA043", "#A371F7", "#BF8700", "#DB61A2"]
# The targets of testing/bench/src/targets.rs.
CLIENT_KIB, REST_PERCENT = 45.0, 3.0
STYLE = """<style>
text { font-family: system-ui, sans-serif; dominant-baseline: middle }
@media (prefers-color-scheme: dark) {
  [fill='#FFFFFF'] { fill: #0D1117 }
  [fill='#1F2328'] { fill: #F0F6FC }
  [fill='#59636E'] { fill: #9198A1 }
  [stroke='#D1D9E0'] { stroke: #3D444D }
  [stroke='#59636E'] { stroke: #9198A1 }
}
</style>"""


def number(value):
    """At most two significant digits after the point, without trailing zeros."""
    return f"{value:.0f}" if value >= 10 else f"{value:.{1 if value >= 1 else 2}f}".rstrip("0").rstrip(".")


def size(value):
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    power = min(int(math.log2(value)) // 10, len(units) - 1)
    return f"{value / 1024 ** power:g} {units[power]}"


def text(x, y, words, points=12, colour="#59636E", anchor="start"):
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{points}" fill="{colour}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1, y1, x2, y2, colour="#59636E", more=""):
    return f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="{colour}" {more}/>'


def ticks(lowest, highest, log):
    """The values that the y axis names, and the range that it covers."""
    if log:
        first = 10 ** math.floor(math.log10(lowest))
        return [first * 10 ** n for n in range(20) if first * 10 ** n < highest * 1.3], first, highest * 1.3
    power = 10 ** math.floor(math.log10(highest / 8))
    step = next(times * power for times in (1, 2, 5, 10) if highest / (times * power) <= 8)
    return [n * step for n in range(11) if n * step < highest * 1.1], 0, highest * 1.1


def draw(name, report, title, x_title, x_text, curves, log=False, target=None):
    """Writes one picture. `curves`: lists of (x, y) by name, drawn over a logarithmic x axis."""
    machine = report["head"]["machine"]
    # The device of the disk is of no interest to other readers.
    source = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory']}, {machine['file_system'].split(' ')[0]}"
    places = sorted({x for points in curves.values() for x, _ in points})
    heights = [y for points in curves.values() for _, y in points] + ([target] if target else [])
    labels = {curve: f"{curve}, {number(points[-1][1])}" for curve, points in curves.items()}
    target_label = f"at most {number(target)}" if target else ""
    right = WIDTH - 32 - 7 * max(len(label) for label in [*labels.values(), target_label])
    y_ticks, low, high = ticks(min(heights), max(heights), log)

    def at_x(x):
        if len(places) == 1:
            return LEFT
        return LEFT + (right - LEFT) * math.log(x / places[0]) / math.log(places[-1] / places[0])

    def at_y(y):
        share = math.log(y / low) / math.log(high / low) if log else (y - low) / (high - low)
        return BOTTOM - (BOTTOM - TOP) * share

    svg = [f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" xmlns="http://www.w3.org/2000/svg">', STYLE,
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#FFFFFF"/>', text(24, 25, title, 15, "#1F2328"),
           text(24, 405, source, 11), text(24, 423, report["head"]["command"], 11)]
    for y in y_ticks:
        svg += [line(LEFT, at_y(y), right, at_y(y), "#D1D9E0"), text(LEFT - 8, at_y(y), number(y), anchor="end")]
    svg += [line(LEFT, BOTTOM, right, BOTTOM), line(LEFT, TOP, LEFT, BOTTOM)]
    for x in places:
        svg += [line(at_x(x), BOTTOM, at_x(x), BOTTOM + 5), text(at_x(x), BOTTOM + 15, x_text(x), anchor="middle")]
    svg.append(text((LEFT + right) / 2, 382, x_title, anchor="middle"))
    ends = []
    if target:
        svg.append(line(LEFT, at_y(target), right, at_y(target), more='stroke-dasharray="4 4"'))
        ends.append((at_y(target), target_label, "#59636E"))
    for number_of_curve, (curve, points) in enumerate(curves.items()):
        colour = COLOURS[number_of_curve % len(COLOURS)]
        path = " ".join(f"{at_x(x):.0f},{at_y(y):.0f}" for x, y in points)
        svg.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        svg += [f'<circle cx="{at_x(x):.0f}" cy="{at_y(y):.0f}" r="4" fill="{colour}"/>' for x, y in points]
        ends.append((at_y(points[-1][1]), labels[curve], colour))
    lowest_free = 0
    for y, label, colour in sorted(ends):
        y = max(y, lowest_free)  # labels must not overlap
        svg.append(text(right + 12, y, label, colour=colour))
        lowest_free = y + 17
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / name).write_text("\n".join([*svg, "</svg>", ""]))
    print(IMAGES / name)


def fleet(report):
    fleets = report["results"]
    kib = [(one["clients"], (one["rest_rss_bytes"]["server"] - one["empty_rss_bytes"]["server"]) / 1024 / one["clients"])
           for one in fleets]
    percent = [(one["clients"], one["rest_cpu_percent"]["server"]) for one in fleets]
    draw("fleet-memory.svg", report, "Memory of the server for each client at rest, KiB", "clients", str,
         {"server": kib}, target=CLIENT_KIB)
    draw("fleet-cpu.svg", report, "CPU of the server with all clients at rest, % of a core", "clients", str,
         {"server": percent}, target=REST_PERCENT)


def throughput(report):
    curves = {}
    for series in report["results"]["series"]:
        rate = statistics.median(series["bytes"] / 1e6 / run["seconds"] for run in series["runs"])
        curves.setdefault(series["name"], []).append((series["bytes"], rate))
    draw("throughput.svg", report, "Throughput from trigger to done, MB/s, median of the runs", "size of the file", size,
         curves, log=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for path in sys.argv[1:]:
        result = json.loads(Path(path).read_text())
        pictures = {"fleet": fleet, "throughput": throughput}.get(result["mode"])
        if pictures is None:
            sys.exit(f"{path}: mode {result['mode']!r} has no picture: run `filepull-bench throughput` or `fleet` with --json")
        pictures(result)
