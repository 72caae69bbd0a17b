"""Pictures of what `measure` returns."""

import itertools
import math

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from core.layer_table import LayerRow, LayerTable
from core.pictures import layer_measures, measure_by_epoch, use_style

mpl.use("agg")


@pytest.fixture(autouse=True)
def closed():
    with plt.rc_context():
        yield
    plt.close("all")


def table(tl, names=("first", "second")):
    numbers = {f.name: math.nan for f in LayerRow.__dataclass_fields__.values() if f.type is float}
    sizes = {"kind": "Linear", "d": 3, "m": 2, "n": 9}
    rows = [
        LayerRow(**{**numbers, **sizes, "name": n, "tl_in": v})
        for n, v in zip(names, tl, strict=True)
    ]
    return LayerTable(rows)


def test_measures_are_drawn_by_layer_and_by_epoch():
    ax = layer_measures(table([0.1, 0.4]), ("tl_in",)).axes[0]
    assert ax.lines[0].get_ydata().tolist() == [0.1, 0.4]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["tl_in"]
    ax = measure_by_epoch({0: table([0.1, 0.4]), 5: table([0.2, 0.8])}).axes[0]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.1, 0.2], [0.4, 0.8]]
    assert ax.lines[0].get_xdata().tolist() == [0, 5]


@pytest.mark.parametrize("styled", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("a", "b"),
        [f"layer{i}.{j}.conv2" for i in (1, 2) for j in (0, 1)] + ["fc"],
        [f"{i}" for i in range(7)],
        [f"encoder.layer.{i}.attention.self.query" for i in range(2)],
        [f"encoder.layer.{i}.attention.self.query" for i in range(30)],
    ],
)
def test_names_of_layers_do_not_overlap(names, styled):
    if styled:
        use_style()
    figure = layer_measures(table([0.5] * len(names), names), ("tl_in",))
    figure.draw_without_rendering()
    labels = [text.get_window_extent() for text in figure.axes[0].get_xticklabels()]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == list(names)
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(labels))
    assert figure.axes[0].get_position().height > 0.4
