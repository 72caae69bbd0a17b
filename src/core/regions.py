"""Linear regions of ReLU networks between pairs of inputs: what Lemma 4 is made of.

A ReLU network is linear on each of its regions. From a to b it crosses M boundaries, and ∇f jumps
there from ∇_j to ∇_{j+1}, by no more than δ. Without biases f(b) = bᵀ∇f(b), so

    bᵀ∇f(a) − f(b) = bᵀ(∇f(a) − ∇f(b)) = Σ_j bᵀ(∇_j − ∇_{j+1}).

With ‖a‖, ‖b‖ ≤ B its size is at most 2MBδ (paper, Lemma 4); MBδ suffices, and is attained (ours).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Layers = Sequence[tuple[Tensor, Tensor | None]]
TICKS = 2**40  # a segment's length: breakpoints are rounded to whole ticks
SPAN = TICKS + 1  # the breakpoints of all pairs are one sorted list of pair × SPAN + ticks


@torch.no_grad()
def crossed_regions(
    layers: Layers, first: Tensor, second: Tensor, relu_first: bool = False
) -> Tensor:
    """M: boundaries of linear regions on the segments between pairs of inputs (paper, Lemma 4).

    Counts the points inside a segment where some unit of a ReLU network changes its sign, by the
    exact piecewise linear path: the units of a layer are linear between the breakpoints so far,
    their zeros there are new breakpoints. Signs that change at one point, to 2⁻⁴⁰ of the segment,
    count once; a unit that reaches zero and turns back does not count.

    Args:
        layers: weight (…, m, d) and bias (…, m) or None of every linear layer, ReLU between them.
        first: a (…, P, d).
        second: b (…, P, d).
        relu_first: whether the inputs pass a ReLU before the first layer.

    Returns:
        (…, P) int64.
    """
    if first.ndim > 2:
        one = zip(_each(layers, len(first)), first, second, strict=True)
        return torch.stack([crossed_regions(*parts, relu_first) for parts in one])
    points = _breakpoints(layers, first, second, relu_first)
    return torch.bincount(points // SPAN, minlength=len(first)) - 2


@torch.no_grad()
def gradient_jumps(layers: Layers, first: Tensor, second: Tensor) -> Tensor:
    """δ: the largest ‖∇_j − ∇_{j+1}‖ of the boundaries on each segment (paper, Lemma 4).

    ∇f, of the first of the network's outputs, is taken in the middle of every piece.

    Args:
        layers, first, second: as `crossed_regions`.

    Returns:
        (…, P) float64; 0 where no boundary is crossed.
    """
    if first.ndim > 2:
        one = zip(_each(layers, len(first)), first, second, strict=True)
        return torch.stack([gradient_jumps(*parts) for parts in one])
    points = _breakpoints(layers, first, second, relu_first=False)
    pair, ticks = points // SPAN, points % SPAN
    starts = (ticks[:-1] < TICKS).nonzero()[:, 0]  # a piece from each breakpoint but a pair's last
    share = (ticks[starts] + ticks[starts + 1]).double()[:, None] / (2 * TICKS)
    pair = pair[starts]  # of each piece (K,)
    weights = [weight.double() for weight, _ in layers]
    ends = [_affine(layers[0], x.double()) for x in (first, second)]
    z, active = ends[0][pair].lerp(ends[1][pair], share), []
    for layer in layers[1:]:
        active.append(z > 0)
        z = _affine(layer, z.clamp_min(0))
    slope = weights[-1][:1]  # ∂f/∂ of what each layer reads, from the last on
    for weight, on in zip(reversed(weights[:-1]), reversed(active), strict=True):
        slope = slope * on
        if weight is not weights[0]:
            slope = slope @ weight
    jumps = first.new_zeros(len(first), dtype=torch.float64)
    if len(layers) == 1:
        return jumps
    inside = pair[:-1] == pair[1:]
    # ‖vᵀW‖ = ‖vᵀRᵀ‖ with Wᵀ = QR: as many columns as units
    step = slope.diff(dim=0)[inside] @ torch.linalg.qr(weights[0].mT).R.mT
    return jumps.scatter_reduce(0, pair[1:][inside], step.norm(dim=-1), "amax")


def _each(layers: Layers, number: int) -> list[Layers]:
    """The layers of each network of a batch."""
    return [[(w[r], None if b is None else b[r]) for w, b in layers] for r in range(number)]


def _affine(layer: tuple[Tensor, Tensor | None], h: Tensor) -> Tensor:
    weight, bias = layer
    z = h @ weight.double().mT
    return z if bias is None else z + bias.double()


def _breakpoints(layers: Layers, first: Tensor, second: Tensor, relu_first: bool) -> Tensor:
    """Both ends of every segment and the boundaries between them, as pair × SPAN + ticks (V,)."""
    start = SPAN * torch.arange(len(first), device=first.device)
    points = torch.stack([start, start + TICKS], dim=1).flatten()  # (V,)
    path = torch.stack([first, second], dim=1).flatten(0, 1).double()  # (V, d)
    if relu_first:
        points, path = _bend(points, path)
    for layer in layers[:-1]:  # after the last nothing bends
        points, path = _bend(points, _affine(layer, path))
    return points


def _bend(points: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
    """Piecewise linear paths after a ReLU: breakpoints (V,), sorted, and values there (V, m)."""
    signs = path.sign()
    inside = points[:-1] % SPAN < TICKS  # from the end of a pair to the next pair there is no piece
    crosses = (signs[:-1] * signs[1:] < 0) & inside[:, None]  # (V − 1, m)
    piece, unit = crosses.nonzero(as_tuple=True)
    here, there = path[piece, unit], path[piece + 1, unit]
    ticks = (here / (here - there) * points.diff()[piece]).round().long()
    zeros = points[piece] + ticks
    refined = torch.cat([points, zeros]).unique()  # sorted
    left = (torch.searchsorted(points, refined, right=True) - 1).clamp_max(len(points) - 2)
    share = (refined - points[left]).double() / points.diff()[left]
    bent = path[left].lerp(path[left + 1], share[:, None])
    bent[torch.searchsorted(refined, zeros), unit] = 0.0
    return refined, bent.clamp_min(0)
