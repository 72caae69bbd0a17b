"""The sums of one layer over a data set, and its row of measures, computed from them alone."""

import math
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from .agop import gram_agop_cosine
from .collapse import class_means, collapse, nearest_mean_disagreement
from .gram import effective_rank, weight_gram
from .layer_table import LayerRow
from .linearity import moments_surrogate, report
from .moments import FeatureMoments
from .virtual import gram_shift_cosine


@dataclass
class LayerSums:
    """What is summed of a layer Z = H Wᵀ + b; g groups of a convolution, 1 for a Linear."""

    weight: Tensor  # W (g, m, d)
    inputs: FeatureMoments = field(default_factory=FeatureMoments)  # of H and the targets
    outputs: FeatureMoments = field(default_factory=FeatureMoments)  # of Z and the targets
    weight_gradient: Tensor | None = None  # Σ ∂L/∂W (g, m, d)
    output_outer: Tensor | None = None  # Σ ∂f/∂z ∂f/∂zᵀ (g, m, m) over samples and outputs
    residual: float = 0.0  # largest of the Feature Learning Equation's
    reduction_error: float = 0.0  # Σ over samples of |‖reduced‖² / ‖features‖² − 1|
    reduced_samples: int = 0  # samples whose features were reduced
    # H (N, d), predicted classes (N,)
    predictions: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    distributed: bool = False  # whether the sums are those of all processes

    def add_weight_gradient(self, gradient: Tensor) -> None:
        """Add ∂L/∂W (g, m, d) of a batch, in float64."""
        gradient = gradient.to(torch.float64)
        self.weight_gradient = (
            gradient if self.weight_gradient is None else self.weight_gradient + gradient
        )

    def add_output_gradient(self, gradient: Tensor) -> None:
        """Add ∂f/∂z (g, N, m) of one output and one batch, in float64."""
        outer = weight_gram(gradient.to(torch.float64))
        self.output_outer = outer if self.output_outer is None else self.output_outer + outer

    def all_reduce(self) -> None:
        """Merge with the other processes of torch.distributed."""
        self.distributed = True
        self.inputs.all_reduce()
        self.outputs.all_reduce()
        g, m, d = self.weight.shape
        zeros = {"dtype": torch.float64, "device": self.weight.device}
        for name, shape in (("weight_gradient", (g, m, d)), ("output_outer", (g, m, m))):
            total = getattr(self, name)
            seen = torch.tensor(float(total is not None), **zeros)
            dist.all_reduce(seen, dist.ReduceOp.MAX)
            if seen:
                total = torch.zeros(shape, **zeros) if total is None else total
                dist.all_reduce(total)
                setattr(self, name, total)
        counts = torch.tensor([self.reduction_error, float(self.reduced_samples)], **zeros)
        dist.all_reduce(counts)
        self.reduction_error, self.reduced_samples = float(counts[0]), int(counts[1])
        residual = torch.tensor(self.residual, **zeros)
        dist.all_reduce(residual, dist.ReduceOp.MAX)
        self.residual = float(residual)

    def row(self, name: str, kind: str) -> LayerRow:
        """Every measure of the layer; nan where one has no meaning."""
        weight = self.weight.to(torch.float64)
        _, m, d = weight.shape
        values = torch.linalg.svdvals(weight)  # (g, min(m, d))
        return LayerRow(
            name=name,
            kind=kind,
            d=d,
            m=m,
            n=self.inputs.n,
            effective_rank=effective_rank(weight, blocks=True),
            condition=float(values.max() / values.min()),
            residual=self.residual,
            cosine_vc=self._cosine_vc(weight),
            cosine_agop=self._cosine_agop(weight),
            **self._linearity(),
            **self._collapse(),
            reduction_error=self.reduction_error / max(1, self.reduced_samples),
        )

    def _cosine_vc(self, weight: Tensor) -> float:
        if self.weight_gradient is None:
            return math.nan
        return gram_shift_cosine(weight, self.weight_gradient, blocks=True)

    def _cosine_agop(self, weight: Tensor) -> float:
        if self.output_outer is None:
            return math.nan
        return gram_agop_cosine(weight, self.output_outer, blocks=True)

    def _linearity(self) -> dict[str, float]:
        names = ("tl_in", "tl_out", "chance", "surrogate", "cka_in", "cka_out")
        values = dict.fromkeys(names, math.nan)
        for side, moments in (("in", self.inputs), ("out", self.outputs)):
            if moments.n:
                linearity = report(moments)
                values[f"tl_{side}"] = linearity.value
                norms = moments.scatter.norm() * moments.target_scatter.norm()
                values[f"cka_{side}"] = float(moments.cross.square().sum() / norms)
                if side == "in":
                    values["chance"] = linearity.chance
        if self.inputs.n and len(self.weight) == 1 and self.inputs.d == self.weight.shape[2]:
            values["surrogate"] = moments_surrogate(self.inputs, self.weight[0])
        return values

    def _collapse(self) -> dict[str, float]:
        values = dict.fromkeys(("nc1", "nc2_norm", "nc2_angle", "nc3", "nc4"), math.nan)
        moments = self.inputs
        if not moments.n or not moments.one_hot or not bool((moments.target_mean > 0).all()):
            return values
        is_classifier = self.weight.shape == (1, moments.c, moments.d)
        measures = collapse(moments, self.weight[0] if is_classifier else None)
        values |= {name: getattr(measures, name) for name in ("nc1", "nc2_norm", "nc2_angle")}
        if is_classifier:
            values["nc3"] = measures.nc3
            if self.predictions:
                values["nc4"] = self._nc4(class_means(moments))
        return values

    def _nc4(self, means: Tensor) -> float:
        features, predicted = (torch.cat(parts) for parts in zip(*self.predictions, strict=True))
        share = nearest_mean_disagreement(features, predicted, means)
        counts = torch.tensor(
            [share * len(features), len(features)], dtype=torch.float64, device=means.device
        )
        if self.distributed:
            dist.all_reduce(counts)
        return float(counts[0] / counts[1])
