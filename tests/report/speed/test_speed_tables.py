"""The benchmark's tables and its picture, from planted entries."""

import numpy as np
import pytest

from report.speed import entries, picture, tables
from report.speed.entries import Part, Peak, Point, Row

SIZES = np.array([10.0, 100.0, 1000.0])
POINTS = [Point("sums", "d", size, size**2, 0.01 * size**1.5, 50.0) for size in SIZES]
POINTS += [Point("spectra", "d", size, size**3, 1e-6 * size**3) for size in SIZES]


@pytest.mark.parametrize("power", [-1.0, 0.0, 2.5])
def test_the_slope_of_a_power_law_is_its_power(power):
    assert tables.slope(SIZES, 7 * SIZES**power) == pytest.approx(power, abs=1e-12)


def test_a_slope_is_least_squares_on_logarithmic_axes():
    values = SIZES**2 * np.array([1.0, 2.0, 1.0])  # symmetric about the middle: no tilt
    assert tables.slope(SIZES, values) == pytest.approx(2)
    assert tables.slope(SIZES, SIZES * np.array([1.0, 1.0, 8.0])) == pytest.approx(
        1 + np.log10(8) / 2
    )


def test_there_is_no_slope_of_one_size_or_of_what_was_not_measured():
    assert np.isnan(tables.slope([10.0], [1.0]))
    assert np.isnan(tables.slope(SIZES, [np.nan, np.nan, 1.0]))
    assert tables.slope(SIZES, [np.nan, 1.0, 10.0]) == pytest.approx(1)


def test_growth_stands_beside_its_law():
    head, spectra, sums = tables.growth_table(POINTS[::-1])
    assert head[3:5] == ("slope", "its law's")
    assert sums[:5] == ("sums, by d", "10 to 1,000", "0.316 to 316", "1.50", "2.00")
    assert sums[5:] == ("50.0 to 50.0", "0.00")
    assert spectra[3:] == ("3.00", "3.00", "", "")


def test_a_row_has_its_gain_and_its_aim():
    row = Row("measuring", 0.02, "an N × N matrix", 3.0, "s", 100.0)
    cells = ("measuring", "0.020 s", "an N × N matrix", "3.00 s", "150×", "100×")
    assert tables.rows_table([row])[1] == cells


def test_a_script_has_a_line_and_a_data_set_a_column():
    peaks = [
        Peak("whiten", "mnist", 900.0, 40.0, False),
        Peak("whiten", "cifar", 5000.0, 8.0, True),
        Peak("staircase", "its own", 400.0, 8.0, True),
    ]
    assert tables.peaks_table(peaks) == [
        ("script", "mnist, MB", "cifar, MB", "its own, MB"),
        ("whiten", "900 (in the first 40 s)", "5,000 (above 4,096)", ""),
        ("staircase", "", "", "400"),
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1,234"), (99.44, "99.4"), (2.345, "2.35"), (0.1234, "0.123"), (0.0, "0.000")],
)
def test_a_number_has_three_digits(value, text):
    assert tables.number(value) == text


def test_the_section_says_where_nothing_was_measured(tmp_path):
    assert tables.speed_section(tmp_path) == "not measured yet\n"


def test_the_section_has_tables_picture_and_what_measured_them(tmp_path):
    measured = {"growth": POINTS, "whitening": [Row("a", 1.0, "b", 2.0, "s", 1.0)]}
    parts = {name: Part(found, 60.0, {}) for name, found in measured.items()}
    entries.write(tmp_path, parts, "cpu")
    section = tables.speed_section(tmp_path)
    assert "measured 20" in section
    assert "in 2 minutes" in section
    assert "| a | 1.00 s | b | 2.00 s | 2.00× | 1× |" in section
    assert "| sums, by d |" in section
    assert "](growth.png)" in section
    assert "growth-cuda" not in section
    entries.path(tmp_path).rename(entries.path(tmp_path, device="cuda"))
    assert "](growth-cuda.png)" in tables.speed_section(tmp_path)
    rows_only = tmp_path / "rows"
    entries.write(rows_only, {"whitening": parts["whitening"]}, "cpu")
    assert "growth.png" not in tables.speed_section(rows_only)


def test_the_picture_is_drawn(tmp_path):
    picture.draw_growth(POINTS, tmp_path / "growth", "a note")
    assert {path.name for path in tmp_path.iterdir()} == {"growth.png", "growth.pdf"}
