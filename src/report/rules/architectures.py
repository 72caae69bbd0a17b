"""Claims about other networks than the paper's, written before these were trained."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiment import target_linearity
from lab.results import Result
from report.lookup import lookup
from report.rules.training import SPLITS
from report.verdicts import Finding, above, all_above, claim, interval, means

ARCHITECTURES = ("resnet", "transformer")
SETTINGS: dict[str, Any] = {"optimizer": "adam", "epochs": 12}  # of their runs
LAST = 3  # epochs whose mean stands for the end
# layers whose TL can change: the transformer's first, its embedding, is linear in the pixels
LEARNS = {"resnet": slice(None), "transformer": slice(1, None)}


@claim(
    "TL rises with depth in a ResNet and a transformer",
    "in a residual network and in a transformer with patches Target Linearity rises in training, "
    "and with depth",
    source="ours, beside sections 4.3 and B.5 (claims 3 and 27), which are about MLPs",
    figures=("4",),
    rule="the paper has no such sentence: its figures are of MLPs",
    ours=f"CIFAR, Adam, {SETTINGS['epochs']} epochs, in each of the two networks, on the training "
    "set and, less chance, on the test set: TL of the residual stream, averaged over positions, "
    f"ends above its start in every layer and (mean of the last {LAST} epochs) is higher from each "
    "layer to the next. The transformer's embedding is linear in the pixels, and its TL theirs "
    "whatever is learnt: it is a layer of the second question alone. Control: depth alone may do "
    "so in a network that is not trained, so TL "
    "must rise more from the first layer to the last at the end than before training",
)
def depth(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for architecture in ARCHITECTURES:
        runs = lookup(target_linearity, root, scale, architecture=architecture, **SETTINGS)
        if not runs and scale == "paper":
            yield Finding(architecture, "TL rises with training and depth", part="ours")
        for run in runs:
            yield from depth_findings(run)


def depth_findings(run: Result) -> Iterator[Finding]:
    """The findings of one network on one data set."""
    learns = LEARNS[run.config["architecture"]]
    for split, what in (("train", "TL"), ("test", "TL above chance")):
        where = f"{run.label}, {run.config['architecture']}, {SPLITS[split]}"
        tl = run[f"{split}_tl"]  # (seed, epoch, layer)
        tl = tl - run["test_chance"] if split == "test" else tl
        start, end = tl[:, 0], tl[:, -LAST:].mean(1)
        for asked, rise in (
            (f"{what} rises in every layer", (end - start)[:, learns]),
            (f"{what} rises by layer", np.diff(end, axis=-1)),
        ):
            outcome, deciding = all_above(rise)
            number = f"{deciding.text(3)}; by layer {means(end, '.3f')}"
            yield Finding(where, asked, number, outcome, deciding.seeds, "ours")
        more = interval((end[:, -1] - end[:, 0]) - (start[:, -1] - start[:, 0]))
        number = f"{more.text(3)}; before training by layer {means(start, '.3f')}"
        asked = f"{what} rises more from the first layer to the last than before training"
        yield Finding(where, asked, number, above(more, 0), more.seeds, "control")
