"""Verdicts on planted results: the rules of src/claims.py decide as they say."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import claims
import results
import whitening
from experiment import target_linearity, whiten

DATA = SimpleNamespace(name="planted", fingerprint="0" * 16)


def plant(root: Path, experiment: str, name: str, settings: dict, arrays: dict, axes: dict) -> None:
    meta = results.make_meta(experiment, name, settings, axes, DATA, "cpu", 60.0)
    results.save(results.path_for(root, "paper", experiment, name, settings), results.Result(arrays, meta))


def plant_whitening(root: Path, method: str, finals: list[float], rate: float = 0.01) -> None:
    settings = {**whiten.Config().hyperparameters(), "method": method, "learning_rate": rate, "dataset": DATA.name}
    settings["seeds"] = list(range(len(finals)))
    accuracy = np.stack([np.zeros(len(finals)), finals], axis=1)[None]  # (learning_rate, seed, epoch)
    axes = {"test_accuracy": whitening.AXES["test_accuracy"]}
    plant(root, "whiten", f"planted-{method}-lr{rate}", settings, {"test_accuracy": accuracy}, axes)


def judge(root: Path, claim: int, figure: str) -> str:
    (chosen,) = [c for c in claims.CLAIMS if c.number == claim]
    return claims.verdict(claims.measured(chosen, root, "paper", (figure,))[figure])


@pytest.mark.parametrize(
    ("whitened", "expected"),
    [([0.92, 0.90], "holds"), ([0.897, 0.898], "holds"), ([0.89, 0.89], "does not hold"), ([0.87, 0.97], "holds")],
)
def test_whitening_is_judged_by_the_mean_difference(tmp_path: Path, whitened: list[float], expected: str) -> None:
    plant_whitening(tmp_path, "plain", [0.9, 0.9])
    plant_whitening(tmp_path, "exact", whitened)
    assert judge(tmp_path, 2, "2") == expected


def test_one_of_two_projections_is_a_verdict_in_part(tmp_path: Path) -> None:
    plant_whitening(tmp_path, "plain", [0.9, 0.9])
    plant_whitening(tmp_path, "exact", [0.9, 0.9])
    plant_whitening(tmp_path, "newton_schulz", [0.8, 0.8])
    assert judge(tmp_path, 2, "2") == "holds in part"


@pytest.mark.parametrize(("seeds", "rate"), [([0.9], 0.01), ([0.9, 0.9], 0.1)])
def test_other_seeds_or_another_rate_are_not_compared(tmp_path: Path, seeds: list[float], rate: float) -> None:
    plant_whitening(tmp_path, "plain", [0.9, 0.9])
    plant_whitening(tmp_path, "exact", seeds, rate)
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


def test_a_document_without_its_marker_is_refused() -> None:
    assert (
        claims.replace_between("a\n<!-- t -->\nold\n<!-- /t -->\n", "t", "new\n") == "a\n<!-- t -->\nnew\n<!-- /t -->\n"
    )
    with pytest.raises(ValueError, match="no <!-- claims -->"):
        claims.replace_between("no marker here", "claims", "")
