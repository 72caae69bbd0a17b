"""FACT, the Feature Learning Equation at rest under weight decay."""

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.results import Result
from report import plot

LABELS = {"sgd": "gradient descent", "adam": "Adam", "adamw": "AdamW, decay apart"}
SHOWN = 0.001  # λ of the cosines
COSINES = {"fact": ("FACT", "k"), "shift": ("shift", "C9"), "agop": ("AGOP", "C5")}


def fact(runs: Sequence[Result], scale: str) -> Figure:
    """A row a data set and loss."""
    figure, axes = plot.rows(runs, 4, panels, width=3.2, height=2.8)
    axes[0, 2].legend(fontsize=6, ncols=2, loc="lower right")
    plot.shared_legend(figure, axes[:, :1], "outside right upper")
    return plot.finish(
        figure,
        "FACT at rest under weight decay: its error is ‖WᵀW + AᵀH/λ‖ / ‖WᵀW‖",
        f"{plot.means(runs)} Dotted: both alike. AdamW's error is 1 at any time, for AᵀH/λ is "
        "small at its λ. The last layer's AGOP is WᵀW by construction and is left out; shift: "
        "−(AᵀH + HᵀA).",
        plot.notes(runs, scale),
    )


def arms(run: Result) -> Iterator[tuple[int, str, Any]]:
    """Position, label and colour of every optimizer with its λ."""
    optimizers, decays = run["optimizer"], run["decay"]
    colors = plot.value_colors(decays[optimizers == "sgd"])
    for i, (name, decay) in enumerate(zip(optimizers, decays, strict=True)):
        color = colors[decay] if name == "sgd" else {"adam": "C2", "adamw": "0.4"}[name]
        yield i, f"{LABELS[name]}, λ = {decay:g}", color


def panels(axes: Sequence[Axes], run: Result) -> None:
    """Error by epoch and against the distance from rest, cosines, and TL before the read-out."""
    for i, label, color in arms(run):
        plot.band(axes[0], run["epoch"], run["fact_error"][i].max(-1), label, color, log=True)
        rest, error = (run[name][i, :, -1] for name in ("stationarity", "fact_error"))
        axes[1].plot(rest.ravel(), error.ravel(), "o", color=color, markersize=4, alpha=0.7)
        limits = {"limits": plot.UNIT}
        plot.band(axes[3], run["epoch"], run["tl"][i, ..., -1], label, color, **limits)
    axes[1].axline((0.1, 0.1), slope=1, color="0.5", linestyle=":", linewidth=1)
    shown = list(run["decay"]).index(SHOWN)
    for layer, linestyle in zip(run["layer"][:-1], ("-", "--", ":"), strict=False):
        for name, (label, color) in COSINES.items():
            values = run[f"cosine_{name}"][shown, ..., layer - 1]
            text = f"{label}, layer {layer}"
            options = {"linestyle": linestyle, "limits": (-1.0, 1.0)}
            plot.band(axes[2], run["epoch"], values, text, color, **options)
    loss = run.config["loss"].replace("_", "-")
    axes[0].set(title=f"{run.label}, {loss}", xlabel="epoch", yscale="log")
    axes[0].set_ylabel("error of FACT, largest of a layer")
    axes[1].set(title="at the end, every layer and seed", xscale="log", yscale="log")
    axes[1].set(xlabel="‖∂L/∂W + λW‖ / ‖λW‖", ylabel="error of FACT")
    axes[2].set(title=f"gradient descent, λ = {SHOWN:g}", xlabel="epoch")
    axes[2].set(ylabel="cosine of WᵀW with …", ylim=(-0.1, 1.03))
    axes[3].set(xlabel="epoch", ylabel="TL, last hidden layer")
