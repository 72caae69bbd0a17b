"""The mathematics of the paper, on torch alone; it imports nothing else of the project.

Installed, the package is named weight_gram.
"""

from .agop import average_gradient_outer_product, gram_agop_cosine
from .callback import MeasureEvery
from .collapse import CollapseReport, collapse
from .gram import GramWhitening, gram_preserving_update, weight_gram
from .layer_table import LayerRow, LayerTable
from .linearity import (
    LinearityReport,
    held_out_linearity,
    moments_surrogate,
    read_out,
    report,
    response_cka,
    ridge_linearity,
    surrogate,
    target_linearity,
)
from .measure import Measurement, measure
from .moments import FeatureMoments
from .pictures import layer_measures, measure_by_epoch, use_style
from .polar import polar_factor
from .targets import NotFiniteError
from .theories import (
    THEORIES,
    canonical_alignments,
    class_separation,
    regression_collapse,
)
from .virtual import (
    feature_learning_residual,
    gram_shift_cosine,
    virtual_covariance,
    virtual_covariance_shift,
    virtual_update,
)

__all__ = [
    "THEORIES",
    "CollapseReport",
    "FeatureMoments",
    "GramWhitening",
    "LayerRow",
    "LayerTable",
    "LinearityReport",
    "MeasureEvery",
    "Measurement",
    "NotFiniteError",
    "average_gradient_outer_product",
    "canonical_alignments",
    "class_separation",
    "collapse",
    "feature_learning_residual",
    "gram_agop_cosine",
    "gram_preserving_update",
    "gram_shift_cosine",
    "held_out_linearity",
    "layer_measures",
    "measure",
    "measure_by_epoch",
    "moments_surrogate",
    "polar_factor",
    "read_out",
    "regression_collapse",
    "report",
    "response_cka",
    "ridge_linearity",
    "surrogate",
    "target_linearity",
    "use_style",
    "virtual_covariance",
    "virtual_covariance_shift",
    "virtual_update",
    "weight_gram",
]
