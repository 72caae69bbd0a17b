"""The statements about homogeneous networks at one moment of training: statements.py's measures.

Of a `Snapshot` of R networks with one output f, (R, layer) where nothing else is said; y are their
targets (N,).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.homogeneity import (
    ansatz_surrogate_ratio,
    expansion_sum,
    predicted_surrogate_change,
    surrogate_change,
    surrogate_floor_homogeneous,
    surrogate_floor_piecewise,
    taylor_error,
    taylor_error_sum,
)
from core.linearity import response_norm
from core.moments import FeatureMoments
from core.regions import crossed_regions, gradient_jumps
from lab.models import MLP
from lab.snapshot import Snapshot

Measures = dict[str, Tensor]


def theorem3(now: Snapshot, y: Tensor, rate: float) -> Measures:
    """What one step changes of S(G_id) at fixed features, and what is predicted; y (N,)."""
    f, descent = now.outputs[..., 0].detach(), -now.response_gradients[-1][..., 0]
    y = y.expand_as(f)
    actual, predicted = [], []
    parts = (now.weights, now.features, now.weight_gradients)
    for weight, features, gradient in zip(*parts, strict=True):
        after = weight - rate * gradient
        actual.append(surrogate_change(features, y, weight, after))
        predicted.append(predicted_surrogate_change(features, y, f, descent, rate))
    return {
        "surrogate_change": torch.stack(actual, -1),
        "predicted_change": torch.stack(predicted, -1),
    }


def signs(now: Snapshot, y: Tensor) -> Measures:
    """fᵀy / ‖y‖² and the cosine of f and y (R,); that of Hᵀy and Hᵀg, as yᵀKg has it; y (N,).

    And how much nearer samples of a class are than others: the mean product h_iᵀh_k within classes,
    of pairs of different samples, minus that across, over the mean of ‖h‖². (R, layer).
    """
    f, g = now.outputs[..., 0].detach(), -now.response_gradients[-1][..., 0]
    along, nearer = [], []
    same = y[:, None] == y
    within = same & ~torch.eye(len(y), dtype=torch.bool, device=y.device)
    for h in now.features:
        u, v = y @ h, (g[:, None] @ h)[:, 0]  # (R, d)
        along.append(torch.cosine_similarity(u, v, dim=-1))
        products = h @ h.mT
        size = h.square().sum(-1).mean(-1)
        nearer.append((products[:, within].mean(-1) - products[:, ~same].mean(-1)) / size)
    return {
        "output_product": f @ y / (y @ y),
        "output_cosine": torch.cosine_similarity(f, y.expand_as(f), dim=-1),
        "descent_cosine": torch.stack(along, -1),
        "nearer": torch.stack(nearer, -1),
    }


def lemma3(now: Snapshot, y: Tensor, degrees: Sequence[int]) -> Measures:
    """Relative errors of Lemma 3, by pairs and summed; y (N,).

    degrees: of f, the rest of the network, from each layer on.
    """
    f = now.outputs[..., 0].detach()
    parts = list(zip(now.features, now.slopes, degrees, strict=True))
    errors = [taylor_error(h, j, f, degree) for h, j, degree in parts]
    terms = [taylor_error(h, j, f, degree, own_size=True) for h, j, degree in parts]
    sums = [taylor_error_sum(h, y.expand_as(f), j, f, degree) for h, j, degree in parts]
    euler = [
        ((h * j).sum(-1) - degree * f).norm(dim=-1) / (degree * f).norm(dim=-1)
        for h, j, degree in parts
    ]
    return {
        "taylor_error": torch.stack(errors, -1),
        "taylor_error_terms": torch.stack(terms, -1),
        "taylor_error_sum": torch.stack(sums, -1),
        "euler_error": torch.stack(euler, -1),
    }


def proposition4(model: MLP, now: Snapshot) -> Measures:
    """The sum of the Taylor errors over that of their sizes, where Σh = 0 and Σf = 0.

    f is the first output, from each layer's centred features on, without the read-out's bias and
    with the read-out orthogonal to the mean of what it reads: so Σf = 0. And as it is, Σf ≠ 0.
    (R, layer before the last): of a linear f every error is rounding.
    """
    sums: dict[str, list[Tensor]] = {}
    for layer in range(len(now.weights) - 1):
        h = (now.features[layer] - now.features[layer].mean(1, keepdim=True)).requires_grad_()
        hidden = h
        for linear in model.layers[layer:-1]:
            hidden = model.activation(linear(hidden))
        read_out = now.weights[-1][:, :1]  # (R, 1, width)
        mean = hidden.detach().mean(1, keepdim=True)
        along = (read_out * mean).sum(-1, keepdim=True) / mean.square().sum(-1, keepdim=True)
        for name, w in (("", read_out - along * mean), ("_not_centred", read_out)):
            f = (hidden @ w.mT)[..., 0]
            (slopes,) = torch.autograd.grad(f.sum(), h, retain_graph=True)
            sums.setdefault(f"expansion_sum{name}", []).append(expansion_sum(h, slopes, f))
    return {name: torch.stack(values, -1) for name, values in sums.items()}


def theorem4(now: Snapshot, y: Tensor) -> Measures:
    """C_l ‖y‖⁴ / S with the Ansatz' constant C_l, which the theorem takes for one; y (N,)."""
    y = y.expand(now.outputs.shape[:2])
    ratios = []
    for h, weight, j in zip(now.features, now.weights, now.slopes, strict=True):
        agop = j.mT @ j / j.shape[1]
        ratios.append(ansatz_surrogate_ratio(h, y, weight, agop))
    return {"ansatz_ratio": torch.stack(ratios, -1)}


