"""Claims of ours about steps and scales of training, written before the runs at the paper's scale.

The step that gives the Gram matrix the shift itself, and lazy or rich training by width. Both had
been tried on digits at quick scale.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from experiment import covariance_learning, parametrisation
from lab.results import Result
from report.lookup import lookup
from report.verdicts import Finding, above, below, claim, interval, paired

Runs = dict[str, dict[float, Result]]  # method or parametrisation -> rate or width -> result


def by_setting(runs: Sequence[Result], name: str, value: str) -> dict[str, Runs]:
    """Data set -> the value of one setting -> that of another -> result."""
    found: dict[str, Runs] = {}
    for run in runs:
        of_label = found.setdefault(run.label, {})
        of_label.setdefault(run.config[name], {})[run.config[value]] = run
    return found


def best(rates: dict[float, Result], epoch: int) -> Result:
    """Of the rate whose mean test accuracy is highest after an epoch; none where one diverged."""

    def accuracy(run: Result) -> float:
        return float(np.nan_to_num(run["test_accuracy"][:, epoch].mean(), nan=-np.inf))

    return max(rates.values(), key=accuracy)


@claim(
    "weights set from the covariance learn faster",
    "weights that are set from the wanted covariance need one or two epochs where SGD needs more",
    source="ours; an abstract that came before the paper claims it of an algorithm that it does "
    "not give, where SGD needs ten to twenty",
    figures=("theories",),
    rule="the paper has no such sentence",
    ours="MNIST and CIFAR, Figure 2's MLP, each method at the rate at which its mean test accuracy "
    "is highest: after one epoch, and after two, that of the step that gives the Gram matrix the "
    "Virtual Covariance Shift itself (core/covariance_step.py) is above plain SGD's",
)
def covariance_steps(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    runs = by_setting(lookup(covariance_learning, root, scale), "method", "learning_rate")
    if not runs and scale == "paper":
        yield Finding("mnist, cifar10", "more accurate than SGD after an epoch", part="ours")
    for label, methods in runs.items():
        if len(methods) < 2:
            continue
        for epoch in (1, 2):
            pair = [best(methods[method], epoch) for method in ("covariance", "plain")]
            ours, plain = paired(*pair, lambda run, e=epoch: 100 * run["test_accuracy"][:, e])
            gain = interval(ours - plain)
            rates = " and ".join(f"{run.config['learning_rate']:g}" for run in pair)
            number = f"{gain.text()} points; {ours.mean():.2f} and {plain.mean():.2f} %, rates "
            asked = f"covariance step − SGD above 0 after {epoch} epoch{'s' * (epoch > 1)}"
            yield Finding(label, asked, number + rates, above(gain, 0), gain.seeds, "ours")


LAZY = -0.25  # slope of log movement on log width; −1/2 is the theory's for NTK
ALIKE = 0.15  # size of a slope that stands for none


def slopes(widths: dict[float, Result], name: str) -> np.ndarray:
    """Of the logarithm of a last layer's array at the end on that of the width, (seed,)."""
    order = sorted(widths)
    values = np.array([widths[width][name][:, -1, -1] for width in order])  # (width, seed)
    return np.polyfit(np.log(order), np.log(values), 1)[0]


@claim(
    "NTK scaling is lazy, μP is not",
    "with more samples than units, features of the last layer move less the wider a network is in "
    "NTK parametrisation, and alike in μP",
    source="ours, beside section 4.2 and B.4 (claims 5 and 29), whose widest network has more "
    "units than samples",
    figures=("theories",),
    rule="the paper has no such sentence",
    ours="10,000 samples, widths 64 to 1,024: the slope of the logarithm of the relative movement "
    f"of the last hidden features on that of the width is below {LAZY} in NTK parametrisation "
    f"(theory: −1/2), and within ±{ALIKE} in μP. At the largest width Target Linearity of that "
    "layer ends higher in μP than in NTK parametrisation. Control: at the base width, where all "
    "agree, features move by more than a tenth",
)
def lazy_or_rich(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    runs = by_setting(lookup(parametrisation, root, scale), "parametrisation", "width")
    if not runs and scale == "paper":
        yield Finding("mnist, cifar10", "movement by width", part="ours")
    for label, kinds in runs.items():
        if not {"ntk", "mup"} <= kinds.keys() or len(kinds["ntk"]) < 2:
            continue
        number = interval(slopes(kinds["ntk"], "feature_change"))
        asked, outcome = f"NTK: slope below {LAZY}", below(number, LAZY)
        yield Finding(label, asked, number.text(3), outcome, number.seeds, "ours")
        of_mup = slopes(kinds["mup"], "feature_change")
        number, size = interval(of_mup), interval(np.abs(of_mup))
        asked, outcome = f"μP: slope within ±{ALIKE}", below(size, ALIKE)
        yield Finding(label, asked, number.text(3), outcome, number.seeds, "ours")
        widest = [max(kinds[kind].items())[1] for kind in ("mup", "ntk")]
        rich, lazy = paired(*widest, lambda run: run["tl"][:, -1, -1])
        gain = interval(rich - lazy)
        text = f"{gain.text(3)}; {rich.mean():.3f} and {lazy.mean():.3f}"
        asked = f"TL at width {widest[0].config['width']}, μP − NTK above 0"
        yield Finding(label, asked, text, above(gain, 0), gain.seeds, "ours")
        base = min(kinds["ntk"].items())[1]["feature_change"][:, -1, -1]
        number = interval(base)
        asked, outcome = "features at the base width move by more than 0.1", above(number, 0.1)
        yield Finding(label, asked, number.text(3), outcome, number.seeds, "control")
