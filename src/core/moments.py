"""Running sums of features and targets: everything Target Linearity and the surrogate are made of.

One pass over the data in float64, batches of any size, mergeable between workers. The sums are
centred as they grow (the pairwise update of Chan, Golub and LeVeque, "Updating formulae and a
pairwise algorithm for computing sample variances", 1979). Means are kept as what is beyond the
first sample, which is subtracted from all: data far from zero keep their digits, and what is
constant has a spread of exactly zero.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from .batch import frobenius, summable
from .targets import pair

BLOCK = 1 << 20  # entries of a batch that are held in float64 at a time
LARGEST = 1 << 29  # entries of the cross scatter: 4 GiB
SUMS = ("feature_mean", "target_mean", "scatter", "cross", "target_scatter")
MEANS = ("feature_origin", "feature_offset", "target_origin", "target_offset")
KEPT = (*MEANS, "scatter", "cross", "matrix_scatter")  # the last not of classes


class FeatureMoments:
    """Count, means and centred scatter matrices of features H (…, N, d) and targets Y (…, N, c).

        moments = FeatureMoments()
        for features, targets in batches:
            moments.update(features, targets)

    Leading axes are a batch of independent sums, as those of replicas; all have the same N.

    Attributes (float64, on the device of the first batch, or on the CPU where that has no float64;
    without samples they are a ValueError):
        n: number of samples.
        feature_mean: μ (…, d), which is feature_origin + feature_offset.
        target_mean: ȳ (…, c), which is target_origin + target_offset.
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

    def __getattr__(self, name: str) -> Any:
        if name in (*KEPT, "one_hot"):
            raise ValueError("no samples: update the moments first")
        raise AttributeError(name)

    @property
    def feature_mean(self) -> Tensor:
        return self.feature_origin + self.feature_offset

    @property
    def target_mean(self) -> Tensor:
        return self.target_origin + self.target_offset

    @property
    def d(self) -> int:
        return self.scatter.shape[-1]

    @property
    def c(self) -> int:
        return self.target_offset.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        """The leading axes."""
        return self.feature_offset.shape[:-1]

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
            return self.scatter.new_full(self.batch_shape, math.nan)
        return frobenius(self.matrix_scatter)

    def __copy__(self) -> "FeatureMoments":
        return self.from_state_dict(self.state_dict())

    def __deepcopy__(self, _: Any) -> "FeatureMoments":
        return self.__copy__()

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
            target_origin=self.target_origin[..., part],
            target_offset=self.target_offset[..., part],
            cross=self.cross[..., part],
            matrix_scatter=scatter if self.diagonal_targets else scatter[..., part, :],
        )

    @torch.inference_mode(False)
    def arrange(self, places: Tensor, c: int) -> "FeatureMoments":
        """Move the samples of class k to class places[k] (c,) of `c` classes; returns self."""
        for name in ("target_origin", "target_offset", "cross"):
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
            ValueError: shapes or dtypes that are not these, or not those of the batches before; or
                a class index above a million, or for which the sums would take more than 4 GiB.
        """
        features, targets, one_hot = pair(features, targets)
        features, targets = summable(features), summable(targets)
        batch, (n, d) = features.shape[:-2], features.shape[-2:]
        if not n:
            return self
        c = int(targets.max()) + 1 if one_hot else targets.shape[-1]
        if one_hot and c * max(d, 512) * math.prod(batch) > LARGEST:
            raise ValueError(
                f"class index {c - 1}: every index from 0 on has a column; number the classes that "
                "occur anew, as torch.unique does"
            )
        inner = targets.shape[-1:] if one_hot else targets.shape[-2:]  # of one entry of the batch
        targets = targets.expand(*batch, *inner)
        if not self.n:
            self._allocate(batch, d, 0 if one_hot else c, features.device, one_hot)
            self.feature_origin += features[..., 0, :]
            if not one_hot:
                self.target_origin += targets[..., 0, :]
        self._check_like(batch, d, None if one_hot else c)
        if one_hot:
            self._grow(c)
        features = features.reshape(-1, n, d)  # (B, N, d)
        targets = targets.reshape(-1, *inner)
        rows = max(1, BLOCK // (max(d, self.c) * max(1, len(features))))
        for h, y in zip(features.split(rows, 1), targets.split(rows, 1), strict=True):
            self._add(h - self.feature_origin.view(-1, 1, d), self._target_rows(y))
        return self

    @torch.inference_mode(False)
    def merge(self, other: "FeatureMoments") -> "FeatureMoments":
        """Add the samples of `other`, which is left as it was; returns self."""
        if self.diagonal_targets != other.diagonal_targets:
            raise ValueError(
                "only one of the two keeps the whole scatter of the targets (diagonal_targets)"
            )
        if other.n and not self.n:
            self._allocate(other.batch_shape, other.d, other.c, other.scatter.device, other.one_hot)
            self.feature_origin += other.feature_origin
            self.target_origin += other.target_origin
        if other.n:
            self._check_like(other.batch_shape, other.d, None if other.one_hot else other.c)
            self._grow(other.c)
            fill = (0, self.c - other.c)  # classes that `other` has not seen
            self.scatter += other.scatter
            self.cross += functional.pad(other.cross, fill)
            if not self.one_hot:
                self.matrix_scatter += other.matrix_scatter
            target_origin, target_offset = (
                functional.pad(t, fill) for t in (other.target_origin, other.target_offset)
            )
            self._shift(
                other.n,
                other.feature_origin - self.feature_origin + other.feature_offset,
                target_origin - self.target_origin + target_offset,
            )
        return self

    @torch.inference_mode(False)
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
        share = self.n / n
        # the mean, to rounding, is the origin of all; what it lacks is in the offset
        origin = torch.cat([self.feature_mean, self.target_mean], -1) * share
        dist.all_reduce(origin, group=group)
        own = torch.cat([self.feature_origin, self.target_origin], -1) - origin
        own += torch.cat([self.feature_offset, self.target_offset], -1)
        offset = own * share
        dist.all_reduce(offset, group=group)
        # about the mean of all: S + n_i (μ_i − μ)(μ_i − μ)ᵀ of each process, summed
        self._add_outer(*(own - offset).split([d, c], -1), self.n)
        for name, value in self._kept().items():
            if name.endswith(("scatter", "cross")):
                dist.all_reduce(value, group=group)
        self.feature_origin, self.target_origin = origin.split([d, c], -1)
        self.feature_offset, self.target_offset = offset.split([d, c], -1)
        self.n = n
        return self

    @torch.inference_mode(False)
    def state_dict(self) -> dict[str, Tensor]:
        """The sums as tensors, for torch.save; before the first batch, only their kind."""
        kind = {"diagonal_targets": torch.tensor(self.diagonal_targets)}
        if not self.n:
            return kind
        kind |= {"n": torch.tensor(self.n), "one_hot": torch.tensor(self.one_hot)}
        return kind | {name: value.clone() for name, value in self._kept().items()}

    @classmethod
    @torch.inference_mode(False)
    def from_state_dict(cls, state: Mapping[str, Any]) -> "FeatureMoments":
        """The moments that `state_dict` was taken of; its tensors, or NumPy arrays of them."""
        moments = cls()
        for name, value in state.items():
            tensor = torch.as_tensor(value)
            if name in ("feature_mean", "target_mean"):  # of states from before there were origins
                of = name.removesuffix("_mean")
                setattr(moments, f"{of}_origin", tensor.clone())
                setattr(moments, f"{of}_offset", torch.zeros_like(tensor))
            else:
                setattr(moments, name, tensor.clone() if tensor.ndim else tensor.item())
        return moments

    def _kept(self) -> dict[str, Tensor]:
        """The sums that are kept, by attribute."""
        return {name: getattr(self, name) for name in (KEPT[:-1] if self.one_hot else KEPT)}

    def _like(self, **changed: Any) -> "FeatureMoments":
        """These moments with some attributes changed; the others share memory."""
        moments = FeatureMoments()
        vars(moments).update(vars(self) | changed)
        return moments

    def _allocate(self, batch: tuple[int, ...], d: int, c: int, device: Any, one_hot: bool) -> None:
        self.one_hot = one_hot
        zeros = {"dtype": torch.float64, "device": device}
        for name, columns in zip(MEANS, (d, d, c, c), strict=True):
            setattr(self, name, torch.zeros(*batch, columns, **zeros))
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
            for name in ("target_origin", "target_offset", "cross"):
                setattr(self, name, functional.pad(getattr(self, name), fill))

    def _target_rows(self, targets: Tensor) -> Tensor:
        """Targets of a block as rows (B, N, c), less their origin, which is zero of classes."""
        if not self.one_hot:
            return targets - self.target_origin.view(-1, 1, self.c)
        rows = torch.zeros(*targets.shape, self.c, dtype=torch.float64, device=targets.device)
        return rows.scatter_(-1, targets[..., None], 1.0)

    def _add(self, h: Tensor, y: Tensor) -> None:
        """Add a block h (B, N, d), y (B, N, c), less the origins; both are overwritten."""
        h_mean, y_mean = h.mean(1), y.mean(1)
        h -= h_mean[:, None]
        y -= y_mean[:, None]
        self.scatter.view(-1, self.d, self.d).baddbmm_(h.mT, h)
        self.cross.view(-1, self.d, self.c).baddbmm_(h.mT, y)
        if not self.one_hot:
            within = y.square().sum(1) if self.diagonal_targets else y.mT @ y
            self.matrix_scatter += within.view(self.matrix_scatter.shape)
        self._shift(
            h.shape[1],
            h_mean.view(self.feature_offset.shape),
            y_mean.view(self.target_offset.shape),
        )

    def _shift(self, n: int, h_mean: Tensor, y_mean: Tensor) -> None:
        """Move the offsets towards those of n new samples, and add what that adds to scatters."""
        total = self.n + n
        dh, dy = h_mean - self.feature_offset, y_mean - self.target_offset
        self._add_outer(dh, dy, self.n * n / total)
        self.feature_offset += dh * (n / total)
        self.target_offset += dy * (n / total)
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
