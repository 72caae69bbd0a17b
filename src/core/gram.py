"""The weight Gram matrix, and training by the part of each update that changes it (Gram whitening).

One layer is Z = H Wᵀ + b with weight W (m, d); its Gram matrix is G = WᵀW (d, d). Any W' = U W with
U orthogonal has the same Gram. Of an update W₁ → W₂ Gram whitening keeps what changes the Gram and
drops the rest: it takes the W₂' with W₂'ᵀW₂' = W₂ᵀW₂ that is nearest to W₁ (paper, appendix B.1;
orthogonal Procrustes: Schönemann, "A generalized solution of the orthogonal Procrustes problem",
Psychometrika 1966).

Leading axes are a batch. The kernels of a convolution are rows of W: (m, c, k, k) is read as (m,
c·k·k). layout.py has other layouts, and groups.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from .batch import ratio, scalar, summable, unit
from .layout import Layout
from .polar import full_precision, is_nan, newton_schulz, polar_by_products, polar_factor

Method = Literal["exact", "newton_schulz", "step_matched", "complement"]
Polar = Callable[[Tensor], Tensor]
Update = Callable[..., Tensor]  # W₁, W₂, and a Polar or its default -> W₂'
ALONE = 2**20  # numbers of a weight that keeps a GPU busy by itself
SHORT = 128  # relative to the dtype's precision, 2⁻¹⁶ in float32; see `resolved_update`


def weight_gram(weight: Tensor, kernel_axes: int = 0) -> Tensor:
    """Gram matrix G = WᵀW (paper, section 2).

    Args:
        weight: (…, m, d), or (…, m, c, k, …) with kernels as rows.
        kernel_axes: axes of a kernel, k, …: 2 for the weight of a Conv2d.

    Returns:
        (…, d, d), with d = c·k·… for kernels, in the weight's dtype.
    """
    if weight.ndim < 2 + kernel_axes:
        raise ValueError(
            f"a weight has {2 + kernel_axes} or more axes, not shape {tuple(weight.shape)}"
        )
    rows = weight.flatten(-1 - kernel_axes)  # (…, m, d)
    return rows.mT @ rows


def cosine(a: Tensor, b: Tensor) -> float | Tensor:
    """Frobenius cosine tr(AᵀB) / (‖A‖ ‖B‖) of matrices (…, m, n); nan where one is zero.

    In float64, and of matrices of any size.
    """
    a, b = (unit(summable(matrix).to(torch.float64))[0] for matrix in (a, b))
    norms = torch.linalg.matrix_norm(a) * torch.linalg.matrix_norm(b)
    return ratio((a * b).sum((-2, -1)), norms)


def effective_rank(weight: Tensor, blocks: bool = False) -> float | Tensor:
    """Exponential of the entropy of the eigenvalues of G = WᵀW, as shares; W (…, m, d).

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality" (EUSIPCO 2007). In
    float64; nan where W is zero.
    """
    scaled, _ = unit(summable(weight).to(torch.float64), blocks)
    eigenvalues = torch.linalg.svdvals(scaled).square()
    if blocks:
        eigenvalues = eigenvalues.flatten(-2)
    share = eigenvalues / eigenvalues.sum(-1, keepdim=True)
    return scalar(torch.special.entr(share).sum(-1).exp())


def gram_preserving_update(before: Tensor, after: Tensor, polar: Polar = polar_factor) -> Tensor:
    """The matrix nearest to `before` (W₁) among those with the Gram matrix of `after` (W₂).

    W₂' = U W₂ with U = polar(W₁ W₂ᵀ), the orthogonal matrix that maximises tr(Uᵀ W₁ W₂ᵀ). A tall
    weight is first reduced to W₂ = Q R: then W₂' = polar(W₁ Rᵀ) R, which needs no completion of a
    rank-deficient m × m factor.

    Args:
        before: W₁ (…, m, d); leading axes are a batch.
        after: W₂ (…, m, d).
        polar: `polar_factor`, or `newton_schulz` for the published approximation.

    Returns:
        W₂' (…, m, d) with W₂'ᵀ W₂' = W₂ᵀ W₂ to the dtype's precision where `polar` is exact; half
        precisions are computed in float32, as they are inside autocast; float32 is computed as
        such, also where TF32 is allowed.
    """
    if before.shape != after.shape or before.ndim < 2:
        shapes = f"{tuple(before.shape)} and {tuple(after.shape)}"
        raise ValueError(f"before and after must be matrices of one shape, not {shapes}")
    dtype = after.dtype
    working = torch.promote_types(dtype, torch.float32)
    before, after = before.to(working), after.to(working)
    m, d = after.shape[-2:]
    with full_precision(after.device.type):
        if m > d:
            after = torch.linalg.qr(after, mode="r").R  # (…, d, d)
        return (polar(before @ after.mT) @ after).to(dtype)  # (…, m, min(m, d)) @ (…, min(m, d), d)


def published_update(before: Tensor, after: Tensor, polar: Polar = newton_schulz) -> Tensor:
    """`gram_preserving_update` by ten Newton–Schulz steps, as published, whatever `polar` is."""
    return gram_preserving_update(before, after, newton_schulz)


def complement_update(before: Tensor, after: Tensor, polar: Polar = polar_factor) -> Tensor:
    """What `gram_preserving_update` drops, alone: the matrix nearest to `after` with W₁'s Gram.

    V W₁ with V orthogonal, V = polar(W₂ W₁ᵀ): Procrustes with the two weights exchanged. A control
    (ours): training by these steps never changes a Gram matrix.

    Args:
        before: W₁ (…, m, d); leading axes are a batch.
        after: W₂ (…, m, d).
        polar: computes V.
    """
    return gram_preserving_update(after, before, polar)


def step_matched_update(before: Tensor, after: Tensor, polar: Polar = polar_factor) -> Tensor:
    """W₁ + s (W₂ − W₁), as far from W₁ as `gram_preserving_update` is.

    A control (ours): whitened steps are shorter than plain ones, which alone changes training.

    Args:
        before: W₁ (…, m, d); leading axes are a batch.
        after: W₂ (…, m, d).
        polar: of `gram_preserving_update`.

    Returns:
        (…, m, d); W₁ where W₂ is W₁.
    """
    whitened = gram_preserving_update(before, after, polar)
    norm = torch.linalg.matrix_norm
    length, full = (norm(w - before, keepdim=True) for w in (whitened, after))
    return before + torch.where(full > 0, length / full, 0.0) * (after - before)


UPDATES: dict[Method, Update] = {
    "exact": gram_preserving_update,
    "newton_schulz": published_update,
    "step_matched": step_matched_update,
    "complement": complement_update,
}


def resolved_update(update: Update, before: Tensor, after: Tensor) -> Tensor:
    """An update whose rounding errors stay well below the step.

    In float32 a projection rounds W by some 10⁻⁶ ‖W‖ (width 256), a tenth of a step of 2⁻¹⁶ ‖W‖.
    Shorter steps are projected in float64. On a GPU, so are those that `polar_by_products` does not
    settle; whether there are any of either kind is waited for once.

    Args:
        update: one of UPDATES.
        before: W₁ (…, m, d); each matrix of the batch is treated as if it were alone.
        after: W₂ (…, m, d).

    Returns:
        update(W₁, W₂) (…, m, d) in the dtype of `after`; W₁ bit for bit where W₂ is W₁.
    """
    working = torch.promote_types(after.dtype, torch.float32)
    first, second = before.to(working), after.to(working)
    norm = torch.linalg.matrix_norm
    again = norm(second - first) <= SHORT * torch.finfo(working).eps * norm(first)  # (…)
    result = None
    if first.is_cuda:
        result = update(first, second, polar_by_products)
        again = again | is_nan(result)
    if not again.any():
        return (update(first, second) if result is None else result).to(after.dtype)
    moved = (before != after).any(-1).any(-1)
    parts = [(moved & again, torch.float64)]
    if result is None:
        result = first.clone()
        parts.append((moved & ~again, working))
    else:
        result = torch.where(moved[..., None, None], result, first)
    for part, dtype in parts:
        if part.any():
            pair = (summable(weight[part]).to(dtype) for weight in (first, second))
            result[part] = update(*pair).to(working).to(result.device)
    return result.to(after.dtype)


class GramWhitening:
    """Makes a torch optimizer move each weight only where that changes the weight's Gram matrix.

        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.85)
        GramWhitening(optimizer)  # or, where layers differ: layouts=model_layouts(model)

    It attaches to the optimizer's step hooks and changes nothing else, so learning-rate schedules,
    `state_dict`, closures and parameter groups keep working; a wrapper such as accelerate's is
    looked through. After each step every weight that has a gradient is replaced by what the method
    makes of W₁, before the step, and W₂, after it; a step that changes nothing leaves it bit for
    bit. Inside autocast, too, it computes in full precision.

    Args:
        optimizer: any torch.optim optimizer, or one that wraps it as its attribute `optimizer`.
        method: "exact": `gram_preserving_update`; "newton_schulz": the published ten steps; two
            controls: "step_matched": `step_matched_update`; "complement": `complement_update`.
        batch_dims: leading axes of every parameter that are a batch of independent models
            (replicas).
        layouts: parameter -> how it is read as matrices; parameters without one are left alone.
            `layout.model_layouts` has those of a model, without its embeddings. None: every
            parameter of two axes or more is one matrix with the first axis as rows, right for
            Linear and for convolutions without groups; an embedding is taken for one.

    Raises:
        ValueError: an unknown method, or no weight to whiten.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        method: Method = "exact",
        batch_dims: int = 0,
        layouts: Mapping[Tensor, Layout] | None = None,
    ) -> None:
        if method not in UPDATES:
            raise ValueError(f"unknown method {method!r}: one of {', '.join(UPDATES)}")
        while hasattr(optimizer, "optimizer"):  # a wrapper, whose own hooks need not be called
            optimizer = optimizer.optimizer
        self._update = UPDATES[method]
        self.batch_dims, self.layouts = batch_dims, layouts
        if not self._weights(optimizer):
            given = "" if layouts is None else " and a layout"
            which = f"none of the optimizer's parameters has {batch_dims + 2} or more axes{given}"
            raise ValueError(f"no weight to whiten: {which}")
        self._before: list[tuple[Tensor, Layout, Tensor]] = []
        self._hooks = [
            optimizer.register_step_pre_hook(self._remember),
            optimizer.register_step_post_hook(self._whiten),
        ]

    def remove(self) -> None:
        """Detach from the optimizer, which then takes plain steps."""
        for hook in self._hooks:
            hook.remove()

    def _weights(self, optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, Layout]]:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        layouts = dict.fromkeys(parameters, Layout()) if self.layouts is None else self.layouts
        return [
            (p, layouts[p]) for p in parameters if p.ndim >= self.batch_dims + 2 and p in layouts
        ]

    def _remember(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weights = self._weights(optimizer)
        self._before = [(weight, layout, weight.detach().clone()) for weight, layout in weights]

    @torch.no_grad()
    def _whiten(self, *_: Any) -> None:
        for together in self._alike():
            weights, layouts, before, after = zip(*together, strict=True)
            with full_precision(after[0].device.type):
                updated = resolved_update(self._update, torch.cat(before), torch.cat(after))
            parts = updated.split([len(matrices) for matrices in after])
            for weight, layout, part in zip(weights, layouts, parts, strict=True):
                layout.write(weight, part, self.batch_dims)
        self._before = []

    def _alike(self) -> Iterable[list[tuple[Tensor, Layout, Tensor, Tensor]]]:
        """Weights, layouts, W₁ and W₂ (…, m, d): small ones of one shape are a batch on a GPU."""
        batches: dict[Any, list] = {}
        for weight, layout, before in self._before:
            if weight.grad is not None:
                first, second = (layout.read(w, self.batch_dims) for w in (before, weight))
                is_small = first.is_cuda and first[0].numel() <= ALONE
                key = (first.shape[1:], first.dtype, first.device) if is_small else weight
                batches.setdefault(key, []).append((weight, layout, first, second))
        return batches.values()
