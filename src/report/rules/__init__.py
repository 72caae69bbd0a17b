"""The paper's claims, in the order of their numbers, and how each is judged.

A claim is made by `report.verdicts.claim` of the function that judges it. Rules are not tuned to
results; those that were changed after a result was seen stand in `report.rules.changed`.
"""

from report.rules import (
    generalisation,
    lemmas,
    models,
    propositions,
    statements,
    training,
    weights,
)
from report.rules.weights import STRAIGHT
from report.verdicts import Claim

__all__ = ["CLAIMS", "STRAIGHT", "number"]

CLAIMS: tuple[Claim, ...] = (
    weights.swiss_roll,
    weights.whitening,
    training.linearity,
    models.autoencoders,
    training.lazy_and_rich,
    models.fine_tuning,
    generalisation.random_labels,
    generalisation.grokking_gaps,
    weights.gram_movement,
    training.collapse_subsumed,
    weights.residual,
    weights.virtual_covariance_shift,
    models.pre_training,
    generalisation.grokking_rise,
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
    lemmas.lemma_1,
    lemmas.lemma_2,
    lemmas.lemma_4,
    lemmas.lemma_5,
    lemmas.robust_sums,
    lemmas.signs,
)


def number(claim: Claim) -> int:
    """A claim's number, from 1."""
    return CLAIMS.index(claim) + 1
