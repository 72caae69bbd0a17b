"""The table of `measure` prints with aligned columns and converts without loss."""

import re
from dataclasses import fields

import pytest

from core.layer_table import LayerRow, LayerTable

NAMES = ["features.0", "head"]


@pytest.fixture
def table() -> LayerTable:
    """Two rows whose values all differ."""
    numbers = [field.name for field in fields(LayerRow) if field.name not in ("name", "kind")]
    return LayerTable(
        LayerRow(name, kind, **{key: start + i for i, key in enumerate(numbers)})
        for name, kind, start in zip(NAMES, ("Conv2d", "Linear"), (0.25, 12345.5), strict=True)
    )


def test_prints_a_line_a_layer_in_aligned_columns(table):
    lines = str(table).splitlines()
    assert lines[0].split() == ["layer", "kind", *LayerTable.SHOWN]
    for line, row in zip(lines[1:], table, strict=True):
        shown = [f"{getattr(row, key):.3g}" for key in LayerTable.SHOWN]
        assert line.split() == [row.name, row.kind, *shown]
    starts = [[match.start() for match in re.finditer(r"\S+", line)] for line in lines]
    assert starts[1:] == starts[:-1]


def test_is_a_dictionary_by_layer_and_measure(table):
    values = table.to_dict()
    assert list(values) == NAMES
    for row in table:
        assert {"name": row.name, **values[row.name]} == vars(row)


def test_is_a_data_frame_with_a_row_a_layer(table):
    pytest.importorskip("pandas")
    frame = table.to_pandas()
    assert list(frame.index) == NAMES
    assert frame.loc["head"].to_dict() == table.to_dict()["head"]
