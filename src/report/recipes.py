"""The paper's figures, and ours: which scripts and notebook make each, and what you should see."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from report.lookup import command, experiment, lookup


@dataclass(frozen=True)
class Recipe:
    """How a figure is made."""

    title: str  # what it shows
    scripts: tuple[str, ...]  # of src/experiment, in order
    notebook: str  # that draws it
    see: str  # what you should see
    options: Mapping[str, Any] = field(default_factory=dict)  # settings of the scripts
    quick: Mapping[str, Any] = field(default_factory=dict)  # more of them at quick scale
    reads: tuple[str, ...] = ()  # other scripts whose results the notebook draws, if they are there
    picture: str = ""  # name of its file, where that is not figureN

    def settings(self, scale: str) -> dict[str, Any]:
        """What its scripts are told beyond their defaults at a scale."""
        return {**self.options, **(self.quick if scale == "quick" else {})}


_VAE = ("vae_train", "vae_target_linearity")
RECIPES = {
    "1": Recipe(
        "Swiss roll",
        ("swissroll",),
        "figure01_swiss_roll",
        "a spiral that straightens along its colour, for most seeds",
    ),
    "2": Recipe(
        "Gram whitening, MLP",
        ("whiten",),
        "figure02_06_whitening",
        "test accuracy by epoch, plain and whitened, close together",
    ),
    "3": Recipe(
        "lazy and rich training",
        ("staircase",),
        "figure03_08_staircase",
        "the ridge fit moves towards the target in the narrow network, and stays there in the wide",
    ),
    "4": Recipe(
        "TL and surrogate, SGD",
        ("target_linearity",),
        "figure04_09_target_linearity",
        "both rise, deeper layers higher; less at the code's rate, a tenth of the text's",
        {"optimizer": "sgd"},
    ),
    "5": Recipe(
        "interpolation in VAEs",
        _VAE,
        "figure05_vae_interpolation",
        "images that turn into each other, sharper for smaller β",
    ),
    "6": Recipe(
        "Gram whitening, CNN",
        ("whiten_cnn",),
        "figure02_06_whitening",
        "the same as Figure 2 for a CNN",
    ),
    "7": Recipe(
        "Gram, Virtual Covariance Shift and AGOP",
        ("virtual_covariance",),
        "figure07_virtual_covariance",
        "diagonals as images: those of WᵀW and Σ VCS alike, AGOP's more concentrated",
    ),
    "8": Recipe(
        "staircase function",
        ("staircase",),
        "figure03_08_staircase",
        "distances of target, output and ridge fit, by width",
    ),
    "9": Recipe(
        "TL and surrogate, Adam",
        ("target_linearity",),
        "figure04_09_target_linearity",
        "TL as in Figure 4, sooner; the last layer's surrogate ends below others'",
        {"optimizer": "adam"},
        {"learning_rate": 0.002},
    ),
    "10": Recipe(
        "TL in VAEs",
        (*_VAE, "vae_ceiling"),
        "figure10_vae",
        "TL by epoch, lower for larger β, below its ceiling",
    ),
    "11": Recipe(
        "TL in BERT",
        ("bert_train", "bert_target_linearity"),
        "figure11_bert",
        "TL by layer: flat when initialised, falling at the end when pre-trained, rising after "
        "fine-tuning",
    ),
    "12": Recipe(
        "random labels",
        ("random_label",),
        "figure12_random_labels",
        "TL lower as more labels are random; against the true ones its order by depth turns",
    ),
    "13": Recipe(
        "grokking",
        ("grokking",),
        "figure13_14_grokking",
        "test accuracy that rises long after training accuracy, and TL by layer",
    ),
    "14": Recipe(
        "grokking: the gap of TL",
        ("grokking",),
        "figure13_14_grokking",
        "TL of layer 3 − layer 2, which falls with the generalisation error, but not to zero",
    ),
    "parts": Recipe(
        "what the Gram's change is made of (ours)",
        ("gram_parts",),
        "parts",
        "a second-order share that grows with the rate and falls with the batch size",
        picture="gram_parts",
    ),
    "gram": Recipe(
        "does the Gram learn the Virtual Covariance? (ours)",
        ("gram_virtual_covariance",),
        "gram",
        "a difference that falls in proportion to the rate: slope one",
        picture="gram_virtual_covariance",
    ),
    "collapse": Recipe(
        "TL as classes collapse (ours)",
        ("neural_collapse",),
        "collapse",
        "NC1 that falls as TL rises, above the curve that NC1 implies",
        picture="neural_collapse",
    ),
    "statements": Recipe(
        "the paper's theorems, lemmas and propositions (ours)",
        ("statements",),
        "statements",
        "Theorem 1 with slope one, bounds beside what they bound, Lemma 3's error by depth",
        reads=("vae_target_linearity",),
        picture="statements",
    ),
    "decay": Recipe(
        "FACT: Equation 1 under weight decay (ours)",
        ("weight_decay",),
        "decay",
        "an error of FACT that falls as training comes to rest; AdamW's stays",
        picture="weight_decay",
    ),
    "theories": Recipe(
        "other theories, same networks (ours)",
        ("theories", "covariance_learning", "parametrisation"),
        "theories",
        "cosines with WᵀW, theory by layer; laws of depth",
        picture="theories",
    ),
    "formulas": Recipe(
        "the published formulas beside the exact ones (ours)",
        ("published_formulas",),
        "formulas",
        "published TL that leaves [0, 1] where features are nearly dependent",
        picture="published_formulas",
    ),
}


def picture(figure: str) -> str:
    """Name of the file that a figure is drawn to, and with which those of its supplements begin."""
    return RECIPES[figure].picture or f"figure{figure}"


def figures_table(root: Path, scale: str) -> str:
    """Markdown: figure, its notebook, command, what its results took, and what you should see."""
    lines = ["| figure, notebook | command | took | what you should see |", "|---|---|---|---|"]
    for figure, recipe in RECIPES.items():
        commands = [f"`{command(script, scale, recipe.options)}`" for script in recipe.scripts]
        title = f"[{figure}: {recipe.title}](notebook/{recipe.notebook}.ipynb)"
        cells = (title, "<br>".join(commands), took(root, scale, recipe), recipe.see)
        lines.append(f"|{'|'.join(cells)}|")
    return "\n".join(lines) + "\n"


def took(root: Path, scale: str, recipe: Recipe) -> str:
    """Wall time of a figure's results, of all its scripts, on CPU and GPU."""
    every = Counter[str]()
    for name in recipe.scripts:
        every.update(seconds(name, root, scale, recipe))
    unit, divisor = ("min", 60) if scale == "paper" else ("s", 1)
    each = (f"{total / divisor:.0f} {unit}{device}" for device, total in sorted(every.items()))
    return ", ".join(each) or "not run here"


def seconds(name: str, root: Path, scale: str, recipe: Recipe) -> Counter[str]:
    """Wall time of the results of one of a figure's scripts, on CPU ("") and GPU (" (GPU)")."""
    without = ANY_ENCODER if name.startswith("bert") else ()
    found = Counter[str]()
    for run in lookup(experiment(name), root, scale, without, **recipe.settings(scale)):
        found["" if run.meta["device"].startswith("cpu") else " (GPU)"] += run.meta["seconds"]
    return found


ANY_ENCODER = ("model",)  # Figure 11 is drawn of whatever encoder was run
