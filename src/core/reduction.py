"""A layer's features beside a batch's targets: a row a sample, or a row a position."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .targets import Targets

LARGEST = 8192  # dimensions of features whose moments are kept
Reduction = Literal["exact", "pool", "project"]


class NoRows(ValueError):
    """Features that cannot be set beside the targets; the other layers are not concerned."""


@dataclass
class Reducer:
    """Makes rows of one layer's inputs or outputs.

    name: of the layer, for errors. reduction, projected: see `measure`.
    """

    name: str
    reduction: Reduction
    projected: int
    error: float = 0.0  # Σ over samples of |‖reduced‖² / ‖features‖² − 1|
    reduced: int = 0  # samples whose features were projected
    width: int = 0  # of the rows so far

    def rows(
        self, features: Tensor, targets: Targets, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Rows of features (n, d), and the targets that are counted, (n,) or (n, c).

        Args:
            features: (N, *Q, d), with positions of any shape Q.
            targets: of positions P: rows are positions where Q = P, and samples where P = ().
            mask: (N, T) bool, False at padding.

        Raises:
            NoRows: positions that are not the targets', or more than 8,192 dimensions.
            ValueError: samples of different lengths, and maps of more than 8,192 dimensions, that
                only another reduction can take.
        """
        counted = targets.counted.to(features.device)
        values = targets.values.to(features.device)[counted]
        if features.shape[:-1] == counted.shape:
            return self._narrow(features[counted]), values
        if counted.ndim > 1 or len(features) != len(counted):
            raise NoRows(
                f"features {tuple(features.shape[:-1])}, targets {tuple(counted.shape)}: which "
                "belong together is not known"
            )
        positions = tuple(range(1, features.ndim - 1))
        if mask is not None:
            if features.shape[:-1] != mask.shape:
                shape = tuple(features.shape[1:-1])
                raise NoRows(f"positions {shape}, and an attention_mask of {mask.shape[1]}")
            if self.reduction != "pool":
                raise ValueError(
                    f"{self.name}: padded samples, whose positions cannot stand side by side; take "
                    "reduction 'pool', or leave the layer out by names"
                )
            mask = mask.to(features.device)
            sums = features.masked_fill(~mask[..., None], 0).sum(1, dtype=torch.float64)
            return (sums / mask.sum(1, keepdim=True).clamp_min(1))[counted], values
        if self.reduction == "pool":
            return features.mean(positions, dtype=torch.float64)[counted], values
        return self._side_by_side(features[counted].flatten(1)), values

    def _side_by_side(self, rows: Tensor) -> Tensor:
        width = rows.shape[1]
        if self.width not in (0, width):
            raise ValueError(
                f"{self.name}: maps of {self.width} and of {width} dimensions; take reduction "
                "'pool', or leave the layer out by names"
            )
        self.width = width
        if self.reduction == "project" and width > self.projected:
            return self._project(rows)
        if width > LARGEST:
            raise ValueError(
                f"{self.name}: features of {width} dimensions; take reduction 'pool' or "
                "'project', or leave the layer out by names"
            )
        return rows

    def _narrow(self, rows: Tensor) -> Tensor:
        if rows.shape[1] <= LARGEST:
            return rows
        if self.reduction == "project":
            return self._project(rows)
        raise NoRows(f"{rows.shape[1]:,} dimensions: take reduction 'project'")

    def _project(self, rows: Tensor) -> Tensor:
        """A Gaussian projection (n, projected), the same in every batch."""
        g = torch.Generator().manual_seed(0)
        matrix = torch.randn(rows.shape[1], self.projected, generator=g) / math.sqrt(self.projected)
        working = torch.promote_types(rows.dtype, torch.float32)
        projected = rows.to(working) @ matrix.to(rows.device, working)
        before = rows.double().square().sum(1)
        change = (projected.double().square().sum(1) / before - 1).abs()
        self.error += float(torch.where(before > 0, change, 0.0).sum())
        self.reduced += len(rows)
        return projected


def check(reduction: str) -> None:
    """ValueError unless it is one of `Reduction`."""
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction must be one of {get_args(Reduction)}, not {reduction!r}")
