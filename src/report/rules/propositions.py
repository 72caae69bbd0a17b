"""Claims that are propositions: each on the networks that meet its assumptions.

True, tight and useful as in `report.rules.statements`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from lab.results import Result
from report.rules.statements import (
    FACTOR,
    GOES_WITH,
    HOMOGENEOUS,
    NEAR,
    ZERO,
    networks,
    tight,
)
from report.verdicts import (
    Finding,
    above,
    below,
    claim,
    holds_everywhere,
    interval,
    means,
    not_applicable,
    premise,
)

REACHES = 0.1  # share of its bound that is something


@claim(
    "Proposition 1: a unit moves as its virtual update says",
    "Proposition 1: for ‖h‖ = 1 a step changes a unit's activation by no more than L² times its "
    "virtual update, and in the same direction",
    source="Proposition 1",
    figures=("statements",),
    rule="true: with ‖h‖ = 1, for every sample, unit, hidden layer, rate and moment of training, "
    "the bound with ReLU, tanh and GELU, the sign with ReLU and tanh, which are monotone. Tight: "
    f"some step is more than 1/{FACTOR:g} of its bound. Useful: a step is on average more than "
    f"{REACHES} of its bound",
    ours="with the norms that the inputs of a layer have, which the proposition does not allow, "
    "the bound holds as well",
)
def proposition_1(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(root, scale, ("relu", "tanh", "gelu"), "activation_most"):
        is_monotone = run.config["network"] != "gelu"
        signs = run["activation_signs_unit"]  # shares (seed, epoch, rate, hidden layer)
        beside = f"; signs agree in a share of {signs.min():.4f} or more"
        bound = run["activation_bound_unit"] == 1
        yield holds_everywhere(where, "the bound", bound, "" if is_monotone else beside, "true")
        if is_monotone:
            yield holds_everywhere(where, "the sign", signs == 1, part="true")
        yield tight(where, run["activation_most"])
        share = interval(np.nanmean(run["activation_share"], axis=(1, 2, 3)))
        asked = f"mean share of the bound above {REACHES}"
        yield Finding(where, asked, share.text(), above(share, REACHES), share.seeds, "useful")
        own = run["activation_bound_own"]
        asked, number = "the bound, the inputs' own norms", f"least share {own.min():.3f}"
        outcome = "met" if (own == 1).all() else "not met"
        yield Finding(where, asked, number, outcome, part="ours")


NEARLY_ONE = 0.95  # linear CKA
COLLAPSED = 0.1  # NC1, and both parts of NC2, of a network that has collapsed


@claim(
    "Proposition 2: Neural Collapse maximises the surrogate",
    "Proposition 2: Neural Collapse makes G_id that of the centred classes, which maximises the "
    "surrogate at a given norm",
    source="Proposition 2, section 5",
    figures=("statements",),
    rule="S_cls / (‖G_id‖ ‖YYᵀ‖) is the linear CKA of the last layer's responses and the classes; "
    "at the maximum it is one. True: of features that have collapsed exactly, made by hand, with "
    f"the weight of least squares, it is one and G_id ∝ YYᵀ to {ZERO:.0e}; of a GELU network under "
    f"squared loss that has collapsed (NC1 and both parts of NC2 end below {COLLAPSED}) it ends "
    f"above {NEARLY_ONE}. Useful: its rank correlation with NC1 over the measured moments of "
    f"training is below {-GOES_WITH}, also short of collapse",
    ours="the CKA rises with training, also under cross-entropy, where the same is asked of its "
    "rank correlation. Controls by hand: with another weight, or with noise within classes, it is "
    f"below {NEARLY_ONE}",
)
def proposition_2(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for where, run in networks(
        root, scale, ("gelu", "gelu_squared_loss", "gelu_decay"), "hand_cka"
    ):
        squared_loss = run.config["network"] != "gelu"
        if run.config["network"] == "gelu_decay":
            yield from by_hand(run)
        cka = run["cka"][..., -1]  # (seed, epoch)
        end, rise = interval(cka[:, -1]), interval(cka[:, -1] - cka[:, 0])
        if squared_loss:
            parts = np.stack([run[n][:, -1] for n in ("nc1", "nc2_norm", "nc2_angle")], axis=1)
            has, number = bool((parts < COLLAPSED).all()), f"NC1, NC2 {means(parts, '.3f')}"
            yield premise(where, "the network has collapsed", number, has, len(parts))
            asked, outcome = f"CKA above {NEARLY_ONE}", above(end, NEARLY_ONE)
            finding = Finding(where, asked, end.text(3), outcome, end.seeds, "true")
            yield finding if has else not_applicable(finding, "it has not collapsed")
        rows = zip(cka, run["nc1"], strict=True)
        r = interval(np.array([spearmanr(*row).statistic for row in rows]))
        asked = f"rank correlation of CKA and NC1 below {-GOES_WITH}"
        part = "useful" if squared_loss else "ours"
        yield Finding(where, asked, r.text(), below(r, -GOES_WITH), r.seeds, part)
        yield Finding(where, "CKA rises", rise.text(3), above(rise, 0), rise.seeds, "ours")


def by_hand(run: Result) -> Iterator[Finding]:
    """Of features that have collapsed exactly, and of two that have not."""
    where, case = f"{run.label}, collapsed by hand", list(run["case"])
    for name in ("balanced", "labels"):
        i = case.index(name)
        cka, error = run["hand_cka"][:, i], run["hand_gram_error"][:, i]
        held = (np.abs(cka - 1) < ZERO) & (error < ZERO)
        classes = "balanced classes" if name == "balanced" else "classes as they are drawn"
        asked, beside = f"CKA one and G_id ∝ YYᵀ, {classes}", f"; farthest {error.max():.0e}"
        yield holds_everywhere(where, asked, held, beside, "true")
    for name, words in (("random_weight", "another weight"), ("noise", "noise within classes")):
        cka = interval(run["hand_cka"][:, case.index(name)])
        asked, outcome = f"CKA below {NEARLY_ONE}, {words}", below(cka, NEARLY_ONE)
        yield Finding(where, asked, cka.text(3), outcome, cka.seeds, "control")


@claim(
    "Proposition 4: first-order errors add up to zero",
    "Proposition 4: for a homogeneous network, inputs and outputs that sum to zero, the "
    "first-order Taylor errors of all pairs add up to zero",
    source="Proposition 4",
    figures=("statements",),
    rule="true: ReLU and squared ReLU networks, every layer but the last and moment of training, "
    "Σh = 0 and Σf = 0 by a read-out orthogonal to the mean of what it reads: the sum of all "
    f"f_i − f_j − (h_i − h_j)ᵀ∇f(h_j) is less than {ZERO:.0e} of the sum of their sizes. Useful: "
    f"it is less than {NEAR} of it with the network's own read-out",
    ours="controls, which must not be zero: a tanh network with biases, which is not homogeneous, "
    "and a read-out with Σf ≠ 0",
)
def proposition_4(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    names = (*HOMOGENEOUS, "tanh")
    for where, run in networks(root, scale, names, "expansion_sum"):
        total = np.abs(run["expansion_sum"])  # (seed, epoch, layer)
        own = np.abs(run["expansion_sum_not_centred"])
        if run.config["network"] == "tanh":
            yield not_zero(f"{where}, not homogeneous", total)
            continue
        asked, beside = f"share below {ZERO:.0e}", f"; largest {total.max():.0e}"
        yield holds_everywhere(where, asked, total < ZERO, beside, "true")
        asked, beside = f"share below {NEAR}, own read-out", f"; median {np.median(own):.2f}"
        yield holds_everywhere(where, asked, own < NEAR, beside, "useful")
        yield not_zero(f"{where}, Σf ≠ 0", own)


def not_zero(where: str, share: np.ndarray) -> Finding:
    beside = f"; median {np.median(share):.2f}, least {share.min():.0e}"
    return holds_everywhere(where, f"share above {ZERO:.0e}", share > ZERO, beside, "control")
