"""Verdicts on planted results: the rules decide as they say."""

from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import claims
from experiment import (
    bert_target_linearity,
    gram_virtual_covariance,
    grokking,
    neural_collapse,
    random_label,
    staircase,
    swissroll,
    target_linearity,
    vae_target_linearity,
    whiten,
)
from lab import results
from report import rules

DATA = SimpleNamespace(name="planted", fingerprint="0" * 16)


def plant(root: Path, experiment: str, name: str, settings: dict, arrays: dict, axes: dict) -> None:
    meta = results.make_meta(experiment, name, settings, axes, DATA, "cpu", 60.0)
    path = root / "paper" / experiment / f"{name}-{results.digest(settings)}.npz"
    results.write(path, results.Result(arrays, meta))


def plant_whitening(root: Path, method: str, finals: list[float], rate: float = 0.01) -> None:
    settings = {
        **whiten.Config().hyperparameters(),
        "method": method,
        "learning_rate": rate,
        "dataset": DATA.name,
    }
    accuracy = np.stack([np.zeros(len(finals)), finals], axis=1)  # (seed, epoch)
    axes = {"test_accuracy": whiten.AXES["test_accuracy"]}
    plant(root, "whiten", f"planted-{method}-lr{rate}", settings, {"test_accuracy": accuracy}, axes)


def judge(root: Path, claim: int, figure: str) -> str:
    (chosen,) = (c for c in rules.CLAIMS if c.number == claim)
    return rules.verdict(chosen.findings(root, "paper", (figure,))[figure])


@pytest.mark.parametrize(
    ("whitened", "expected"),
    [
        ([0.92, 0.90], "holds"),
        ([0.897, 0.898], "holds"),
        ([0.89, 0.89], "does not hold"),
        ([0.87, 0.97], "holds"),
    ],
)
def test_whitening_is_judged_by_the_mean_difference(
    tmp_path: Path, whitened: list[float], expected: str
) -> None:
    plant_whitening(tmp_path, "plain", [0.9, 0.9])
    plant_whitening(tmp_path, "exact", whitened)
    assert judge(tmp_path, 2, "2") == expected


def test_one_of_two_projections_is_a_verdict_in_part(tmp_path: Path) -> None:
    plant_whitening(tmp_path, "plain", [0.9, 0.9])
    plant_whitening(tmp_path, "exact", [0.9, 0.9])
    plant_whitening(tmp_path, "newton_schulz", [0.8, 0.8])
    assert judge(tmp_path, 2, "2") == "holds in part"


def test_another_rate_is_not_compared(tmp_path: Path) -> None:
    plant_whitening(tmp_path, "plain", [0.9, 0.9])
    plant_whitening(tmp_path, "exact", [0.9, 0.9], rate=0.1)
    assert judge(tmp_path, 2, "2") == "not measured"


@pytest.mark.parametrize(
    ("last_row", "surrogate", "expected"),
    [
        ([0.3, 0.4, 0.5], 2.0, "holds"),
        ([0.3, 0.5, 0.4], 2.0, "does not hold"),
        ([0.3, 0.4, 0.5], 0.5, "does not hold"),
        ([0.1, 0.4, 0.5], 2.0, "does not hold"),
    ],
)
def test_linearity_must_rise_with_training_and_depth(
    tmp_path: Path, last_row: list[float], surrogate: float, expected: str
) -> None:
    arrays = {
        "train_tl": np.array([[[0.2, 0.2, 0.2], last_row]]),
        "train_surrogate": np.array([[[1.0] * 3, [surrogate] * 3]]),
    }
    axes = {name: target_linearity.AXES[name] for name in arrays}
    settings = {**target_linearity.Config().hyperparameters(), "dataset": DATA.name}
    plant(tmp_path, "target_linearity", "planted-sgd", settings, arrays, axes)
    assert judge(tmp_path, 3, "4") == expected
    assert judge(tmp_path, 3, "9") == "not measured"


def plant_run(root: Path, script: ModuleType, name: str, arrays: dict, **settings: object) -> None:
    """A result of a script's default configuration with some settings of its own."""
    experiment = script.__name__.rpartition(".")[2]
    axes = {key: script.AXES[key] for key in arrays}
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    plant(root, experiment, name, {**script.Config().hyperparameters(), **settings}, arrays, axes)


@pytest.mark.parametrize(
    ("at_50", "expected"),
    [
        ([0.95, 0.99, 0.5], "holds"),
        ([0.95, 0.5, 0.5], "does not hold"),
        ([0.91, 0.92, 0.93], "holds"),
    ],
)
def test_the_swiss_roll_must_be_straight_at_epoch_50_for_most_seeds(
    tmp_path: Path, at_50: list[float], expected: str
) -> None:
    r2 = np.zeros((3, 101))
    r2[:, 50], r2[:, 51:] = at_50, 1.0
    plant_run(tmp_path, swissroll, "swissroll", {"r2": r2, "r2_frozen": np.zeros_like(r2)})
    assert judge(tmp_path, 1, "1") == expected


