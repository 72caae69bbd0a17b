"""Claims about what weights learn: the virtual update, the Virtual Covariance, whitening."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from experiment import (
    gram_virtual_covariance,
    statements,
    swissroll,
    whiten,
    whiten_cnn,
)
from lab.results import Result
from report.lookup import lookup
from report.verdicts import (
    EQUIVALENCE_LEVEL,
    Finding,
    Part,
    above,
    all_above,
    below,
    claim,
    interval,
    means,
    paired,
    within,
)

STRAIGHT = 0.9  # R² of a straightened roll


@claim(
    "the virtual update unrolls a Swiss roll along the target",
    source="section 1, Figure 1",
    figures=("1",),
    rule="at epoch 50 the linear R² of the virtual points against the target is above that of the "
    f"points themselves, and above {STRAIGHT}",
    ours="gradients of a network that is never trained: the trained network's R² is higher",
)
def swiss_roll(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in lookup(swissroll, root, scale):
        r2, frozen = run["r2"], run["r2_frozen"]  # (seed, epoch)
        epoch, seeds = min(50, r2.shape[1] - 1), len(r2)
        end, rise = interval(r2[:, epoch]), interval(r2[:, epoch] - r2[:, 0])
        number = f"{rise.text()}, from {r2[0, 0]:.2f}"
        yield Finding(run.label, "R² rises", number, above(rise, 0), seeds)
        number = f"{end.text()}; {(r2[:, epoch] > STRAIGHT).sum()} of {seeds} seeds"
        yield Finding(run.label, f"R² above {STRAIGHT}", number, above(end, STRAIGHT), seeds)
        more = interval(r2[:, epoch] - frozen[:, epoch])
        number = f"{more.text()}; never trained {interval(frozen[:, epoch]).text()}"
        asked = "R² above that with a never-trained network's gradients"
        yield Finding(run.label, asked, number, above(more, 0), seeds, part="control")


RATE = 0.01  # of the figures
MARGIN = 0.05  # share of the error rate by which two methods that match may differ
PROJECTIONS = {"exact": "exact", "newton_schulz": "as published"}


def accuracy(run: Result) -> np.ndarray:
    """Final test accuracy in per cent (seed,)."""
    return 100 * run["test_accuracy"][:, -1]


def arms(script: ModuleType, root: Path, scale: str) -> dict[str, dict[str, dict[float, Result]]]:
    """Data set -> method -> rate -> result."""
    table: dict[str, dict[str, dict[float, Result]]] = {}
    for run in lookup(script, root, scale):
        rates = table.setdefault(run.label, {}).setdefault(run.config["method"], {})
        rates[run.config["learning_rate"]] = run
    return {label: table[label] for label in sorted(table)}


def best(rates: dict[float, Result]) -> Result | None:
    """The result with the highest mean final test accuracy, where there is more than one rate."""
    return max(rates.values(), key=lambda run: accuracy(run).mean()) if len(rates) > 1 else None


def gain(run: Result) -> np.ndarray:
    """Final test accuracy over that before training (seed,)."""
    return run["test_accuracy"][:, -1] - run["test_accuracy"][:, 0]


def match(
    figure: str, asked: str, first: Result, second: Result | None, part: Part = "paper"
) -> Finding:
    """Whether the first matches the second: is as good or better, or in Figure 6 neither."""
    if second is None:
        return Finding(first.label, asked, part=part)
    error = 100 - accuracy(second).mean()
    margin = MARGIN * error
    number = interval(np.subtract(*paired(first, second, accuracy)), EQUIVALENCE_LEVEL)
    is_equal = figure == "6"
    outcome = within(number, -margin, margin) if is_equal else above(number, -margin)
    rates = [run.config["learning_rate"] for run in (first, second)]
    limit = f"within ±{margin:.2f}" if is_equal else f"above −{margin:.2f}"
    text = f"{number.text()} (90 %) points, to be {limit}; error rate {error:.2f} %"
    if rates[0] != rates[1]:
        text += f"; rates {rates[0]:g} and {rates[1]:g}"
    return Finding(first.label, asked, text, outcome, number.seeds, part)


@claim(
    "training with only the part of each update that changes the Gram matrix matches or exceeds "
    "plain training; on a CNN the difference is negligible",
    source="section 2, Figures 2 and 6",
    figures=("2", "6"),
    rule=f"at rate {RATE:g}, for either projection, and at each method's best rate (chosen on the "
    "test set, alike for both), final test accuracy, whitened − plain, paired by seed, is above "
    f"minus {100 * MARGIN:g} % of plain's error rate (Figure 2), or within ± that (Figure 6), by "
    "one-sided tests at 5 %. A share of the errors is the same demand on every data set: it is "
    "0.1 points on MNIST and 2.4 on CIFAR-10, where half a point is a quarter of MNIST's errors "
    "and a hundredth of CIFAR-10's",
    ours="whitened steps are shorter than plain ones: against plain steps scaled, layer by "
    "layer and step by step, to the whitened step's length (step-matched), by the same margin",
)
def whitening(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for methods in arms({"2": whiten, "6": whiten_cnn}[figure], root, scale).values():
        plain, exact, matched = (methods.get(m, {}) for m in ("plain", "exact", "step_matched"))
        for method, name in PROJECTIONS.items():
            if RATE in plain and RATE in methods.get(method, {}):
                asked = f"whitened ({name}) − plain at rate {RATE:g}"
                yield match(figure, asked, methods[method][RATE], plain[RATE])
        if best(plain) and best(exact):
            asked = "whitened (exact) − plain, each at its best rate"
            yield match(figure, asked, best(exact), best(plain))
        if RATE in exact:
            asked = f"whitened (exact) − step-matched at rate {RATE:g}"
            yield match(figure, asked, exact[RATE], matched.get(RATE), part="control")
        if best(exact):
            asked = "whitened (exact) − step-matched, each at its best rate"
            yield match(figure, asked, best(exact), best(matched), part="control")


LITTLE = 0.1  # share of plain training's gain in accuracy


@claim(
    "the part of each update that whitening drops contributes little to feature learning",
    source="section 2, Figures 2 and 6",
    figures=("2", "6"),
    rule="trained by the dropped part alone (the complement: V W, V the orthogonal matrix that "
    "brings it nearest to the plain step), a network gains in test accuracy over its untrained "
    f"self less than {100 * LITTLE:g} % of what plain training gains, at rate {RATE:g} and at "
    "plain's best rate",
    ours="biases are no part of the projection and take plain steps in every arm: the share by "
    "which the complement passes biases that are trained alone",
)
def residual(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for label, methods in arms({"2": whiten, "6": whiten_cnn}[figure], root, scale).items():
        plain, complement, biases = (
            methods.get(method, {}) for method in ("plain", "complement", "biases")
        )
        at_best = {best(plain).config["learning_rate"]} if best(plain) else set()
        for rate in sorted(({RATE} | at_best) & plain.keys()):
            asked = f"the complement's share of plain's gain below {LITTLE} at rate {rate:g}"
            if rate not in complement:
                yield Finding(label, asked)
                continue
            share = interval(np.divide(*paired(complement[rate], plain[rate], gain)))
            ends = (f"{accuracy(runs[rate]).mean():.1f}" for runs in (complement, plain))
            number = f"{share.text()}; test accuracy {' and '.join(ends)} %"
            yield Finding(label, asked, number, below(share, LITTLE), share.seeds)
            asked = f"beyond biases alone, the complement's share below {LITTLE} at rate {rate:g}"
            if rate not in biases:
                yield Finding(label, asked, part="control")
                continue
            more = np.subtract(*paired(complement[rate], biases[rate], accuracy)) / 100
            share = interval(more / paired(plain[rate], biases[rate], gain)[0])
            number = f"{share.text()}; biases alone {accuracy(biases[rate]).mean():.1f} %"
            outcome = below(share, LITTLE)
            yield Finding(label, asked, number, outcome, share.seeds, part="control")


IDENTITY = 1e-10  # residual of an identity in float64
SLOPE = 0.8  # of a relative error against the rate; 1 is first order, more falls faster
ALIGNED = 0.99  # cosine of the two changes at the smallest rate


@claim(
    "the Feature Learning Equation is exact, and the Gram's change is the Virtual Covariance's up "
    "to a term of second order in the rate",
    source="Equations 1 and 2, Theorem 1",
    figures=("gram", "statements"),
    rule=f"in float64 the equation's residual is below {IDENTITY:.0e} in every measurement; at the "
    "end of training of one length (steps × rate) the relative difference of the two changes "
    f"falls with the rate with a slope above {SLOPE} between the two smallest rates, in every "
    f"layer, and their cosine at the smallest is above {ALIGNED}; of single steps, of MLPs and of "
    "a CNN, the relative difference falls with such a slope at every moment of training",
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
        yield Finding(where, f"largest residual below {IDENTITY:.0e}", number, outcome)
        order = np.argsort(run["rate"])[:2]
        error = np.log(run["relative_error"][order, :, -1])  # (rate, seed, layer)
        slopes = np.diff(error, axis=0)[0] / np.diff(np.log(run["rate"][order]))
        outcome, deciding = all_above(slopes, SLOPE)
        number = f"{deciding.text()}; by layer {means(slopes)}"
        yield Finding(where, f"slope above {SLOPE}", number, outcome, deciding.seeds)
        outcome, deciding = all_above(run["cosine_vc"][order[0], :, -1], ALIGNED)
        asked = f"cosine at rate {run['rate'].min():g} above {ALIGNED}"
        yield Finding(where, asked, deciding.text(4), outcome, deciding.seeds)


def single_steps(root: Path, scale: str) -> Iterator[Finding]:
    """The slope of one step's relative error against the rate, at every moment of training."""
    for run in lookup(statements, root, scale):
        order = np.argsort(run["rate"])[:2]
        error = np.log(run["one_step_error"][:, :, order])  # (seed, epoch, rate, layer)
        slopes = np.diff(error, axis=2)[:, :, 0] / np.diff(np.log(run["rate"][order]))
        outcome, deciding = all_above(slopes.reshape(len(slopes), -1), SLOPE)
        where, asked = f"{run.label}, {run.config['network']}", f"one step: slope above {SLOPE}"
        number = f"{deciding.text()}; mean {slopes.mean():.3f}"
        yield Finding(where, asked, number, outcome, deciding.seeds)
