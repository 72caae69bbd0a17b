"""What `measure` sums of a layer for the theories that are asked for, and for held-out samples."""

import warnings
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from .batch import unit
from .collapse import has_collapse
from .gram import weight_gram
from .linearity import LostDigits, held_out_linearity, report
from .moments import FeatureMoments
from .theories import canonical_alignments, class_separation, regression_collapse

SIDES = {"inputs": "in", "outputs": "out"}  # and their columns' ending


@dataclass
class TheorySums:
    """Sums beside those of `LayerSums`, of a layer Z = H Wᵀ + b; gathered where they are needed."""

    names: frozenset[str] = frozenset()  # of theories.THEORIES
    # Σ over rows of hhᵀ (g, d, d), zzᵀ and (∂L/∂z)(∂L/∂z)ᵀ (g, m, m)
    outer: dict[str, Tensor] = field(default_factory=dict)
    # of H, and for targets the inputs of the layer that is called next
    successive: FeatureMoments = field(default_factory=lambda: FeatureMoments(True))
    held_out: dict[str, FeatureMoments] = field(default_factory=dict)  # by side

    def add_rows(self, h: Tensor, z: Tensor, dz: Tensor) -> None:
        """Add the second moments of a call's rows: H (g, N, d), Z and ∂L/∂Z (g, N, m)."""
        for name, rows in {"inputs": h, "outputs": z, "gradients": dz}.items():
            self.outer[name] = _outer(rows) + self.outer.get(name, 0.0)

    def all_reduce(self, weight: Tensor) -> None:
        """Merge with the other processes of torch.distributed; weight: W (g, m, d)."""
        if "linearity" in self.names:
            self.successive.all_reduce()
        for moments in self.held_out.values():
            moments.all_reduce()
        g, m, d = weight.shape
        sizes = {"inputs": d, "outputs": m, "gradients": m} if "crh" in self.names else {}
        for name, size in sizes.items():
            zeros = torch.zeros(g, size, size, dtype=torch.float64, device=weight.device)
            self.outer[name] = self.outer.get(name, zeros)
            dist.all_reduce(self.outer[name])

    def columns(
        self, weight: Tensor, inputs: FeatureMoments, outputs: FeatureMoments
    ) -> tuple[dict[str, float], list[str]]:
        """Columns of `LayerRow` that are known, and why others are nan or inexact.

        weight: W (g, m, d). inputs, outputs: the layer's moments.
        """
        values: dict[str, float] = {}
        problems: list[str] = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for part in (self._alignments, self._separation, self._regression, self._linearity):
                try:
                    values |= part(weight, inputs, outputs)
                except ValueError as error:
                    problems.append(str(error))
        problems += [str(w.message) for w in caught if issubclass(w.category, LostDigits)]
        return values, problems

    def _alignments(self, weight: Tensor, *_: FeatureMoments) -> dict[str, float]:
        if not self.outer or not bool(weight.isfinite().all()):
            return {}
        return vars(canonical_alignments(weight, **self.outer, blocks=True))

    def _separation(self, _: Tensor, *moments: FeatureMoments) -> dict[str, float]:
        columns = {
            "separation": ("separation",),
            "compression": ("compression", "discrimination"),
        }
        wanted = [c for name, of in columns.items() if name in self.names for c in of]
        values = {}
        for side, one in zip(SIDES.values(), moments, strict=True):
            if wanted and has_collapse(one):
                apart = class_separation(one)
                values |= {f"{column}_{side}": getattr(apart, column) for column in wanted}
        return values

    def _regression(
        self, weight: Tensor, inputs: FeatureMoments, _: FeatureMoments
    ) -> dict[str, float]:
        if "regression" not in self.names or not inputs.n:
            return {}
        reads = len(weight) == 1 and weight.shape[2] == inputs.d
        collapsed = regression_collapse(inputs, weight[0] if reads else None)
        return {"nrc1": collapsed.outside, "nrc3": collapsed.subspace}

    def _linearity(self, _: Tensor, *moments: FeatureMoments) -> dict[str, float]:
        values = {}
        if self.successive.n:
            values["linearity"] = report(self.successive, intercept=True).value
        fitted_on = dict(zip(SIDES, moments, strict=True))
        for side, other in self.held_out.items():
            fitted = fitted_on[side]
            if fitted.n and other.n:
                values[f"tl_held_out_{SIDES[side]}"] = held_out_linearity(fitted, other)
        return values


def _outer(rows: Tensor) -> Tensor:
    """Σ rrᵀ (g, d, d) of rows (g, N, d) in float64.

    Multiplied in the rows' own precision, float32 at least, over a power of two: squares of
    gradients are below float32's range, and products in float64 would take longer than all else.
    """
    scaled, power = unit(rows.to(torch.promote_types(rows.dtype, torch.float32)))
    return weight_gram(scaled).to(torch.float64) * power.square()
