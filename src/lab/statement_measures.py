"""What the paper's statements say of a network at one moment of training, beside what is true.

Measures are of a `Snapshot` of R networks, (R, layer) where nothing else is said. Layer l reads
H_l through W_l: the first reads the samples, the last is the read-out.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from core.agop import average_gradient_outer_product, gram_agop_cosine
from core.bounds import activation_bound, theorem2_bound
from core.collapse import collapse
from core.gram import cosine, gram_preserving_update
from core.homogeneity import (
    ansatz_surrogate_ratio,
    crossed_regions,
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

    (R, rate, hidden layer), with ‖h‖ = 1 (W scaled by ‖h‖, so that z is as it is) and with the
    inputs' own norms. γ is the rate of a sample's own loss, not of the mean.
    """
    shares: dict[str, list[Tensor]] = {}
    samples = now.outputs.shape[1]
    for layer, z in enumerate(now.responses[:-1]):
        # ∂L/∂σ(z) of each sample's own loss
        a = samples * now.response_gradients[layer + 1] @ now.weights[layer + 1]
        own = now.features[layer].square().sum(-1)  # ‖h‖²
        for kind, norm2 in (("unit", torch.ones_like(own)), ("own", own)):
            held = [activation_bound(z, a, norm2, rate, activation, lipschitz) for rate in rates]
            for name, masks in zip(("bound", "signs"), zip(*held, strict=True), strict=True):
                share = torch.stack(masks, 1).double().mean((-2, -1))  # (R, rate)
                shares.setdefault(f"activation_{name}_{kind}", []).append(share)
    return {name: torch.stack(values, -1) for name, values in shares.items()}


def linearity(
    moments: Sequence[FeatureMoments], weights: Sequence[Tensor], ridges: Sequence[float]
) -> Measures:
    """Theorem 2's bound beside T_λ (R, ridge, layer); TL₁, our bound of it, and the surrogate."""
    pairs = list(zip(moments, weights, strict=True))
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        tl = [report(sums, intercept=True).value for sums in moments]  # one where N ≤ d
    by_ridge = {
        "theorem2_bound": [[theorem2_bound(*pair, ridge) for ridge in ridges] for pair in pairs],
        "ridge_tl": [[ridge_linearity(sums, ridge) for ridge in ridges] for sums in moments],
    }
    by_layer = {
        "tl_intercept": tl,
        "tl_bound": [surrogate_share(*pair) for pair in pairs],
        "surrogate": [moments_surrogate(*pair) for pair in pairs],
    }
    stacked = {k: torch.stack([torch.stack(v, 1) for v in x], -1) for k, x in by_ridge.items()}
    return stacked | {name: torch.stack(values, -1) for name, values in by_layer.items()}


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


def lemma3(now: Snapshot, degrees: Sequence[int]) -> Measures:
    """Relative errors of Lemma 3; degrees: of f, the rest of the network, from each layer on."""
    f = now.outputs[..., 0].detach()
    parts = (now.features, now.slopes, degrees)
    errors = [taylor_error(h, j, f, degree) for h, j, degree in zip(*parts, strict=True)]
    sums = [taylor_error_sum(h, j, f, degree) for h, j, degree in zip(*parts, strict=True)]
    names = ("taylor_error", "taylor_error_sum_uncentred")
    return {
        name: torch.stack(values, -1) for name, values in zip(names, (errors, sums), strict=True)
    }


def proposition4(model: MLP, now: Snapshot, degrees: Sequence[int]) -> Measures:
    """The sum of Lemma 3's errors where each layer's features, and the outputs, are centred."""
    sums = []
    for layer, degree in enumerate(degrees):
        h = (now.features[layer] - now.features[layer].mean(1, keepdim=True)).requires_grad_()
        hidden = h
        for linear in model.layers[layer:-1]:
            hidden = model.activation(linear(hidden))
        f = model.layers[-1](hidden)[..., 0]
        (slopes,) = torch.autograd.grad(f.sum(), h)
        sums.append(taylor_error_sum(h, slopes, f - f.mean(1, keepdim=True), degree))
    return {"taylor_error_sum": torch.stack(sums, -1)}


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
    """Boundaries of linear regions of a ReLU network between samples, mean and most of pairs.

    pairs: indices of samples (2, P).
    """
    counts = []
    for layer, h in enumerate(now.features):
        rest = [(weight, None) for weight in now.weights[layer:]]
        counts.append(crossed_regions(rest, h[:, pairs[0]], h[:, pairs[1]]))
    return {
        "crossed": torch.stack([count.double().mean(-1) for count in counts], -1),
        "crossed_most": torch.stack([count.amax(-1).double() for count in counts], -1),
    }


def theorem4_floor(
    now: Snapshot, y: Tensor, moments: Sequence[FeatureMoments], degree: int, crossed: Tensor
) -> Measures:
    """Theorem 4's lower bound of S with C₀ = min ‖HWᵀ‖² over the layers.

    Args:
        now: of a homogeneous network.
        y: targets (N,).
        moments: of every layer.
        degree: m, of one activation.
        crossed: M (R, layer), for m = 1.
    """
    pairs = zip(moments, now.weights, strict=True)
    constant = torch.stack([response_norm(*pair) for pair in pairs], -1).amin(-1)  # C₀ (R,)
    floors = []
    for layer, (h, j) in enumerate(zip(now.features, now.slopes, strict=True)):
        if degree > 1:
            left = len(now.weights) - 1 - layer
            floors.append(surrogate_floor_homogeneous(constant, y, degree, left))
        else:
            steepest, farthest = j.norm(dim=-1).amax(-1), torch.cdist(h, h).amax((-2, -1))
            reach = (crossed[:, layer], steepest, farthest)
            floors.append(surrogate_floor_piecewise(constant, y.expand(h.shape[:2]), *reach))
    return {"surrogate_floor": torch.stack(floors, -1)}


def proposition2(moments: FeatureMoments, weight: Tensor) -> Measures:
    """Linear CKA of the last layer's responses and the classes, with NC1 and NC2 of what it reads.

    (R,) each.
    """
    collapsed = collapse(moments)
    measures = {name: getattr(collapsed, name) for name in ("nc1", "nc2_norm", "nc2_angle")}
    return {"cka": response_cka(moments, weight), **measures}


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
