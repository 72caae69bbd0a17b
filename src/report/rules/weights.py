"""Claims about what weights learn: the virtual update, the Virtual Covariance."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiment import gram_virtual_covariance, swissroll
from lab.results import Result
from report.lookup import lookup
from report.rules.statements import networks
from report.verdicts import (
    Finding,
    Part,
    above,
    all_above,
    all_below,
    claim,
    interval,
    means,
)

STRAIGHT = 0.9  # R² of a straightened roll
LAST = 50  # epoch of Figure 1's last frame


@claim(
    "the Swiss roll unrolls along the target",
    "the virtual update unrolls a Swiss roll along the target",
    source="sections 1 and 3, Figure 1",
    figures=("1",),
    rule=f"at epoch {LAST} the linear R² of the virtual points against the target is above that of "
    f"the points themselves, and above {STRAIGHT}",
    ours="control: gradients of a network that is never trained straighten the roll less",
)
def swiss_roll(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in lookup(swissroll, root, scale):
        r2, frozen = run["r2"], run["r2_frozen"]  # (seed, epoch)
        epoch, seeds = min(LAST, r2.shape[1] - 1), len(r2)
        end, rise = interval(r2[:, epoch]), interval(r2[:, epoch] - r2[:, 0])
        number = f"{rise.text()}, from {r2[0, 0]:.2f}"
        yield Finding(run.label, "R² rises", number, above(rise, 0), seeds)
        number = f"{end.text(3)}; {(r2[:, epoch] > STRAIGHT).sum()} of {seeds} seeds"
        yield Finding(run.label, f"R² above {STRAIGHT}", number, above(end, STRAIGHT), seeds)
        more = interval(r2[:, epoch] - frozen[:, epoch])
        never = interval(frozen[:, epoch]).text(3)
        number = f"{more.text(3)}; never trained {never}, above {STRAIGHT} for "
        number += f"{(frozen[:, epoch] > STRAIGHT).sum()} of {seeds} seeds"
        asked = "R² above that with a never-trained network's gradients"
        yield Finding(run.label, asked, number, above(more, 0), seeds, part="control")


ADAPTED = 0.05  # share of its norm by which a matrix moves whose contours are seen to move


def gram_change(run: Result, epoch: int) -> np.ndarray:
    """‖W₁ᵀW₁ − its value before training‖ / ‖its value before training‖ at an epoch, (seed,)."""
    gram = run["gram"]  # (seed, epoch, row, column)
    change = np.linalg.norm(gram[:, epoch] - gram[:, 0], axis=(1, 2))
    return change / np.linalg.norm(gram[:, 0], axis=(1, 2))


@claim(
    "the contours of WᵀW adapt",
    "the contours of WᵀW adapt along with the unrolling of the Swiss roll",
    source="section 3, Figure 1",
    figures=("1",),
    rule=f"W₁ᵀW₁ moves by more than {ADAPTED} of its norm from the start to epoch {LAST}: by less "
    "a contour's radius changes by under 2.5 %, which no picture shows",
    ours="the same to the last epoch",
)
def contours(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in lookup(swissroll, root, scale):
        last = run["gram"].shape[1] - 1
        parts: dict[int, Part] = {last: "ours"} | {min(LAST, last): "paper"}
        for epoch, part in sorted(parts.items()):
            share = gram_change(run, epoch)
            moved = interval(share)
            number = f"{moved.text(4)}; {share.min():.4f} to {share.max():.4f}"
            asked = f"W₁ᵀW₁ moves by more than {ADAPTED} to epoch {epoch}"
            outcome = above(moved, ADAPTED)
            yield Finding(run.label, asked, number, outcome, moved.seeds, part)


APART = 0.5  # relative difference of two matrices that are not near each other
IDENTITY = 1e-10  # residual of an identity in float64
SLOPE = 0.8  # of a relative error against the rate; 1 is first order, more falls faster
ALIGNED = 0.99  # cosine of the two changes at the smallest rate


@claim(
    "Feature Learning Equation and Theorem 1",
    "the Feature Learning Equation is exact, and the Gram's change is the Virtual Covariance's up "
    "to a term of second order in the rate",
    source="Equations 1 and 2, Theorem 1",
    figures=("gram", "statements"),
    rule=f"true: in float64 the equation's residual is below {IDENTITY:.0e} in every measurement; "
    "the relative difference of the two changes falls with the rate with a slope above "
    f"{SLOPE} between the two smallest rates, in every layer, at the end of training of one length "
    "(steps × rate), and of single steps, of MLPs and of a CNN, at every moment of training. "
    f"Tight: at the smallest rate the cosine of the two changes is above {ALIGNED}. Useful: at "
    f"the largest rate that was trained with, their relative difference is below {APART}",
    ours="none is needed for an identity; the second half is for plain gradient descent, and "
    "claim 12 shows how far apart the two are at the rate of Figure 7",
)
def gram_movement(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    if figure == "statements":
        yield from single_steps(root, scale)
        return
    for run in lookup(gram_virtual_covariance, root, scale):
        size = run.config["batch_size"]
        where = f"{run.label}, {'full batch' if size is None else f'batches of {size}'}"
        residual = run["residual"].max()
        outcome = "met" if residual < IDENTITY else "not met"
        number = f"{residual:.0e} in {run['residual'].size} measurements"
        asked = f"largest residual below {IDENTITY:.0e}"
        yield Finding(where, asked, number, outcome, part="true")
        order, last = np.argsort(run["rate"]), run["relative_error"][:, :, -1]
        smallest, largest = order[0], order[-1]
        error = np.log(last[order[:2]])  # (rate, seed, layer)
        slopes = np.diff(error, axis=0)[0] / np.diff(np.log(run["rate"][order[:2]]))
        outcome, deciding = all_above(slopes, SLOPE)
        number = f"{deciding.text()}; by layer {means(slopes)}"
        yield Finding(where, f"slope above {SLOPE}", number, outcome, deciding.seeds, "true")
        outcome, deciding = all_above(run["cosine_vc"][smallest, :, -1], ALIGNED)
        asked = f"cosine at rate {run['rate'][smallest]:g} above {ALIGNED}"
        yield Finding(where, asked, deciding.text(4), outcome, deciding.seeds, "tight")
        outcome, deciding = all_below(last[largest], APART)
        number = f"{deciding.text(3)}; by layer {means(last[largest], '.3f')}"
        asked = f"relative difference at rate {run['rate'][largest]:g} below {APART}"
        yield Finding(where, asked, number, outcome, deciding.seeds, "useful")


def single_steps(root: Path, scale: str) -> Iterator[Finding]:
    """The slope of one step's relative error against the rate, at every moment of training."""
    for where, run in networks(root, scale):
        order = np.argsort(run["rate"])[:2]
        error = np.log(run["one_step_error"][:, :, order])  # (seed, epoch, rate, layer)
        slopes = np.diff(error, axis=2)[:, :, 0] / np.diff(np.log(run["rate"][order]))
        outcome, deciding = all_above(slopes.reshape(len(slopes), -1), SLOPE)
        asked = f"one step: slope above {SLOPE}"
        number = f"{deciding.text()}; mean {slopes.mean():.3f}"
        yield Finding(where, asked, number, outcome, deciding.seeds, "true")
