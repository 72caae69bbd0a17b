"""Claims about wide (lazy) and narrow (rich) networks, and their moving target: Figure 8.

Here ŷ (f in section 4.2) is the output, y_OLS (f_OLS) the fit of the target y on the last hidden
features H, and K = HHᵀ. The network is that of the published code, which divides its output by
√width: the text calls the parametrisation standard.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from experiment import staircase
from lab.results import Result
from report.lookup import lookup
from report.verdicts import Finding, Part, above, below, claim, interval, paired

NARROW = (32, 128)  # the paper's rich networks; its lazy one is the widest
SHARE = 0.9  # of the loss's fall, above which it is the output that moves to y_OLS
HELD = 0.1  # share of the first loss within which y_OLS stays, or lies near y
IMPROVED = 0.8  # share of its start below which a square has fallen "substantially"


def by_width(root: Path, scale: str) -> list[Result]:
    """Results in the order of their widths, where there are a narrow and a wide network."""
    runs = sorted(lookup(staircase, root, scale), key=lambda run: run.config["width"])
    return runs if len(runs) > 1 else []


def narrow_of(runs: Sequence[Result]) -> list[Result]:
    return [run for run in runs if run.config["width"] in NARROW]


def few_features(runs: Sequence[Result]) -> list[Result]:
    """The widest network with fewer features than samples, where the widest of all has more."""
    if runs[-1].config["width"] < runs[-1].config["samples"]:
        return []
    return [run for run in runs[1:] if run.config["width"] < run.config["samples"]][-1:]


def finding(
    run: Result,
    asked: str,
    values: np.ndarray,
    threshold: float,
    *,
    is_above: bool = False,
    beside: str = "",
    part: Part = "paper",
) -> Finding:
    """Whether a number over draws is below (or above) a threshold, which stands behind `asked`."""
    number, where = interval(values), f"width {run.config['width']}"
    outcome = above(number, threshold) if is_above else below(number, threshold)
    asked = f"{asked} {'above' if is_above else 'below'} {threshold:g}"
    return Finding(where, asked, number.text(3) + beside, outcome, number.seeds, part)


def remains(run: Result, name: str) -> np.ndarray:
    """The last value of an array over its first (seed,)."""
    return run[name][:, -1] / run[name][:, 0]


def share(run: Result) -> np.ndarray:
    """How much of the fall of ‖y − ŷ‖² is that of ‖ŷ − y_OLS‖² (seed,)."""
    fall, of_all = (run[name][:, 0] - run[name][:, -1] for name in ("ols_distance", "loss"))
    return fall / of_all


def near(run: Result, name: str = "") -> np.ndarray:
    """The largest ‖y − y_OLS‖² of all epochs, over the first loss on the same samples (seed,)."""
    return run[f"{name}ols_error"].max(1) / run[f"{name}loss"][:, 0]


@claim(
    "lazy and rich: who moves, output or y_OLS",
    "in a wide (lazy) network y_OLS, the fit of the target on the last hidden features, is near "
    "the target and stays there while the output alone moves to it; in narrow (rich) ones both "
    "distances fall, and the loss ends lower",
    source="sections 4.2 and B.4, Figure 8",
    figures=("8",),
    rule="over draws, from the first epoch to the last. The widest network: the fall of "
    f"‖ŷ − y_OLS‖² is more than {SHARE} of the loss's, ‖y − y_OLS‖² is below {HELD} of the first "
    f"loss throughout, and y_OLS moves by less than {HELD} of it. Widths 32 and 128: ‖ŷ − y_OLS‖² "
    f"and ‖y − y_OLS‖² both fall to less than {IMPROVED} of their start (the norms by more than a "
    "tenth: B.4's \"substantially\"), and the loss ends below the widest's",
    ours="the output is divided by √width, as in the published code, which the text's standard "
    "parametrisation is not. Controls: with as many features as samples y_OLS is y for any "
    "features, so the same is asked of the widest network with fewer, and ‖y − y_OLS‖² of the "
    "widest on held-out samples (a few more samples than features leave little room as well)",
)
def lazy_and_rich(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    runs = by_width(root, scale)
    if not runs:
        return
    wide = runs[-1]
    asked = "share of the loss's fall that is ŷ → y_OLS"
    asked_near, held_out = "largest ‖y − y_OLS‖²", "largest ‖y − y_OLS‖² on held-out samples"
    samples = f"; {wide.config['samples']} samples"
    yield finding(wide, asked, share(wide), SHARE, is_above=True)
    yield finding(wide, asked_near, near(wide), HELD, beside=samples)
    moved = wide["ols_movement"][:, -1] / wide["loss"][:, 0]
    yield finding(wide, "movement of y_OLS", moved, HELD)
    yield finding(wide, held_out, near(wide, "held_out_"), HELD, part="control")
    for run in few_features(runs):
        options = {"beside": samples, "part": "control"}
        yield finding(run, asked, share(run), SHARE, is_above=True, **options)
        yield finding(run, asked_near, near(run), HELD, **options)
    for run in narrow_of(runs):
        for name, what in (("ols_distance", "‖ŷ − y_OLS‖²"), ("ols_error", "‖y − y_OLS‖²")):
            yield finding(run, f"{what} at the end, of its start,", remains(run, name), IMPROVED)
        ends = paired(run, wide, lambda result: result["loss"][:, -1])
        beside = f"; {ends[0].mean():.3f} and {ends[1].mean():.3f}"
        text = f"loss at the end less width {wide.config['width']}'s"
        yield finding(run, text, np.subtract(*ends), 0, beside=beside)


FROZEN = 0.5  # share of their norm by which features that "freeze" move, or less


@claim(
    "wide networks' features freeze",
    "in wide networks the features freeze",
    source="sections 4.2 and B.4, Figure 8",
    figures=("8",),
    rule="the last hidden features of the widest network move by less than "
    f"{FROZEN:g} of their norm before training, ‖H − H_0‖ / ‖H_0‖ (half of it: a lenient reading)",
    ours="they move by less than the narrowest network's",
)
def frozen_features(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    runs = by_width(root, scale)
    if not runs:
        return
    narrow, wide = runs[0], runs[-1]
    moved = wide["feature_movement"][:, -1]
    beside = f"; {moved.min():.3f} to {moved.max():.3f}"
    yield finding(wide, "movement of the features", moved, FROZEN, beside=beside)
    ends = paired(wide, narrow, lambda result: result["feature_movement"][:, -1])
    beside = f"; {ends[0].mean():.3f} and {ends[1].mean():.3f}"
    text = f"movement of the features less width {narrow.config['width']}'s"
    yield finding(wide, text, np.subtract(*ends), 0, beside=beside, part="ours")


HELD_BACK = 0.5  # share of the last loss


@claim(
    "initial features hold lazy networks back",
    "a lazy network is held back by what its initial features can express",
    source="section B.4, Figure 8",
    figures=("8",),
    rule="what the widest network's initial features cannot express, ‖y − y_OLS‖² before training, "
    f"is more than {HELD_BACK} of the loss that it ends with, ‖y − ŷ‖²",
    ours="the same of the widest network with fewer features than samples, and of the widest on "
    "samples held out, on which y_OLS does not interpolate",
)
def held_back(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    runs = by_width(root, scale)
    for run in [*runs[-1:], *(few_features(runs) if runs else [])]:
        first, last = run["ols_error"][:, 0], run["loss"][:, -1]
        part: Part = "paper" if run is runs[-1] else "ours"
        asked = "‖y − y_OLS‖² before training over the last loss"
        norms = np.sqrt(run.config["samples"] * np.array([first.mean(), last.mean()]))
        beside = f"; norms {norms[0]:.1f} and {norms[1]:.1f}"
        options = {"is_above": True, "beside": beside, "part": part}
        yield finding(run, asked, first / last, HELD_BACK, **options)
    for run in runs[-1:]:
        values = run["held_out_ols_error"][:, 0] / run["held_out_loss"][:, -1]
        asked = "the same on held-out samples"
        yield finding(run, asked, values, HELD_BACK, is_above=True, part="ours")


CHASED = 0.5  # of its start, below which a distance has closed


@claim(
    "the output follows a moving target",
    "the output follows a moving target: it approaches y_OLS in the norm of the kernel K = HHᵀ, "
    "while in rich networks y_OLS approaches the target",
    source="section 4.2",
    figures=("8",),
    rule=f"‖ŷ − y_OLS‖_K / ‖y‖_K ends below {CHASED} of its start in the widest network and at "
    f"widths 32 and 128, where ‖y − y_OLS‖² ends below {IMPROVED} of its start. ‖y − y_OLS‖_K = 0, "
    "which the text adds, are the normal equations and cannot fail",
    ours="nothing more is asked. K is that of the epoch, and so is the ‖y‖_K that takes its scale "
    "out. But for the ridge ‖ŷ − y_OLS‖_K is ‖ŷ − y‖_K, by the normal equations, and that is the "
    "size of the read-out's gradient",
)
def moving_target(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    runs = by_width(root, scale)
    narrow = narrow_of(runs)
    for run in [*narrow, *runs[-1:]]:
        asked = "‖ŷ − y_OLS‖_K / ‖y‖_K at the end, of its start,"
        if "kernel_distance" not in run.arrays:
            yield Finding(f"width {run.config['width']}", f"{asked} below {CHASED:g}")
            continue
        relative = np.sqrt(run["kernel_distance"] / run["kernel_target"])[:, [0, -1]]
        beside = "; {:.3f} → {:.3f}".format(*relative.mean(0))
        yield finding(run, asked, relative[:, 1] / relative[:, 0], CHASED, beside=beside)
    for run in narrow:
        asked = "‖y − y_OLS‖² at the end, of its start,"
        yield finding(run, asked, remains(run, "ols_error"), IMPROVED)
