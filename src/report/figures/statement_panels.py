"""Panels of the statements' pages: each draws one statement for one data set's networks."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from lab.results import Result
from report import plot

Networks = Mapping[str, Result]  # of one data set, by name

NAMES = {  # network -> as it is drawn
    "relu": ("ReLU", "C0"),
    "squared_relu": ("squared ReLU", "C3"),
    "relu_binary": ("ReLU, binary cross-entropy", "C6"),
    "gelu": ("GELU, cross-entropy", "C1"),
    "gelu_squared_loss": ("GELU, squared loss", "C4"),
    "gelu_decay": ("GELU, squared loss, decay", "C5"),
    "tanh": ("tanh", "C2"),
    "cnn": ("CNN", "C8"),
}


def present(networks: Networks, *names: str, array: str = "loss") -> list[tuple[Result, str, Any]]:
    """Run, label and colour of those networks that were run and have an array."""
    runs = [(networks[name], *NAMES[name]) for name in names if name in networks]
    return [entry for entry in runs if array in entry[0].arrays]


def layers(run: Result, stop: int | None = None) -> list[tuple[int, str, Any]]:
    """Index, label and colour of a run's layers, up to a negative number of the last ones."""
    colors, last = plot.layer_colors(len(run["layer"])), run["layer"][-1]
    names = [
        f"layer {layer} (last)" if layer == last else f"layer {layer}"
        for layer in run["layer"][:stop]
    ]
    return [(i, name, colors[i]) for i, name in enumerate(names)]


def by_epoch(ax: Axes, run: Result, values: np.ndarray, label: str | None, color: Any, **options):
    """Values (seed, epoch) against the epoch, 0 and then by powers of ten."""
    plot.band(ax, run["epoch"], values, label, color, **options)
    ax.set_xscale("symlog", linthresh=1, linscale=0.4)
    ticks = [0, *(10**k for k in range(5) if 10**k <= run["epoch"][-1])]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("epoch")


def line_styles(ax: Axes, styles: Mapping[Any, str]) -> None:
    """Entries of the legend for what line styles mean; style -> label."""
    for linestyle, label in styles.items():
        ax.plot([], [], color="0.4", linestyle=linestyle, label=label)


def from_the_last(ax: Axes, run: Result) -> np.ndarray:
    """The layers counted from the last, and the axis for them."""
    ax.set_xlabel("layer, counted from the last")
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    return run["layer"] - run["layer"][-1]


# Theorem 1 and Proposition 1


def one_step(ax: Axes, networks: Networks) -> None:
    for run, label, color in present(networks, "relu", "gelu", "cnn"):
        error = run["one_step_error"][:, -1].max(-1)  # (seed, rate)
        plot.band(ax, run["rate"], error, label, color, log=True)
    for run, _, _ in present(networks, "gelu"):
        middle = np.exp(np.log(run["one_step_error"][:, -1].max(-1)).mean())
        line = middle * run["rate"] / np.exp(np.log(run["rate"]).mean())
        ax.plot(run["rate"], line, color="0.5", linestyle=":", label="slope 1")
    ax.set(xscale="log", yscale="log", xlabel="rate γ of one step", ylabel="‖ΔG − VCS‖ / ‖VCS‖")
    ax.set_title("Theorem 1: one step")


def accumulated(ax: Axes, networks: Networks) -> None:
    styles = {"relu": "-", "gelu": "--", "cnn": ":"}
    for run, _, _ in present(networks, *styles):
        network = run.config["network"]
        for i, optimizer in enumerate(run["optimizer"]):
            cosine = run["accumulated_cosine"][:, i].clip(max=1)  # (seed, step, layer)
            apart = np.sqrt(1 - cosine**2).mean(-1)
            options = {"log": True, "linestyle": styles[network], "limits": plot.UNIT}
            label = str(optimizer) if network == "relu" else None
            plot.band(ax, run["step"], apart, label, f"C{i}", **options)
    line_styles(ax, {styles[name]: NAMES[name][0].partition(",")[0] for name in styles})
    ax.set(xscale="log", yscale="log", xlabel="steps", ylabel="sine of angle to Σ VCS")
    ax.set_title("Theorem 1: summed over steps")


