"""The paper's statements, three panels a page."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment import statements
from lab.results import Result
from report import plot
from report.figures import statement_panels as panels

Panel = Callable[[Axes, Mapping[str, Result]], None]
# name of a picture -> its panels, title and note
PAGES: dict[str, tuple[tuple[Panel, Panel, Panel], str, str]] = {
    "statements": (
        (panels.one_step, panels.accumulated, panels.activations),
        "What a step changes: Theorem 1 and Proposition 1",
        "Theorem 1, ΔG against the Virtual Covariance Shift: the largest error of a layer after "
        "training, which falls with the rate with slope 1; over the first steps of training, mean "
        "over layers. Proposition 1: γ is the rate of one sample's own loss; mean over hidden "
        "layers and moments. It allows ‖h‖ = 1 alone.",
    ),
    "statements_bounds": (
        (panels.theorem2, panels.bounds_of_linearity, panels.lemmas_1_and_5),
        "How linear the targets are, and bounds of it: Theorem 2, Lemmas 1 and 5",
        "Theorem 2: the printed bound of 1 − T_λ is above 2 for any data, and 1 − T_λ is at most "
        "1; C' leaves one wasted step of the proof out. Bounds of TL₁, linearity with an "
        "intercept: of one target (ReLU) the two projections are one. Lemma 1: a share above that "
        "of all directions says something of the targets.",
    ),
    "statements_lemmas": (
        (panels.lemma3, panels.lemma3_sums, panels.lemma4),
        "What is nonlinear in the rest of the network: Lemmas 3 and 4",
        "Lemma 3's error over all pairs of samples, relative to the size of all f_i − f_k: at 1 "
        "the expansion is no better than to take f_k for f_i. Sums: Σ_i y_i h_iᵀ∂f/∂h(h_k) against "
        "what the lemma says, relative to that. Lemma 4: medians over 500 pairs drawn at random, "
        "with M of each pair, B the largest input and δ the largest jump of the layer.",
    ),
    "statements_surrogate": (
        (panels.theorem3, panels.theorem4, panels.signs),
        "How the surrogate changes and how it is bounded: Theorems 3 and 4, section 4.2",
        "Theorem 3: a point a seed and measured moment of training, every layer but the last; both "
        "axes are linear near zero and logarithmic beyond. Theorem 4: its premises fail (the "
        "Ansatz), so it does not apply; M is the most over 500 pairs, B and δ one constant for all "
        "layers. Signs: y is ±1, centred, under squared loss, and 0 or 1 under binary "
        "cross-entropy.",
    ),
    "statements_premises": (
        (panels.ansatz, panels.regions, panels.discarded),
        "What Theorem 4 takes for granted, and what whitening drops",
        "The Ansatz takes the cosine for 1; the last layer's, 1 by construction, is not drawn. "
        "Linear regions: M of Lemma 4 from each layer on. Whitening drops what leaves the Gram as "
        "it is.",
    ),
    "statements_propositions": (
        (panels.proposition2, panels.proposition4, panels.forms),
        "Propositions 2 and 4, and the two forms of whitening",
        "Proposition 2: a curve a seed, from the left to the right along training; the CKA is 1 at "
        "collapse. Proposition 4: the largest of the layers but the last; zero where Σh = 0 and Σf "
        "= 0 and f is homogeneous, which tanh with biases is not. Whitening's forms: the largest "
        "difference of a layer after training; where steps are tiny it is rounding.",
    ),
}


def page(runs: Sequence[Result], scale: str, name: str) -> Figure:
    """A row a data set, a column a panel, and each column's legend below it."""
    drawn, title, note = PAGES[name]
    labels = list(dict.fromkeys(run.label for run in runs))
    rows = [*[2.6] * len(labels), 0.9]  # inches; the last for the legends
    height = sum(rows) / len(rows)
    figure, axes = plot.grid(len(rows), len(drawn), width=3.6, height=height, height_ratios=rows)
    for column, panel in zip(axes.T, drawn, strict=True):
        for ax, label in zip(column, labels, strict=False):
            panel(ax, {run.config["network"]: run for run in runs if run.label == label})
            name = f"{label}: {ax.get_ylabel()}" if len(labels) > 1 else ax.get_ylabel()
            ax.set_ylabel(name, fontsize=7.5)
            if ax is not column[0]:
                ax.set_title("")
        entries = {}
        for ax in column[:-1]:
            handles, names = ax.get_legend_handles_labels()
            entries |= dict(zip(names, handles, strict=True))
        column[-1].set_axis_off()
        if entries:
            options = {"loc": "upper center", "fontsize": 7, "ncols": 2, "labelspacing": 0.3}
            column[-1].legend(entries.values(), entries.keys(), **options)
    changed = plot.differences(runs, statements.Config(), ignore=("seeds",))
    lacking = plot.missing(runs, scale) if scale == "paper" else ""
    means = f"Lines: means over {plot.seeds(runs)}, bands ± 2 standard deviations."
    return plot.finish(figure, title, note, means, *changed, lacking)


def autoencoders(runs: Sequence[Result], scale: str) -> Figure:
    """Proposition 3, of Figure 10's autoencoders, a column a data set."""
    figure, axes = plot.grid(1, len(runs), width=3.6, height=3.1)
    ordered = sorted(runs, key=lambda run: run.label)
    for ax, run in zip(axes[0], ordered, strict=True):
        panels.proposition3(ax, run)
    plot.shared_legend(figure, axes, "outside center right")
    return plot.finish(
        figure,
        "Proposition 3: the mixture of two images, from the mixture of their latents",
        "Mean over pairs of samples, halves of each, at the epoch of the least validation error; g "
        "is the least-squares map from latents to images, with an intercept. The proposition says "
        "that the left side with g is at most the right; of the trained decoder it says nothing. "
        "Bands: ± 2 standard deviations over seeds.",
    )
