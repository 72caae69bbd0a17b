"""The benchmark as a program: every part at a small size, one file, tables and a picture."""

import sys

import pytest

import benchmark
from lab.errors import ConfigError
from report.speed import entries, tables
from report.speed.entries import Peak, Point, Row

TINY = {
    "repeats": "1",
    "train_samples": "256",
    "measure_samples": "1000",
    "grokking_replicas": "2",
    "bert_examples": "8",
    "published_samples": "128",
    "published_measured": "500",
    "staircase_widths": "32 64",
    "growth_samples": "2000 200000",
    "growth_dim": "64",
    "growth_dims": "64 256",
    "growth_rows": "2000",
    "growth_replicas": "1 2",
    "growth_jobs": "1 2",
    "growth_epoch": "256",
    "growth_widths": "16 64",
    "growth_tokens": "8 16",
    "memory_scripts": "vae_ceiling",
    "memory_datasets": "digits",
    "memory_seconds": "10000",  # however busy the machine is
}
ROWS = {"whitening": 3, "measuring": 2, "training": 3, "text": 2, "published": 4}


def run(monkeypatch, folder, *words):
    for name, value in TINY.items():
        words += (f"--{name.replace('_', '-')}", *value.split())
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--results", str(folder), *words])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of its own processes, as torch in the tests
    benchmark.main()


@pytest.mark.slow
def test_every_part_is_measured_kept_and_shown(monkeypatch, capsys, tmp_path):
    run(monkeypatch, tmp_path)
    result = entries.read(tmp_path)
    assert result.meta["parts"].keys() == benchmark.PARTS.keys()
    parts = result["row_part"].tolist()
    assert {part: parts.count(part) for part in parts} == ROWS
    for row in entries.entries(result, Row):
        assert row.ours > 0
        assert row.theirs > 0
    series = dict.fromkeys(point.series for point in entries.entries(result, Point))
    assert len(series) == 7
    stream = [p for p in entries.entries(result, Point) if p.axis == "N"]
    assert [p.size for p in stream] == [2000, 200_000]
    assert all(point.seconds > 0 for point in stream)
    assert stream[1].megabytes < stream[0].megabytes + 20  # the features alone would be 49 MB
    (peak,) = entries.entries(result, Peak)
    assert (peak.script, peak.data, peak.ended) == ("vae_ceiling", "digits", True)
    assert 100 < peak.megabytes < tables.LIMIT
    names = {path.name for path in (tmp_path / "benchmark").iterdir()}
    assert names == {"benchmark.npz", "growth.png", "growth.pdf"}
    printed = capsys.readouterr().out
    for table in tables.tables(result):
        assert tables.plain(table) in printed


def test_a_part_alone_leaves_the_others(monkeypatch, tmp_path):
    peak = Peak("whiten", "mnist", 700.0, 12.5, True)
    entries.write(tmp_path, {"memory": entries.Part([peak], 1.0, {})}, "cpu")
    run(monkeypatch, tmp_path, "--parts", "whitening")
    result = entries.read(tmp_path)
    assert entries.entries(result, Peak) == [peak]
    assert result["row_part"].tolist() == ["whitening"] * ROWS["whitening"]


@pytest.mark.parametrize("name", benchmark.MEASURED)
def test_one_row_of_which_nothing_can_be_measured_is_refused(name):
    value = (1, 1000) if name == "growth_samples" else 1
    with pytest.raises(ConfigError, match=f"{name} must be 2 or more"):
        benchmark.Config(**{name: value})
