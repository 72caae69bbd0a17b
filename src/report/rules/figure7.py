"""Claims about Figure 7: what follows the weight Gram matrix, and what its change is made of."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from experiment import gram_parts, virtual_covariance
from lab.results import Result
from report.lookup import lookup
from report.plot import stand_in
from report.rules.statements import networks
from report.rules.weights import APART
from report.verdicts import (
    Finding,
    Part,
    above,
    all_below,
    below,
    claim,
    interval,
    paired,
    premise,
    within,
)

ABOUT = 0.05  # by which a correlation that is "about" the text's may differ


def part(run: Result) -> Part:
    """Whose verdict a run of plain SGD counts for: the paper's on CIFAR-10."""
    return "paper" if stand_in(run.label) == "cifar10" else "ours"


@claim(
    "Virtual Covariance follows the Gram better than AGOP",
    "the Virtual Covariance Shift, summed over training, follows the weight Gram matrix, and its "
    "update, better than the average gradient outer product (AGOP) does",
    source="sections 3 and B.3, Figure 7",
    figures=("7", "statements"),
    rule="CIFAR-10, plain SGD, input layer, last epoch, Pearson's ρ of the diagonals: that of WᵀW "
    f"and Σ VCS is within {ABOUT} of the text's 0.98, that of WᵀW and AGOP of its 0.71; the first "
    "is higher (B.3); so it is for ΔWᵀW in place of WᵀW (section 3)",
    ours="other data; whole matrices in place of diagonals; SGD with momentum and Adam, under "
    "which Theorem 1 need not hold. Control: both pictures show where images vary, and ρ does not "
    f"see lengths, so ‖ΔWᵀW − Σ VCS‖ / ‖Σ VCS‖ is to be below {APART}, here and in every layer "
    "over the first steps of the statements' networks. The last layer's ρ is not judged: its AGOP "
    "is WᵀW by construction",
)
def virtual_covariance_shift(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    if figure == "statements":
        yield from first_steps(root, scale)
        return
    runs = lookup(virtual_covariance, root, scale)
    for run in sorted(runs, key=lambda run: run.config["optimizer"] != "sgd"):
        if run.config["optimizer"] == "sgd":
            yield from quoted_correlations(run)
        yield from higher_correlations(run)


def quoted_correlations(run: Result) -> Iterator[Finding]:
    """The two correlations of Figure 7, and Theorem 1's error beside them."""
    quoted = {"Σ VCS": (0.98, "gram_vcs_diagonal"), "AGOP": (0.71, "gram_agop_diagonal")}
    for against, (value, name) in quoted.items():
        number = interval(run[name][:, -1, 0])  # input layer, last epoch
        outcome = within(number, value - ABOUT, value + ABOUT)
        asked = f"ρ of WᵀW and {against} about {value}"
        yield Finding(run.label, asked, number.text(3), outcome, number.seeds, part(run))
    error = interval(run["relative_error"][:, -1, 0])
    asked = f"‖ΔWᵀW − Σ VCS‖ / ‖Σ VCS‖ below {APART}"
    number = f"{error.text()}; rate {run.config['rate']:g}"
    yield Finding(run.label, asked, number, below(error, APART), error.seeds, "control")


def higher_correlations(run: Result) -> Iterator[Finding]:
    """Whether ρ with Σ VCS is above ρ with AGOP, in the input layer at the last epoch."""
    optimizer = run.config["optimizer"]
    where = run.label if optimizer == "sgd" else f"{run.label}, {optimizer}"
    for gram, symbol in {"gram": "WᵀW", "change": "ΔWᵀW"}.items():
        for entries, what in {"diagonal": "", "matrix": ", whole matrices"}.items():
            vcs, agop = (run[f"{gram}_{other}_{entries}"][:, -1, 0] for other in ("vcs", "agop"))
            more = interval(vcs - agop)
            asked = f"{symbol}{what}: ρ with Σ VCS above ρ with AGOP"
            number = f"{more.text(3)}; {vcs.mean():.3f} and {agop.mean():.3f}"
            is_papers = optimizer == "sgd" and entries == "diagonal"
            whose: Part = part(run) if is_papers else "ours"
            yield Finding(where, asked, number, above(more, 0), more.seeds, whose)


def first_steps(root: Path, scale: str) -> Iterator[Finding]:
    """How near ΔWᵀW and Σ VCS are after the first steps, under plain gradient descent."""
    for where, run in networks(root, scale):
        error = run["accumulated_error"][:, :, -1]  # (seed, optimizer, layer)
        optimizers = list(run["optimizer"])
        outcome, deciding = all_below(error[:, optimizers.index("plain")], APART)
        largest = (f"{name} {error[:, i].mean(0).max():.2g}" for i, name in enumerate(optimizers))
        number = f"{deciding.text(3)}; largest of a layer "
        number += f"after {run['step'][-1]} steps: {', '.join(largest)}"
        asked = f"‖ΔWᵀW − Σ VCS‖ / ‖Σ VCS‖ below {APART}"
        yield Finding(where, asked, number, outcome, deciding.seeds, part="control")


RATE, BATCH = 0.05, 64  # Figure 7's rate; the published code's batch size elsewhere
LONGER = 10  # epochs after which accuracy is near Figure 7's
PATTERN = 0.9  # ρ of two diagonals that have one pattern
SMALL = 0.1  # share of a trace that is not significant
ROUNDING = 1e-3  # relative, of float32 weights over training
MOST = 0.5  # share of the second-order term that is most of it


def share(run: Result) -> np.ndarray:
    """Of the second-order part in the trace of ΔWᵀW after the start, (seed, point − 1, layer).

    Above one where the shift's own trace is negative.
    """
    return np.abs(run["trace_second_order"][:, 1:] / run["trace_change"][:, 1:])


def settings(run: Result) -> str:
    hidden = run.config["depth"]
    layers = "" if hidden == 1 else f", {hidden} hidden layers"
    return (
        f"{run.label}, rate {run.config['rate']:g}, batches of {run.config['batch_size']}{layers}"
    )


def powers(runs: Sequence[Result], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exponents a and b of values ∝ γᵃ B⁻ᵇ by least squares of logarithms, each (seed,).

    Args:
        runs: of the same seeds.
        values: positive, (run, seed).

    Returns:
        nan for each seed where there are fewer than three runs, or all have one rate or batch size.
    """
    rows = [(np.log(r.config["rate"]), -np.log(r.config["batch_size"]), 1.0) for r in runs]
    if len(rows) < 3 or np.linalg.matrix_rank(rows) < 3:
        return (np.full(values.shape[1], np.nan),) * 2
    a, b, _ = np.linalg.lstsq(np.array(rows), np.log(values))[0]
    return a, b


def at_end(runs: Sequence[Result], name: str) -> np.ndarray:
    """Of the input layer at the last point, (run, seed)."""
    return np.array([run[name][:, -1, 0] for run in runs])


def law(runs: Sequence[Result]) -> tuple[np.ndarray, np.ndarray]:
    """Exponents of the ratio of traces, second order / shift, in the input layer at the end.

    Runs where the shift's trace is not positive in every seed are left out.
    """
    ratios = at_end(runs, "trace_second_order") / at_end(runs, "trace_vcs")
    kept = (ratios > 0).all(1)
    return powers([run for run, keep in zip(runs, kept, strict=True) if keep], ratios[kept])


@claim(
    "Figure 7's second-order part is small",
    "Theorem 1 holds, and the part of second order in the rate does not significantly affect the "
    "weight Gram matrix",
    source="section B.3, Figure 7",
    figures=("parts",),
    rule=f"CIFAR-10, plain SGD at Figure 7's rate {RATE}, batches of {BATCH} (the text states "
    f"none), one hidden layer, its input layer, after {LONGER} epochs where that was run. "
    f"Pattern: Pearson's ρ of the diagonals of ΔWᵀW and Σ VCS is above {PATTERN}. Size: of the "
    f"trace of ΔWᵀW the second-order part ΔWᵀW − Σ VCS is less than {SMALL}",
    ours="the same for other batch sizes at that rate and for two hidden layers; the ratio of the "
    "two traces grows with the rate and falls with the batch size, by exponents (of a power law "
    "over all rates and batch sizes) above 0. Controls: the parts add up to ΔWᵀW to "
    f"{ROUNDING:g}; the second-order part is not of what is learned: of Σγ²‖∂L/∂W‖² products of "
    f"successive steps' gradients make up less than {MOST} (noise; below zero steps undo one "
    f"another), and with labels permuted once it is more than {MOST} times as large",
)
def second_order(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    runs = lookup(gram_parts, root, scale)
    longer = {"epochs": LONGER, "rate": RATE, "batch_size": BATCH, "labels": "true"}
    main, deep = (lookup(gram_parts, root, scale, **longer, depth=depth) for depth in (1, 2))
    names = {run.name for run in main}
    yield from added_up([*runs, *main, *deep])
    true = [run for run in runs if run.config["labels"] == "true"]
    for run in (*main, *(r for r in true if r.config["rate"] == RATE and r.name not in names)):
        whose = part(run) if run.config["batch_size"] == BATCH else "ours"
        yield from pattern_and_size(run, whose)
    for run in deep:
        yield from pattern_and_size(run, "ours")
    for label in sorted({run.label for run in runs}):
        yield from growth([run for run in true if run.label == label])
        yield from noise([run for run in runs if run.label == label])


def added_up(runs: Sequence[Result]) -> Iterator[Finding]:
    """Whether what is judged is an identity."""
    for label in sorted({run.label for run in runs}):
        errors = [run["identity_error"][:, 1:].max() for run in runs if run.label == label]
        asked = f"the parts add up to ΔWᵀW, to {ROUNDING:g} of it"
        number = f"{max(errors):.0e} at most in {len(errors)} results"
        yield premise(label, asked, number, max(errors) < ROUNDING, len(runs[0]["seed"]))


def pattern_and_size(run: Result, whose: Part) -> Iterator[Finding]:
    where, epochs = settings(run), f"{run['point'][-1]:g} epochs"
    accuracy = f"test accuracy {100 * run['test_accuracy'][:, -1].mean():.1f} % after {epochs}"
    rho, other = (run[f"rho_{name}"][:, -1, 0] for name in ("vcs", "second_order"))
    number = interval(rho)
    text = f"{number.text(3)}; with the second-order part {other.mean():.3f}; {accuracy}"
    asked = f"pattern: ρ of ΔWᵀW and Σ VCS above {PATTERN}"
    yield Finding(where, asked, text, above(number, PATTERN), number.seeds, whose)
    number = interval(share(run)[:, -1, 0])
    traces = (run[f"trace_{name}"][:, -1, 0].mean() for name in ("change", "vcs", "second_order"))
    text = "{}; traces {:.2f} = {:.2f} + {:.2f}".format(number.text(3), *traces)
    asked = f"size: second-order share of the trace below {SMALL}"
    yield Finding(where, asked, text, below(number, SMALL), number.seeds, whose)


def growth(runs: Sequence[Result]) -> Iterator[Finding]:
    """The law of the ratio of the two traces."""
    if not runs:
        return
    moment = powers(runs, at_end(runs, "trace_moment"))
    names = ("the rate", "1 / batch size")
    for values, own, what in zip(law(runs), moment, names, strict=True):
        asked = f"second order / shift grows with {what}: exponent above 0"
        if np.isnan(values).any():
            yield Finding(runs[0].label, asked, part="ours")
            continue
        number = interval(values)
        text = f"{number.text()}; of Σγ²‖∂L/∂W‖² alone {interval(own).text()}"
        yield Finding(runs[0].label, asked, text, above(number, 0), number.seeds, "ours")


def noise(runs: Sequence[Result]) -> Iterator[Finding]:
    """Whether the second-order part is of what is learned, at Figure 7's rate."""
    papers = (r for r in runs if (r.config["rate"], r.config["batch_size"]) == (RATE, BATCH))
    at = {run.config["labels"]: run for run in papers}
    if "true" not in at:
        return
    true, where = at["true"], settings(at["true"])
    common = interval(true["trace_successive"][:, -1, 0] / true["trace_moment"][:, -1, 0])
    asked = f"what successive steps share of Σγ²‖∂L/∂W‖² below {MOST}"
    yield Finding(where, asked, common.text(3), below(common, MOST), common.seeds, "control")
    asked = f"Σγ²‖∂L/∂W‖² with permuted labels, over that with true ones, above {MOST}"
    if "shuffled" not in at:
        yield Finding(where, asked, part="control")
        return
    moments = paired(at["shuffled"], true, lambda run: run["trace_moment"][:, -1, 0])
    ratio = interval(np.divide(*moments))
    yield Finding(where, asked, ratio.text(), above(ratio, MOST), ratio.seeds, "control")