def activations(ax: Axes, networks: Networks) -> None:
    for run, label, color in present(networks, "relu", "tanh", "gelu", array="activation_most"):
        name = label.partition(",")[0]
        bound = run["activation_bound_unit"].mean((1, 3))  # (seed, rate)
        plot.band(ax, run["rate"], bound, name, color, limits=plot.UNIT)
        for array, linestyle in (("activation_bound_own", "--"), ("activation_share", ":")):
            share = np.nanmean(run[array], axis=(1, 3))
            options = {"limits": plot.UNIT, "linestyle": linestyle}
            plot.band(ax, run["rate"], share, None, color, **options)
    styles = {"-": "bound holds, ‖h‖ = 1", "--": "the same, ‖h‖ as it is"}
    line_styles(ax, styles | {":": "step / bound, ‖h‖ = 1"})
    ax.set(xscale="log", xlabel="rate γ of one sample's step", ylim=(-0.02, 1.05))
    ax.set(ylabel="share", title="Proposition 1: bound of a unit's step")


# Theorem 2 and Lemmas 1, 2 and 5


def theorem2(ax: Axes, networks: Networks) -> None:
    for run, _, _ in present(networks, "gelu", array="theorem2_refined"):
        for i, label, color in layers(run):
            for array, linestyle in (
                ("theorem2_bound", "--"),
                ("theorem2_refined", ":"),
                ("ridge_tl", "-"),
            ):
                rest = 1 - run[array][:, -1, :, i]  # (seed, ridge)
                name = label if linestyle == "-" else None
                plot.band(ax, run["ridge"], rest, name, color, log=True, linestyle=linestyle)
    ax.axhline(1, color="0.3", linewidth=0.8, label="1: says nothing above")
    line_styles(ax, {"-": "1 − T_λ", "--": "C / S, as printed", ":": "C' / S, ours"})
    ax.set(xscale="log", yscale="log", xlabel="ridge λ", ylabel="1 − T_λ and bounds")
    ax.set_title("Theorem 2: GELU, after training")


def bounds_of_linearity(ax: Axes, networks: Networks) -> None:
    styles = {"tl_intercept": "-", "tl_bound_columns": "-.", "tl_bound_line": "--", "tl_bound": ":"}
    for run, label, color in present(networks, "relu", "gelu", array="tl_bound_line"):
        where = from_the_last(ax, run)
        for array, linestyle in styles.items():
            name = label.partition(",")[0] if linestyle == "-" else None
            options = {"linestyle": linestyle, "limits": plot.UNIT}
            plot.band(ax, where, run[array][:, -1], name, color, **options)
    words = ("TL₁", "Y on the columns of GY", "Y on GY", "S / (‖Z‖²_op ‖Y‖²)")
    line_styles(ax, dict(zip(styles.values(), words, strict=True)))
    ax.set(ylabel="TL₁ and bounds", ylim=(0, 1.05), title="our bounds of TL₁, after training")


def lemmas_1_and_5(ax: Axes, networks: Networks) -> None:
    for run, label, color in present(networks, "relu", "gelu", array="lemma1_ratio"):
        where = from_the_last(ax, run)
        name = label.partition(",")[0]
        for array, linestyle in (("lemma1_ratio", "-"), ("lemma1_chance", ":"), ("cka", "--")):
            values = run[array][:, -1]
            options = {"linestyle": linestyle, "limits": plot.UNIT}
            plot.band(ax, where, values, name if linestyle == "-" else None, color, **options)
    words = ("S(G_id) / (c₀² S(HHᵀ))", "of all directions", "linear CKA (Lemma 5)")
    line_styles(ax, dict(zip(("-", ":", "--"), words, strict=True)))
    ax.set(ylabel="share of the bound", ylim=(0, 1.05))
    ax.set_title("Lemmas 1 and 5: after training")


# Lemmas 3 and 4


def lemma3(ax: Axes, networks: Networks) -> None:
    for run, label, color in present(networks, "relu", "squared_relu"):
        where = from_the_last(ax, run)
        for epoch, linestyle in ((0, "--"), (-1, "-")):
            name = None if epoch == 0 else label
            values = run["taylor_error"][:, epoch]
            options = {"linestyle": linestyle, "limits": (0, np.inf)}
            plot.band(ax, where, values, name, color, **options)
    ax.axhline(1, color="0.3", linewidth=0.8)
    line_styles(ax, {"--": "before training", "-": "after"})
    ax.set(ylabel="error / size of f_i − f_k", ylim=(0, None), title="Lemma 3: single terms")


