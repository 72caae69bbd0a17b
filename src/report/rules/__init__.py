"""The paper's claims, in the order of their numbers, and how each is judged.

A claim is made by `report.verdicts.claim` of the function that judges it. Rules are not tuned to
results; those that were changed after a result was seen stand in `report.rules.changed`.
"""

from report.rules import (
    architectures,
    decay,
    encoders,
    figure7,
    generalisation,
    grokking,
    lemmas,
    models,
    propositions,
    scaling,
    statements,
    theories,
    training,
    weights,
    whitening,
    width,
)
from report.rules.weights import STRAIGHT
from report.verdicts import Claim

__all__ = ["CLAIMS", "STRAIGHT", "number"]

CLAIMS: tuple[Claim, ...] = (
    weights.swiss_roll,
    whitening.whitening,
    training.linearity,
    models.autoencoders,
    width.lazy_and_rich,
    encoders.fine_tuning,
    generalisation.random_labels,
    grokking.grokking_gaps,
    weights.gram_movement,
    training.collapse_and_linearity,
    whitening.residual,
    figure7.virtual_covariance_shift,
    encoders.pre_training,
    grokking.grokking_rise,
    training.growth,
    generalisation.generalisation,
    propositions.proposition_1,
    statements.theorem_2,
    statements.theorem_3,
    lemmas.lemma_3,
    lemmas.sequential_linearisation,
    statements.theorem_4,
    propositions.proposition_2,
    models.proposition_3,
    propositions.proposition_4,
    statements.whitening_forms,
    training.linearity_adam,
    weights.contours,
    width.frozen_features,
    width.held_back,
    width.moving_target,
    figure7.second_order,
    lemmas.lemma_1,
    lemmas.lemma_2,
    lemmas.lemma_4,
    lemmas.lemma_5,
    lemmas.robust_sums,
    lemmas.signs,
    decay.fact,
    architectures.depth,
    theories.nearest,
    theories.laws,
    theories.beyond_probe,
    scaling.covariance_steps,
    scaling.lazy_or_rich,
)


def number(claim: Claim) -> int:
    """A claim's number, from 1."""
    return CLAIMS.index(claim) + 1
