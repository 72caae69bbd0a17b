"""Claims that are lemmas, and what rests on them: each on the networks that meet its assumptions.

True, tight and useful as in `report.rules.statements`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from report.rules.statements import FACTOR, HOMOGENEOUS, ZERO, networks, somewhere, tight
from report.verdicts import (
    Finding,
    above,
    all_above,
    all_below,
    below,
    claim,
    every,
    holds_everywhere,
    interval,
    means,
    not_applicable,
    premise,
    within,
)

ROUNDING = 1e-6  # that a measured side of an inequality may have
ERROR = 0.5  # relative error of an approximation that is one


@claim(
    "Lemma 1: the surrogate through an activation",
    "Lemma 1: a layer's surrogate bounds that of the activations before it, S(G'_σ) ≥ c₀⁻² S(G_id)",
    source="Lemma 1",
    figures=("statements",),
    rule="true: in every layer and moment of training S(G_id) is at most c₀² S(HHᵀ), c₀ = ‖W‖_op. "
    f"Tight: somewhere more than 1/{FACTOR:g} of it. Useful: after training the share is in every "
    "layer above ‖W‖²_F / (d c₀²), the mean over directions of the features, which says nothing of "
    "the targets",
    ours="none",
)
def lemma_1(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, array="lemma1_ratio"):
        ratio, mean = run["lemma1_ratio"], run["lemma1_chance"]  # (seed, epoch, layer)
        yield holds_everywhere(where, "at most the bound", ratio <= 1 + ROUNDING, part="true")
        yield tight(where, ratio)
        end = np.log10(ratio[:, -1] / mean[:, -1])
        outcome, deciding = all_above(end)
        number = f"log₁₀ {deciding.text()}; share by layer {means(ratio[:, -1])}, mean over "
        number += f"directions {means(mean[:, -1])}"
        asked = "share above that of all directions"
        yield Finding(where, asked, number, outcome, deciding.seeds, "useful")


@claim(
    "Lemma 2: Kantorovich's inequality",
    "Lemma 2: Yᵀ(λI + G)⁻²Y ≤ κ‖Y‖⁴ / Yᵀ(λI + G)Y, κ = (2λ + λ_max + λ_min)² / 4(λ + λ_min)³",
    source="Lemma 2",
    figures=("statements",),
    rule="true: in every layer, moment of training and λ > 0. Tight: somewhere the left side is "
    f"more than 1/{FACTOR:g} of the right. Useful: somewhere the right side is below ‖Y‖² / "
    "(λ + λ_min)², which is known without; as printed it never is (core/bounds.py has the proof)",
    ours="with κ = (2λ + λ_max + λ_min)² / 4(λ + λ_min)²(λ + λ_max), Kantorovich's inequality used "
    "once, it holds and is below ‖Y‖² / (λ + λ_min)² somewhere",
)
def lemma_2(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, array="lemma2_left"):
        left = run["lemma2_left"]  # (seed, epoch, ridge, layer), over what is known without
        for array, name, parts in (
            ("lemma2_bound", "the bound", ("true", "useful")),
            ("lemma2_refined", "ours", ("ours", "ours")),
        ):
            right = run[array]
            held = left <= right * (1 + ROUNDING) + ROUNDING
            yield holds_everywhere(where, f"at most {name}", held, part=parts[0])
            if array == "lemma2_bound":
                yield tight(where, left / right)
            least = float(right.min())
            yield somewhere(where, f"{name} below what is known", least, least < 1, parts[1])


FEW = 1.0  # times the size of differences, below which an error's bound says something


@claim(
    "Lemma 3: first-order terms of a homogeneous network",
    "Lemma 3: for an m-homogeneous rest f of the network, h_iᵀ∂f/∂h(h_k) is about f(h_i) + "
    "(m − 1) f(h_k)",
    source="Lemma 3",
    figures=("statements",),
    rule="homogeneous networks (ReLU, squared ReLU), every layer but the last. True: of a sample "
    f"with itself it is exact (Euler), to {ZERO:.0e}. After training, the size of the error over "
    f"all pairs relative to that of all f_i − f_k: tight, below {ERROR}; useful, below {FEW:g}, at "
    "which f_k is as good a guess of f_i",
    ours="the last layer and deep linear networks have no error by construction, and do not count",
)
def lemma_3(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, HOMOGENEOUS, "euler_error"):
        euler = run["euler_error"]
        beside = f"; largest {euler.max():.0e}"
        yield holds_everywhere(where, "a sample with itself", euler < ZERO, beside, "true")
        error = run["taylor_error"]  # (seed, epoch, layer)
        for threshold, part in ((ERROR, "tight"), (FEW, "useful")):
            outcome, deciding = all_below(error[:, -1, :-1], threshold)
            layers, before = means(error[:, -1]), means(error[:, 0])
            number = f"{deciding.text()}; by layer {layers}, before training {before}"
            asked = f"relative error below {threshold:g}"
            yield Finding(where, asked, number, outcome, deciding.seeds, part)


@claim(
    "sums over samples are nearer to Lemma 3",
    "sums over samples are nearer to what Lemma 3 says than single terms",
    source="appendix A.2 (a conjecture)",
    figures=("statements",),
    rule="homogeneous networks, every layer but the last, after training: the error of Σ_i y_i "
    "h_iᵀ∂f/∂h(h_k), the sum that enters the surrogate, over the size of fᵀy + (m − 1) f_k Σy is "
    "below that of the single terms over the size of f_i + (m − 1) f_k",
    ours="before training, when fᵀy is near zero, it is so as well",
)
def robust_sums(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, HOMOGENEOUS, "taylor_error_terms"):
        single, summed = (run[f"taylor_error_{kind}"][..., :-1] for kind in ("terms", "sum"))
        for epoch, when, part in ((-1, "after training", "paper"), (0, "before", "ours")):
            outcome, deciding = all_below((summed - single)[:, epoch])
            number = f"{deciding.text()}; by layer {means(summed[:, epoch])} where single terms "
            number += f"have {means(single[:, epoch])}"
            asked = f"error of sums less that of terms, {when}"
            yield Finding(where, asked, number, outcome, deciding.seeds, part)


@claim(
    "features are linearised layer by layer",
    "features are linearised layer by layer: what the rest of the network has still to supply "
    "falls with depth",
    source="title, sections 1 and 4; measured by Lemma 3's error (ours)",
    figures=("statements",),
    rule="homogeneous networks, after training: Lemma 3's error relative to all f_i − f_k, the "
    "part of the rest of the network that is nonlinear between samples, falls from each layer to "
    "the next",
    ours="training lowers the error in every layer but the last. Control: a rest of fewer layers "
    "is less nonlinear by itself, so that the error must not fall by layer before training",
)
def sequential_linearisation(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, HOMOGENEOUS, "euler_error"):
        error = run["taylor_error"]  # (seed, epoch, layer)
        before, after = error[:, 0], error[:, -1]
        outcome, deciding = all_above(-np.diff(after, axis=-1))
        number = f"fall {deciding.text()}; by layer {means(after)}"
        yield Finding(where, "the error falls by layer", number, outcome, deciding.seeds)
        outcome, deciding = all_above((before - after)[:, :-1])
        number = f"fall {deciding.text()}; before training {means(before)}"
        yield Finding(where, "training lowers the error", number, outcome, deciding.seeds, "ours")
        outcome, deciding = all_above(-np.diff(before, axis=-1))
        opposite = {"met": "not met", "not met": "met"}.get(outcome, outcome)
        number = f"fall {deciding.text()}; by layer {means(before)}"
        asked = "the error does not fall by layer before training"
        yield Finding(where, asked, number, opposite, deciding.seeds, "control")


@claim(
    "Lemma 4: jumps between linear regions",
    "Lemma 4: of a ReLU network without biases bᵀ∇f(a) − f(b) is less than 2MBδ in size, for M "
    "boundaries of regions between a and b, inputs below B and jumps of ∇f below δ",
    source="Lemma 4",
    figures=("statements",),
    rule="ReLU network, every layer but the last, B of the layer's inputs, δ the largest jump and "
    "M of each pair, over a sample of pairs. True: for every pair and moment of training. Tight: "
    f"somewhere the error is more than 1/{FACTOR:g} of the bound. Useful: after training the "
    "median bound is in some layer below the size of f_i − f_k",
    ours="MBδ suffices, for bᵀ∇f(a) − f(b) = bᵀ(∇f(a) − ∇f(b))",
)
def lemma_4(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, array="lemma4_held"):
        yield holds_everywhere(where, "at most 2MBδ", run["lemma4_held"] == 1, part="true")
        most = run["lemma4_most"][..., :-1]
        yield tight(where, most)
        bound, error = (run[f"lemma4_{name}"][:, -1, :-1] for name in ("bound", "error"))
        nearest = interval(bound.min(-1))
        number = f"{nearest.text()}; by layer {means(bound, '.3g')}, errors {means(error)}, "
        number += f"M {means(run['crossed'][:, -1, :-1], '.0f')} on average"
        asked = "bound below the size of f_i − f_k in some layer"
        yield Finding(where, asked, number, below(nearest, FEW), nearest.seeds, "useful")
        held = most <= 0.5 * (1 + ROUNDING)
        yield holds_everywhere(where, "at most MBδ", held, part="ours")


@claim(
    "Lemma 5: where tr(AᵀGA) is largest",
    "Lemma 5: tr(AᵀGA) under ‖G‖_F ≤ c is largest at G ∝ AAᵀ",
    source="Lemma 5",
    figures=("statements",),
    rule="true: for G = G_id and A = Y, in every layer and moment of training, S_cls / (‖G_id‖ "
    f"‖YYᵀ‖), the linear CKA, is at most one. Tight: somewhere above 1/{FACTOR:g}. Useful: in the "
    "last layer it is nearer to its maximum after training than before",
    ours="none",
)
def lemma_5(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, array="lemma1_ratio"):
        cka = run["cka"]  # (seed, epoch, layer)
        yield holds_everywhere(where, "CKA at most one", cka <= 1 + ROUNDING, part="true")
        yield tight(where, cka)
        rise = interval(cka[:, -1, -1] - cka[:, 0, -1])
        number = f"{rise.text()}; by layer {means(cka[:, -1])}"
        yield Finding(where, "CKA rises", number, above(rise, 0), rise.seeds, "useful")


AT_START = 0.1  # share of ‖y‖² that is near zero
TAPERS = 0.01  # share of its start below which the loss has tapered


@claim(
    "signs of fᵀy and yᵀKg",
    "fᵀy is near zero at the start and grows positive; yᵀKg is positive until it tapers, for "
    "binary cross-entropy where samples of a class are nearer than others",
    source="section 4.2",
    figures=("statements",),
    rule=f"ReLU network without biases: fᵀy / ‖y‖² starts within {AT_START} of zero and "
    "ends above it. ReLU network under binary cross-entropy, labels 0 and 1: in every layer where "
    "the mean product of samples of a class is throughout above that of others, yᵀKg is positive "
    f"at every measured moment until the loss is below {TAPERS} of its start",
    ours="under squared loss, targets centred, yᵀKg is positive as long. It need not be: 10 "
    "against 90 samples, products 2 within a class and 1 across, outputs of 1/2 give −350 (a test)",
)
def signs(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, ("relu", "relu_binary"), "output_product"):
        early = run["loss"] > TAPERS * run["loss"][:, :1]  # (seed, epoch)
        if run.config["network"] == "relu":
            product = run["output_product"]
            start, end = interval(product[:, 0], 0.90), interval(product[:, -1])
            outcome = every([within(start, -AT_START, AT_START), above(end, 0)])
            number = f"{start.text()}, at the end {end.text()}"
            yield Finding(where, "fᵀy near zero, then positive", number, outcome, end.seeds)
            yield positive(where, run["descent_cosine"][early], "ours")
            continue
        nearer = (run["nearer"] > 0).all((0, 1))  # (layer,)
        number = f"in {nearer.sum()} of {len(nearer)} layers"
        asked = "samples of a class are nearer"
        yield premise(where, asked, number, bool(nearer.any()), len(early))
        finding = positive(where, run["descent_cosine"][early][:, nearer], "paper")
        yield finding if nearer.any() else not_applicable(finding, "they are in no layer")


def positive(where: str, cosine: np.ndarray, part: str) -> Finding:
    """yᵀKg, as a cosine (moment, layer)."""
    beside = f"; least cosine {cosine.min(initial=np.inf):.2f}"
    return holds_everywhere(where, "yᵀKg positive until it tapers", cosine > 0, beside, part)
