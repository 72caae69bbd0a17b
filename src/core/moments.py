"""Running sums of features and targets: everything Target Linearity and the surrogate are made of.

One pass over the data in float64, batches of any size, mergeable between workers. The sums are
centred as they grow (the pairwise update of Chan, Golub and LeVeque, "Updating formulae and a
pairwise algorithm for computing sample variances", 1979), so data far from zero keep their digits.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from .targets import pair

BLOCK = 1 << 20  # entries of a batch that are held in float64 at a time
SUMS = ("feature_mean", "target_mean", "scatter", "cross", "target_scatter")


class FeatureMoments:
    """Count, means and centred scatter matrices of features H (…, N, d) and targets Y (…, N, c).

        moments = FeatureMoments()
        for features, targets in batches:
            moments.update(features, targets)

    Leading axes are a batch of independent sums, as those of replicas; all have the same N.

    Attributes (float64, on the device of the first batch):
        n: number of samples.
        feature_mean: μ (…, d).
        target_mean: ȳ (…, c).
        scatter: S = Σ (h − μ)(h − μ)ᵀ (…, d, d).
        cross: C = Σ (h − μ)(y − ȳ)ᵀ (…, d, c).
        target_scatter: Σ (y − ȳ)(y − ȳ)ᵀ (…, c, c); its diagonal (…, c) with diagonal_targets. Of
            classes it is not kept: with n_k samples of class k it is diag(n_k) − n_k n_kᵀ / n.
        one_hot: whether the targets were class indices.

    Args:
        diagonal_targets: keep only the diagonal of target_scatter, all that Target Linearity needs;
            for targets of many columns, as images, whose full scatter would be most of the work.
    """

    def __init__(self, diagonal_targets: bool = False) -> None:
        self.n = 0
        self.diagonal_targets = diagonal_targets

    @property
    def d(self) -> int:
        return self.scatter.shape[-1]

    @property
    def c(self) -> int:
        return self.target_mean.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        """The leading axes."""
        return self.feature_mean.shape[:-1]

    @property
    def counts(self) -> Tensor:
        """Samples n_k of each class (…, c), of targets that are class indices."""
        return (self.n * self.target_mean).round()

    @property
    def target_scatter(self) -> Tensor:
        if not self.one_hot:
            return self.matrix_scatter
        if self.diagonal_targets:
            return self.target_variance
        counts = self.counts
        outer = counts[..., :, None] * counts[..., None, :]
        return torch.diag_embed(counts) - outer / max(1, self.n)

    @property
    def target_variance(self) -> Tensor:
        """Σ (y − ȳ)² of each column of the targets (…, c)."""
        if self.one_hot:
            return self.counts * (1 - self.target_mean)
        if self.diagonal_targets:
            return self.matrix_scatter
        return self.matrix_scatter.diagonal(dim1=-2, dim2=-1)

    @property
    def target_norm(self) -> Tensor:
        """Frobenius norm ‖Σ (y − ȳ)(y − ȳ)ᵀ‖ (…); nan where only its diagonal is known."""
        if self.one_hot:  # n_k (1 − p_k) on the diagonal, −n_k p_l elsewhere; p_k = n_k / n
            share = self.target_mean
            squares = 1 - 2 * share + share.square().sum(-1, keepdim=True)
            return (self.counts.square() * squares).sum(-1).sqrt()
        if self.diagonal_targets:
            return self.feature_mean.new_full(self.batch_shape, math.nan)
        return torch.linalg.matrix_norm(self.matrix_scatter)

    def __copy__(self) -> "FeatureMoments":
        return self.from_state_dict(self.state_dict())

    def __getitem__(self, index: Any) -> "FeatureMoments":
        """The moments at an index of the leading axes, to be read: they share memory."""
        return self._like(**{name: value[index] for name, value in self._kept().items()})

    @classmethod
    def stack(cls, several: Sequence["FeatureMoments"]) -> "FeatureMoments":
        """Moments (…) of the same targets and as many features each, as (…, len), to be read."""
        sums = [moments._kept() for moments in several]
        axis = len(several[0].batch_shape)
        stacked = {name: torch.stack([kept[name] for kept in sums], axis) for name in sums[0]}
        return several[0]._like(**stacked)

    def columns(self, part: slice) -> "FeatureMoments":
        """The moments of some of the target columns, to be read: they share memory."""
        scatter = self.target_scatter[..., part]
        return self._like(
            one_hot=False,
            target_mean=self.target_mean[..., part],
            cross=self.cross[..., part],
            matrix_scatter=scatter if self.diagonal_targets else scatter[..., part, :],
        )

    def arrange(self, places: Tensor, c: int) -> "FeatureMoments":
        """Move the samples of class k to class places[k] (c,) of `c` classes; returns self."""
        for name in ("target_mean", "cross"):
            old = getattr(self, name)
            new = old.new_zeros(*old.shape[:-1], c)
            new[..., places] = old
            setattr(self, name, new)
        return self

    @torch.inference_mode(False)
    def update(self, features: Any, targets: Any) -> "FeatureMoments":
        """Add a batch of tensors, or of what torch.as_tensor takes.

        Args:
            features: (…, N, d), any floating dtype.
            targets: class indices (N,) or (…, N), an integer dtype, counted as one-hot rows; or a
                matrix (N, c) or (…, N, c). Without leading axes they are those of every entry of
                the batch. Class indices need no number of classes: a class that appears later has
                been zero so far.

        Returns:
            self.

        Raises:
            ValueError: shapes or dtypes that are not these, or not those of the batches before.
        """
        features, targets, one_hot = pair(features, targets)
        batch, (n, d) = features.shape[:-2], features.shape[-2:]
        if not n:
            return self
        c = 0 if one_hot else targets.shape[-1]
        if not self.n:
            self._allocate(batch, d, c, features.device, one_hot)
        self._check_like(batch, d, None if one_hot else c)
        if one_hot:
            self._grow(int(targets.max()) + 1)
        features = features.reshape(-1, n, d)  # (B, N, d)
        inner = targets.shape[-1:] if one_hot else targets.shape[-2:]  # of one entry of the batch
        targets = targets.expand(*batch, *inner).reshape(-1, *inner)
        rows = max(1, BLOCK // (max(d, self.c) * max(1, len(features))))
        for h, y in zip(features.split(rows, 1), targets.split(rows, 1), strict=True):
            self._add(h.to(torch.float64), self._target_rows(y))
        return self

    def merge(self, other: "FeatureMoments") -> "FeatureMoments":
        """Add the samples of `other`, which is left as it was; returns self."""
        if self.diagonal_targets != other.diagonal_targets:
            raise ValueError(
                "only one of the two keeps the whole scatter of the targets (diagonal_targets)"
            )
        if other.n and not self.n:
            self._allocate(other.batch_shape, other.d, other.c, other.scatter.device, other.one_hot)
        if other.n:
            self._check_like(other.batch_shape, other.d, None if other.one_hot else other.c)
            self._grow(other.c)
            fill = (0, self.c - other.c)  # classes that `other` has not seen
            self.scatter += other.scatter
            self.cross += functional.pad(other.cross, fill)
            if not self.one_hot:
                self.matrix_scatter += other.matrix_scatter
            self._shift(other.n, other.feature_mean, functional.pad(other.target_mean, fill))
        return self

    def all_reduce(self, group: Any = None) -> "FeatureMoments":
        """Merge the moments of all processes of torch.distributed; returns self.

        Every process ends with the moments of all samples; one without samples takes part. Give
        each sample to one process only: a sampler that pads its shards to equal length counts some
        twice.

        Raises:
            ValueError: processes whose features or targets are of different kinds.
        """
        parts: list[Any] = [None] * dist.get_world_size(group)
        columns = None if not self.n or self.one_hot else self.c
        kind = (tuple(self.batch_shape), self.d, columns, self.diagonal_targets) if self.n else None
        dist.all_gather_object(parts, (kind, self.c if self.n else 0, self.n), group)
        kinds = {part[0] for part in parts} - {None}
        if len(kinds) > 1:
            kinds = sorted(kinds, key=str)
            raise ValueError(
                f"processes hold moments of different kinds (batch, d, columns, diagonal): {kinds}"
            )
        if not kinds:
            return self
        batch, d, columns, _ = kinds.pop()
        c, n = max(part[1] for part in parts), sum(part[2] for part in parts)
        if not self.n:
            device = torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")
            self._allocate(batch, d, c, device, columns is None)
        self._grow(c)
        mean = torch.cat([self.feature_mean, self.target_mean], -1) * (self.n / n)
        dist.all_reduce(mean, group=group)
        feature_mean, target_mean = mean.split([d, c], -1)
        # about the mean of all: S + n_i (μ_i − μ)(μ_i − μ)ᵀ of each process, summed
        self._add_outer(self.feature_mean - feature_mean, self.target_mean - target_mean, self.n)
        for name, value in self._kept().items():
            if name.endswith(("scatter", "cross")):
                dist.all_reduce(value, group=group)
        self.feature_mean, self.target_mean, self.n = feature_mean, target_mean, n
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The sums as tensors, for torch.save; before the first batch, only their kind."""
        kind = {"diagonal_targets": torch.tensor(self.diagonal_targets)}
        if not self.n:
            return kind
        kind |= {"n": torch.tensor(self.n), "one_hot": torch.tensor(self.one_hot)}
        return kind | {name: value.clone() for name, value in self._kept().items()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "FeatureMoments":
        """The moments that `state_dict` was taken of; its tensors, or NumPy arrays of them."""
        moments = cls()
        for name, value in state.items():
            tensor = torch.as_tensor(value)
            setattr(moments, name, tensor.clone() if tensor.ndim else tensor.item())
        return moments

    def _kept(self) -> dict[str, Tensor]:
        """The sums that are kept, by attribute."""
        names = SUMS[:-1] if self.one_hot else (*SUMS[:-1], "matrix_scatter")
        return {name: getattr(self, name) for name in names}

    def _like(self, **changed: Any) -> "FeatureMoments":
        """These moments with some attributes changed; the others share memory."""
        moments = FeatureMoments()
        vars(moments).update(vars(self) | changed)
        return moments

    def _allocate(self, batch: tuple[int, ...], d: int, c: int, device: Any, one_hot: bool) -> None:
        self.one_hot = one_hot
        zeros = {"dtype": torch.float64, "device": device}
        self.feature_mean = torch.zeros(*batch, d, **zeros)
        self.target_mean = torch.zeros(*batch, c, **zeros)
        self.scatter = torch.zeros(*batch, d, d, **zeros)
        self.cross = torch.zeros(*batch, d, c, **zeros)
        if not one_hot:
            axes = (c,) if self.diagonal_targets else (c, c)
            self.matrix_scatter = torch.zeros(*batch, *axes, **zeros)

    def _check_like(self, batch: torch.Size, d: int, c: int | None) -> None:
        """Raise ValueError unless a batch is like those before; c is None for classes."""
        if d != self.d:
            raise ValueError(f"features have {d} columns, those before had {self.d}")
        if batch != self.batch_shape:
            raise ValueError(
                f"features have leading axes {tuple(batch)}, not {tuple(self.batch_shape)}"
            )
        kind, before = (
            "class indices" if columns is None else f"{columns} columns"
            for columns in (c, None if self.one_hot else self.c)
        )
        if kind != before:
            raise ValueError(f"targets are {kind}, those before were {before}")

    def _grow(self, c: int) -> None:
        """Columns of zeros for classes first seen now: exact, since they have been zero so far."""
        fill = (0, max(0, c - self.c))
        if fill[1]:
            self.target_mean = functional.pad(self.target_mean, fill)
            self.cross = functional.pad(self.cross, fill)

    def _target_rows(self, targets: Tensor) -> Tensor:
        """Targets of a block as rows (B, N, c)."""
        if not self.one_hot:
            return targets.to(torch.float64)
        rows = torch.zeros(*targets.shape, self.c, dtype=torch.float64, device=targets.device)
        return rows.scatter_(-1, targets[..., None], 1.0)

    def _add(self, h: Tensor, y: Tensor) -> None:
        """Add a block h (B, N, d), y (B, N, c)."""
        h_mean, y_mean = h.mean(1), y.mean(1)
        h, y = h - h_mean[:, None], y - y_mean[:, None]
        self.scatter.view(-1, self.d, self.d).baddbmm_(h.mT, h)
        self.cross.view(-1, self.d, self.c).baddbmm_(h.mT, y)
        if not self.one_hot:
            within = y.square().sum(1) if self.diagonal_targets else y.mT @ y
            self.matrix_scatter += within.view(self.matrix_scatter.shape)
        self._shift(
            h.shape[1], h_mean.view(self.feature_mean.shape), y_mean.view(self.target_mean.shape)
        )

    def _shift(self, n: int, h_mean: Tensor, y_mean: Tensor) -> None:
        """Move the means towards those of n new samples, and add what that adds to the scatters."""
        total = self.n + n
        dh, dy = h_mean - self.feature_mean, y_mean - self.target_mean
        self._add_outer(dh, dy, self.n * n / total)
        self.feature_mean += dh * (n / total)
        self.target_mean += dy * (n / total)
        self.n = total

    def _add_outer(self, dh: Tensor, dy: Tensor, weight: float) -> None:
        """Add weight · dh dhᵀ, dh dyᵀ and dy dyᵀ to the scatters; dh (…, d), dy (…, c)."""
        self.scatter.addcmul_(dh[..., :, None], dh[..., None, :], value=weight)
        self.cross.addcmul_(dh[..., :, None], dy[..., None, :], value=weight)
        if self.one_hot:
            return
        if self.diagonal_targets:
            self.matrix_scatter.addcmul_(dy, dy, value=weight)
        else:
            self.matrix_scatter.addcmul_(dy[..., :, None], dy[..., None, :], value=weight)
