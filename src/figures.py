"""The paper's figures, and ours: which scripts and notebook make each, and what you should see."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How a figure is made.

    title: what it is of. scripts: each with its flags. notebook: that draws it. see: what you should see.
    quick: more flags at quick scale. datasets: whether the scripts take --datasets. picture: its file, where that
    is not figureN.
    """

    title: str
    scripts: tuple[tuple[str, ...], ...]
    notebook: str
    see: str
    quick: tuple[str, ...] = ()
    datasets: bool = True
    picture: str = ""


_VAE = (("vae_train",), ("vae_target_linearity",))
RECIPES = {
    "1": Recipe(
        "Swiss roll",
        (("swissroll",),),
        "swissroll",
        "a spiral that straightens along its colour, for most seeds",
        datasets=False,
    ),
    "2": Recipe(
        "Gram whitening, MLP",
        (("whiten",),),
        "whitening_plot",
        "test accuracy by epoch, plain and whitened, close together",
    ),
    "4": Recipe(
        "TL and surrogate, SGD",
        (("target_linearity", "--optimizer", "sgd"),),
        "metrics_plot",
        "both rise, deeper layers higher",
    ),
    "5": Recipe(
        "interpolation in VAEs", _VAE, "vae_interpolation", "images that turn into each other, sharper for smaller β"
    ),
    "6": Recipe("Gram whitening, CNN", (("whiten_cnn",),), "whitening_plot", "the same as Figure 2 for a CNN"),
    "8": Recipe(
        "staircase function",
        (("staircase",),),
        "staircase",
        "distances of target, output and ridge fit, by width",
        datasets=False,
    ),
    "9": Recipe(
        "TL and surrogate, Adam",
        (("target_linearity", "--optimizer", "adam"),),
        "metrics_plot",
        "the same as Figure 4, sooner",
        ("--learning-rate", "0.002"),
    ),
    "10": Recipe("TL in VAEs", _VAE, "vae_plot", "TL by epoch, lower for larger β"),
    "11": Recipe(
        "TL in BERT",
        (("bert_train",), ("bert_target_linearity",)),
        "bert_plot",
        "TL by layer: flat when initialised, falling at the end when pre-trained, rising after fine-tuning",
        datasets=False,
    ),
    "12": Recipe(
        "random labels",
        (("random_label",),),
        "random_label_plot",
        "TL lower as more labels are random; against the true labels its order by depth turns around",
    ),
    "13": Recipe(
        "grokking",
        (("grokking",),),
        "grokking_plot",
        "test accuracy that rises long after training accuracy, and TL by layer",
        datasets=False,
    ),
    "gram": Recipe(
        "does the Gram learn the Virtual Covariance? (ours)",
        (("gram_virtual_covariance",),),
        "gram_virtual_covariance",
        "a difference that falls in proportion to the rate: slope one",
        picture="gram_virtual_covariance",
    ),
    "collapse": Recipe(
        "does Target Linearity subsume Neural Collapse? (ours)",
        (("neural_collapse",),),
        "neural_collapse",
        "NC1 that falls as TL rises, every point on or above the curve that NC1 implies",
        picture="neural_collapse",
    ),
}
