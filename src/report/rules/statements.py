"""Claims that are theorems: each on the networks that meet its assumptions."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from experiment import statements
from lab.results import Result
from report.lookup import lookup
from report.verdicts import (
    Finding,
    above,
    all_above,
    all_below,
    below,
    claim,
    holds_everywhere,
    interval,
    means,
    premise,
    undecided,
)

HOMOGENEOUS = ("relu", "squared_relu")


def networks(root: Path, scale: str, names: tuple[str, ...] = ()) -> Iterator[tuple[str, Result]]:
    """Where, and result, of the networks named, or of all."""
    for run in lookup(statements, root, scale):
        if not names or run.config["network"] in names:
            yield f"{run.label}, {run.config['network']}", run


@claim(
    "Proposition 1: for ‖h‖ = 1 a step changes a unit's activation by no more than L² times its "
    "virtual update, and in the same direction",
    source="Proposition 1",
    figures=("statements",),
    rule="with ‖h‖ = 1, for every sample, unit, hidden layer, rate and moment of training: the "
    "bound with ReLU, tanh and GELU, the sign with ReLU and tanh, which are monotone",
    ours="with the norms that the inputs of a layer have, the bound must hold too, for networks "
    "do not normalise them",
)
def proposition_1(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, ("relu", "tanh", "gelu")):
        is_monotone = run.config["network"] != "gelu"
        signs = run["activation_signs_unit"]  # shares (seed, epoch, rate, hidden layer)
        beside = f"; signs agree in a share of {signs.min():.4f} or more"
        bound = run["activation_bound_unit"] == 1
        yield holds_everywhere(where, "the bound, ‖h‖ = 1", bound, "" if is_monotone else beside)
        if is_monotone:
            yield holds_everywhere(where, "the sign, ‖h‖ = 1", signs == 1)
        own = run["activation_bound_own"]
        asked, number = "the bound, the inputs' own norms", f"least share {own.min():.3f}"
        outcome = "met" if (own == 1).all() else "not met"
        yield Finding(where, asked, number, outcome, part="control")


@claim(
    "Theorem 2: the surrogate bounds Target Linearity from below, T_λ ≥ 1 − C / S(G_id)",
    source="Theorem 2",
    figures=("statements",),
    rule="in every layer, moment of training and λ > 0, T_λ is at least the bound",
    ours="T_λ is at least zero anyway (targets centred): the bound must be above zero in some "
    "measurement. It never exceeds −1, for any data: core/bounds.py has the proof",
)
def theorem_2(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale):
        if "theorem2_bound" not in run.arrays:
            continue  # a CNN
        bound = run["theorem2_bound"]  # (seed, epoch, ridge, layer)
        yield holds_everywhere(where, "T_λ at least the bound", run["ridge_tl"] >= bound)
        gap = run["tl_intercept"] - run["tl_bound"]
        number = f"largest {bound.max():.4g}; ours {run['tl_bound'][:, -1].mean():.3f} where TL is "
        number += f"{run['tl_intercept'][:, -1].mean():.3f} at the end, least gap {gap.min():.1e}"
        outcome = "met" if bound.max() > 0 else "not met"
        yield Finding(where, "the bound is above zero", number, outcome, part="control")


FACTOR = 2.0  # within which two numbers are about equal
MOSTLY = 0.9  # share of measurements


def share_within(ratio: np.ndarray) -> np.ndarray:
    """Share of ratios (seed, epoch, layer) that are within FACTOR of one, for each seed."""
    return ((ratio > 1 / FACTOR) & (ratio < FACTOR)).mean((1, 2))


@claim(
    "Theorem 3: a step changes the surrogate by about 2γ (fᵀy)(yᵀKg)",
    source="Theorem 3, section 4.2",
    figures=("statements",),
    rule="ReLU network without biases (f 1-homogeneous), every layer but the last, every moment of "
    f"training, one step at the smallest rate: predicted over actual change is above 0 in more "
    f"than {MOSTLY} of the measurements, and within a factor of {FACTOR:g} of one in as many",
    ours="the last layer, after which f is linear, and deep linear networks obey by "
    "construction, and do not count",
)
def theorem_3(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, ("relu",)):
        ratio = (run["predicted_change"] / run["surrogate_change"])[..., :-1]
        layers = means(np.median(ratio, axis=1))
        sign, near = interval((ratio > 0).mean((1, 2))), interval(share_within(ratio))
        number = f"{sign.text()}; median of predicted / actual by layer {layers}"
        yield Finding(where, "share of right signs", number, above(sign, MOSTLY), sign.seeds)
        asked = f"share within a factor of {FACTOR:g}"
        yield Finding(where, asked, near.text(), above(near, MOSTLY), near.seeds)


ERROR = 0.5  # relative error of an approximation that is one


@claim(
    "Lemma 3: for an m-homogeneous rest f of the network, h_iᵀ∂f/∂h(h_k) is about f(h_i) + "
    "(m − 1) f(h_k)",
    source="Lemma 3",
    figures=("statements",),
    rule="homogeneous networks (ReLU, squared ReLU), every layer but the last, after training: the "
    f"relative error over all pairs of samples is below {ERROR}",
    ours="the last layer and deep linear networks have no error by construction, and do not count",
)
def lemma_3(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, HOMOGENEOUS):
        error = run["taylor_error"]  # (seed, epoch, layer)
        outcome, deciding = all_below(error[:, -1, :-1], ERROR)
        layers, before = means(error[:, -1]), means(error[:, 0])
        number = f"{deciding.text()}; by layer {layers}, before training {before}"
        asked = f"relative error below {ERROR}"
        yield Finding(where, asked, number, outcome, deciding.seeds)


@claim(
    "features are linearised layer by layer: what the rest of the network has still to supply "
    "falls with depth",
    source="title, sections 1 and 4; measured by Lemma 3's error (ours)",
    figures=("statements",),
    rule="homogeneous networks, after training: Lemma 3's relative error, the part of the rest of "
    "the network that is nonlinear between samples, falls from each layer to the next",
    ours="a rest of fewer layers is less nonlinear before training too: training must lower the "
    "error in every layer but the last",
)
def sequential_linearisation(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, HOMOGENEOUS):
        error = run["taylor_error"]
        outcome, deciding = all_above(-np.diff(error[:, -1], axis=-1))
        number = f"fall {deciding.text()}; by layer {means(error[:, -1])}"
        yield Finding(where, "the error falls by layer", number, outcome, deciding.seeds)
        outcome, deciding = all_above((error[:, 0] - error[:, -1])[:, :-1])
        number = f"fall {deciding.text()}; before training {means(error[:, 0])}"
        asked = "training lowers the error"
        yield Finding(where, asked, number, outcome, deciding.seeds, part="control")


ANSATZ = 0.9  # cosine of WᵀW and AGOP that counts as proportional
INTERPOLATES = 0.01  # share of its start to which the loss must fall


@claim(
    "Theorem 4: where a homogeneous network interpolates, a lower bound of the surrogate grows "
    "with the layer's index, and the surrogate with it",
    source="Theorem 4, Lemma 4, the Neural Feature Ansatz",
    figures=("statements",),
    rule="homogeneous networks, after training. Premises, every layer but the last: the cosine of "
    f"WᵀW and AGOP is above {ANSATZ}, and C_l‖y‖⁴ is within a factor of {FACTOR:g} of S. "
    "Conclusions, every layer: S is at least the bound, the bound rises from each layer to the "
    "next, and so does S",
    ours=f"the network interpolates: its loss ends below {INTERPOLATES} of its start, and else "
    "nothing is decided. In the last layer AGOP is WᵀW by construction, and does not count",
)
def theorem_4(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, HOMOGENEOUS):
        loss = run["loss"][:, -1] / run["loss"][:, 0]
        fits, number = (
            bool((loss < INTERPOLATES).all()),
            f"loss {loss.max():.4f} of its start or less",
        )
        yield premise(where, "the network interpolates", number, fits, len(loss))
        for finding in theorem_4_findings(where, run):
            yield finding if fits else undecided(finding, "it does not interpolate")


def theorem_4_findings(where: str, run: Result) -> Iterator[Finding]:
    """Premises and conclusions of one network that interpolates."""
    outcome, deciding = all_above(run["ansatz_cosine"][:, -1, :-1], ANSATZ)
    number = f"{deciding.text()}; by layer {means(run['ansatz_cosine'][:, -1])}"
    yield Finding(where, f"cosine above {ANSATZ}", number, outcome, deciding.seeds)
    distance = np.abs(np.log2(run["ansatz_ratio"][:, -1]))
    outcome, deciding = all_below(distance[:, :-1], np.log2(FACTOR))
    ratios = means(run["ansatz_ratio"][:, -1], ".2g")
    number = f"log₂ {deciding.text()} from it; by layer {ratios}"
    asked = f"C_l‖y‖⁴ / S within a factor of {FACTOR:g} of one"
    yield Finding(where, asked, number, outcome, deciding.seeds)
    surrogate, floor = run["surrogate"][:, -1], run["surrogate_floor"][:, -1]  # (seed, layer)
    beside = f"; bound over S by layer {means(floor / surrogate, '.1e')}"
    if "crossed_most" in run.arrays:
        crossed = means(run["crossed_most"][:, -1], ".0f")
        beside += f"; regions' boundaries between two samples (Lemma 4) {crossed} at most"
    yield holds_everywhere(where, "S at least the bound", surrogate >= floor, beside)
    before = np.log10(run["surrogate"][:, 0])
    for what, values in (("the bound", floor), ("S", surrogate)):
        outcome, deciding = all_above(np.diff(np.log10(values), axis=-1))
        number = f"step of log₁₀ {deciding.text()}; by layer {means(np.log10(values))}"
        number += f"; before training {means(before)}" * (what == "S")
        yield Finding(where, f"{what} rises by layer", number, outcome, deciding.seeds)


NEARLY_ONE = 0.95  # linear CKA
COLLAPSED = 0.1  # NC1, and both parts of NC2, of a network that has collapsed
GOES_WITH = -0.8  # rank correlation of CKA and NC1


@claim(
    "Proposition 2: Neural Collapse makes G_id that of the centred classes, which maximises the "
    "surrogate at a given norm",
    source="Proposition 2",
    figures=("statements",),
    rule="GELU network with classes, under squared loss and under cross-entropy, last layer: S_cls "
    "/ (‖G_id‖ ‖YYᵀ‖), the linear CKA of responses and classes, which the maximum makes one, ends "
    f"above {NEARLY_ONE}; its rank correlation with NC1 over the measured epochs is below "
    f"{GOES_WITH}",
    ours=f"the network has collapsed: NC1 and both parts of NC2 end below {COLLAPSED}, and else "
    "the CKA at the end decides nothing; it is higher after training than before",
)
def proposition_2(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, ("gelu", "gelu_squared_loss")):
        cka = run["cka"]  # (seed, epoch)
        end, rise = interval(cka[:, -1]), interval(cka[:, -1] - cka[:, 0])
        parts = np.stack([run[n][:, -1] for n in ("nc1", "nc2_norm", "nc2_angle")], axis=1)
        has, number = bool((parts < COLLAPSED).all()), f"NC1, NC2 {means(parts, '.3f')}"
        yield premise(where, "the network has collapsed", number, has, len(parts))
        asked, outcome = f"CKA above {NEARLY_ONE}", above(end, NEARLY_ONE)
        finding = Finding(where, asked, end.text(3), outcome, end.seeds)
        yield finding if has else undecided(finding, "it has not collapsed")
        rows = zip(cka, run["nc1"], strict=True)
        r = interval(np.array([spearmanr(*row).statistic for row in rows]))
        asked = f"rank correlation of CKA and NC1 below {GOES_WITH}"
        yield Finding(where, asked, r.text(), below(r, GOES_WITH), r.seeds)
        yield Finding(where, "CKA rises", rise.text(3), above(rise, 0), rise.seeds, part="control")


ZERO = 1e-9  # relative size of a sum that cancels, in float64


@claim(
    "Proposition 4: with centred inputs and outputs, the Taylor errors of all pairs add up to zero",
    source="Proposition 4",
    figures=("statements",),
    rule="homogeneous networks, every layer and moment of training: the sum of Lemma 3's errors is "
    f"less than {ZERO:.0e} of the sum of their sizes",
    ours="without centring the sum is not zero: it is a share of the sizes that stands beside",
)
def proposition_4(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, (*HOMOGENEOUS, "linear")):
        total, uncentred = (
            np.abs(run[f"taylor_error_sum{suffix}"]) for suffix in ("", "_uncentred")
        )
        number = f"largest share {total.max():.0e}; not centred {uncentred.max():.2f}"
        outcome = "met" if (total < ZERO).all() else "not met"
        yield Finding(where, f"share below {ZERO:.0e}", number, outcome)


ALIKE = 0.01  # by which cosine and ratio of lengths may differ from one


@claim(
    "whitening by Procrustes is, to first order in the rate, the gradient without its tangent part",
    source="section 2, appendix B.1",
    figures=("statements",),
    rule="one step at the smallest rate, every layer and moment of training: cosine and ratio of "
    f"lengths of the two are within {ALIKE} of one",
    ours="none is needed for an expansion; at ten times the rate both are farther from one, "
    "which stands beside",
)
def whitening_forms(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale):
        order = np.argsort(run["rate"])
        apart = np.maximum(
            np.abs(run["whitening_cosine"] - 1), np.abs(run["whitening_ratio"] - 1)
        )  # (seed, epoch, rate, layer)
        smallest, next_one = (apart[:, :, i].max() for i in order[:2])
        dropped = [run[f"discarded_{n}"][:, -1].mean() for n in ("gradient", "momentum")]
        number = f"farthest {smallest:.1e}, at rate {run['rate'][order[1]]:g} {next_one:.1e}; "
        number += f"discards {dropped[0]:.2f} of the gradient's squared length at the end, "
        number += f"{dropped[1]:.2f} of momentum's step"
        asked = f"within {ALIKE} of one at rate {run['rate'][order[0]]:g}"
        yield Finding(where, asked, number, "met" if smallest < ALIKE else "not met")
