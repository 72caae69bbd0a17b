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
from core.linearity import (
    LostDigits,
    moments_surrogate,
    report,
    response_cka,
    ridge_linearity,
    surrogate_share,
)
from core.moments import FeatureMoments
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


def ansatz(now: Snapshot) -> Measures:
    """Cosine of WᵀW and the average gradient outer product of the outputs."""
    outer = average_gradient_outer_product(now.outputs, now.responses)
    pairs = zip(now.weights, outer, strict=True)
    return {"ansatz_cosine": torch.stack([gram_agop_cosine(*pair) for pair in pairs], -1)}


def proposition2(moments: FeatureMoments) -> Measures:
    """NC1 and NC2 (R,) of what the last layer reads; moments of classes."""
    # near zero they are only held against a threshold
    with warnings.catch_warnings(action="ignore", category=LostDigits):
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
