"""Planted results: claims about variational autoencoders and encoders of text."""

import numpy as np
import pytest

from experiment import bert_target_linearity, bert_train, vae_target_linearity
from planted_results import DATA, judge, plant, verdict
from report.rules import models

BETAS = [0.1, 0.5, 1, 2, 5]


@pytest.mark.parametrize(
    ("tl", "error", "without_blur", "figure_10", "figure_5"),
    [
        ([9, 8, 7, 6, 5], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], "holds", "holds"),
        ([9, 8, 7, 6, 5], [1, 2, 3, 4, 5], [5, 4, 3, 2, 1], "holds", "holds in part"),
        ([9, 8, 7, 6, 5], [5, 4, 3, 2, 1], [5, 4, 3, 2, 1], "holds", "does not hold"),
        ([5, 6, 7, 8, 9], [5, 4, 3, 2, 1], [5, 4, 3, 2, 1], "does not hold", "holds"),
        ([9, 7, 8, 6, 5], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], "holds", "holds"),  # correlation −0.9
        ([7, 9, 6, 8, 5], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], "does not hold", "does not hold"),
    ],
)
def test_vaes_are_judged_by_rank_correlations_at_their_best_epochs(
    tmp_path, tl, error, without_blur, figure_10, figure_5
):
    best = np.array([[1, 1], [0, 2], [2, 2], [1, 0], [0, 1]])  # (beta, seed)
    planted = {"tl": tl, "interpolation_error": error, "decoder_nonlinearity": without_blur}
    arrays = {"beta": np.array(BETAS), "best_epoch": best}
    for name, values in planted.items():
        arrays[name] = np.arange(5.0 * 2 * 3).reshape(5, 2, 3)  # other epochs decide nothing
        np.put_along_axis(arrays[name], best[..., None], np.array(values)[:, None, None] / 10, 2)
    plant(tmp_path, vae_target_linearity, "planted", arrays, dataset=DATA.name)
    assert verdict(tmp_path, models.autoencoders, "10") == figure_10
    assert verdict(tmp_path, models.autoencoders, "5") == figure_5


RISING, BEFORE = [0.3, 0.5, 0.7, 0.9], [0.3, 0.4, 0.6, 0.4]


def plant_encoder(root, train, held_out=RISING, before=BEFORE, score=(0.8, 0.8), **more):
    """TL by layer when pre-trained and after each epoch, and the validation score by epoch."""
    seeds, epochs = more.get("seeds", 3), len(score)
    noise = 1e-4 * np.arange(seeds)[:, None, None]
    stages = ["initialised", "pre-trained", *(f"epoch {n + 1}" for n in range(epochs))]
    arrays = {"stage": stages, "train_n": more.get("rows", 2000)}
    for name, last in (("train_tl", train), ("held_out_tl", held_out)):
        rows = [[0.1] * 4, before, *[last] * epochs]
        rows = np.pad(np.array(rows), ((0, 0), (1, 0)), constant_values=0.99)  # the embeddings
        arrays[name] = rows + noise
    arrays["train_chance"] = np.full(arrays["train_tl"].shape, more.get("chance", 0.05))
    if "type_chance" in more:
        arrays["train_type_chance"] = np.full(arrays["train_tl"].shape, more["type_chance"])
    settings = {"task": "sst2", "epochs": epochs}
    plant(root, bert_target_linearity, "planted", arrays, **settings)
    key = more.get("key", "validation_accuracy")
    scores = np.broadcast_to([0.1, *score], (seeds, epochs + 1))
    trained = {"validation_accuracy": np.full(scores.shape, 0.9)} | {key: scores}
    plant(root, bert_train, "planted", trained, **settings)


@pytest.mark.parametrize(
    ("train", "before", "expected"),
    [
        (RISING, BEFORE, "holds"),
        ([0.3, 0.9, 0.7, 0.5], BEFORE, "holds in part"),  # rises, but not with depth
        (RISING, [0.1, 0.3, 0.6, 0.8], "holds in part"),  # no more than before
        ([0.9, 0.7, 0.5, 0.3], BEFORE, "holds in part"),  # falls, on training rows alone
    ],
)
def test_fine_tuning_must_make_linearity_rise_with_depth(tmp_path, train, before, expected):
    plant_encoder(tmp_path, train, before=before)
    assert verdict(tmp_path, models.fine_tuning, "11") == expected


def test_fine_tuning_that_lets_it_fall_on_all_rows_does_not_hold(tmp_path):
    plant_encoder(tmp_path, RISING[::-1], RISING[::-1])
    assert verdict(tmp_path, models.fine_tuning, "11") == "does not hold"


@pytest.mark.parametrize("key", ["validation_accuracy", "validation_f1"])
@pytest.mark.parametrize("train", [RISING, RISING[::-1]])
def test_training_that_is_not_over_decides_nothing(tmp_path, key, train):
    plant_encoder(tmp_path, train, train, score=(0.5, 0.8), key=key)
    assert verdict(tmp_path, models.fine_tuning, "11") == "not decided by this data"


def test_the_longest_training_is_judged(tmp_path):
    plant_encoder(tmp_path, RISING[::-1], RISING[::-1], score=(0.5, 0.8))
    plant_encoder(tmp_path, RISING, score=(0.5, 0.8, 0.9, 0.9))
    plant_encoder(tmp_path, RISING[::-1], RISING[::-1], score=(0.8, 0.8, 0.8))
    found = judge(tmp_path, models.fine_tuning, "11")
    assert {finding.outcome for finding in found} == {"met"}
    assert "0.500, 0.800, 0.900, 0.900" in found[0].number


def test_one_seed_of_an_encoder_decides_nothing(tmp_path):
    plant_encoder(tmp_path, RISING, seeds=1)
    assert verdict(tmp_path, models.fine_tuning, "11") == "not decided by this data"
    assert verdict(tmp_path, models.pre_training, "11") == "not decided by this data"


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        (2000, {"chance": 0.1}, "met"),
        (2000, {"chance": 0.95}, "not met"),
        (9000, {"chance": 0.1}, "not measured"),  # words, whose chance is another
        (9000, {"chance": 0.1, "type_chance": 0.5}, "met"),
        (9000, {"chance": 0.1, "type_chance": 0.95}, "not met"),
    ],
)
def test_the_last_layer_must_be_above_its_own_chance(tmp_path, rows, options, expected):
    plant_encoder(tmp_path, RISING, rows=rows, **options)
    (chance,) = [f for f in judge(tmp_path, models.fine_tuning, "11") if "chance" in f.asked]
    assert (chance.outcome, chance.control) == (expected, True)


@pytest.mark.parametrize(
    ("before", "expected"), [(BEFORE, "holds"), ([0.3, 0.05, 0.6, 0.4], "does not hold")]
)
def test_pre_training_must_raise_every_layer(tmp_path, before, expected):
    plant_encoder(tmp_path, RISING, before=before)
    assert verdict(tmp_path, models.pre_training, "11") == expected
