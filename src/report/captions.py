"""Sentences on pictures."""

from pathlib import Path

from report.recipes import RECIPES, picture

# of the pictures beside a figure's own: name of the file -> the rest of a sentence
CAPTIONS = {
    "figure1_alignment": "how far W₁ᵀW₁ moves, and how well the shift follows it",
    "figure1_seeds": "the last frame of every seed, from the lowest R² to the highest",
    "figure2_controls": "final accuracy by learning rate of plain, step-matched, whitened and "
    "complement training, and the differences paired by seed",
    "figure2_rates": "final accuracy by learning rate, plain and whitened",
    "figure4_architectures": "Target Linearity by epoch and by layer of other networks",
    "figure4_code": "the same at the published code's rate, 0.0005",
    "figure4_supplement": "Target Linearity on the test set, and normalised surrogates",
    "figure7_layer1": "correlations by epoch in the input layer",
    "figure7_layer2": "correlations by epoch in the read-out",
    "figure7_optimizers": "the same images under momentum and Adam, for which Theorem 1 need not "
    "hold",
    "figure8_movement": "how far the ridge fit and the features move",
    "figure9_supplement": "Target Linearity on the test set, and normalised surrogates",
    "figure10_interpolation": "error of interpolation against Target Linearity, at the best epoch",
    "figure10_reconstructions": "test images and their reconstructions, at the best epoch",
    "figure10_training": "training error, and the surrogate with the decoder's first weight",
    "figure11_longer": "the tasks whose validation score was still rising, trained for longer",
    "figure11_validation": "the same on validation rows",
    "figure12_summary": "Target Linearity after the last epoch, by the share of redrawn labels",
    "figure12_true_labels": "the same against the true labels",
    "figure13_decay1": "Figures 13 and 14 at weight decay 1",
    "figure13_read_outs": "accuracy of each layer's least-squares read-out",
    "figure13_test": "Target Linearity and its gap on the test set",
    "gram_parts_diagonals": "diagonals as images: where the Gram grows, and by how much",
    "statements_autoencoders": "Proposition 3, mixtures of images from those of their latents",
    "statements_bounds": "Theorem 2 and Lemmas 1 and 5, bounds of Target Linearity",
    "statements_lemmas": "Lemmas 3 and 4, what is nonlinear in the rest of the network",
    "statements_premises": "what Theorem 4 takes for granted, and what whitening drops",
    "statements_propositions": "Propositions 2 and 4, and the two forms of whitening",
    "statements_surrogate": "Theorems 3 and 4, how the surrogate changes and how it is bounded",
    "theories_depth": "Target Linearity, separation and discrimination by layer",
    "theories_steps": "a step that gives the Gram matrix the shift itself, beside SGD",
    "theories_training": "the same cosines by epoch, averaged over layers",
    "theories_width": "how far features move by width, in three parametrisations",
    "whitening_methods": "what the projection does to the layer that it acts on: singular values, "
    "change of the Gram, accuracy",
}


def title(figure: str) -> str:
    name = RECIPES[figure].title
    return f"Figure {figure}: {name}" if figure.isdecimal() else name[0].upper() + name[1:]


def shows(path: Path, figure: str) -> bool:
    """Whether a picture is a figure's own or one of its supplements."""
    name = picture(figure)
    return path.stem == name or path.stem.startswith(f"{name}_")


def caption(path: Path) -> str:
    """A sentence on a picture."""
    figure = next((figure for figure in RECIPES if shows(path, figure)), None)
    if figure is None:
        return f"{path.stem.replace('_', ' ').capitalize()}."
    if path.stem == picture(figure):
        moving = ", by epoch" if path.suffix == ".gif" else ""
        return f"{title(figure)}{moving}: {RECIPES[figure].see}."
    said = CAPTIONS.get(path.stem, path.stem.removeprefix(f"{picture(figure)}_").replace("_", " "))
    return f"{title(figure)}: {said}."
