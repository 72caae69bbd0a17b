"""Claims that are theorems, and whitening's two forms: each on networks that meet its assumptions.

True: the inequality or identity as stated. Tight: somewhere an inequality is missed by less than
FACTOR. Useful: it says something at real values that is not known without it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from experiment import statements
from lab.results import Result
from report.lookup import lookup
from report.verdicts import (
    Finding,
    Part,
    above,
    all_above,
    all_below,
    claim,
    holds_everywhere,
    interval,
    means,
    not_applicable,
    premise,
)

HOMOGENEOUS = ("relu", "squared_relu")
FACTOR = 2.0  # within which two numbers are about equal
MOSTLY = 0.9  # share of measurements
ZERO = 1e-9  # relative size of what is zero in float64


def networks(
    root: Path, scale: str, names: Sequence[str] = (), array: str = ""
) -> Iterator[tuple[str, Result]]:
    """Where, and result, of the networks named, or of all, that have an array.

    A theorem is about networks that are there: a replica that diverged takes no part.
    """
    for run in map(Result.without_diverged, lookup(statements, root, scale)):
        if (not array or array in run.arrays) and (not names or run.config["network"] in names):
            yield f"{run.label}, {run.config['network']}", run


def somewhere(where: str, asked: str, number: float, met: bool, part: Part) -> Finding:
    """Of the measurement that goes farthest: one is enough, and seeds are not averaged."""
    text = f"farthest {number:.3g}"
    return Finding(where, f"{asked} somewhere", text, "met" if met else "not met", part=part)


def tight(where: str, share: np.ndarray) -> Finding:
    """Whether an inequality is somewhere missed by less than FACTOR; shares of its bound (seed, "
    "…)."""
    largest = float(np.nanmax(share))
    asked = f"more than 1/{FACTOR:g} of the bound"
    return somewhere(where, asked, largest, largest > 1 / FACTOR, "tight")


NEAR = 0.1  # distance of two numbers in [0, 1] that are near


@claim(
    "Theorem 2: the surrogate bounds TL",
    "Theorem 2: the surrogate bounds Target Linearity from below, T_λ ≥ 1 − C / S(G_id)",
    source="Theorem 2",
    figures=("statements",),
    rule="true: in every layer, moment of training and λ > 0, T_λ is at least the bound (targets "
    f"centred). Tight: somewhere by less than {NEAR}. Useful: somewhere above zero, which T_λ "
    "always is; as printed it never exceeds −1, for any data (core/bounds.py has the proof)",
    ours="with C' = ‖Y‖⁴c₀²(2λ + c₁²)² / (4(λ + c₁²)‖Y − Ȳ‖²), one wasted step of the proof left "
    "out, the bound holds, and is above zero somewhere; three bounds of TL₁ (with an intercept) "
    "hold: S / (‖Z‖²_op ‖Y‖²), and the projections of Y onto GY and onto its columns",
)
def theorem_2(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, array="theorem2_refined"):
        value = run["ridge_tl"]  # (seed, epoch, ridge, layer)
        for array, name, parts in (
            ("theorem2_bound", "the bound", ("true", "useful")),
            ("theorem2_refined", "the bound with C'", ("ours", "ours")),
        ):
            bound = run[array]
            held = value >= bound
            yield holds_everywhere(where, f"T_λ at least {name}", held, part=parts[0])
            if array == "theorem2_bound":
                gap = float((value - bound).min())
                yield somewhere(where, f"nearer than {NEAR}", gap, gap < NEAR, "tight")
            most = float(bound.max())
            yield somewhere(where, f"{name} above zero", most, most > 0, parts[1])
        kinds = ("tl_bound", "tl_bound_line", "tl_bound_columns")
        held = np.stack([run[kind] <= run["tl_intercept"] + 1e-6 for kind in kinds])
        ends = ", ".join(f"{run[kind][:, -1].mean():.3f}" for kind in kinds)
        beside = f"; at the end {ends} where TL₁ is {run['tl_intercept'][:, -1].mean():.3f}"
        yield holds_everywhere(where, "TL₁ at least our three bounds", held, beside, "ours")


GOES_WITH = 0.8  # correlation of two numbers that go together


@claim(
    "Theorem 3: what a step adds to the surrogate",
    "Theorem 3: a step changes the surrogate by about 2γ (fᵀy)(yᵀKg)",
    source="Theorem 3, footnote 4, section 4.2",
    figures=("statements",),
    rule="homogeneous networks (ReLU, squared ReLU; targets centred), every layer but the last, "
    "one step at the smallest rate at each measured moment, each counting by abs(ΔS), while S "
    f"rises to the next. True: predicted and actual change have one sign in more than {MOSTLY} of "
    f"it. Tight: they are within a factor of {FACTOR:g} in as much. Useful: over the moments of "
    f"training they correlate in every layer above {GOES_WITH}",
    ours="the last layer, after which f is linear, and deep linear networks obey by "
    "construction, and do not count; every moment counted alike stands beside",
)
def theorem_3(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, HOMOGENEOUS):
        actual, predicted = (
            run[f"{kind}_change"][..., :-1] for kind in ("surrogate", "predicted")
        )  # (seed, epoch, layer)
        ratio = predicted / actual
        near = (ratio > 1 / FACTOR) & (ratio < FACTOR)
        rises = np.diff(run["surrogate"][..., :-1], axis=1) > 0
        weight = np.abs(actual[:, :-1]) * rises
        weight = weight / np.where(rises.any(1), weight.sum(1), np.nan)[:, None]
        for asked, held, part in (
            ("share of right signs while S rises", ratio > 0, "true"),
            (f"share within a factor of {FACTOR:g} while S rises", near, "tight"),
        ):
            layers = (weight * held[:, :-1]).sum(1)  # (seed, layer)
            share = interval(np.nanmean(layers, axis=1))
            beside = f"; by layer {means(layers)}; every moment alike {held.mean():.2f}"
            outcome = above(share, MOSTLY)
            yield Finding(where, asked, share.text() + beside, outcome, share.seeds, part)
        r = correlation(predicted, actual)
        outcome, deciding = all_above(r, GOES_WITH)
        number = f"{deciding.text()}; by layer {means(r)}"
        asked = f"correlation over training above {GOES_WITH}"
        yield Finding(where, asked, number, outcome, deciding.seeds, "useful")


def correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's over epochs: (seed, epoch, layer) -> (seed, layer)."""
    a, b = (x - x.mean(1, keepdims=True) for x in (first, second))
    return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


ANSATZ = 0.9  # cosine of WᵀW and AGOP that counts as proportional
INTERPOLATES = 0.01  # share of its start to which the loss must fall


@claim(
    "Theorem 4: the surrogate's bound grows with depth",
    "Theorem 4: where a homogeneous network interpolates, a lower bound of the surrogate grows "
    "with the layer's index",
    source="Theorem 4, Lemma 4, the Neural Feature Ansatz",
    figures=("statements",),
    rule="homogeneous networks, after training; of squared ReLU without the last layer where C₀ is "
    "its own ‖WH‖², for there the bound is Cauchy–Schwarz'. B and δ (see Lemma 4) are one constant "
    "for all layers, M is of each, the most over a sample of pairs, so that the true bound is no "
    "larger. True: S is at least the bound, and the bound rises from each layer to the next. "
    f"Tight: somewhere it is more than 1/{FACTOR:g} of S. Useful: S rises from each layer to the "
    "next. Where a premise fails it does not apply",
    ours=f"premises, as controls: the loss ends below {INTERPOLATES} of its start; in every layer "
    f"but the last the cosine of WᵀW and AGOP is above {ANSATZ} and C_l‖y‖⁴, which is S by Lemma "
    f"3, within a factor of {FACTOR:g} of S; M falls from each layer to the next (ReLU). C₀ is the "
    "least ‖WH‖², so that its premise is met. The sharper (‖y‖₂ + 2√N MBδ)² in place of Ψ",
)
def theorem_4(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, HOMOGENEOUS, "response_norm2"):
        premises = list(theorem_4_premises(where, run))
        yield from premises
        failed = [finding.asked for finding in premises if finding.outcome != "met"]
        reason = f"a premise fails: {'; '.join(failed)}"
        for finding in theorem_4_conclusions(where, run):
            yield not_applicable(finding, reason) if failed else finding


def theorem_4_premises(where: str, run: Result) -> Iterator[Finding]:
    loss = run["loss"][:, -1] / run["loss"][:, 0]
    number = f"loss {loss.max():.4f} of its start or less"
    fits = bool((loss < INTERPOLATES).all())
    yield premise(where, "the network interpolates", number, fits, len(loss))
    cosine = run["ansatz_cosine"][:, -1]
    outcome, deciding = all_above(cosine[:, :-1], ANSATZ)
    number = f"{deciding.text()}; by layer {means(cosine)}"
    asked = f"the Ansatz, cosine above {ANSATZ}"
    yield Finding(where, asked, number, outcome, deciding.seeds, "control")
    ratio = run["ansatz_ratio"][:, -1]
    outcome, deciding = all_below(np.abs(np.log2(ratio))[:, :-1], np.log2(FACTOR))
    number = f"log₂ {deciding.text()} from it; by layer {means(ratio, '.2g')}"
    asked = f"C_l‖y‖⁴ / S within a factor of {FACTOR:g} of one"
    yield Finding(where, asked, number, outcome, deciding.seeds, "control")
    if "crossed_most" in run.arrays:
        crossed = run["crossed_most"][:, -1]
        outcome, deciding = all_above(-np.diff(crossed, axis=-1))
        number = f"fall {deciding.text(0)}; by layer {means(crossed, '.0f')}"
        yield Finding(where, "M falls by layer", number, outcome, deciding.seeds, "control")


def theorem_4_conclusions(where: str, run: Result) -> Iterator[Finding]:
    surrogate, floor = run["surrogate"][:, -1], run["surrogate_floor"][:, -1]  # (seed, layer)
    # the layer whose ‖HWᵀ‖² is C₀: of the last the homogeneous and the sharper bound are no less
    # than S by Cauchy–Schwarz
    norms = run["response_norm2"][:, -1]
    last = norms.shape[-1] - 1
    left_out = bool((norms.argmin(-1) == last).any())
    kept = slice(-1) if left_out and run.config["network"] == "squared_relu" else slice(None)
    share = (floor / surrogate)[:, kept]
    beside = f"; bound over S by layer {means(share, '.1e')}"
    held = share <= 1 + ZERO
    yield holds_everywhere(where, "S at least the bound", held, beside, "true")
    rise = np.diff(np.log10(floor[:, kept]), axis=-1)
    outcome, deciding = all_above(rise)
    number = f"step of log₁₀ {deciding.text()}"
    yield Finding(where, "the bound rises by layer", number, outcome, deciding.seeds, "true")
    yield tight(where, share)
    outcome, deciding = all_above(np.diff(np.log10(surrogate), axis=-1))
    before = means(np.log10(run["surrogate"][:, 0]))
    number = f"step of log₁₀ {deciding.text()}; by layer {means(np.log10(surrogate))}"
    number += f"; before training {before}"
    yield Finding(where, "S rises by layer", number, outcome, deciding.seeds, "useful")
    if "surrogate_floor_sharper" in run.arrays:
        kept = slice(-1) if left_out else slice(None)
        share = (run["surrogate_floor_sharper"][:, -1] / surrogate)[:, kept]
        beside = f"; bound over S by layer {means(share, '.1e')}"
        asked = "S at least the sharper bound"
        yield holds_everywhere(where, asked, share <= 1 + ZERO, beside, "ours")


ALIKE = 0.01  # by which cosine and ratio of lengths may differ from one


@claim(
    "two forms of whitening agree",
    "whitening by Procrustes is, to first order in the rate, the gradient without its tangent part",
    source="section 2, appendix B.1",
    figures=("statements",),
    rule="one step at the smallest rate, every layer and moment of training: cosine and ratio of "
    f"lengths of the two are within {ALIKE} of one",
    ours="none is needed for an expansion; at the next larger rate the share of layers and moments "
    "that are farther from one stands beside: not all, for where steps are tiny both are rounding",
)
def whitening_forms(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale):
        rates = np.sort(run["rate"])
        order = np.argsort(run["rate"])
        apart = np.maximum(
            np.abs(run["whitening_cosine"] - 1), np.abs(run["whitening_ratio"] - 1)
        )  # (seed, epoch, rate, layer)
        smallest, larger = (apart[:, :, i] for i in order[:2])
        known = np.isfinite(smallest) & np.isfinite(larger)
        dropped = [run[f"discarded_{n}"][:, -1].mean() for n in ("gradient", "momentum")]
        number = f"farthest {np.nanmax(smallest):.1e}; at {rates[1] / rates[0]:.0f} times the rate "
        number += (
            f"{np.nanmax(larger):.1e}, {(larger > smallest)[known].mean():.2f} of them farther; "
        )
        number += f"discards {dropped[0]:.2f} of the gradient's squared length at the end, "
        number += f"{dropped[1]:.2f} of momentum's step"
        asked = f"within {ALIKE} of one at rate {rates[0]:g}"
        yield Finding(where, asked, number, "met" if np.nanmax(smallest) < ALIKE else "not met")
