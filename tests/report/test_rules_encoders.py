"""Planted results: claims about encoders of text."""

import numpy as np
import pytest

from experiment import bert_target_linearity, bert_train
from planted_results import judge, our_verdict, outcomes, plant, verdict
from report.rules import encoders

RISING, BEFORE = [0.3, 0.5, 0.7, 0.9], [0.25, 0.4, 0.6, 0.4]
INITIALISED = [0.1] * 4
OURS = "all-MiniLM-L6-v2"


def plant_encoder(root, train, held_out=RISING, before=BEFORE, score=(0.8, 0.8), **more):
    """TL by layer when pre-trained and after each epoch, and the validation score by epoch."""
    seeds, epochs = more.get("seeds", 3), len(score)
    noise = 1e-4 * np.arange(seeds)[:, None, None]
    stages = ["initialised", "pre-trained", *(f"epoch {n + 1}" for n in range(epochs))]
    arrays = {"stage": stages, "train_n": more.get("rows", 2000)}
    for name, last in (("train_tl", train), ("held_out_tl", held_out)):
        tuned = [more.get("first", last), *[last] * (epochs - 1)] if epochs else []
        rows = [more.get("initialised", INITIALISED), before, *tuned]
        rows = np.pad(np.array(rows), ((0, 0), (1, 0)), constant_values=0.99)  # the embeddings
        arrays[name] = rows + noise * np.eye(len(rows))[0][:, None] if not epochs else rows + noise
    arrays["train_chance"] = np.full(arrays["train_tl"].shape, more.get("chance", 0.05))
    if "type_chance" in more:
        arrays["train_type_chance"] = np.full(arrays["train_tl"].shape, more["type_chance"])
    settings = {"task": more.get("task", "sst2"), "model": more.get("model", "bert-base-uncased")}
    name = f"planted-{settings['task']}"
    if not epochs:
        config = bert_target_linearity.Config(fine_tuned=False)
        plant_without_tuning(root, name, arrays, config.hyperparameters() | settings)
        return
    settings["epochs"] = epochs
    plant(root, bert_target_linearity, name, arrays, **settings)
    key = more.get("key", "validation_accuracy")
    scores = np.broadcast_to([0.1, *score], (seeds, epochs + 1))
    trained = {"validation_accuracy": np.full(scores.shape, 0.9)} | {key: scores}
    plant(root, bert_train, name, trained, **settings)


def plant_without_tuning(root, name, arrays, config):
    """A result of the stages before fine-tuning alone, whose configuration has no epochs."""

    class Script:
        __name__ = "experiment.bert_target_linearity"
        AXES = bert_target_linearity.AXES

        class Config:
            def hyperparameters(self):
                return config

    plant(root, Script(), name, arrays)


DEPTH = "rank correlation of layer and TL above 0.8"
MORE = "TL rises from the first layer to the last, more than when pre-trained"
ENVELOPE = "the pre-trained curve is the lower envelope, to 0.005"
HIGHEST = "the last layer's TL is the highest"
SOON = f"after one epoch, {DEPTH}"
SATURATES = "TL of the last layer changes by less after the first epoch than in it"


def found(root, claim=encoders.fine_tuning, rows="training rows"):
    """What a finding on some rows asks -> its outcome."""
    return {f.asked: f.outcome for f in judge(root, claim, "11") if f.where.endswith(rows)}


@pytest.mark.parametrize("task", ["sst2", "pos"])
def test_fine_tuning_holds_where_every_sentence_does(tmp_path, task):
    plant_encoder(tmp_path, RISING, task=task, score=(0.8,) * 3)
    assert verdict(tmp_path, encoders.fine_tuning, "11") == "holds"
    assert our_verdict(tmp_path, encoders.fine_tuning, "11") == "holds; control met"


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        (DEPTH, {"train": [0.3, 0.9, 0.7, 0.5]}),
        (MORE, {"train": [0.9, 0.7, 0.5, 0.3]}),
        (MORE, {"train": RISING, "before": [0.1, 0.3, 0.6, 0.85]}),  # no more than before
        (ENVELOPE, {"train": RISING, "before": [0.25, 0.6, 0.6, 0.4]}),
        (HIGHEST, {"train": [0.3, 0.5, 0.9, 0.8]}),
        (SOON, {"train": RISING, "first": [0.3, 0.9, 0.7, 0.5]}),
        (SATURATES, {"train": RISING, "first": [0.3, 0.5, 0.6, 0.45]}),
    ],
)
def test_a_sentence_that_is_not_so_is_found(tmp_path, asked, made):
    plant_encoder(tmp_path, **made, task="pos", score=(0.8,) * 3)
    assert found(tmp_path)[asked] == "not met"


def test_held_out_rows_are_ours(tmp_path):
    plant_encoder(tmp_path, RISING, RISING[::-1], score=(0.8,) * 3)
    assert verdict(tmp_path, encoders.fine_tuning, "11") == "holds"
    assert our_verdict(tmp_path, encoders.fine_tuning, "11") == "holds in part; control met"


