"""What counts as the same number as one that the text quotes."""

import numpy as np
import pytest

from report.quoted import SOURCES, Row, number, numbers_table, quoted_rows


@pytest.mark.parametrize(
    ("quoted", "values", "same"),
    [
        ("0.5", [0.54], True),  # rounds to it
        ("0.5", [0.56], False),
        ("0.5", [0.56, 0.6], True),  # within two standard deviations
        ("0.45", [0.459, 0.459], False),
        ("38.8", [38.84], True),
        ("44", [44.6], False),
        ("above 0.9", [0.91], True),
        ("above 0.9", [0.89, 0.9], False),
    ],
)
def test_a_quoted_number_stands_for_all_that_round_to_it(quoted, values, same):
    assert number("4", "accuracy", quoted, np.array(values)).same == same


def test_ours_is_shown_with_one_more_digit_and_its_spread():
    assert number("4", "accuracy", "0.5", np.array([0.5, 0.52])).ours == "0.51 ± 0.03"
    assert number("8", "norm", "38.8", np.array([38.84]), digits=1).ours == "38.8"


def test_without_results_there_is_a_header_alone(tmp_path):
    assert len(SOURCES) >= 7
    assert len(numbers_table(quoted_rows(tmp_path, "paper")).splitlines()) == 2


def test_numbers_of_one_subject_stand_in_one_line(tmp_path, monkeypatch):
    rows = [
        Row("9", "width 8: loss", "1", "1.1", "ours", True),
        Row("9", "width 8: rank", "2", "2.2", "ours", False),
        Row("9", "width 16: loss", "3", "3.3", "ours", True),
        Row("2", "loss", "4", "4.4", "", True),
    ]
    monkeypatch.setattr("report.quoted.SOURCES", [lambda root, scale: iter(rows)])
    assert numbers_table(quoted_rows(tmp_path, "paper")).splitlines()[2:] == [
        "| 2 | loss | 4 | 4.4 |  | yes |",
        "| 9 | width 8: loss / rank | 1 / 2 | 1.1 / 2.2 | ours | yes / no |",
        "| 9 | width 16: loss | 3 | 3.3 | ours | yes |",
    ]