def lemma3_sums(ax: Axes, networks: Networks) -> None:
    for run, label, color in present(networks, "relu", "squared_relu", array="euler_error"):
        where = from_the_last(ax, run)[:-1]
        for array, epoch, linestyle in (
            ("taylor_error_terms", -1, ":"),
            ("taylor_error_sum", -1, "-"),
            ("taylor_error_sum", 0, "--"),
        ):
            values = run[array][:, epoch, :-1]
            options = {"linestyle": linestyle, "log": True}
            plot.band(ax, where, values, label if linestyle == "-" else None, color, **options)
    words = ("sums, after training", "sums, before", "single terms, after")
    line_styles(ax, dict(zip(("-", "--", ":"), words, strict=True)))
    ax.set(ylabel="error / prediction", yscale="log")
    ax.set_title("appendix A.2: sums over samples")


def lemma4(ax: Axes, networks: Networks) -> None:
    for run, _, color in present(networks, "relu", array="lemma4_bound"):
        where = from_the_last(ax, run)[:-1]
        for epoch, when, shade in ((0, "before training", "0.6"), (-1, "after", color)):
            for array, linestyle in (("lemma4_bound", "-"), ("lemma4_error", "--")):
                values = run[array][:, epoch, :-1]
                name = when if linestyle == "-" else None
                plot.band(ax, where, values, name, shade, log=True, linestyle=linestyle)
    ax.axhline(1, color="0.3", linewidth=0.8)
    line_styles(ax, {"-": "2MBδ", "--": "error"})
    ax.set(ylabel="median / size of f_i − f_k", yscale="log", title="Lemma 4: ReLU")


# Theorems 3 and 4, and the signs of section 4.2


def theorem3(ax: Axes, networks: Networks) -> None:
    """Predicted against actual change of the surrogate, a point a seed and moment."""
    sizes = []
    for run, _, _ in present(networks, "relu"):
        for i, label, color in layers(run, -1):
            pair = [run[f"{kind}_change"][..., i].ravel() for kind in ("surrogate", "predicted")]
            ax.plot(*pair, ".", color=color, label=label, markersize=4)
            sizes += [np.abs(values).max() for values in pair]
    largest = max(sizes, default=1.0)
    ends = np.array([-largest, largest])
    ax.plot(ends, ends, color="0.3", linewidth=0.8, label="equal")
    scale = {"linthresh": largest * 1e-4, "linscale": 0.5}
    ax.set_xscale("symlog", **scale)
    ax.set_yscale("symlog", **scale)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([-largest, 0, largest], [f"{-largest:.0e}", "0", f"{largest:.0e}"])
        axis.set_minor_locator(NullLocator())
    ax.set(xlabel="ΔS of one step", ylabel="2γ (fᵀy)(yᵀKg)", title="Theorem 3: ReLU")


def theorem4(ax: Axes, networks: Networks) -> None:
    for run, label, color in present(networks, "relu", "squared_relu", array="response_norm2"):
        where = from_the_last(ax, run)
        for array, epoch, linestyle in (
            ("surrogate", -1, "-"),
            ("surrogate", 0, "--"),
            ("surrogate_floor", -1, ":"),
            ("surrogate_floor_sharper", -1, "-."),
        ):
            if array in run.arrays:
                name = label if linestyle == "-" else None
                values = run[array][:, epoch]
                plot.band(ax, where, values, name, color, log=True, linestyle=linestyle)
    words = ("S, after training", "S, before", "bound, as printed", "bound, sharper (ours)")
    line_styles(ax, dict(zip(("-", "--", ":", "-."), words, strict=True)))
    ax.set(ylabel="surrogate S", yscale="log", title="Theorem 4: S and its lower bound")


def signs(ax: Axes, networks: Networks) -> None:
    options = {"limits": (-1.0, 1.0)}
    for run, label, color in present(networks, "relu", "relu_binary", array="output_product"):
        if run.config["network"] == "relu":
            by_epoch(ax, run, run["output_cosine"], label, color, **options)
        along = run["descent_cosine"].mean(-1)
        name = label if run.config["network"] != "relu" else None
        by_epoch(ax, run, along, name, color, linestyle="--", **options)
    ax.axhline(0, color="0.3", linewidth=0.8)
    line_styles(ax, {"-": "f and y", "--": "Hᵀy and Hᵀg, mean of the layers"})
    ax.set(ylabel="cosine", ylim=(-1.05, 1.05), title="section 4.2: signs of fᵀy and yᵀKg")


# what Theorem 4 takes for granted, and what whitening discards


