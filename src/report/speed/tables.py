"""The benchmark's tables, in Markdown."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lab import results
from lab.results import Result
from report.speed.entries import Peak, Point, Row, entries, path

Table = list[tuple[str, ...]]  # the first line is its head
LIMIT = 4096  # MB that a script may hold on the CPU, text's apart


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of log values on log sizes, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def rows_table(rows: Sequence[Row]) -> Table:
    """How many times better ours is than what it is compared with."""
    table: Table = [("what", "ours", "against", "", "gain", "aim")]
    for row in rows:
        ratio = row.ours / row.theirs
        gain = number(ratio if row.unit.endswith("/s") else 1 / ratio)
        ours, theirs = (f"{number(value)} {row.unit}" for value in (row.ours, row.theirs))
        table.append((row.what, ours, row.against, theirs, f"{gain}×", f"{row.aim:g}×"))
    return table


def growth_table(points: Sequence[Point]) -> Table:
    """Slopes on logarithmic axes, beside those of the series' laws."""
    head = ("what grows", "sizes", "seconds", "slope", "its law's", "MB", "slope of memory")
    table: Table = [head]
    for series, axis in dict.fromkeys((point.series, point.axis) for point in points):
        members = sorted(p[2:] for p in points if p[:2] == (series, axis))
        sizes, costs, seconds, megabytes = np.array(members).T
        cells = [f"{series}, by {axis}", f"{sizes[0]:,.0f} to {sizes[-1]:,.0f}", ends(seconds)]
        cells += [f"{slope(sizes, values):z.2f}" for values in (seconds, costs)]
        is_known = np.isfinite(megabytes).all()
        cells += [ends(megabytes), f"{slope(sizes, megabytes):z.2f}"] if is_known else ["", ""]
        table.append(tuple(cells))
    return table


def peaks_table(peaks: Sequence[Peak]) -> Table:
    """A line a script, a column a data set."""
    labels = list(dict.fromkeys(peak.data for peak in peaks))
    table: Table = [("script", *(f"{label}, MB" for label in labels))]
    for script, group in itertools.groupby(peaks, lambda peak: peak.script):
        held = {peak.data: _held(peak) for peak in group}
        table.append((script, *(held.get(label, "") for label in labels)))
    return table


def _held(peak: Peak) -> str:
    notes = [f"above {LIMIT:,}"] if peak.megabytes > LIMIT else []
    notes += [] if peak.ended else [f"in the first {peak.seconds:.0f} s"]
    return f"{peak.megabytes:,.0f}" + (f" ({', '.join(notes)})" if notes else "")


def ends(values: Sequence[float]) -> str:
    return f"{number(values[0])} to {number(values[-1])}"


def number(value: float) -> str:
    """Three digits, without an exponent."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}" if value == 0 or abs(value) >= 0.01 else f"{value:.1g}"


def tables(result: Result) -> list[str]:
    """Markdown of those that have entries."""
    kinds = {"row": rows_table, "point": growth_table, "peak": peaks_table}
    found = (make(own) for kind, make in kinds.items() if (own := entries(result, kind)))
    ruled = ((table[0], ("---",) * len(table[0]), *table[1:]) for table in found)
    return ["".join(f"| {' | '.join(line)} |\n" for line in table) for table in ruled]


def provenance_line(result: Result) -> str:
    """Machine, versions, commits and dates of what was measured."""
    parts, versions = result.meta["parts"].values(), result.meta["versions"]
    when = ", ".join(dict.fromkeys(f"{part['date']} ({part['commit']})" for part in parts))
    minutes = sum(part["seconds"] for part in parts) / 60
    made = f"Python {versions['python']}, torch {versions['torch']}"
    return f"{result.meta['machine']}; {made}; measured {when} in {minutes:.0f} minutes.\n"


def speed_section(root: Path) -> str:
    """Markdown: on CPU and GPU what measured, and every table."""
    found = map(results.read, filter(Path.exists, (path(root, device=d) for d in ("cpu", "cuda"))))
    return "\n".join(part for r in found for part in (provenance_line(r), *tables(r)))
