"""The paper's claims, in the order of their numbers, and how each is judged.

A claim is made by `report.verdicts.claim` of the function that judges it. Rules are not tuned to
results; those that were changed after a result was seen stand in `report.rules.changed`.
"""

from report.rules import figure7, generalisation, models, statements, training, weights
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
    figure7.virtual_covariance_shift,
    models.pre_training,
    generalisation.grokking_rise,
    training.growth,
    generalisation.generalisation,
    statements.proposition_1,
    statements.theorem_2,
    statements.theorem_3,
    statements.lemma_3,
    statements.sequential_linearisation,
    statements.theorem_4,
    statements.proposition_2,
    models.proposition_3,
    statements.proposition_4,
    statements.whitening_forms,
    figure7.second_order,
)


def number(claim: Claim) -> int:
    """A claim's number, from 1."""
    return CLAIMS.index(claim) + 1
