"""What theories of feature learning expect of the same networks, side by side."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiment import theories
from lab.results import Result
from report import plot
from report.rules.theories import LAWS, RELATIONS, by_depth, named, of_images

COLUMNS = 4
# of the matrix, array -> row; the first four are those of the claim
ROWS = RELATIONS | {"gwa_in": "AᵀA", "shift": "VCS now"}
ABOUT = (
    "ΣVCS: the Virtual Covariance Shift (this paper) of the gradient, whatever the optimizer, to "
    "first order, summed over all steps; AGOP: the Neural Feature Ansatz; FACT: −AᵀH of the whole "
    "training set; HᵀH and AᵀA: the Canonical Representation Hypothesis; VCS now: −(AᵀH + HᵀA) at "
    "this moment."
)


def in_order(runs: Sequence[Result]) -> list[Result]:
    """Results in the order of the script's networks."""
    return sorted(runs, key=lambda run: list(theories.NETWORKS).index(run.config["network"]))


def _panels(runs: Sequence[Result], height: float) -> tuple[Figure, np.ndarray]:
    """An axes a result, the others switched off."""
    rows, columns = -(-len(runs) // COLUMNS), min(COLUMNS, len(runs))
    # title and notes take an inch, and 9 to be set in
    size = {"width": max(3.3, 9 / columns), "height": height + 1 / rows}
    figure, axes = plot.grid(rows, columns, **size)
    for ax in axes.flat[len(runs) :]:
        ax.set_axis_off()
    return figure, axes


def _settings(runs: Sequence[Result]) -> str:
    """Epochs of each network, what else is not its own setting, and what names mean."""
    networks: dict[str, dict[str, None]] = {}
    for run in runs:
        name = run.config["network"]
        own = dataclasses.asdict(theories.NETWORKS[name])
        changed = {k: f" ({own[k]})" for k in own if run.config.get(k, own[k]) != own[k]}
        values = [f"{k} {run.config[k]}{changed.get(k, '')}" for k in {"epochs": None} | changed]
        networks.setdefault(", ".join(values), {})[name] = None
    listed = "; ".join(f"{', '.join(names)}: {values}" for values, names in networks.items())
    decays = "NAME_1e-4 and NAME_5e-4 have this weight decay, sgd and adam none."
    return f"{listed}; in parentheses what the script has. {decays}"


def _notes(runs: Sequence[Result], scale: str) -> list[str]:
    numbers = sorted({run.config["measured"] for run in runs}, reverse=True)
    samples = " or ".join(f"{number:,}" for number in numbers)
    return [
        f"Means over {plot.seeds(runs)}, of at most {samples} training samples; where a layer "
        "reads maps or tokens, features are averaged over positions for the laws of depth and are "
        "rows for the cosines.",
        _settings(runs),
        *plot.diverged(runs),
        plot.missing([run for run in runs if run.config["kind"] == "mlp"] or runs, scale),
    ]


def matrix(runs: Sequence[Result], scale: str) -> Figure:
    """Cosine of WᵀW with what each theory expects, theory × layer, at the end of training."""
    runs = in_order(runs)
    figure, axes = _panels(runs, height=2.5)
    for ax, run in zip(axes.flat, runs, strict=False):
        cosines = np.array([run[name][:, -1].mean(0) for name in ROWS])  # (theory, layer)
        image = ax.imshow(cosines, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for (row, layer), value in np.ndenumerate(cosines) if cosines.shape[1] < 8 else ():
            color = "black" if value > 0.6 else "white"
            words = f"{value:.2f}".replace("0.", ".").replace("-.00", ".00")
            ax.text(layer, row, words, ha="center", va="center", color=color, fontsize=6)
        ax.set_yticks(range(len(ROWS)), ROWS.values())
        layers = run["layer"]
        step = max(1, len(layers) // 6)
        ax.set_xticks(range(0, len(layers), step), layers[::step])
        ax.set(title=named(run), xlabel="layer")
        ax.grid(False)
    figure.colorbar(image, ax=axes, label="cosine with WᵀW", shrink=0.8, extend="min")
    title = "What theories expect WᵀW to be near to, at the end of training (ours)"
    last = "At the last layer the AGOP is WᵀW by construction."
    return plot.finish(figure, title, ABOUT, last, *_notes(runs, scale))


def while_training(runs: Sequence[Result], scale: str) -> Figure:
    """The same by epoch, averaged over the layers but the last."""
    runs = in_order(runs)
    figure, axes = _panels(runs, height=2.4)
    for ax, run in zip(axes.flat, runs, strict=False):
        for i, (name, label) in enumerate(ROWS.items()):
            values = run[name][:, 1:, :-1].mean(-1)
            plot.band(ax, run["epoch"][1:], values, label, f"C{i}", limits=(-1, 1))
        ax.set(title=named(run), xlabel="epoch", ylabel="cosine with WᵀW", xscale="log")
        ax.set_xticks(run["epoch"][1:], run["epoch"][1:], fontsize="small")
        ax.minorticks_off()
        ax.set_ylim(min(0, ax.get_ylim()[0]), 1.02)
    plot.shared_legend(figure, axes, "outside right center")
    title = "The same while training, averaged over all layers but the last (ours)"
    return plot.finish(figure, title, ABOUT, "Bands ± 2 standard deviations.", *_notes(runs, scale))


def laws(runs: Sequence[Result], scale: str) -> Figure | None:
    """1 − TL, separation, compression and discrimination by layer, at the end of training."""
    runs = of_images(in_order(runs))
    if not runs:
        return None
    figure, axes = plot.grid(1, len(LAWS), width=2.9, height=3.2)
    for ax, (name, (what, sign)) in zip(axes.flat, LAWS.items(), strict=True):
        for i, run in enumerate(runs):
            index, values = by_depth(run, name)
            style = "--" if run.config["random_share"] else "-"
            log = sign < 0
            plot.band(ax, index, values, named(run), f"C{i}", log=log, linestyle=style)
            ax.plot(index, values.mean(0), ".", color=f"C{i}")
        ax.set(title=what, xlabel="layer that reads them", yscale="log" if sign < 0 else "linear")
    plot.shared_legend(figure, axes, "outside right center")
    title = "Laws of depth at the end of training: one factor a layer is a straight line (ours)"
    random = [run["train_accuracy"][:, -1].mean() for run in runs if run.config["random_share"]]
    shares = " and ".join(f"{share:.0%}" for share in random)
    fitted = f", of which {shares} are fitted" if random else ""
    about = (
        "1 − TL: equal gain a layer; tr(Σ_W Σ_B⁺): law of data separation (He and Su); "
        "tr Σ_W / tr Σ_B and 1 − max cos: compression and discrimination (Wang et al.), the last "
        f"on a linear axis. Dashed: random labels{fitted}. Bands ± 2 standard deviations."
    )
    return plot.finish(figure, title, about, *_notes(runs, scale))
