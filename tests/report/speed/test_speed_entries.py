"""What the benchmark measured: kept, merged, and read again."""

import numpy as np
import pytest

from lab.errors import ResultError
from report.speed import entries
from report.speed.entries import Part, Peak, Point, Row

ROW = Row("a sum", 2.0, "a loop", 10.0, "s", 5.0)
POINT = Point("a sum", "N", 10.0, 100.0, 0.5)
PEAK = Peak("whiten", "mnist", 700.0, 12.5, True)


def save(folder, **measured):
    """Measure parts, beside those of the file that stay."""
    parts = entries.kept(folder, measured, "cpu")
    parts |= {name: Part(found, 1.5, {"repeats": 1}) for name, found in measured.items()}
    return entries.write(folder, parts, "cpu")


def test_a_gain_is_above_one_where_ours_is_better():
    assert ROW.gain == 5
    assert Row("a sum", 20.0, "a loop", 10.0, "examples/s", 1.0).gain == 2
    assert Row("a sum", 100.0, "a loop", 50.0, "MB", 1.0).gain == 0.5


def test_entries_are_read_as_they_were_written(tmp_path):
    save(tmp_path, first=[ROW, POINT], second=[PEAK])
    result = entries.read(tmp_path)
    (point,) = entries.entries(result, Point)
    assert np.isnan(point.megabytes)
    assert (point.series, point.cost, point.seconds) == ("a sum", 100.0, 0.5)
    assert entries.entries(result, Row) == [ROW]
    assert entries.entries(result, Peak) == [PEAK]
    for told in result.meta["parts"].values():
        assert (told["seconds"], told["config"]) == (1.5, {"repeats": 1})


def test_a_part_that_is_measured_again_replaces_its_own_entries_alone(tmp_path):
    other = Row("a product", 1.0, "a loop", 3.0, "s", 1.0)
    save(tmp_path, first=[ROW], second=[other, PEAK])
    save(tmp_path, first=[POINT, ROW, ROW])
    result = entries.read(tmp_path)
    assert entries.entries(result, Row) == [other, ROW, ROW]
    assert len(entries.entries(result, Point)) == len(entries.entries(result, Peak)) == 1


def test_parts_of_two_machines_are_not_merged(tmp_path, monkeypatch):
    save(tmp_path, first=[ROW], second=[PEAK])
    monkeypatch.setattr(entries, "machine", lambda _: "another")
    with pytest.raises(ResultError, match="another machine: measure all parts again"):
        save(tmp_path, first=[ROW])
    save(tmp_path, first=[ROW], second=[PEAK])
    assert entries.read(tmp_path).meta["machine"] == "another"


def test_nothing_is_read_where_nothing_was_measured(tmp_path):
    assert entries.read(tmp_path) is None
