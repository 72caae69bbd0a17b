"""Running sums of features and targets: everything Target Linearity and the surrogate are made of.

One pass over the data in float64, batches of any size, mergeable between workers. The sums are centred as
they grow (the pairwise update of Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
computing sample variances", 1979), so data far from zero keep their digits.
"""

import torch
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
        target_scatter: Σ (y − ȳ)(y − ȳ)ᵀ (c, c).
    """

    def __init__(self) -> None:
        self.n = 0

    @property
    def d(self) -> int:
        return self.scatter.shape[0]

    @property
    def c(self) -> int:
        return self.target_scatter.shape[0]

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
        if other.n and not self.n:
            self._allocate(other.d, other.c, other.scatter.device, other.classes)
        if other.n:
            self._check_like(other.d, None if other.classes else other.c)
            self._grow(other.c)
            fill = (0, self.c - other.c)  # classes that `other` has not seen
            self.scatter += other.scatter
            self.cross += functional.pad(other.cross, fill)
            self.target_scatter += functional.pad(other.target_scatter, fill * 2)
            self._shift(other.n, other.feature_mean, functional.pad(other.target_mean, fill))
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The sums as tensors, for torch.save; empty before the first batch."""
        if not self.n:
            return {}
        names = ("feature_mean", "target_mean", "scatter", "cross", "target_scatter")
        sums = {name: getattr(self, name).clone() for name in names}
        return {"n": torch.tensor(self.n), "classes": torch.tensor(self.classes), **sums}

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> "FeatureMoments":
        """The moments that `state_dict` was taken of."""
        moments = cls()
        for name, value in state.items():
            setattr(moments, name, value.item() if name in ("n", "classes") else value.clone())
        return moments

    def _allocate(self, d: int, c: int, device: torch.device, classes: bool) -> None:
        self.classes = classes  # targets are class indices
        zeros = {"dtype": torch.float64, "device": device}
        self.feature_mean, self.target_mean = torch.zeros(d, **zeros), torch.zeros(c, **zeros)
        self.scatter, self.cross = torch.zeros(d, d, **zeros), torch.zeros(d, c, **zeros)
        self.target_scatter = torch.zeros(c, c, **zeros)

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
        self.target_scatter = functional.pad(self.target_scatter, fill * 2)

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
        self.target_scatter.addmm_(y.mT, y)
        self._shift(len(h), h_mean, y_mean)

    def _shift(self, n: int, h_mean: Tensor, y_mean: Tensor) -> None:
        """Move the means towards those of n new samples, and add what that adds to the scatters."""
        total = self.n + n
        dh, dy = h_mean - self.feature_mean, y_mean - self.target_mean
        weight = self.n * n / total
        self.scatter.addr_(dh, dh, alpha=weight)
        self.cross.addr_(dh, dy, alpha=weight)
        self.target_scatter.addr_(dy, dy, alpha=weight)
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
