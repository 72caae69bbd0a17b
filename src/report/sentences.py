"""Every statement and sentence of the paper that can be tested, and the claims that judge it."""

from collections.abc import Mapping
from dataclasses import dataclass

from report import rules
from report.verdicts import Claim

NO_DATA = "not run: its data could not be had"


@dataclass(frozen=True)
class Sentence:
    """One of the paper's, or a part of one."""

    where: str  # statement, section or figure
    text: str  # in other words
    judged: tuple[Claim, ...]
    otherwise: str  # what is to be said where no claim judges it


def _sentence(where: str, text: str, *judged: Claim, otherwise: str = "") -> Sentence:
    return Sentence(where, text, judged, otherwise)


SENTENCES = (
    _sentence(
        "Equations 1 and 2",
        "the Feature Learning Equation; the Gram after a step to first order",
        rules.weights.gram_movement,
    ),
    _sentence(
        "section 1",
        "the virtual trajectory straightens a Swiss roll along its target",
        rules.weights.swiss_roll,
    ),
    _sentence(
        "Definition 1",
        "virtual update, Virtual Covariance, its shift",
        otherwise="a definition: claims 9 and 12 measure it",
    ),
    _sentence(
        "Theorem 1",
        "the Gram's change is the shift, up to second order in the rate",
        rules.weights.gram_movement,
    ),
    _sentence(
        "Proposition 1",
        "the step of a layer's output is bounded by its virtual update, with the same sign",
        rules.propositions.proposition_1,
    ),
    _sentence(
        "Definition 2", "Target Linearity", otherwise="a definition: claims 3 to 8 measure it"
    ),
    _sentence(
        "section 4.1", "the surrogate S(G)", otherwise="a definition: claims 3 and 15 measure it"
    ),
    _sentence(
        "Theorem 2", "the surrogate bounds Target Linearity from below", rules.statements.theorem_2
    ),
    _sentence(
        "Lemma 1",
        "the surrogate of one layer bounds that of the layer before",
        rules.lemmas.lemma_1,
    ),
    _sentence(
        "Lemma 2", "Kantorovich's inequality for the error of a ridge fit", rules.lemmas.lemma_2
    ),
    _sentence(
        "Theorem 3", "one step changes the surrogate by 2γ (fᵀy)(yᵀKg)", rules.statements.theorem_3
    ),
    _sentence("Lemma 3", "hᵢᵀ∂f/∂h(h_k) is about f(hᵢ) + (m − 1) f(h_k)", rules.lemmas.lemma_3),
    _sentence(
        "section A.2",
        "sums over samples are more robust than single terms of the expansion",
        rules.lemmas.robust_sums,
    ),
    _sentence(
        "section 4.2",
        "fᵀy is near zero at the start and grows; yᵀKg is positive until it tapers",
        rules.lemmas.signs,
    ),
    _sentence(
        "section 4.2",
        "f → f_OLS in the K-norm, while f_OLS → y: a moving target",
        rules.width.moving_target,
    ),
    _sentence(
        "section 4.2",
        "‖y − f_OLS‖_K = 0",
        otherwise="the normal equations: nothing could make it fail",
    ),
    _sentence(
        "section 4.2, title",
        "features are linearised sequentially, layer by layer",
        rules.lemmas.sequential_linearisation,
    ),
    _sentence(
        "Theorem 4",
        "a lower bound of the surrogate grows with the layer's index",
        rules.statements.theorem_4,
    ),
    _sentence("Lemma 4", "a ReLU network's first-order error is below 2MBδ", rules.lemmas.lemma_4),
    _sentence(
        "Proposition 2, Lemma 5",
        "Neural Collapse maximises the surrogate at a given norm: an extreme case",
        rules.propositions.proposition_2,
        rules.lemmas.lemma_5,
    ),
    _sentence(
        "Proposition 3",
        "a decoder's error on mixtures is bounded by the least-squares map's, which is √(1 − T₀) "
        "up to scale",
        rules.models.proposition_3,
    ),
    _sentence(
        "Proposition 4",
        "the Taylor errors of all pairs add up to zero",
        rules.propositions.proposition_4,
    ),
    _sentence(
        "sections 2, B.1",
        "whitening by Procrustes is the gradient without its tangent part, to first order",
        rules.statements.whitening_forms,
    ),
    _sentence(
        "Figure 1",
        "virtual points become progressively linear in the target",
        rules.weights.swiss_roll,
    ),
    _sentence(
        "Figure 1, section 3",
        "the contours of WᵀW adapt along with the unrolling",
        rules.weights.contours,
    ),
    _sentence(
        "Figure 2",
        "whitened training matches or exceeds plain on MNIST and CIFAR-10; reaches plain's best "
        "within 4 to 5 epochs on CIFAR-10",
        rules.whitening.whitening,
    ),
    _sentence(
        "Figure 2",
        "the same on SVHN, with a smaller spread; a small gap on CIFAR-100",
        otherwise=NO_DATA,
    ),
    _sentence(
        "section 2",
        "what whitening drops adds little beyond what the Gram's update provides",
        rules.whitening.residual,
    ),
    _sentence(
        "Figure 4",
        "TL and surrogate grow throughout training, and with the layer's index (CIFAR-10)",
        rules.training.linearity,
    ),
    _sentence(
        "Figure 4",
        "the surrogate grows about exponentially, TL about logarithmically",
        rules.training.growth,
    ),
    _sentence("Figures 4, 9", "the same on CIFAR-100", otherwise=NO_DATA),
    _sentence(
        "Figure 5",
        "low β: near-linear transitions; high β: blurrier, less faithful",
        rules.models.autoencoders,
    ),
    _sentence(
        "Figure 6", "whitening a CNN: a negligible difference (CIFAR-10)", rules.whitening.whitening
    ),
    _sentence("Figure 6", "the same on SVHN and CIFAR-100", otherwise=NO_DATA),
    _sentence(
        "Figure 7, sections 3 and B.3",
        "the diagonals of ΣVCS follow those of WᵀW, and of its update, better than AGOP's",
        rules.figure7.virtual_covariance_shift,
    ),
    _sentence(
        "section B.3",
        "the part of second order does not significantly affect the Gram",
        rules.figure7.second_order,
    ),
    _sentence(
        "Figure 8, section B.4",
        "lazy: the output alone moves; rich: both move, and the loss ends lower",
        rules.width.lazy_and_rich,
    ),
    _sentence("section B.4", "in wide networks the features freeze", rules.width.frozen_features),
    _sentence(
        "section B.4",
        "the lazy network is held back by what its initial features can express",
        rules.width.held_back,
    ),
    _sentence(
        "Figure 9, section B.5",
        "the same pattern as Figure 4 under Adam (CIFAR-10)",
        rules.training.linearity_adam,
    ),
    _sentence(
        "Figure 10, section B.6",
        "low β: TL rises steadily, errors are lowest; high β: stable or slightly rising; the "
        "lower β, the higher TL",
        rules.models.autoencoders,
    ),
    _sentence(
        "Figure 11, section B.7",
        "pre-trained above initialised at every layer; the order of gains by task",
        rules.encoders.pre_training,
    ),
    _sentence(
        "Figure 11, section B.7",
        "fine-tuned: nearly monotone in depth, saturated after one epoch; pre-trained is the "
        "lower envelope; POS's last layer is its best",
        rules.encoders.fine_tuning,
    ),
    _sentence(
        "Figure 12, section B.8",
        "TL falls up to p = 0.5; for more, slow at first, a larger gap in mid-training, and a "
        "sudden rise of the middle layers",
        rules.generalisation.random_labels,
    ),
    _sentence(
        "Figure 13, section B.8",
        "from decay 0.25 on TL keeps rising until the network groks, then saturates; layer 2 "
        "rises sharply",
        rules.grokking.grokking_rise,
    ),
    _sentence(
        "Figure 14, section B.8",
        "the gap falls at the onset of grokking and widens again afterwards",
        rules.grokking.grokking_gaps,
    ),
    _sentence(
        "section B.8",
        "TL may serve as a measure of generalisation",
        rules.generalisation.generalisation,
    ),
)


def sentences_table(verdicts: Mapping[Claim, str]) -> str:
    """Markdown: a row a sentence; verdicts: the paper's of each claim."""
    lines = ["| paper | statement or sentence | claim | the paper's |", "| --- | --- | --- | --- |"]
    for sentence in SENTENCES:
        numbers = ", ".join(str(rules.number(claim)) for claim in sentence.judged)
        said = "; ".join(dict.fromkeys(verdicts[claim] for claim in sentence.judged))
        cells = (sentence.where, sentence.text, numbers, said or sentence.otherwise)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
