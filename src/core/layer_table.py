"""The table that `measure` returns: a row a layer."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LayerRow:
    """Measures of one layer; nan where one has no meaning."""

    name: str  # of the module
    kind: str  # class of the module
    d: int  # dimensions of its features, per group of a convolution
    m: int  # dimensions of its outputs, per group of a convolution
    n: int  # samples whose features and targets are compared
    tl_in: float  # Target Linearity of the inputs
    tl_out: float  # Target Linearity of the outputs
    chance: float  # of tl_in
    surrogate: float  # of the inputs with the layer's own weight
    effective_rank: float  # exponential of the entropy of G's eigenvalues (Roy and Vetterli, 2007)
    condition: float  # condition number of W
    residual: float  # of the Feature Learning Equation, the largest over batches
    cosine_vc: float  # of G and −(AᵀH + HᵀA), the Virtual Covariance Shift at a small rate
    cosine_agop: float  # of G and the AGOP (Neural Feature Ansatz; Radhakrishnan et al., 2024)
    cka_in: float  # linear CKA of inputs and targets (Kornblith et al., 2019)
    cka_out: float  # linear CKA of outputs and targets
    nc1: float  # Neural Collapse of the inputs, where targets are classes
    nc2_norm: float
    nc2_angle: float
    nc3: float  # nc3 and nc4: where the layer has an output a class
    nc4: float
    reduction_error: (
        float  # mean over samples of |‖reduced‖² / ‖features‖² − 1|; 0 for whole features
    )


class LayerTable(list[LayerRow]):
    """A row a layer, in the order in which they are first called. `report.plot` draws it."""

    SHOWN = ("d", "m", "tl_in", "tl_out", "chance", "effective_rank")
    SHOWN += ("residual", "cosine_vc", "cosine_agop", "nc1")

    def __str__(self) -> str:
        lines = [("layer", "kind", *self.SHOWN)]
        for row in self:
            lines.append((row.name, row.kind, *(f"{getattr(row, key):.3g}" for key in self.SHOWN)))
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        padded = ("  ".join(map(str.ljust, line, widths)) for line in lines)
        return "\n".join(map(str.rstrip, padded))

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Layer name -> measure -> value."""
        rows = {row.name: asdict(row) for row in self}
        for row in rows.values():
            del row["name"]
        return rows

    def to_pandas(self) -> Any:
        """A pandas.DataFrame, a row a layer; needs pandas."""
        import pandas

        return pandas.DataFrame([asdict(row) for row in self]).set_index("name")
