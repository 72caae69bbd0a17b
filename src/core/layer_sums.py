"""The sums of one layer over a data set, and its row of measures, computed from them alone."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from .agop import gram_agop_cosine
from .batch import ratio, summable, unit
from .collapse import class_means, collapse, has_collapse, nearest_mean_disagreement
from .fact import fact_cosine, fact_error
from .gram import effective_rank, weight_gram
from .layer_table import LayerRow
from .linearity import LostDigits, linear_cka, moments_surrogate, report
from .moments import FeatureMoments
from .theory_sums import TheorySums
from .virtual import feature_learning_residual, gram_shift_cosine

# entries of a classifier's inputs that are kept for NC4: 48 MiB in float32
MOST_KEPT = 12 << 20


@dataclass
class LayerSums:
    """What is summed of a layer Z = H Wᵀ + b; g groups of a convolution, 1 for a Linear."""

    weight: Tensor  # W (g, m, d)
    inputs: FeatureMoments = field(default_factory=FeatureMoments)  # of H and the targets
    outputs: FeatureMoments = field(default_factory=FeatureMoments)  # of Z and the targets
    weight_gradient: Tensor | None = None  # Σ ∂L/∂W (g, m, d)
    output_outer: Tensor | None = None  # Σ ∂f/∂z ∂f/∂zᵀ (g, m, m) over samples and outputs
    residual: float = math.nan  # largest of the Feature Learning Equation's
    reduction_error: float = 0.0  # Σ over samples of |‖reduced‖² / ‖features‖² − 1|
    reduced_samples: int = 0  # samples whose features were reduced
    # H (N, d), predicted classes (N,), for the class means are known in the end; None if too many
    predictions: list[tuple[Tensor, Tensor]] | None = field(default_factory=list)
    distributed: bool = False  # whether the sums are those of all processes
    before: tuple[Tensor, Tensor] | None = None  # W and Σ ∂L/∂W at an earlier moment
    decay: float | None = None  # λ of the decay that is part of the summed loss
    theories: TheorySums = field(default_factory=TheorySums)
    problems: list[str] = field(default_factory=list)  # why measures are nan or inexact

    def add_gradients(self, h: Tensor, dz: Tensor, dw: Tensor) -> None:
        """Add the gradient of a call, and compare the two sides of the Feature Learning Equation.

        Args:
            h: H (g, N, d).
            dz: ∂L/∂Z (g, N, m).
            dw: ∂L/∂W (g, m, d) of this call alone.
        """
        h, dz, dw = (summable(t) for t in (h, dz, dw))
        self.add_weight_gradient(dw)
        if bool(dz.any()):  # otherwise both sides are zero
            working = torch.promote_types(h.dtype, torch.float32)
            h, dz, dw, weight = (t.to(working) for t in (h, dz, dw, self.weight))
            residual = feature_learning_residual(h, weight, dz @ weight, dw, blocks=True)
            self.residual = residual if math.isnan(self.residual) else max(self.residual, residual)

    def add_weight_gradient(self, gradient: Tensor) -> None:
        """Add ∂L/∂W (g, m, d) of a batch, in float64."""
        gradient = summable(gradient).to(torch.float64)
        self.weight_gradient = (
            gradient if self.weight_gradient is None else self.weight_gradient + gradient
        )

    def add_output_gradient(self, gradient: Tensor) -> None:
        """Add ∂f/∂z (g, N, m) of one output and one batch, in float64."""
        outer = weight_gram(summable(gradient).to(torch.float64))
        self.output_outer = outer if self.output_outer is None else self.output_outer + outer

    def add_predictions(self, features: Tensor, predicted: Tensor) -> None:
        """Keep a batch's H (N, d) and predicted classes (N,), of up to MOST_KEPT entries in all."""
        if self.predictions is None:
            return
        if sum(kept.numel() for kept, _ in self.predictions) + features.numel() > MOST_KEPT:
            self.predictions = None
        else:
            self.predictions.append((features, predicted))

    def note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Warnings of lost digits become notes; the table says itself where samples are few."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            if issubclass(warning.category, LostDigits):
                self.note(str(warning.message))

    def all_reduce(self) -> None:
        """Merge with the other processes of torch.distributed."""
        self.distributed = True
        self.inputs.all_reduce()
        self.outputs.all_reduce()
        self.theories.all_reduce(self.weight)
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
        residual = torch.tensor(self.residual, **zeros).nan_to_num(-math.inf)
        dist.all_reduce(residual, dist.ReduceOp.MAX)
        self.residual = float(residual) if residual.isfinite() else math.nan

    def row(self, name: str, kind: str) -> LayerRow:
        """Every measure of the layer; nan where one has no meaning; `problems` says why."""
        theories, problems = self.theories.columns(self.weight, self.inputs, self.outputs)
        for problem in problems:
            self.note(problem)
        return LayerRow(
            name=name,
            kind=kind,
            d=self.weight.shape[2],
            m=self.weight.shape[1],
            n=self.inputs.n,
            residual=self.residual,
            reduction_error=self.reduction_error / max(1, self.reduced_samples),
            **self._weights(),
            **self._linearity(),
            **self._collapse(),
            **theories,
        )

    def _weights(self) -> dict[str, float]:
        """What depends on W through WᵀW, Wᵀ ∂L/∂W and ∂f/∂z W alone: a tall W is made square."""
        names = ("effective_rank", "condition", "cosine_vc", "cosine_step", "cosine_agop")
        names += ("fact", "fact_error")
        values = dict.fromkeys(names, math.nan)
        weight, gradient = self.weight.to(torch.float64), self.weight_gradient
        if not bool(weight.isfinite().all()):
            self.note("weights that are not finite")
            return values
        if self.output_outer is not None:
            values["cosine_agop"] = gram_agop_cosine(weight, self.output_outer, blocks=True)
        if self.before is not None and self.before[0].shape == weight.shape:
            values["cosine_step"] = step_cosine(*self.before, weight)
        _, m, d = weight.shape
        if m > d:
            basis, weight = torch.linalg.qr(weight)  # W = Q R: (g, m, d), (g, d, d)
            gradient = None if gradient is None else basis.mT @ gradient
        if gradient is not None:
            values["cosine_vc"] = gram_shift_cosine(weight, gradient, blocks=True)
            if self.decay is not None or "fact" in self.theories.names:
                values["fact"] = fact_cosine(weight, gradient, blocks=True)
            if self.decay is not None:
                values["fact_error"] = fact_error(weight, gradient, self.decay, blocks=True)
        singular = torch.linalg.svdvals(weight)  # (g, min(m, d))
        values["condition"] = float(singular.max() / singular.min())
        values["effective_rank"] = effective_rank(torch.diag_embed(singular), blocks=True)
        return values

    def _linearity(self) -> dict[str, float]:
        names = ("tl", "chance", "adjusted", "cka")
        values = {f"{name}_{side}": math.nan for side in ("in", "out") for name in names}
        values["surrogate"] = math.nan
        for side, moments in (("in", self.inputs), ("out", self.outputs)):
            if not moments.n:
                continue
            try:
                with self._noted():
                    linearity = report(moments)
            except ValueError as error:
                self.note(str(error))
                continue
            values[f"tl_{side}"] = linearity.value
            values[f"chance_{side}"] = linearity.chance
            values[f"adjusted_{side}"] = linearity.adjusted
            values[f"cka_{side}"] = linear_cka(moments.scatter, moments.cross, moments.target_norm)
        if self.inputs.n and len(self.weight) == 1 and self.inputs.d == self.weight.shape[2]:
            values["surrogate"] = moments_surrogate(self.inputs, self.weight[0])
        return values

    def _collapse(self) -> dict[str, float]:
        values = dict.fromkeys(("nc1", "nc2_norm", "nc2_angle", "nc3", "nc4"), math.nan)
        moments = self.inputs
        if not has_collapse(moments):
            return values
        is_classifier = self.weight.shape == (1, moments.c, moments.d)
        with self._noted():
            measures = collapse(moments, self.weight[0] if is_classifier else None)
        values["nc1"] = measures.nc1
        if moments.c > 2:
            values |= {"nc2_norm": measures.nc2_norm, "nc2_angle": measures.nc2_angle}
        if is_classifier:
            values["nc3"] = measures.nc3
            values["nc4"] = self._nc4(class_means(moments))
        return values

    def _nc4(self, means: Tensor) -> float:
        counts = torch.zeros(2, dtype=torch.float64, device=means.device)  # disagreeing, all
        if self.predictions is None:
            counts += math.nan
        for features, predicted in self.predictions or ():
            share = nearest_mean_disagreement(features, predicted, means)
            counts += counts.new_tensor([share * len(features), len(features)])
        if self.distributed:
            dist.all_reduce(counts)
        return ratio(counts[0], counts[1])


def step_cosine(before: Tensor, gradient: Tensor, after: Tensor) -> float:
    """Cosine of ΔG = W₁ᵀW₁ − W₀ᵀW₀ and −(AᵀH + HᵀA), the Virtual Covariance Shift at W₀ (ours).

    Args:
        before: W₀ (g, m, d) float64.
        gradient: ∂L/∂W at W₀ (g, m, d).
        after: W₁ (g, m, d).

    Returns:
        nan where one of the two is zero.
    """
    # W₀ and W₁ by one power of two, the gradient by its own
    w0, w1 = unit(torch.cat([before, after], 1), blocks=True)[0].chunk(2, 1)
    rows = torch.cat([w0, unit(gradient, blocks=True)[0], w1 - w0], 1)  # (g, 3m, d)
    if rows.shape[1] < rows.shape[2]:  # coordinates in the space that the rows span
        rows = torch.linalg.qr(rows.mT, mode="r").R.mT
    w, dw, e = rows.chunk(3, 1)
    cross, moved = w.mT @ dw, w.mT @ e  # Wᵀ ∂L/∂W = AᵀH
    shift = -(cross + cross.mT)
    change = moved + moved.mT + e.mT @ e
    return float(ratio((change * shift).sum(), change.norm() * shift.norm()))
