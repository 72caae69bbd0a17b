"""Running sums of features and targets: everything Target Linearity and the surrogate are made of.

One pass over the data in float64, batches of any size, mergeable between workers. The sums are centred as
they grow (the pairwise update of Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
computing sample variances", 1979), so data far from zero keep their digits.
"""

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

BLOCK = 1 << 20  # entries of a batch that are held in float64 at a time


class FeatureMoments:
    """Count, means and centred scatter matrices of features H (N, d) and targets Y (N, c).

        moments = FeatureMoments()
        for features, targets in batches:
            moments.update(features, targets)

    Attributes (float64, on the device of the first batch):
        n: number of samples.
        feature_mean: μ (d,).
        target_mean: ȳ (c,).
        scatter: S = Σ (h − μ)(h − μ)ᵀ (d, d).
        cross: C = Σ (h − μ)(y − ȳ)ᵀ (d, c).
        target_scatter: Σ (y − ȳ)(y − ȳ)ᵀ (c, c); its diagonal (c,) with diagonal_targets.

    Args:
        diagonal_targets: keep only the diagonal of target_scatter, all that Target Linearity needs; for
            targets of many columns, as images, whose full scatter would be most of the work.
    """

    def __init__(self, diagonal_targets: bool = False) -> None:
        self.n = 0
        self.diagonal_targets = diagonal_targets

    @property
    def d(self) -> int:
        return self.scatter.shape[0]

    @property
    def c(self) -> int:
        return self.target_scatter.shape[0]

    @property
    def target_variance(self) -> Tensor:
        """Σ (y − ȳ)² of each column of the targets (c,)."""
        return self.target_scatter if self.diagonal_targets else self.target_scatter.diagonal()

    def columns(self, part: slice) -> "FeatureMoments":
        """The moments of some of the target columns, to be read: they share these sums' memory."""
        moments = copy.copy(self)
        moments.classes = False
        moments.target_mean, moments.cross = self.target_mean[part], self.cross[:, part]
        moments.target_scatter = self.target_scatter[part]
        if not self.diagonal_targets:
            moments.target_scatter = moments.target_scatter[:, part]
        return moments

    @torch.inference_mode(False)
    def update(self, features: Tensor, targets: Tensor) -> "FeatureMoments":
        """Add a batch.

        Args:
            features: (N, d), any floating dtype.
            targets: class indices (N,), an integer dtype, counted as one-hot rows; or a matrix (N, c). Class
                indices need no number of classes: a class that appears later has been zero so far.

        Returns:
            self.
        """
        _check(features, targets)
        features, targets = features.detach(), targets.detach()
        classes = targets.ndim == 1
        if len(features) and not self.n:
            self._allocate(features.shape[1], 0 if classes else targets.shape[1], features.device, classes)
        elif len(features):
            self._check_like(features.shape[1], None if classes else targets.shape[1])
        rows = max(1, BLOCK // max(1, features.shape[1]))
        for h, y in zip(features.split(rows), targets.split(rows), strict=True):
            if len(h):
                self._add(h.to(torch.float64), self._target_rows(y))
        return self

    def merge(self, other: "FeatureMoments") -> "FeatureMoments":
        """Add the samples of `other`, which is left as it was; returns self."""
        if self.diagonal_targets != other.diagonal_targets:
            raise ValueError("only one of the two keeps the whole scatter of the targets (diagonal_targets)")
        if other.n and not self.n:
            self._allocate(other.d, other.c, other.scatter.device, other.classes)
        if other.n:
            self._check_like(other.d, None if other.classes else other.c)
            self._grow(other.c)
            fill = (0, self.c - other.c)  # classes that `other` has not seen
            self.scatter += other.scatter
            self.cross += functional.pad(other.cross, fill)
            self.target_scatter += functional.pad(other.target_scatter, fill * self.target_scatter.ndim)
            self._shift(other.n, other.feature_mean, functional.pad(other.target_mean, fill))
        return self

    def all_reduce(self, group: Any = None) -> "FeatureMoments":
        """Merge the moments of all processes of torch.distributed, each of its own samples; returns self.

        Every process ends with the moments of all samples; one without samples takes part. Give each sample to one
        process only: a sampler that pads its shards to equal length counts some twice.

        Raises:
            ValueError: processes whose features or targets are of different kinds.
        """
        parts: list[Any] = [None] * dist.get_world_size(group)
        kind = (self.d, None if self.classes else self.c, self.diagonal_targets) if self.n else None
        dist.all_gather_object(parts, (kind, self.c if self.n else 0, self.n), group)
        kinds = {part[0] for part in parts} - {None}
        if len(kinds) > 1:
            raise ValueError(
                f"processes hold moments of different kinds (d, columns, diagonal): {sorted(kinds, key=str)}"
            )
        if not kinds:
            return self
        d, columns, _ = kinds.pop()
        c, n = max(part[1] for part in parts), sum(part[2] for part in parts)
        if not self.n:
            device = torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")
            self._allocate(d, c, device, columns is None)
        self._grow(c)
        mean = torch.cat([self.feature_mean, self.target_mean]) * (self.n / n)
        dist.all_reduce(mean, group=group)
        feature_mean, target_mean = mean.split([d, c])
        # about the mean of all: S + n_i (μ_i − μ)(μ_i − μ)ᵀ of each process, summed
        dh, dy = self.feature_mean - feature_mean, self.target_mean - target_mean
        self.scatter.addr_(dh, dh, alpha=self.n)
        self.cross.addr_(dh, dy, alpha=self.n)
        self.target_scatter += self.n * (dy.square() if self.diagonal_targets else torch.outer(dy, dy))
        for scatter in (self.scatter, self.cross, self.target_scatter):
            dist.all_reduce(scatter, group=group)
        self.feature_mean, self.target_mean, self.n = feature_mean, target_mean, n
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The sums as tensors, for torch.save; before the first batch, only their kind."""
        if not self.n:
            return {"diagonal_targets": torch.tensor(self.diagonal_targets)}
        names = ("feature_mean", "target_mean", "scatter", "cross", "target_scatter")
        sums = {name: getattr(self, name).clone() for name in names}
        plain = {name: torch.tensor(getattr(self, name)) for name in ("n", "classes", "diagonal_targets")}
        return {**plain, **sums}

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> "FeatureMoments":
        """The moments that `state_dict` was taken of."""
        moments = cls()
        for name, value in state.items():
            setattr(moments, name, value.clone() if value.is_floating_point() else value.item())
        return moments

    def _allocate(self, d: int, c: int, device: torch.device, classes: bool) -> None:
        self.classes = classes  # targets are class indices
        zeros = {"dtype": torch.float64, "device": device}
        self.feature_mean, self.target_mean = torch.zeros(d, **zeros), torch.zeros(c, **zeros)
        self.scatter, self.cross = torch.zeros(d, d, **zeros), torch.zeros(d, c, **zeros)
        self.target_scatter = torch.zeros((c,) if self.diagonal_targets else (c, c), **zeros)

    def _check_like(self, d: int, c: int | None) -> None:
        """Raise ValueError unless features have d columns, and targets c (None: are class indices), as before."""
        if d != self.d:
            raise ValueError(f"features have {d} columns, those before had {self.d}")
        kinds = ["class indices" if n is None else f"{n} columns" for n in (c, None if self.classes else self.c)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"targets are {kinds[0]}, those before were {kinds[1]}")

    def _grow(self, c: int) -> None:
        """Columns of zeros for classes first seen now: exact, since they have been zero so far."""
        fill = (0, max(0, c - self.c))
        self.target_mean = functional.pad(self.target_mean, fill)
        self.cross = functional.pad(self.cross, fill)
        self.target_scatter = functional.pad(self.target_scatter, fill * self.target_scatter.ndim)

    def _target_rows(self, targets: Tensor) -> Tensor:
        if targets.ndim == 2:
            return targets.to(torch.float64)
        self._grow(int(targets.max()) + 1)
        return functional.one_hot(targets.long(), self.c).to(torch.float64)

    def _add(self, h: Tensor, y: Tensor) -> None:
        h_mean, y_mean = h.mean(0), y.mean(0)
        h, y = h - h_mean, y - y_mean
        self.scatter.addmm_(h.mT, h)
        self.cross.addmm_(h.mT, y)
        self.target_scatter += y.square().sum(0) if self.diagonal_targets else y.mT @ y
        self._shift(len(h), h_mean, y_mean)

    def _shift(self, n: int, h_mean: Tensor, y_mean: Tensor) -> None:
        """Move the means towards those of n new samples, and add what that adds to the scatters."""
        total = self.n + n
        dh, dy = h_mean - self.feature_mean, y_mean - self.target_mean
        weight = self.n * n / total
        self.scatter.addr_(dh, dh, alpha=weight)
        self.cross.addr_(dh, dy, alpha=weight)
        self.target_scatter += weight * (dy.square() if self.diagonal_targets else torch.outer(dy, dy))
        self.feature_mean += dh * (n / total)
        self.target_mean += dy * (n / total)
        self.n = total


def _check(features: Tensor, targets: Tensor) -> None:
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"features must be a floating-point (N, d), not {features.dtype} {tuple(features.shape)}")
    if targets.ndim not in (1, 2):
        raise ValueError(f"targets must be class indices (N,) or a matrix (N, c), not {tuple(targets.shape)}")
    if len(targets) != len(features):
        raise ValueError(f"{len(features)} samples of features but {len(targets)} of targets")
    if targets.ndim == 1:
        if targets.is_floating_point() or targets.is_complex():
            raise ValueError("targets (N,) must be integer class indices; give one real target as (N, 1)")
        if len(targets) and int(targets.min()) < 0:
            raise ValueError(f"class index {int(targets.min())} is negative: leave out the rows to be ignored")
    elif targets.ndim != 2:
        raise ValueError(f"targets must be class indices (N,) or a matrix (N, c), not {tuple(targets.shape)}")
