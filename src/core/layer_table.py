"""The table that `measure` returns: a row a layer."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LayerRow:
    """Measures of one layer; nan where one has no meaning.

    name, kind: of the module. d, m: dimensions of its features and outputs, per group of a convolution.
    n: samples whose features and targets are compared. tl_in, tl_out: Target Linearity of inputs and outputs.
    chance: of tl_in. surrogate: of the inputs with the layer's own weight. effective_rank: exponential of the
    entropy of G's eigenvalues (Roy and Vetterli, 2007). condition: of W. residual: largest over batches of the
    Feature Learning Equation's. cosine_vc: of G and −(AᵀH + HᵀA), the Virtual Covariance's change at a small rate.
    cosine_agop: of G and the average gradient outer product of the outputs (Neural Feature Ansatz; Radhakrishnan
    et al., 2024). cka_in, cka_out: linear CKA with the targets (Kornblith et al., 2019). nc1, nc2_norm, nc2_angle:
    of the inputs, where targets are classes; nc3, nc4: where the layer has an output a class.
    reduction_error: mean over samples of |‖reduced‖² / ‖features‖² − 1|, zero where the features are whole.
    """

    name: str
    kind: str
    d: int
    m: int
    n: int
    tl_in: float
    tl_out: float
    chance: float
    surrogate: float
    effective_rank: float
    condition: float
    residual: float
    cosine_vc: float
    cosine_agop: float
    cka_in: float
    cka_out: float
    nc1: float
    nc2_norm: float
    nc2_angle: float
    nc3: float
    nc4: float
    reduction_error: float


class LayerTable(list[LayerRow]):
    """A row a layer, in the order in which they are first called."""

    SHOWN = ("d", "m", "tl_in", "tl_out", "chance", "effective_rank", "residual", "cosine_vc", "cosine_agop", "nc1")

    def __str__(self) -> str:
        lines = [("layer", "kind", *self.SHOWN)]
        lines += [(row.name, row.kind, *(f"{getattr(row, key):.3g}" for key in self.SHOWN)) for row in self]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
        )

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Layer name -> measure -> value."""
        return {row.name: {key: value for key, value in asdict(row).items() if key != "name"} for row in self}

    def to_pandas(self) -> Any:
        """A pandas.DataFrame, a row a layer; needs pandas."""
        import pandas

        return pandas.DataFrame([asdict(row) for row in self]).set_index("name")

    def plot(self, measures: Sequence[str] = ("tl_in", "tl_out", "cosine_vc", "cosine_agop", "cka_out")) -> Any:
        """Measures by layer, as a matplotlib figure; needs matplotlib."""
        import matplotlib.pyplot as plt

        upright = len(self) > 6  # names, which then need room
        height = 3.5 + (0.07 * max(len(row.name) for row in self) if upright else 0)
        figure, ax = plt.subplots(figsize=(max(4.0, 0.5 * len(self) + 2), height), layout="constrained")
        for name in measures:
            ax.plot([row.name for row in self], [getattr(row, name) for row in self], marker="o", label=name)
        ax.set(xlabel="layer", ylabel="value", ylim=(None, 1.05))
        ax.tick_params(axis="x", rotation=90 if upright else 0)
        ax.legend()
        return figure
