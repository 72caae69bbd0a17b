"""Every statement and sentence of the paper that can be tested, and the claims that judge it."""

from collections.abc import Mapping
from dataclasses import dataclass

from report.rules import (
    encoders,
    figure7,
    generalisation,
    grokking,
    lemmas,
    models,
    number,
    propositions,
    statements,
    training,
    weights,
    whitening,
    width,
)
from report.verdicts import Claim

NO_DATA = "not run: its data could not be had"


@dataclass(frozen=True)
class Sentence:
    """One of the paper's, or a part of one."""

    where: str  # statement, section or figure
    text: str  # in other words
    judged: tuple[Claim, ...] = ()
    otherwise: str = ""  # what is to be said where no claim judges it


SENTENCES = (
    Sentence(
        "Equations 1 and 2",
        "the Feature Learning Equation; the Gram after a step to first order",
        (weights.gram_movement,),
    ),
    Sentence(
        "section 1",
        "the virtual trajectory straightens a Swiss roll along its target",
        (weights.swiss_roll,),
    ),
    Sentence(
        "Definition 1",
        "virtual update, Virtual Covariance, its shift",
        otherwise="a definition: claims 9 and 12 measure it",
    ),
    Sentence(
        "Theorem 1",
        "the Gram's change is the shift, up to second order in the rate",
        (weights.gram_movement,),
    ),
    Sentence(
        "Proposition 1",
        "the step of a layer's output is bounded by its virtual update, with the same sign",
        (propositions.proposition_1,),
    ),
    Sentence(
        "Definition 2", "Target Linearity", otherwise="a definition: claims 3 to 8 measure it"
    ),
    Sentence(
        "section 4.1", "the surrogate S(G)", otherwise="a definition: claims 3 and 15 measure it"
    ),
    Sentence(
        "Theorem 2", "the surrogate bounds Target Linearity from below", (statements.theorem_2,)
    ),
    Sentence(
        "Lemma 1", "the surrogate of one layer bounds that of the layer before", (lemmas.lemma_1,)
    ),
    Sentence("Lemma 2", "Kantorovich's inequality for the error of a ridge fit", (lemmas.lemma_2,)),
    Sentence(
        "Theorem 3", "one step changes the surrogate by 2γ (fᵀy)(yᵀKg)", (statements.theorem_3,)
    ),
    Sentence("Lemma 3", "hᵢᵀ∂f/∂h(h_k) is about f(hᵢ) + (m − 1) f(h_k)", (lemmas.lemma_3,)),
    Sentence(
        "section A.2",
        "sums over samples are more robust than single terms of the expansion",
        (lemmas.robust_sums,),
    ),
    Sentence(
        "section 4.2",
        "fᵀy is near zero at the start and grows; yᵀKg is positive until it tapers",
        (lemmas.signs,),
    ),
    Sentence(
        "section 4.2",
        "f → f_OLS in the K-norm, while f_OLS → y: a moving target",
        (width.moving_target,),
    ),
    Sentence(
        "section 4.2",
        "‖y − f_OLS‖_K = 0",
        otherwise="the normal equations: nothing could make it fail",
    ),
    Sentence(
        "section 4.2, title",
        "features are linearised sequentially, layer by layer",
        (lemmas.sequential_linearisation,),
    ),
    Sentence(
        "Theorem 4",
        "a lower bound of the surrogate grows with the layer's index",
        (statements.theorem_4,),
    ),
    Sentence("Lemma 4", "a ReLU network's first-order error is below 2MBδ", (lemmas.lemma_4,)),
    Sentence(
        "Proposition 2, Lemma 5",
        "Neural Collapse maximises the surrogate at a given norm: an extreme case",
        (
            propositions.proposition_2,
            lemmas.lemma_5,
        ),
    ),
    Sentence(
        "Proposition 3",
        "a decoder's error on mixtures is bounded by the least-squares map's, which is √(1 − T₀) "
        "up to scale",
        (models.proposition_3,),
    ),
    Sentence(
        "Proposition 4",
        "the Taylor errors of all pairs add up to zero",
        (propositions.proposition_4,),
    ),
    Sentence(
        "sections 2, B.1",
        "whitening by Procrustes is the gradient without its tangent part, to first order",
        (statements.whitening_forms,),
    ),
    Sentence(
        "Figure 1",
        "virtual points become progressively linear in the target",
        (weights.swiss_roll,),
    ),
    Sentence(
        "Figure 1, section 3",
        "the contours of WᵀW adapt along with the unrolling",
        (weights.contours,),
    ),
    Sentence(
        "Figure 2",
        "whitened training matches or exceeds plain on MNIST and CIFAR-10; reaches plain's best "
        "within 4 to 5 epochs on CIFAR-10",
        (whitening.whitening,),
    ),
    Sentence(
        "Figure 2",
        "the same on SVHN, with a smaller spread; a small gap on CIFAR-100",
        otherwise=NO_DATA,
    ),
    Sentence(
        "section 2",
        "what whitening drops adds little beyond what the Gram's update provides",
        (whitening.residual,),
    ),
    Sentence(
        "Figure 4",
        "TL and surrogate grow throughout training, and with the layer's index (CIFAR-10)",
        (training.linearity,),
    ),
    Sentence(
        "Figure 4",
        "the surrogate grows about exponentially, TL about logarithmically",
        (training.growth,),
    ),
    Sentence("Figures 4, 9", "the same on CIFAR-100", otherwise=NO_DATA),
    Sentence(
        "Figure 5",
        "low β: near-linear transitions; high β: blurrier, less faithful",
        (models.autoencoders,),
    ),
    Sentence(
        "Figure 6", "whitening a CNN: a negligible difference (CIFAR-10)", (whitening.whitening,)
    ),
    Sentence("Figure 6", "the same on SVHN and CIFAR-100", otherwise=NO_DATA),
    Sentence(
        "Figure 7, sections 3 and B.3",
        "the diagonals of ΣVCS follow those of WᵀW, and of its update, better than AGOP's",
        (figure7.virtual_covariance_shift,),
    ),
    Sentence(
        "section B.3",
        "the part of second order does not significantly affect the Gram",
        (figure7.second_order,),
    ),
    Sentence(
        "Figure 8, section B.4",
        "lazy: the output alone moves; rich: both move, and the loss ends lower",
        (width.lazy_and_rich,),
    ),
    Sentence("section B.4", "in wide networks the features freeze", (width.frozen_features,)),
    Sentence(
        "section B.4",
        "the lazy network is held back by what its initial features can express",
        (width.held_back,),
    ),
    Sentence(
        "Figure 9, section B.5",
        "the same pattern as Figure 4 under Adam (CIFAR-10)",
        (training.linearity_adam,),
    ),
    Sentence(
        "Figure 10, section B.6",
        "low β: TL rises steadily, errors are lowest; high β: stable or slightly rising; the "
        "lower β, the higher TL",
        (models.autoencoders,),
    ),
    Sentence(
        "Figure 11, section B.7",
        "pre-trained above initialised at every layer; the order of gains by task",
        (encoders.pre_training,),
    ),
    Sentence(
        "Figure 11, section B.7",
        "fine-tuned: nearly monotone in depth, saturated after one epoch; pre-trained is the "
        "lower envelope; POS's last layer is its best",
        (encoders.fine_tuning,),
    ),
    Sentence(
        "Figure 12, section B.8",
        "TL falls up to p = 0.5; for more, slow at first, a larger gap in mid-training, and a "
        "sudden rise of the middle layers",
        (generalisation.random_labels,),
    ),
    Sentence(
        "Figure 13, section B.8",
        "from decay 0.25 on TL keeps rising until the network groks, then saturates; layer 2 "
        "rises sharply",
        (grokking.grokking_rise,),
    ),
    Sentence(
        "Figure 14, section B.8",
        "the gap falls at the onset of grokking and widens again afterwards",
        (grokking.grokking_gaps,),
    ),
    Sentence(
        "section B.8",
        "TL may serve as a measure of generalisation",
        (generalisation.generalisation,),
    ),
)


def sentences_table(verdicts: Mapping[Claim, str]) -> str:
    """Markdown: a row a sentence; verdicts: the paper's of each claim."""
    lines = ["| paper | statement or sentence | claim | the paper's |", "| --- | --- | --- | --- |"]
    for sentence in SENTENCES:
        numbers = ", ".join(str(number(claim)) for claim in sentence.judged)
        said = "; ".join(dict.fromkeys(verdicts[claim] for claim in sentence.judged))
        cells = (sentence.where, sentence.text, numbers, said or sentence.otherwise)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