@pytest.mark.parametrize(
    ("tl", "error", "figure_10", "figure_5"),
    [
        ([0.9, 0.8, 0.7, 0.6, 0.5], [1, 2, 3, 4, 5], "holds", "holds"),
        ([0.9, 0.8, 0.7, 0.6, 0.5], [5, 4, 3, 2, 1], "holds", "does not hold"),
        ([0.5, 0.6, 0.7, 0.8, 0.9], [5, 4, 3, 2, 1], "does not hold", "holds"),
        ([0.9, 0.7, 0.8, 0.6, 0.5], [1, 2, 3, 4, 5], "holds", "holds"),  # rank correlation −0.9
        ([0.7, 0.9, 0.6, 0.8, 0.5], [1, 2, 3, 4, 5], "does not hold", "does not hold"),
    ],
)
def test_vaes_are_judged_by_rank_correlations_at_their_best_epochs(
    tmp_path: Path, tl: list[float], error: list[float], figure_10: str, figure_5: str
) -> None:
    best = np.array([[1], [0], [2], [1], [0]])
    arrays = {"tl": np.full((5, 1, 3), 0.1), "interpolation_error": np.full((5, 1, 3), 9.0)}
    arrays["decoder_nonlinearity"] = np.arange(15.0).reshape(5, 1, 3)  # decides nothing
    for i, epoch in enumerate(best[:, 0]):
        arrays["tl"][i, 0, epoch], arrays["interpolation_error"][i, 0, epoch] = tl[i], error[i]
    axes = {"beta": [0.1, 0.5, 1, 2, 5], "best_epoch": best}
    settings = {**vae_target_linearity.Config().hyperparameters(), "dataset": DATA.name}
    named = {**arrays, "beta": np.array(axes["beta"]), "best_epoch": best}
    names = {name: vae_target_linearity.AXES[name] for name in named}
    plant(tmp_path, "vae_target_linearity", "planted", settings, named, names)
    assert judge(tmp_path, 4, "10") == figure_10
    assert judge(tmp_path, 4, "5") == figure_5


@pytest.mark.parametrize(
    ("distance", "movement", "narrow_error", "expected"),
    [
        (0.05, 0.05, 0.5, "holds"),
        (0.5, 0.05, 0.5, "holds in part"),
        (0.05, 0.05, 0.9, "holds in part"),
        (0.5, 0.5, 0.9, "does not hold"),
    ],
)
def test_lazy_and_rich_are_judged_by_the_widest_and_the_narrowest(
    tmp_path: Path, distance: float, movement: float, narrow_error: float, expected: str
) -> None:
    for width, wide in ((32, 0.0), (1024, 1.0), (128, 0.0)):
        arrays = {
            "ols_distance": [[2, 2 * (distance if wide else 0.99)]],
            "ols_movement": [[0, 4 * (movement if wide else 0.99)]],
            "ols_error": [[3, 3 * (narrow_error if width == 32 else 1.5)]],
            "loss": [[4, 4]],
        }
        plant_run(tmp_path, staircase, f"width{width}", arrays, width=width)
    assert judge(tmp_path, 5, "8") == expected


@pytest.mark.parametrize(
    ("fine_tuned", "pre_trained", "expected"),
    [
        ([0.5, 0.6, 0.7, 0.9], [0.5, 0.6, 0.6, 0.5], "holds"),
        ([0.5, 0.9, 0.7, 0.6], [0.5, 0.6, 0.6, 0.5], "does not hold"),  # rises, but not with depth
        ([0.5, 0.6, 0.7, 0.9], [0.2, 0.3, 0.6, 0.8], "does not hold"),  # no more than before
        ([0.9, 0.7, 0.6, 0.5], [0.5, 0.4, 0.3, 0.0], "does not hold"),  # falls
    ],
)
def test_fine_tuning_must_make_linearity_rise_with_depth(
    tmp_path: Path, fine_tuned: list[float], pre_trained: list[float], expected: str
) -> None:
    tl = np.array(
        [[[0.1] * 5, [0.99, *pre_trained], [0.99, *fine_tuned]]]
    )  # the embeddings do not count
    arrays = {
        "train_tl": tl,
        "train_chance": np.zeros_like(tl),
        "stage": ["initialised", "pre-trained", "epoch 1"],
    }
    plant_run(tmp_path, bert_target_linearity, "planted", arrays, task="sst2")
    assert judge(tmp_path, 6, "11") == expected


