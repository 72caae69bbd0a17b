"""Claims of ours about what theories expect of one network, written before the runs at paper scale.

The script had been tried on digits at quick scale.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from experiment import theories
from lab.results import Result
from report.lookup import lookup
from report.rules.generalisation import rank_correlation
from report.verdicts import Finding, above, all_above, below, claim, interval, means

# array -> what WᵀW is expected to be near to
RELATIONS = {
    "summed_shift": "ΣVCS",
    "agop": "AGOP",
    "fact": "FACT",
    "rwa_in": "HᵀH",
}
FOLLOWS = 0.9  # cosine of the Gram's change and the summed shift


def named(run: Result) -> str:
    return f"{run.label}, {run.config['network']}"


def of_images(runs: Sequence[Result]) -> list[Result]:
    return [run for run in runs if not run.config["kind"].startswith("addition")]


def not_run(runs: Sequence[Result], scale: str, asked: str) -> Iterator[Finding]:
    """At the paper's scale it is said where there are no results."""
    if not runs and scale == "paper":
        yield Finding("networks of images", asked, part="ours")


@claim(
    "ΣVCS is nearest to WᵀW",
    "of what theories expect the weight Gram matrix to be near to, the Virtual Covariance Shift "
    "summed over training is nearest: nearer than the average gradient outer product (AGOP, the "
    "Neural Feature Ansatz), FACT's −AᵀH and the features' HᵀH (Canonical Representation "
    "Hypothesis)",
    source="ours, beside section 5.2 and B.3 (claim 12), which compare the first two on diagonals",
    figures=("theories",),
    rule="the paper has no such sentence",
    ours="Frobenius cosines with WᵀW, in every layer but the last, where the AGOP is WᵀW by "
    "construction, of each network: at the end of training that with the summed shift is above "
    "each of the other three in every layer; and averaged over these layers it is so at each "
    "measured epoch from the first on. Control: the start takes no part in the sum, so the "
    f"change of WᵀW since then has a cosine with it above {FOLLOWS} in every layer",
)
def nearest(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    runs = lookup(theories, root, scale)
    yield from not_run(runs, scale, "cosines with WᵀW")
    for run in runs:
        cosines = {name: run[name][:, 1:, :-1] for name in RELATIONS}  # (seed, epoch, layer)
        own = cosines.pop("summed_shift")
        for name, other in cosines.items():
            outcome, deciding = all_above(own[:, -1] - other[:, -1])
            pair = (means(values[:, -1], ".3f") for values in (own, other))
            number = f"{deciding.text(3)}; by layer {' and '.join(pair)}"
            asked = f"cosine with ΣVCS above that with {RELATIONS[name]} in every layer"
            yield Finding(named(run), asked, number, outcome, deciding.seeds, "ours")
            outcome, deciding = all_above((own - other).mean(-1))
            pair = (means(values.mean(-1), ".3f") for values in (own, other))
            number = f"{deciding.text(3)}; by epoch {' and '.join(pair)}"
            asked = f"mean cosine with ΣVCS above that with {RELATIONS[name]} at every epoch"
            yield Finding(named(run), asked, number, outcome, deciding.seeds, "ours")
        change = run["change_shift"][:, -1]
        outcome, deciding = all_above(change, FOLLOWS)
        number = f"{deciding.text(3)}; by layer {means(change, '.3f')}"
        asked = f"cosine of the change of WᵀW and ΣVCS above {FOLLOWS} in every layer"
        yield Finding(named(run), asked, number, outcome, deciding.seeds, "control")


STRAIGHT = 0.95  # size of a correlation with the layer's index that stands for a straight line
LAWS = {  # array -> its name, and the sign of its slope
    "unexplained": ("1 − TL", -1),
    "separation": ("tr(Σ_W Σ_B⁺)", -1),
    "compression": ("tr Σ_W / tr Σ_B", -1),
    "discrimination": ("1 − max cos", 1),
}


def by_depth(run: Result, name: str, epoch: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the layers of a law of depth, and its values (seed, layer).

    An MLP's pixels are the first point. Those of other networks, averaged over positions, are none,
    nor are features inside of a residual block.
    """
    values = 1 - run["tl"] if name == "unexplained" else run[name]
    layers = [i for i, layer in enumerate(run["name"]) if not layer.endswith("convolutions.1")]
    layers = layers if run.config["kind"] == "mlp" else layers[1:]
    return np.arange(len(layers)), values[:, epoch][:, layers]


def straightness(index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Correlation of each seed's values (seed, layer) with the index, (seed,)."""
    return np.array([np.corrcoef(index, row)[0, 1] for row in values])


@claim(
    "laws of depth: one factor a layer",
    "in trained networks 1 − TL, separation tr(Σ_W Σ_B⁺) and compression tr Σ_W / tr Σ_B fall by "
    "about one factor a layer, and discrimination rises by about one term; with random labels "
    "separation does not",
    source="ours; He and Su (arXiv 2210.17020, 2408.13442) and Wang et al. (2311.02960) state the "
    "laws, the last for deep linear networks",
    figures=("theories",),
    rule="the paper has no such sentence",
    ours="networks of images with true labels, at the end of training, over a layer's index: the "
    f"correlation of the logarithm is below −{STRAIGHT} and its square above that of the value "
    f"itself; of discrimination that of the value is above {STRAIGHT}. Control: with random labels "
    f"the correlation of separation's logarithm is above −{STRAIGHT}",
)
def laws(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    runs = of_images(lookup(theories, root, scale))
    yield from not_run(runs, scale, "laws of depth")
    for run in runs:
        if run.config["random_share"]:
            index, values = by_depth(run, "separation")
            number = interval(straightness(index, np.log(values)))
            asked = f"correlation of the logarithm of separation above −{STRAIGHT}"
            fitted = f"{run['train_accuracy'][:, -1].mean():.2f} of them are fitted"
            text = f"{number.text(3)}; {means(values, '.3g')}; {fitted}"
            outcome = above(number, -STRAIGHT)
            yield Finding(named(run), asked, text, outcome, number.seeds, "control")
            continue
        for name, (what, sign) in LAWS.items():
            index, values = by_depth(run, name)
            plain = straightness(index, values)
            if sign > 0:
                number = interval(plain)
                asked = f"correlation of {what} with depth above {STRAIGHT}"
                text = f"{number.text(3)}; {means(values, '.3g')}"
                outcome = above(number, STRAIGHT)
                yield Finding(named(run), asked, text, outcome, number.seeds, "ours")
                continue
            logarithm = straightness(index, np.log(values))
            number = interval(logarithm)
            asked = f"correlation of log {what} with depth below −{STRAIGHT}"
            text = f"{number.text(3)}; {means(values, '.3g')}"
            outcome = below(number, -STRAIGHT)
            yield Finding(named(run), asked, text, outcome, number.seeds, "ours")
            gain = interval(logarithm**2 - plain**2)
            asked = f"log {what} is nearer to a line than {what}"
            yield Finding(named(run), asked, gain.text(3), above(gain, 0), gain.seeds, "ours")


def partial_rank_correlation(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Spearman's of x and y (k,) where the ranks of a third are held fixed."""
    r = np.corrcoef([rankdata(values) for values in (x, y, given)])
    return (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))


@claim(
    "TL predicts generalisation beyond a linear probe",
    "Target Linearity of the last layer predicts generalisation beyond what a linear probe's "
    "accuracy on held-out samples says",
    source="ours, beside section 6 (claim 16), which has no such control",
    figures=("theories",),
    rule="the paper has no such sentence",
    ours="over networks of images and their measured epochs from the first on, once with the "
    "network of random labels and once without: the partial rank correlation of TL on training "
    "rows with test accuracy, given the accuracy of a least-squares probe of the last layer on "
    "other samples of the test set, is above 0; and the same of TL on those samples",
)
def beyond_probe(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    runs = of_images(lookup(theories, root, scale))
    yield from not_run(runs, scale, "predictors of generalisation")
    for label in sorted({run.label for run in runs}):
        every = [run for run in runs if run.label == label]
        true = [run for run in every if not run.config["random_share"]]
        for what, several in (("with random labels", every), ("true labels alone", true)):
            if len(several) > 2 and (what == "true labels alone" or len(every) > len(true)):
                yield from predictors(f"{label}, {len(several)} networks, {what}", several)


def predictors(where: str, runs: Sequence[Result]) -> Iterator[Finding]:
    shared = sorted(set.intersection(*(set(run["seed"].tolist()) for run in runs)))

    def over_runs(name: str) -> np.ndarray:
        """(seed, networks and epochs), of the last layer."""
        rows = []
        for run in runs:
            values = run[name][[run["seed"].tolist().index(seed) for seed in shared], 1:]
            rows.append(values[..., -1] if values.ndim == 3 else values)
        return np.concatenate(rows, 1)

    test, probe = over_runs("test_accuracy"), over_runs("probe_accuracy")
    alone = rank_correlation(probe, test).mean()
    for name, what in (("tl", "TL on training rows"), ("tl_held_out", "TL on held-out rows")):
        values = over_runs(name)
        partial = [partial_rank_correlation(*row) for row in zip(values, test, probe, strict=True)]
        number, plain = interval(np.array(partial)), rank_correlation(values, test).mean()
        text = f"{number.text()}; by itself {plain:.2f}, the probe {alone:.2f}"
        asked = f"partial rank correlation of {what} with test accuracy above 0"
        yield Finding(where, asked, text, above(number, 0), number.seeds, "ours")