def ansatz(ax: Axes, networks: Networks) -> None:
    for run, _, _ in present(networks, "relu"):
        for i, label, color in layers(run, -1):
            by_epoch(ax, run, run["ansatz_cosine"][..., i], label, color, limits=plot.UNIT)
    ax.set(ylabel="cosine of WᵀW and AGOP", ylim=(0, 1.05), title="Neural Feature Ansatz: ReLU")


def regions(ax: Axes, networks: Networks) -> None:
    for run, _, _ in present(networks, "relu"):
        for i, label, color in layers(run, -1):
            by_epoch(ax, run, run["crossed"][..., i], label, color)
            by_epoch(ax, run, run["crossed_most"][..., i], None, color, linestyle="--")
    line_styles(ax, {"-": "mean of a pair", "--": "most of 500 pairs"})
    ax.set(
        ylabel="boundaries crossed", ylim=(0, None), title="linear regions between samples: ReLU"
    )


def discarded(ax: Axes, networks: Networks) -> None:
    for run, _, _ in present(networks, "gelu"):
        for i, label, color in layers(run):
            by_epoch(ax, run, run["discarded_gradient"][..., i], label, color, limits=plot.UNIT)
            options = {"limits": plot.UNIT, "linestyle": "--"}
            by_epoch(ax, run, run["discarded_momentum"][..., i], None, color, **options)
    line_styles(ax, {"-": "gradient", "--": "momentum's step"})
    ax.set(ylabel="share of squared length", ylim=(0, None), title="dropped by whitening: GELU")


# Propositions 2 and 4, and whitening's two forms


def proposition2(ax: Axes, networks: Networks) -> None:
    """Linear CKA against NC1, a point a seed and moment; lines: means over seeds."""
    names = ("gelu_squared_loss", "gelu_decay", "gelu")
    for run, label, color in present(networks, *names, array="hand_cka"):
        nc1, cka = run["nc1"], run["cka"][..., -1]
        ax.plot(nc1.T, cka.T, ".-", color=color, linewidth=0.6, markersize=3)
        ax.plot([], [], ".-", color=color, label=label)
    ax.axhline(1, color="0.3", linewidth=0.8)
    ax.invert_xaxis()
    ax.set(xscale="log", xlabel="NC1 (falls with training)", ylabel="linear CKA", ylim=(0, 1.05))
    ax.set_title("Proposition 2: the last layer")


def proposition4(ax: Axes, networks: Networks) -> None:
    names = ("relu", "squared_relu", "tanh")
    for run, label, color in present(networks, *names, array="expansion_sum"):
        for suffix, linestyle in (("", "-"), ("_not_centred", "--")):
            largest = np.abs(run[f"expansion_sum{suffix}"]).max(-1)
            options = {"log": True, "linestyle": linestyle, "limits": plot.UNIT}
            name = None if suffix else label
            by_epoch(ax, run, largest.clip(1e-18), name, color, **options)
    line_styles(ax, {"-": "Σf = 0", "--": "Σf ≠ 0"})
    ax.set(ylabel="sum / sum of sizes", yscale="log", title="Proposition 4: all Taylor errors")


def forms(ax: Axes, networks: Networks) -> None:
    for run, label, color in present(networks, "relu", "gelu", "cnn"):
        cosine, ratio = (run[f"whitening_{name}"][:, -1] for name in ("cosine", "ratio"))
        for values, linestyle in ((1 - cosine, "-"), (np.abs(ratio - 1), "--")):
            largest = values.max(-1).clip(1e-17)  # (seed, rate)
            options = {"log": True, "linestyle": linestyle}
            name = label if linestyle == "-" else None
            plot.band(ax, run["rate"], largest, name, color, **options)
    line_styles(ax, {"-": "1 − cosine", "--": "abs(ratio of lengths − 1)"})
    ax.set(xscale="log", yscale="log", xlabel="rate γ of one step", ylabel="difference")
    ax.set_title("whitening: Procrustes and tangent form")


# Proposition 3, of autoencoders


def proposition3(ax: Axes, run: Result) -> None:
    """Both sides, and the left one with the trained decoder, by β."""
    curves = {
        "mixture_right": ("right side: mean error of g", "0.3"),
        "mixture_left": ("left side, with g", "C0"),
        "mixture_decoder": ("left side, trained decoder", "C1"),
    }
    for name, (curve, color) in curves.items():
        plot.band(ax, run["beta"], run[name].T, curve, color)
    ax.set(xscale="log", xlabel="β", ylabel="distance from the mixture", ylim=(0, None))
    ax.set_title(run.label)
