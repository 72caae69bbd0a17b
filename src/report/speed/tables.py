"""The benchmark's tables: as plain text for a terminal, as Markdown for their page."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lab.results import Result
from report.speed.entries import Peak, Point, Row, entries, path, read

Table = list[tuple[str, ...]]  # the first line is its head
NOT_MEASURED = "not measured yet\n"
LIMIT = 4096  # MB that a script may hold on the CPU, text's apart


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of log values on log sizes, by least squares; nan unless two or more sizes have a value."""
    x, y = np.log(sizes), np.log(values)
    known = np.isfinite(y)
    if len(set(x[known])) < 2:
        return float("nan")
    return float(np.polyfit(x[known], y[known], 1)[0])


def rows_table(rows: Sequence[Row]) -> Table:
    """How many times better ours is than what it is compared with."""
    table: Table = [("what", "ours", "against", "", "gain", "aim")]
    for row in rows:
        ours, theirs = (f"{number(value)} {row.unit}" for value in (row.ours, row.theirs))
        table.append((row.what, ours, row.against, theirs, f"{number(row.gain)}×", f"{row.aim:g}×"))
    return table


def growth_table(points: Sequence[Point]) -> Table:
    """Slopes on logarithmic axes, beside those of the series' laws."""
    head = ("what grows", "sizes", "seconds", "slope", "its law's", "MB", "slope of memory")
    table: Table = [head]
    for series, axis, members in by_series(points):
        sizes, costs, seconds, megabytes = zip(
            *((p.size, p.cost, p.seconds, p.megabytes) for p in members), strict=True
        )
        cells = [f"{sizes[0]:,.0f} to {sizes[-1]:,.0f}", ends(seconds)]
        cells += [f"{slope(sizes, seconds):z.2f}", f"{slope(sizes, costs):z.2f}"]
        is_known = all(value == value for value in megabytes)
        cells += [ends(megabytes), f"{slope(sizes, megabytes):z.2f}"] if is_known else ["", ""]
        table.append((f"{series}, by {axis}", *cells))
    return table


def peaks_table(peaks: Sequence[Peak]) -> Table:
    """A line a script, a column a data set."""
    labels = list(dict.fromkeys(peak.data for peak in peaks))
    table: Table = [("script", *(f"{label}, MB" for label in labels))]
    for script, group in itertools.groupby(peaks, lambda peak: peak.script):
        held = {peak.data: peak for peak in group}
        table.append((script, *(_held(held.get(label)) for label in labels)))
    return table


def _held(peak: Peak | None) -> str:
    if peak is None:
        return ""
    notes = [f"above {LIMIT:,}"] if peak.megabytes > LIMIT else []
    notes += [] if peak.ended else [f"in the first {peak.seconds:.0f} s"]
    return f"{peak.megabytes:,.0f}" + (f" ({', '.join(notes)})" if notes else "")


def by_series(points: Sequence[Point]) -> Iterator[tuple[str, str, list[Point]]]:
    """Each series, its axis, and its points in the order of their sizes."""
    for series, axis in dict.fromkeys((point.series, point.axis) for point in points):
        members = [p for p in points if (p.series, p.axis) == (series, axis)]
        yield series, axis, sorted(members, key=lambda point: point.size)


def ends(values: Sequence[float]) -> str:
    return f"{number(values[0])} to {number(values[-1])}"


def number(value: float) -> str:
    """Three digits, without an exponent."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}" if value == 0 or abs(value) >= 0.01 else f"{value:.1g}"


def tables(result: Result) -> list[Table]:
    """Those that have entries."""
    kinds = ((Row, rows_table), (Point, growth_table), (Peak, peaks_table))
    return [make(found) for kind, make in kinds if (found := entries(result, kind))]


def plain(table: Table) -> str:
    """Columns of fixed width."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in table)
    return "\n".join(lines) + "\n"


def markdown(table: Table) -> str:
    lines = [table[0], ("---",) * len(table[0]), *table[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def provenance_line(result: Result) -> str:
    """Machine, versions, commits and dates of what was measured."""
    meta = result.meta
    told = [f"{part['date']} ({part['commit']})" for part in meta["parts"].values()]
    minutes = sum(part["seconds"] for part in meta["parts"].values()) / 60
    versions = f"Python {meta['versions']['python']}, torch {meta['versions']['torch']}"
    when = ", ".join(dict.fromkeys(told))
    return f"{meta['machine']}; {versions}; measured {when} in {minutes:.0f} minutes.\n"


def speed_section(root: Path) -> str:
    """Markdown: on CPU and GPU what measured, every table, and the picture of growth."""
    parts = []
    for device in ("cpu", "cuda"):
        if (result := read(root, device)) is None:
            continue
        parts += [provenance_line(result), *map(markdown, tables(result))]
        if entries(result, Point):
            name = path(root, "growth.png", device).name
            parts.append(f"![Seconds and memory by size, on logarithmic axes]({name})\n")
    return "\n".join(parts) or NOT_MEASURED