def lemma4(now: Snapshot, pairs: Tensor) -> Measures:
    """Lemma 4 on segments between samples, abs(ε) ≤ 2MBδ with each pair's own M; (R, layer) each.

    B is the largest ‖h‖ of all samples, δ the largest jump of ∇f on these segments, both of the
    layer. Bounds are relative to the root mean square of f_i − f_k over the pairs. At h = 0, where
    every unit is off, f has no gradient: such pairs do not count.

    pairs: indices of samples (2, P).
    """
    f = now.outputs[..., 0].detach()
    first, second = f[:, pairs[0]], f[:, pairs[1]]
    scale = (first - second).square().mean(-1).sqrt()  # (R,)
    rows: list[dict[str, Tensor]] = []
    for layer, (h, j) in enumerate(zip(now.features, now.slopes, strict=True)):
        rest = [(weight, None) for weight in now.weights[layer:]]
        a, b = h[:, pairs[0]], h[:, pairs[1]]
        crossed = crossed_regions(rest, a, b).double()  # (R, P)
        size, jump = h.norm(dim=-1).amax(-1), gradient_jumps(rest, a, b).amax(-1)
        error = ((b * j[:, pairs[0]]).sum(-1) - second).abs()
        bound = 2 * crossed * (size * jump)[:, None]
        at_kink = a.norm(dim=-1) == 0
        rounding = 2.0**-40 * (b.abs() * j[:, pairs[0]].abs()).sum(-1)
        share = torch.where((bound > 0) & ~at_kink, error / bound, torch.nan)
        rows.append(
            {
                "crossed": crossed.mean(-1),
                "crossed_most": crossed.amax(-1),
                "input_norm": size,
                "gradient_jump": jump,
                "lemma4_held": ((error <= bound + rounding) | at_kink).double().mean(-1),
                "lemma4_share": share.nanmedian(-1).values,
                "lemma4_most": share.nan_to_num(0.0).amax(-1),
                "lemma4_bound": bound.median(-1).values / scale,
                "lemma4_error": error.median(-1).values / scale,
            }
        )
    return {name: torch.stack([row[name] for row in rows], -1) for name in rows[0]}


def theorem4_floor(
    now: Snapshot, y: Tensor, moments: Sequence[FeatureMoments], degree: int, lemma: Measures
) -> Measures:
    """Theorem 4's lower bound of S with C₀ = min ‖HWᵀ‖² over the layers.

    Args:
        now: of a homogeneous network.
        y: targets (N,).
        moments: of every layer.
        degree: m, of one activation.
        lemma: crossed_most, input_norm and gradient_jump of `lemma4`, for m = 1: M is of each
            layer, B and δ are the largest of all.
    """
    pairs = zip(moments, now.weights, strict=True)
    norms = torch.stack([response_norm(*pair) for pair in pairs], -1)  # (R, layer)
    constant, layers = norms.amin(-1), range(len(now.weights))  # C₀ (R,)
    if degree > 1:
        left = [len(now.weights) - 1 - layer for layer in layers]
        floors = [surrogate_floor_homogeneous(constant, y, degree, number) for number in left]
        return {"response_norm2": norms, "surrogate_floor": torch.stack(floors, -1)}
    reach = [lemma[name].amax(-1) for name in ("input_norm", "gradient_jump")]
    targets = y.expand(len(constant), -1)
    values = {"response_norm2": norms}
    for name, as_printed in (("surrogate_floor", True), ("surrogate_floor_sharper", False)):
        crossed = lemma["crossed_most"].unbind(-1)
        floors = [
            surrogate_floor_piecewise(constant, targets, m, *reach, as_printed) for m in crossed
        ]
        values[name] = torch.stack(floors, -1)
    return values