@pytest.mark.parametrize(
    ("last", "first", "expected"),
    [
        ([0.9, 0.6, 0.2], [0.5, 0.4, 0.2], "holds"),
        (
            [0.9, 0.6, 0.7],
            [0.5, 0.4, 0.6],
            "does not hold",
        ),  # TL rises from the second p to the third
        ([0.9, 0.6, 0.5], [0.5, 0.5, 0.3], "does not hold"),  # the order by depth does
    ],
)
def test_random_labels_must_lower_linearity_and_its_order_at_every_step(
    tmp_path: Path, last: list[float], first: list[float], expected: str
) -> None:
    for p, of_last, of_first in zip(
        (1.0, 0.0, 0.5), (last[2], *last[:2]), (first[2], *first[:2]), strict=True
    ):
        tl = np.array([[[0.1, 0.1, 0.1], [of_first, 0.1, of_last]]])
        arrays = {"train_tl": tl, "train_tl_true": tl}
        plant_run(tmp_path, random_label, f"planted-p{p}", arrays, probability=p, dataset=DATA.name)
    assert judge(tmp_path, 7, "12") == expected


@pytest.mark.parametrize(("sign", "expected"), [(1.0, "holds"), (-1.0, "does not hold")])
def test_grokking_is_judged_by_the_correlation_of_the_two_gaps(
    tmp_path: Path, sign: float, expected: str
) -> None:
    gap = np.array([0.0, 0.2, 0.8, 0.5, 0.1])
    tl = np.stack([np.zeros(5), np.full(5, 0.4), 0.4 + sign * gap], axis=-1)[None]
    accuracies = {"train_accuracy": (0.1 + gap)[None], "test_accuracy": np.full((1, 5), 0.1)}
    arrays = {"train_tl": tl, **accuracies}
    plant_run(tmp_path, grokking, "planted-wd0.5", arrays, weight_decay=0.5)
    assert judge(tmp_path, 8, "14") == expected


@pytest.mark.parametrize(
    ("power", "residual", "cosine", "expected"),
    [
        (1.0, 1e-15, 1.0, "holds"),
        (2.0, 1e-15, 1.0, "does not hold"),
        (1.0, 1e-5, 1.0, "does not hold"),
        (1.0, 1e-15, 0.9, "does not hold"),
    ],
)
def test_the_gram_must_follow_to_first_order(
    tmp_path: Path, power: float, residual: float, cosine: float, expected: str
) -> None:
    rates = np.array([0.1, 0.05, 0.025])
    shape = (3, 2, 4, 3)  # rate, seed, point, layer
    arrays = {
        "rate": rates,
        "relative_error": np.broadcast_to(rates[:, None, None, None] ** power, shape),
        "cosine_vc": np.full(shape, cosine),
        "residual": np.full(shape, residual),
    }
    plant_run(
        tmp_path,
        gram_virtual_covariance,
        "planted-full",
        arrays,
        batch_size=None,
        dataset=DATA.name,
    )
    assert judge(tmp_path, 9, "gram") == expected


@pytest.mark.parametrize(
    ("bound", "nc1", "expected"),
    [
        (0.3, [3.0, 1.0, 0.2], "holds"),
        (0.75, [3.0, 1.0, 0.2], "does not hold"),
        (0.3, [0.2, 1.0, 3.0], "does not hold"),
    ],
)
def test_collapse_must_bound_linearity_and_come_with_it(
    tmp_path: Path, bound: float, nc1: list[float], expected: str
) -> None:
    def by_layer(values: list[float]) -> np.ndarray:
        return np.broadcast_to(np.array(values)[:, None], (2, 3, 2))  # seed, epoch, layer

    arrays = dict.fromkeys(("tl", "tl_intercept"), by_layer([0.5, 0.7, 0.9]))
    arrays |= dict.fromkeys(("nc2_norm", "nc2_angle", "nc4"), by_layer([1.0, 0.5, 0.0]))
    arrays |= dict.fromkeys(("nc3", "train_accuracy"), np.ones((2, 3)))
    arrays |= {"nc1": by_layer(nc1), "tl_bound": by_layer([0.1, bound, 0.9])}
    plant_run(tmp_path, neural_collapse, "planted", arrays, dataset=DATA.name)
    assert judge(tmp_path, 10, "collapse") == expected


def test_a_document_without_its_marker_is_refused() -> None:
    assert (
        claims.replace_between("a\n<!-- t -->\nold\n<!-- /t -->\n", "t", "new\n")
        == "a\n<!-- t -->\nnew\n<!-- /t -->\n"
    )
    with pytest.raises(ValueError, match="no <!-- claims -->"):
        claims.replace_between("no marker here", "claims", "")
