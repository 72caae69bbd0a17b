"""A claim about training under weight decay: what Equation 1 becomes at rest."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiment import weight_decay
from lab.results import Result
from report.lookup import lookup
from report.verdicts import (
    Finding,
    Part,
    all_above,
    all_below,
    claim,
    means,
    not_applicable,
    premise,
)

REST = 0.1  # ‖∂L/∂W + λW‖ / ‖λW‖ at which training has come near to rest
NEAR = 0.1  # relative difference of two matrices that are near each other


@claim(
    "FACT from the Feature Learning Equation",
    "at rest under weight decay that is part of the loss the Feature Learning Equation is FACT: "
    "WᵀW = −(1/λ)(∂L/∂H)ᵀH",
    source="ours, from Equation 1; appendix A.1 cites FACT (Boix-Adserà et al., 2025) without this",
    figures=("decay",),
    rule="the paper does not say it",
    ours="full-batch gradient descent with momentum, at each λ at which it comes near to rest: "
    f"‖∂L/∂W + λW‖ is below {REST} of ‖λW‖ in every layer at the end. There the relative error of "
    f"FACT is below {NEAR} in every layer; and WᵀW has the higher cosine with FACT's matrix than "
    "with the average gradient outer product (AGOP, the Neural Feature Ansatz) in every layer but "
    "the last, where AGOP is WᵀW by construction; where it has not come near to rest, neither is "
    "asked. Controls: Adam with its decay in the loss is held to the same error, for the rescaling "
    "of its steps leaves stationary points where they are; AdamW's decay is not part of the loss, "
    f"and its error is above {NEAR} in every layer even at the λ that makes it least, √(1 − cos²)",
)
def fact(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in lookup(weight_decay, root, scale):
        for arm, optimizer in enumerate(run["optimizer"]):
            if optimizer == "adamw":
                yield decoupled(run, arm)
            else:
                yield from coupled(run, arm)


def place(run: Result, arm: int) -> str:
    """The data, the loss, the optimizer and its λ."""
    name = {"sgd": "gradient descent", "adam": "Adam", "adamw": "AdamW"}[run["optimizer"][arm]]
    loss = run.config["loss"].replace("_", "-")
    return f"{run.label}, {loss}, {name}, λ = {run['decay'][arm]:g}"


def coupled(run: Result, arm: int) -> Iterator[Finding]:
    """Of an arm whose decay is part of the loss, at the end of training."""
    where, is_control = place(run, arm), run["optimizer"][arm] != "sgd"
    part: Part = "control" if is_control else "ours"
    rest, error = (
        run[name][arm, :, -1] for name in ("stationarity", "fact_error")
    )  # (seed, layer)
    outcome, deciding = all_below(rest, REST)
    at_rest = outcome == "met"
    number = f"{deciding.text(3)}; by layer {means(rest, '.2g')}"
    asked = f"‖∂L/∂W + λW‖ / ‖λW‖ below {REST} in every layer"
    yield premise(where, asked, number, at_rest, deciding.seeds)
    outcome, deciding = all_below(error, NEAR)
    number = f"{deciding.text(3)}; by layer {means(error, '.2g')}"
    asked = f"relative error of FACT below {NEAR} in every layer"
    found = [Finding(where, asked, number, outcome, deciding.seeds, part)]
    if not is_control:
        cosines = [run[f"cosine_{name}"][arm, :, -1, :-1] for name in ("fact", "agop")]
        outcome, deciding = all_above(np.subtract(*cosines), 0)
        number = f"{deciding.text(3)}; by layer {' and '.join(means(c, '.3f') for c in cosines)}"
        asked = "cosine of WᵀW with FACT above that with AGOP in every layer but the last"
        found.append(Finding(where, asked, number, outcome, deciding.seeds, part))
    for finding in found:
        yield finding if at_rest else not_applicable(finding, "not near to rest")


def decoupled(run: Result, arm: int) -> Finding:
    """Of AdamW: FACT must not hold, whatever λ is put into it."""
    error, cosine = (run[name][arm, :, -1] for name in ("fact_error", "cosine_fact"))
    least = np.sqrt(1 - np.clip(cosine, 0, 1) ** 2)  # (seed, layer); 1 where no λ > 0 helps
    outcome, deciding = all_above(least, NEAR)
    number = f"{deciding.text(3)}; by layer {means(least)}; at its own λ {means(error)}"
    asked = f"relative error of FACT at the best λ above {NEAR} in every layer"
    return Finding(place(run, arm), asked, number, outcome, deciding.seeds, "control")