@pytest.mark.parametrize("other", [{"model": OURS}, {"task": "sick_nli"}])
def test_another_encoder_or_task_cannot_be_compared_with_the_papers(tmp_path, other):
    plant_encoder(tmp_path, RISING, score=(0.8,) * 3, **other)
    for claim in (encoders.fine_tuning, encoders.pre_training):
        assert verdict(tmp_path, claim, "11") == "not comparable"
        assert our_verdict(tmp_path, claim, "11").startswith("holds")


@pytest.mark.parametrize("key", ["validation_accuracy", "validation_f1"])
@pytest.mark.parametrize("train", [RISING, RISING[::-1]])
def test_training_that_is_not_over_decides_nothing(tmp_path, key, train):
    plant_encoder(tmp_path, train, train, score=(0.5, 0.8), key=key)
    assert found(tmp_path)[DEPTH] == "not decided"


def test_the_longest_training_is_judged(tmp_path):
    plant_encoder(tmp_path, RISING[::-1], RISING[::-1], score=(0.5, 0.8))
    plant_encoder(tmp_path, RISING, score=(0.5, 0.8, 0.9, 0.9))
    plant_encoder(tmp_path, RISING[::-1], RISING[::-1], score=(0.8, 0.8))
    rows = judge(tmp_path, encoders.fine_tuning, "11")
    assert {finding.outcome for finding in rows} == {"met"}
    assert "0.500, 0.800, 0.900, 0.900" in rows[0].number


def test_what_is_asked_of_one_epoch_is_judged_of_the_figures_three(tmp_path):
    plant_encoder(tmp_path, RISING, score=(0.5, 0.8, 0.9, 0.9), first=RISING[::-1])
    assert SOON not in found(tmp_path)
    plant_encoder(tmp_path, RISING, score=(0.5, 0.8, 0.9))
    assert found(tmp_path)[SOON] == "met"


def test_one_seed_of_an_encoder_decides_nothing(tmp_path):
    plant_encoder(tmp_path, RISING, seeds=1)
    assert verdict(tmp_path, encoders.fine_tuning, "11") == "not decided by this data"
    assert found(tmp_path, encoders.pre_training)["TL rises at every layer"] == "not decided"


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
    (chance,) = [f for f in judge(tmp_path, encoders.fine_tuning, "11") if "chance" in f.asked]
    assert (chance.outcome, chance.part) == (expected, "control")


CLIMBING, FALLING = [0.2, 0.3, 0.4, 0.5], [0.5, 0.7, 0.6, 0.4]


def plant_tasks(root, gains=(0.3, 0.4, 0.2, 0.1), **more):
    """Pre-trained models of the four tasks, whose gains over the initialised one are even."""
    shapes = {"pos": FALLING, "ner": FALLING, "sst2": CLIMBING, "mnli": FALLING}
    shapes |= more.get("shapes", {})
    for gain, (task, before) in zip(gains, shapes.items(), strict=True):
        initialised = (np.array(before) - gain).tolist()
        plant_encoder(root, [], before=before, initialised=initialised, task=task, score=())


def test_pre_training_holds_where_every_sentence_does_without_any_fine_tuning(tmp_path):
    plant_tasks(tmp_path)
    assert verdict(tmp_path, encoders.pre_training, "11") == "holds"


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ("TL rises at every layer", {"gains": (0.3, 0.4, 0.2, -0.1)}),
        ("the gain is larger for POS than for sentiment", {"gains": (0.1, 0.4, 0.2, 0.05)}),
        ("the gain is larger for NER than for sentiment", {"gains": (0.3, 0.1, 0.2, 0.05)}),
        ("the gain is larger for sentiment than for NLI", {"gains": (0.3, 0.4, 0.2, 0.25)}),
        (f"pre-trained, {DEPTH}", {"shapes": {"sst2": FALLING}}),
        (
            "pre-trained, TL is higher in an earlier layer than in the last",
            {"shapes": {"pos": CLIMBING, "ner": CLIMBING}},
        ),
    ],
)
def test_a_sentence_on_pre_training_that_is_not_so_is_found(tmp_path, asked, made):
    plant_tasks(tmp_path, **made)
    rows = judge(tmp_path, encoders.pre_training, "11")
    assert "not met" in {f.outcome for f in rows if f.asked == asked and f.part == "paper"}


def test_one_layer_that_gains_nothing_is_found(tmp_path):
    plant_encoder(tmp_path, RISING, before=[0.3, 0.05, 0.6, 0.4])
    assert found(tmp_path, encoders.pre_training)["TL rises at every layer"] == "not met"


def test_the_result_with_the_most_seeds_is_judged(tmp_path):
    plant_encoder(tmp_path, RISING, before=[0.05] * 4)
    plant_encoder(tmp_path, [], before=BEFORE, score=(), seeds=5)
    rows = judge(tmp_path, encoders.pre_training, "11")
    assert {(f.seeds, f.outcome) for f in rows if f.seeds} == {(5, "met")}


def test_labels_that_the_encoder_has_seen_are_named(tmp_path):
    plant_encoder(tmp_path, RISING, model=OURS, task="sick_nli")
    asked = outcomes(tmp_path, encoders.pre_training, "11")
    assert asked["TL rises at every layer"] == "met"
    rows = judge(tmp_path, encoders.pre_training, "11")
    assert all("trained on SNLI and MultiNLI" in f.number for f in rows)
