"""What the paper's statements say of a network at one moment of training: statements.py's measures.

Measures are of a `Snapshot` of R networks, (R, layer) where nothing else is said. Layer l reads
H_l through W_l: the first reads the samples, the last is the read-out.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from core.agop import average_gradient_outer_product, gram_agop_cosine
from core.bounds import (
    activation_bound,
    kantorovich,
    layer_surrogate_ratio,
    linearity_bounds,
    theorem2_bound,
)
from core.collapse import collapse
from core.gram import cosine, gram_preserving_update
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
from core.linearity import (
    moments_surrogate,
    report,
    response_cka,
    response_norm,
    ridge_linearity,
    surrogate_share,
)
from core.moments import FeatureMoments
from core.regions import crossed_regions, gradient_jumps
from core.tangent import tangent_part
from core.virtual import virtual_covariance_shift
from lab.models import CNN, MLP
from lab.snapshot import Snapshot, linear_layers

Measures = dict[str, Tensor]
norm = torch.linalg.matrix_norm


def layer_shift(features: Tensor, response_gradient: Tensor, weight: Tensor, rate: float) -> Tensor:
    """The Virtual Covariance Shift of H (R, N, d) with A = ∂L/∂H = BW; (R, d, d).

    It is made of sums over samples, which no orthogonal map of the samples changes: with B = QR
    (R, N, m), the m rows QᵀH and RW stand for the N of H and A.
    """
    q, r = torch.linalg.qr(response_gradient)
    return virtual_covariance_shift(q.mT @ features, r @ weight, rate)


def gram_change(weight: Tensor, step: Tensor) -> Tensor:
    """(W + Δ)ᵀ(W + Δ) − WᵀW (R, d, d), with the digits of a small Δ."""
    cross = weight.mT @ step
    return cross + cross.mT + step.mT @ step


def theorem1(now: Snapshot, rates: Sequence[float]) -> Measures:
    """‖ΔG − VCS‖ / ‖VCS‖ of one step of gradient descent at each rate, (R, rate, layer)."""
    parts = (now.weights, now.features, now.response_gradients, now.weight_gradients)
    layers = []
    for weight, features, b, gradient in zip(*parts, strict=True):
        errors = []
        for rate in rates:
            shift = layer_shift(features, b, weight, rate)
            errors.append(norm(gram_change(weight, -rate * gradient) - shift) / norm(shift))
        layers.append(torch.stack(errors, 1))
    return {"one_step_error": torch.stack(layers, -1)}


class ShiftSums:
    """Σ VCS of every layer over the steps of an optimizer, with γ its rate, beside ΔG."""

    def __init__(self, model: MLP | CNN, rate: float) -> None:
        self.rate, self.layers = rate, linear_layers(model)
        self.initial = [layer.weight.detach().flatten(2).clone() for layer in self.layers]
        self.sums = [torch.zeros_like(weight.mT @ weight) for weight in self.initial]

    def add(self, now: Snapshot) -> None:
        """A step, as it is before the weights move."""
        parts = zip(now.features, now.response_gradients, now.weights, strict=True)
        for total, part in zip(self.sums, parts, strict=True):
            total += layer_shift(*part, self.rate)

    def compare(self) -> Measures:
        """‖ΔG − Σ VCS‖ / ‖Σ VCS‖ and the cosine of ΔG and Σ VCS."""
        errors, cosines = [], []
        for layer, start, shift in zip(self.layers, self.initial, self.sums, strict=True):
            change = gram_change(start, layer.weight.detach().flatten(2) - start)
            errors.append(norm(change - shift) / norm(shift))
            cosines.append(cosine(change, shift))
        return {
            "accumulated_error": torch.stack(errors, -1),
            "accumulated_cosine": torch.stack(cosines, -1),
        }


def proposition1(
    now: Snapshot, activation: Callable[[Tensor], Tensor], lipschitz: float, rates: Sequence[float]
) -> Measures:
    """Shares of samples and units of each hidden layer where bound and signs hold.

    And, as activation_share and activation_most, what share of its bound a step is, its mean and
    the largest. (R, rate, hidden layer), with ‖h‖ = 1 (W scaled by ‖h‖, so that z is as it is) and,
    the first two, with the inputs' own norms. γ is the rate of a sample's own loss, not of the
    mean.
    """
    values: dict[str, list[Tensor]] = {}
    samples = now.outputs.shape[1]
    for layer, z in enumerate(now.responses[:-1]):
        # ∂L/∂σ(z) of each sample's own loss
        a = samples * now.response_gradients[layer + 1] @ now.weights[layer + 1]
        own = now.features[layer].square().sum(-1)  # ‖h‖²
        for kind, norm2 in (("unit", torch.ones_like(own)), ("own", own)):
            held = [activation_bound(z, a, norm2, rate, activation, lipschitz) for rate in rates]
            bound, signs, share = (torch.stack(part, 1) for part in zip(*held, strict=True))
            row = {f"activation_bound_{kind}": bound.double().mean((-2, -1))}
            row[f"activation_signs_{kind}"] = signs.double().mean((-2, -1))
            if kind == "unit":
                row["activation_share"] = share.nanmean((-2, -1))
                row["activation_most"] = share.nan_to_num(0.0).amax((-2, -1))
            for name, value in row.items():  # (R, rate)
                values.setdefault(name, []).append(value)
    return {name: torch.stack(layers, -1) for name, layers in values.items()}


def linearity(
    moments: Sequence[FeatureMoments], weights: Sequence[Tensor], ridges: Sequence[float]
) -> Measures:
    """Theorem 2 and Lemma 2 by ridge (R, ridge, layer); Lemmas 1 and 5 and bounds of TL₁ by layer.

    moments: of centred targets.
    """
    pairs = list(zip(moments, weights, strict=True))
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        tl = [report(sums, intercept=True).value for sums in moments]  # one where N ≤ d
    by_ridge: dict[str, list[Tensor]] = {}
    for sums, weight in pairs:
        rows = [
            (
                theorem2_bound(sums, weight, ridge),
                theorem2_bound(sums, weight, ridge, as_printed=False),
                ridge_linearity(sums, ridge),
            )
            for ridge in ridges
        ]
        stacked = [torch.stack(values, 1) for values in zip(*rows, strict=True)]
        names = ("theorem2_bound", "theorem2_refined", "ridge_tl")
        names += ("lemma2_left", "lemma2_bound", "lemma2_refined")
        for name, values in zip(names, (*stacked, *kantorovich(sums, ridges)), strict=True):
            by_ridge.setdefault(name, []).append(values)
    lines, columns = zip(*(linearity_bounds(*pair) for pair in pairs), strict=True)
    ratios, chances = zip(*(layer_surrogate_ratio(*pair) for pair in pairs), strict=True)
    by_layer = {
        "tl_intercept": tl,
        "tl_bound": [surrogate_share(*pair) for pair in pairs],
        "tl_bound_line": lines,
        "tl_bound_columns": columns,
        "surrogate": [moments_surrogate(*pair) for pair in pairs],
        "lemma1_ratio": ratios,
        "lemma1_chance": chances,
        "cka": [response_cka(*pair) for pair in pairs],
    }
    return {name: torch.stack(tuple(v), -1) for name, v in (by_ridge | by_layer).items()}


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


def ansatz(now: Snapshot) -> Measures:
    """Cosine of WᵀW and the average gradient outer product of the outputs."""
    outer = average_gradient_outer_product(now.outputs, now.responses)
    pairs = zip(now.weights, outer, strict=True)
    return {"ansatz_cosine": torch.stack([gram_agop_cosine(*pair) for pair in pairs], -1)}


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


def proposition2(moments: FeatureMoments) -> Measures:
    """NC1 and NC2 (R,) of what the last layer reads; moments of classes."""
    collapsed = collapse(moments)
    return {name: getattr(collapsed, name) for name in ("nc1", "nc2_norm", "nc2_angle")}


def collapsed_by_hand(labels: Tensor, width: int, draws: Sequence[torch.Generator]) -> Measures:
    """Proposition 2 on features that have collapsed exactly: CKA of Z and Y, and of G_id and YYᵀ.

    Features (N, width) are the vertices of a simplex, one a class, turned at random. With Y the
    centred classes: linear CKA of HWᵀ and Y, and ‖G_id − YYᵀ‖ / ‖YYᵀ‖ up to scale, (R, case) for
    CASES: balanced classes and W by least squares; the labels as they are; W drawn at random, which
    the proposition does not allow; features with as much noise within classes as between them.
    """
    classes = int(labels.max()) + 1
    width = max(width, classes)
    balanced = torch.arange(len(labels), device=labels.device) % classes
    values: dict[str, list[list[Tensor]]] = {"hand_cka": [], "hand_gram_error": []}
    for draw in draws:
        basis = torch.linalg.qr(torch.randn(width, classes, generator=draw, dtype=torch.float64)).Q
        vertices = (basis - basis.mean(1, keepdim=True)).mT.to(labels.device)  # (K, width)
        noise = torch.randn(len(labels), width, generator=draw, dtype=torch.float64).to(vertices)
        weight = torch.randn(classes, width, generator=draw, dtype=torch.float64).to(vertices)
        rows = []
        for chosen, spread, w in (
            (balanced, 0.0, None),
            (labels, 0.0, None),
            (balanced, 0.0, weight),
            (balanced, width**-0.5, None),
        ):
            h = vertices[chosen] + spread * noise
            y = torch.nn.functional.one_hot(chosen, classes).to(h)
            h, y = h - h.mean(0), y - y.mean(0)
            z = h @ (torch.linalg.lstsq(h, y, driver="gelsd").solution if w is None else w.mT)
            gram, wanted = z @ z.mT, y @ y.mT
            gram, wanted = gram / norm(gram), wanted / norm(wanted)
            rows.append(((gram * wanted).sum(), norm(gram - wanted)))
        for name, numbers in zip(values, zip(*rows, strict=True), strict=True):
            values[name].append(torch.stack(numbers))
    return {name: torch.stack(numbers) for name, numbers in values.items()}


CASES = ("balanced", "labels", "random_weight", "noise")  # of `collapsed_by_hand`


def whitening(now: Snapshot, buffers: Sequence[Tensor], rates: Sequence[float]) -> Measures:
    """The whitened step by Procrustes beside its tangent form, and what whitening discards.

    Args:
        now: of any network.
        buffers: momentum's next step of each layer (R, m, d).
        rates: γ of gradient descent.

    Returns:
        whitening_cosine, and whitening_ratio of the lengths, Procrustes over tangent,
        (R, rate, layer); discarded_gradient and discarded_momentum, shares of the squared length.
    """
    layers: dict[str, list[Tensor]] = {}
    for weight, gradient, buffer in zip(now.weights, now.weight_gradients, buffers, strict=True):
        dropped = tangent_part(weight, gradient)
        kept = dropped - gradient  # of a step at rate 1
        steps = [gram_preserving_update(weight, weight - r * gradient) - weight for r in rates]
        values = {
            "whitening_cosine": torch.stack([cosine(step, kept) for step in steps], 1),
            "whitening_ratio": torch.stack(
                [norm(step) / norm(r * kept) for r, step in zip(rates, steps, strict=True)], 1
            ),
            "discarded_gradient": (norm(dropped) / norm(gradient)).square(),
            "discarded_momentum": (norm(tangent_part(weight, buffer)) / norm(buffer)).square(),
        }
        for name, value in values.items():
            layers.setdefault(name, []).append(value)
    return {name: torch.stack(values, -1) for name, values in layers.items()}
