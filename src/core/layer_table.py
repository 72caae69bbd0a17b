"""The table that `measure` returns: a row a layer."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

FEW = 0.1  # chance above which the samples are too few to read Target Linearity by itself
LINES = 40  # rows that are printed of a longer table


@dataclass(frozen=True)
class LayerRow:
    """Measures of one layer; nan where one has no meaning or was not measured."""

    name: str  # of the module
    kind: str  # class of the module
    d: int  # dimensions of its features, per group of a convolution
    m: int  # dimensions of its outputs, per group of a convolution
    n: int  # samples whose features and targets are compared
    tl_in: float  # Target Linearity of the inputs
    # mean TL of unrelated targets, about d / n; d of every position that is not pooled
    chance_in: float
    adjusted_in: float  # (TL − chance) / (1 − chance)
    tl_out: float  # Target Linearity of the outputs
    chance_out: float
    adjusted_out: float
    surrogate: float  # of the inputs with the layer's own weight
    effective_rank: float  # exponential of the entropy of G's eigenvalues (Roy and Vetterli, 2007)
    condition: float  # condition number of W
    residual: float  # of the Feature Learning Equation, the largest over calls
    cosine_vc: float  # of G and −(AᵀH + HᵀA), the Virtual Covariance Shift at a small rate
    # of ΔG since the table before and the Virtual Covariance Shift then; see `callback.py`
    cosine_step: float
    cosine_agop: float  # of G and the AGOP (Neural Feature Ansatz; Radhakrishnan et al., 2024)
    fact: float  # cosine of G and −AᵀH, FACT's, where a decay is given; see fact.py
    fact_error: float  # ‖G + AᵀH/λ‖ / ‖G‖, zero where training with decay λ has come to rest
    cka_in: float  # linear CKA of inputs and targets (Kornblith et al., 2019)
    cka_out: float  # linear CKA of outputs and targets
    nc1: float  # Neural Collapse of the inputs, where targets are classes
    nc2_norm: float  # nc2: of three classes or more, for two means are always opposite
    nc2_angle: float
    nc3: float  # nc3 and nc4: where the layer has an output a class
    nc4: float  # of up to 12 · 2²⁰ numbers of inputs, which are kept
    # mean over samples of |‖reduced‖² / ‖features‖² − 1|; 0 for whole features
    reduction_error: float
    # of `held_out`: TL of read-outs fitted on the batches, 1 at best and without a lower bound
    tl_held_out_in: float = math.nan
    tl_held_out_out: float = math.nan
    # of `theories`, see theories.py. "crh": cosines of representations, weights and gradients
    rwa_in: float = math.nan  # HᵀH and WᵀW
    gwa_in: float = math.nan  # AᵀA and WᵀW
    rga_in: float = math.nan  # HᵀH and AᵀA
    rwa_out: float = math.nan  # ZᵀZ and WWᵀ
    gwa_out: float = math.nan  # (∂L/∂Z)ᵀ ∂L/∂Z and WWᵀ
    rga_out: float = math.nan  # ZᵀZ and (∂L/∂Z)ᵀ ∂L/∂Z
    separation_in: float = math.nan  # "separation": tr(Σ_W Σ_B⁺)
    separation_out: float = math.nan
    compression_in: float = math.nan  # "compression": tr Σ_W / tr Σ_B
    compression_out: float = math.nan
    discrimination_in: float = math.nan  # and 1 − the largest cosine of two class means
    discrimination_out: float = math.nan
    nrc1: float = math.nan  # "regression": of inputs; NRC2 is cka_in, NRC4 is 1 − tl_in
    nrc3: float = math.nan
    # "linearity": R² of the linear map from the inputs to those of the layer that is called next
    linearity: float = math.nan


class LayerTable(list[LayerRow]):
    """A row a layer, in the order in which they are first called. `pictures.py` draws it.

    Attributes:
        notes: what is left out and why, a reason -> names of layers.
    """

    SHOWN = ("d", "n", "tl_in", "chance_in", "adjusted_in", "tl_out", "chance_out", "adjusted_out")
    SHOWN += ("cosine_vc", "cosine_step", "cosine_agop", "fact", "fact_error", "nc1")
    SHOWN += ("effective_rank", "residual", "tl_held_out_in", "tl_held_out_out", "linearity")
    SHOWN += ("rwa_in", "gwa_in", "rga_in", "rwa_out", "gwa_out", "rga_out", "nrc1", "nrc3")
    SHOWN += ("separation_in", "compression_in", "discrimination_in")

    def __init__(
        self, rows: Iterable[LayerRow] = (), notes: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        super().__init__(rows)
        self.notes = dict(notes or {})

    def __str__(self) -> str:
        lines = [self._header(), *self._lines()]
        if len(lines) > LINES + 1:
            half = LINES // 2
            between = (f"… {len(lines) - 1 - 2 * half} more: to_pandas() has all",)
            lines = [*lines[: half + 1], between, *lines[-half:]]
        whole = [line for line in lines if len(line) > 1]
        widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
        padded = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        return "\n".join([*padded, *self.remarks()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """For notebooks: the whole table, which scrolls."""

        def row(cells: Iterable[str], tag: str) -> str:
            return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)

        head = f"<thead><tr>{row(self._header(), 'th')}</tr></thead>"
        body = "".join(f"<tr>{row(line, 'td')}</tr>" for line in self._lines())
        remarks = "".join(f"<p>{html.escape(line)}</p>" for line in self.remarks())
        style = "max-height: 30em; overflow: auto"
        return f'<div style="{style}"><table>{head}<tbody>{body}</tbody></table></div>{remarks}'

    def remarks(self) -> list[str]:
        """What to know before the numbers are read, a line each."""
        chances = {row.name: (row.chance_in, row.chance_out) for row in self}
        full = [name for name, levels in chances.items() if any(c >= 1 for c in levels)]
        few = [name for name, levels in chances.items() if any(FEW < c < 1 for c in levels)]
        samples = {
            "no more samples than dimensions, any target is linear in the features": full,
            f"few samples for the dimensions, TL is above {FEW} by chance, read it adjusted": few,
        }
        reasons = {reason: names for reason, names in samples.items() if names} | self.notes
        return [f"{reason}: {_some(names)}" for reason, names in reasons.items()]

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

    def _header(self) -> tuple[str, ...]:
        return ("layer", "kind", *self._shown())

    def _lines(self) -> list[tuple[str, ...]]:
        shown = self._shown()
        return [
            (row.name, row.kind, *(_number(getattr(row, key)) for key in shown)) for row in self
        ]

    def _shown(self) -> list[str]:
        """The columns that are printed: those with a value."""
        return [key for key in self.SHOWN if not all(math.isnan(getattr(r, key)) for r in self)]


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _some(names: Sequence[str], most: int = 6) -> str:
    """Names, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
