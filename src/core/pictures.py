"""Pictures of what `measure` returns; matplotlib is needed where one is drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

from .layer_table import LayerTable

STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 9,
    "axes.titlesize": 10,
}
CHARACTER = 0.08  # inches of a label


def use_style() -> None:
    """Let the figures that follow look like this project's."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)


def layer_measures(
    table: LayerTable,
    names: Sequence[str] = ("tl_in", "tl_out", "cosine_vc", "cosine_agop", "cka_out"),
) -> Any:
    """Measures by layer, as a matplotlib figure; names of layers stand upright where they must."""
    import matplotlib.pyplot as plt

    longest = CHARACTER * max((len(row.name) for row in table), default=0)
    width = max(4.0, 0.5 * len(table) + 2)
    upright = len(table) * longest > width - 1
    figure, ax = plt.subplots(figsize=(width, 3.5 + longest * upright), layout="constrained")
    for name in names:
        values = [getattr(row, name) for row in table]
        ax.plot([row.name for row in table], values, marker="o", label=name)
    ax.set(xlabel="layer", ylabel="value", ylim=(None, 1.05))
    ax.tick_params(axis="x", rotation=90 if upright else 0)
    ax.legend()
    return figure


def measure_by_epoch(tables: Mapping[int, LayerTable], name: str = "tl_in") -> Any:
    """One measure of `MeasureEvery` by epoch, a curve a layer, as a matplotlib figure."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6.5, 3.5), layout="constrained")
    for rows in zip(*tables.values(), strict=True):
        values = [getattr(row, name) for row in rows]
        ax.plot(list(tables), values, marker="o", label=rows[0].name)
    ax.set(xlabel="epoch", ylabel=name)
    ax.legend(title="layer", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
