"""Results of a figure are found by a script's own defaults, and nothing else is taken for them."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiment import target_linearity
from lab import results
from lab.errors import ResultError
from report.lookup import divergences, explain_missing, lookup, mean_spread

DATA = SimpleNamespace(name="planted", fingerprint="0" * 16)


def plant(root, **changes):
    """A result of the script's default configuration with some settings of its own."""
    settings = {**target_linearity.Config().hyperparameters(), "dataset": "planted", **changes}
    name = f"planted-{settings['optimizer']}"
    meta = results.make_meta(
        "target_linearity", name, settings, {"seed": ("seed",)}, DATA, "cpu", 1
    )
    path = root / "paper" / "target_linearity" / f"{name}-{results.digest(settings)}.npz"
    results.write(path, results.Result({"seed": np.arange(3)}, meta))
    return path


def test_a_result_with_a_replica_that_diverged_is_named(tmp_path):
    plant(tmp_path)
    path = plant(tmp_path, epochs=5)
    assert divergences(tmp_path, "paper", ["target_linearity", "whiten"]) == []
    result = results.read(path)
    result.meta["diverged"] = [{"seed": 1, "epoch": 4}]
    results.write(path, result)
    (line,) = divergences(tmp_path, "paper", ["target_linearity", "whiten"])
    assert line == f"{path.stem}; seed 1 diverged in epoch 4"


def find(root, *args, **changes):
    return [run.config for run in lookup(target_linearity, root, "paper", *args, **changes)]


def test_the_default_is_found_beside_other_settings(tmp_path):
    plant(tmp_path)
    plant(tmp_path, epochs=5)
    plant(tmp_path, optimizer="adam")
    (config,) = find(tmp_path)
    assert (config["epochs"], config["optimizer"]) == (100, "sgd")
    (changed,) = find(tmp_path, epochs=5)
    assert changed["epochs"] == 5
    assert find(tmp_path, learning_rate=0.5) == []


def test_settings_that_may_have_any_value_are_an_error_where_several_fit(tmp_path):
    plant(tmp_path, epochs=5)
    assert find(tmp_path) == []
    assert [config["epochs"] for config in find(tmp_path, ("epochs",))] == [5]
    plant(tmp_path, epochs=6)
    with pytest.raises(ResultError, match="both named planted-sgd: say which one by its epochs"):
        find(tmp_path, ("epochs",))


def seeds(root, name, own, shift=0.0, **changes):
    """A result with these seeds: a number each, of an array with the seed as its second axis."""
    settings = {**target_linearity.Config().hyperparameters(), "seeds": own, **changes}
    arrays = {"seed": np.array(own), "layer": np.array([1.0, 2.0 + shift])}
    arrays["x"] = np.array([own, own], dtype=float)  # (layer, seed)
    axes = {"seed": ("seed",), "layer": ("layer",), "x": ("layer", "seed")}
    meta = results.make_meta("target_linearity", name, settings, axes, DATA, "cpu", 1)
    meta["diverged"] = [{"seed": own[-1], "epoch": 1}]
    path = root / "paper" / "target_linearity" / f"{name}-{results.digest(settings)}.npz"
    results.write(path, results.Result(arrays, meta))


def test_results_that_differ_in_their_seeds_alone_are_one(tmp_path):
    for own in ([4, 3], [0, 1, 2], [2, 9]):
        seeds(tmp_path, "a", own)
    seeds(tmp_path, "a", [7], epochs=5)
    (run,) = lookup(target_linearity, tmp_path, "paper")
    assert run["seed"].tolist() == run.config["seeds"] == [0, 1, 2, 3, 4, 9]
    np.testing.assert_array_equal(run["x"], [run["seed"]] * 2)
    assert run["layer"].tolist() == [1, 2]
    assert run.meta["seconds"] == 3
    assert sorted(entry["seed"] for entry in run.diverged) == [2, 3, 9]
    (alone,) = lookup(target_linearity, tmp_path, "paper", seeds=(4, 3))
    assert alone["seed"].tolist() == [4, 3]


def test_an_array_that_an_older_result_lacks_is_left_out(tmp_path):
    for own in ([0, 1], [2]):
        seeds(tmp_path, "a", own)
    path = min((tmp_path / "paper" / "target_linearity").glob("*.npz"))
    older = results.read(path)
    del older.arrays["x"]
    results.write(path, older)
    (run,) = lookup(target_linearity, tmp_path, "paper")
    assert run["seed"].tolist() == [0, 1, 2]
    assert "x" not in run.arrays


def test_results_that_differ_in_more_are_not_joined(tmp_path):
    seeds(tmp_path, "a", [0])
    seeds(tmp_path, "a", [1], shift=1)
    with pytest.raises(ResultError, match="differ in more than their seeds"):
        lookup(target_linearity, tmp_path, "paper")


def test_what_is_missing_is_said_with_the_command_and_what_is_there_instead(tmp_path):
    command = "python src/experiment/target_linearity.py --optimizer adam"
    said = explain_missing(target_linearity, tmp_path, "quick", optimizer="adam")
    assert said == f"no results at quick scale: {command} --scale quick"
    path = plant(tmp_path, epochs=5)
    first, second = explain_missing(target_linearity, tmp_path, "paper").splitlines()
    assert first == "no results at paper scale: python src/experiment/target_linearity.py"
    assert second == f"{path.name} is there, with epochs 5"


def test_spreads_are_two_standard_deviations_and_none_of_one_seed():
    assert mean_spread(np.array([1.0, 2.0, 3.0])) == "2.00 ± 2.00"
    assert mean_spread(np.array([0.25]), 1) == "0.2"


def test_a_network_of_ones_own_is_found_by_the_word_of_its_command_line(tmp_path):
    path = tmp_path / "my_network.py"
    path.write_text("def build(shape, classes):\n    pass\n")
    word = f"{path}:build"
    plant(tmp_path, **target_linearity.Config(architecture=word).hyperparameters())
    (run,) = lookup(target_linearity, tmp_path, "paper", architecture=word)
    assert run.config["architecture"].startswith("my_network.py:build ")
    other = tmp_path / "other" / path.name  # of one name, and another network
    other.parent.mkdir()
    other.write_text("def build(shape, classes):\n    return None\n")
    assert lookup(target_linearity, tmp_path, "paper", architecture=f"{other}:build") == []
