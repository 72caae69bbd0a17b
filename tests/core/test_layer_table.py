"""The table of `measure` prints with aligned columns and converts without loss."""

import math
import re
from dataclasses import fields, replace

import pytest

from core.layer_table import LayerRow, LayerTable

NAMES = ["features.0", "head"]


def rows(names: list[str], **measures: float) -> list[LayerRow]:
    """Rows whose values all differ, but for those given."""
    numbers = [field.name for field in fields(LayerRow) if field.name not in ("name", "kind")]
    return [
        LayerRow(
            name, "Linear", **({key: 99.25 * i + j for j, key in enumerate(numbers)} | measures)
        )
        for i, name in enumerate(names)
    ]


@pytest.fixture
def table() -> LayerTable:
    return LayerTable(rows(NAMES, chance_in=0.05, chance_out=0.05))


def test_prints_a_line_a_layer_in_aligned_columns(table):
    lines = str(table).splitlines()
    assert lines[0].split() == ["layer", "kind", *LayerTable.SHOWN]
    for line, row in zip(lines[1:], table, strict=True):
        shown = [f"{getattr(row, key):.3g}" for key in LayerTable.SHOWN]
        assert line.split() == [row.name, row.kind, *shown]
    starts = [[match.start() for match in re.finditer(r"\S+", line)] for line in lines]
    assert starts[1:] == starts[:-1]


def test_columns_without_a_value_are_not_printed():
    (first, second) = rows(NAMES, cosine_step=math.nan)
    table = LayerTable([first, replace(second, nc1=math.nan)])
    assert "cosine_step" not in str(table)
    assert "nc1" in str(table)


def test_counts_are_printed_whole():
    assert " 1234567 " in str(LayerTable(rows(NAMES, n=1234567)))


def test_says_where_samples_are_few_and_what_is_left_out():
    few, enough = rows(NAMES, chance_in=0.4, chance_out=0.01), rows(["tail"], chance_in=0.02)
    enough = [replace(row, chance_out=math.nan) for row in enough]
    table = LayerTable([*few, *enough], {"left out, never called": list("abcdefgh")})
    *_, samples, left_out = str(table).splitlines()
    assert "by chance" in samples
    assert samples.endswith(": features.0, head")
    assert left_out == "left out, never called: a, b, c, d, e, f and 2 more"
    assert "by chance" not in str(LayerTable(enough))
    full = LayerTable(rows(["all"], chance_in=1.0, chance_out=0.05))
    assert str(full).endswith("any target is linear in the features: all")


def test_a_long_table_is_folded_in_print_and_whole_for_notebooks():
    names = [f"layer{i:03}" for i in range(100)]
    table = LayerTable(rows(names, chance_in=0.0, chance_out=0.0))
    lines = str(table).splitlines()
    assert [line.split()[0] for line in lines[1:21]] == names[:20]
    assert lines[21] == "… 60 more: to_pandas() has all"
    assert [line.split()[0] for line in lines[22:]] == names[80:]
    assert all(name in table._repr_html_() for name in names)
    assert "more" not in str(LayerTable(table[:40]))


def test_names_are_escaped_for_notebooks():
    page = LayerTable(rows(["<b>"]), {"a < b": ["c"]})._repr_html_()
    assert "<td>&lt;b&gt;</td>" in page
    assert "<p>a &lt; b: c</p>" in page


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
