"""Planted results: claims about variational autoencoders."""

import numpy as np
import pytest

from experiment import vae_ceiling, vae_target_linearity, vae_train
from planted_results import DATA, around, judge, our_verdict, outcomes, plant, verdict
from report.rules import models

BETAS = [0.05, 0.1, 1, 2, 5]
DATASET = "mnist"
BEST = np.array([[5, 5], [4, 6], [6, 6], [5, 4], [4, 5]])  # (beta, seed)
EPOCH = np.arange(7)
# Target Linearity's change from epoch 1 to the last, by β
CHANGES = [0.2, 0.2, 0.05, 0.03, -0.01]
LEVEL = [0.9, 0.8, 0.7, 0.6, 0.5]


def images(contrasts, noise=0.0):
    """Ten images of two pixels a side for each β, checks of a contrast; uint8."""
    signs = np.array([[1, -1], [-1, 1]])
    middles = 80 + 10 * np.arange(10)[:, None, None, None]  # (image, 1, 1, 1)
    contrasts = np.reshape(contrasts, (-1, 1, 1, 1, 1))
    return (middles + 60 * contrasts * signs).round().astype(np.uint8)


def plant_vae(root, tl=LEVEL, changes=CHANGES, contrast=(1, 0.8, 0.6, 0.4, 0.2), **more):
    """TL goes evenly by `changes` up to the best epoch's `tl`, which decide all but the course."""
    data = more.get("data", DATASET)
    slope = np.array(changes)[:, None] / 5 * (EPOCH - 1)  # (beta, epoch)
    course = np.array(tl)[:, None] + slope
    by_epoch = np.stack([course, course + 1e-3], axis=1)  # (beta, seed, epoch)
    # at the best epoch exactly the level
    shift = np.take_along_axis(by_epoch, BEST[..., None], 2) - np.array(tl)[:, None, None]
    arrays = {"beta": np.array(BETAS), "epoch": EPOCH, "best_epoch": BEST, "tl": by_epoch - shift}
    arrays["tl"] *= 1 + 1e-3 * np.arange(2)[:, None]
    for name in ("interpolation_error", "decoder_nonlinearity"):
        arrays[name] = np.arange(5.0 * 2 * 7).reshape(5, 2, 7)  # other epochs decide nothing
        values = np.array(more.get(name, [1, 2, 3, 4, 5]))[:, None, None] / 10
        np.put_along_axis(arrays[name], BEST[..., None], values, 2)
    arrays["reconstructions"] = images(contrast)
    arrays["originals"] = images([1])[0]
    arrays |= more.get("arrays", {})
    plant(root, vae_target_linearity, "planted", arrays, data=data, dataset=data)
    for beta, error in zip(BETAS, more.get("errors", [1, 2, 5, 6, 7]), strict=True):
        values = np.full((2, 7), 9.0)
        values[:, 3] = around(error, seeds=2)
        trained = {"test_bce": values, "best_epoch": np.array([3, 3])}
        plant(root, vae_train, f"planted-{beta}", trained, data=data, beta=beta, dataset=data)


def test_vaes_hold_where_every_sentence_does(tmp_path):
    plant_vae(tmp_path)
    for figure in ("5", "10"):
        assert verdict(tmp_path, models.autoencoders, figure) == "holds"


def test_other_data_are_ours(tmp_path):
    plant_vae(tmp_path, data=DATA.name)
    assert verdict(tmp_path, models.autoencoders, "10") == "not comparable"
    assert our_verdict(tmp_path, models.autoencoders, "10") == "holds"


BY_TL = "β and TL: rank correlation below -0.8"
SHARP = "β and sharpness: rank correlation below -0.8"
STEADY = "up to β = 0.1, rank correlation of epoch and TL above 0.8"
SLIGHT = "from β = 1 on TL changes by more than −0.02, less than up to β = 0.1"
LOWEST = "test errors up to β = 0.1 below those at every other"


@pytest.mark.parametrize(
    ("asked", "made", "expected"),
    [
        (BY_TL, {"tl": [0.9, 0.7, 0.8, 0.6, 0.5]}, "met"),  # correlation −0.9
        (BY_TL, {"tl": [0.7, 0.9, 0.6, 0.8, 0.5]}, "not met"),
        (SHARP, {"contrast": (0.2, 0.4, 0.6, 0.8, 1)}, "not met"),
        (STEADY, {"changes": [-0.2, 0.2, 0.05, 0.03, -0.01]}, "not met"),
        (SLIGHT, {"changes": [0.2, 0.2, -0.05, -0.05, -0.05]}, "not met"),
        (SLIGHT, {"changes": [0.2, 0.2, 0.3, 0.3, 0.3]}, "not met"),
        (LOWEST, {"errors": [1, 5, 2, 6, 7]}, "not met"),
    ],
)
def test_figure_10_asks_each_sentence(tmp_path, asked, made, expected):
    plant_vae(tmp_path, **made)
    assert outcomes(tmp_path, models.autoencoders, "10")[asked] == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [([1, 2, 3, 4, 5], "holds"), ([5, 4, 3, 2, 1], "does not hold")],
)
def test_figure_5_asks_for_the_interpolations_error(tmp_path, error, expected):
    plant_vae(tmp_path, interpolation_error=error)
    assert verdict(tmp_path, models.autoencoders, "5") == expected


@pytest.mark.parametrize(
    ("contrast", "nonlinearity", "expected"),
    [
        # the same images at each β: the nonlinearity alone counts
        ((1, 1, 1, 1, 1), [1, 2, 3, 4, 5], "control met"),
        ((1, 1, 1, 1, 1), [5, 4, 3, 2, 1], "control not met"),
    ],
)
def test_blur_is_held_constant(tmp_path, contrast, nonlinearity, expected):
    plant_vae(tmp_path, contrast=contrast, decoder_nonlinearity=nonlinearity)
    assert our_verdict(tmp_path, models.autoencoders, "5") == expected


def test_a_decoder_that_only_shrinks_what_it_decodes_is_as_nonlinear_as_before(tmp_path):
    shrunk = np.array([1, 0.8, 0.6, 0.4, 0.2])
    full = np.random.default_rng(0).integers(0, 256, (10, 1, 6, 6)) - 128
    pictures = (128 + shrunk[:, None, None, None, None] * full).round().astype(np.uint8)
    made = {"decoder_nonlinearity": 3 * shrunk**2, "arrays": {"reconstructions": pictures}}
    plant_vae(tmp_path, **made)
    run = models.lookup(vae_target_linearity, tmp_path, "paper")[0]
    relative = models.relative_nonlinearity(run)  # (seed, beta)
    np.testing.assert_allclose(relative, relative[0, 0], rtol=0.02)
    expected = 0.3 / (2 * (full / 255).var(axis=0, ddof=1).mean())
    assert relative[0, 0] == pytest.approx(expected)


def test_sharpness_is_the_difference_of_neighbouring_pixels():
    image = np.array([[[0, 255], [255, 0]]])
    assert models.sharpness(image) == pytest.approx(2)
    assert models.sharpness(np.full((3, 1, 2, 2), 9)).tolist() == [0, 0, 0]


RIGHT = np.array([4.0, 4.5, 5.0, 5.5, 6.0])


def plant_mixtures(root, left=0.7, decoder=0.8, right=RIGHT, constant=7.0, **more):
    """Proposition 3 at every β, and of principal components."""
    wiggle = 1 + 1e-3 * np.arange(2)
    right = np.array(right)[:, None] * wiggle  # (beta, seed)
    arrays = {"mixture_right": right, "mixture_left": left * right}
    arrays["mixture_decoder"] = decoder * right
    if "lefts" in more:
        arrays["share_left"] = np.multiply.outer(right, more["lefts"])
        arrays["share"] = np.array(vae_target_linearity.SHARES)
    # 1 − TL is as the square of the right side, unless another power is asked for
    tl = 1 - (RIGHT / 10) ** (2 / more.get("slope", 1.0))
    plant_vae(root, tl=tl, arrays=arrays)
    components = {"mixture_left": np.array(more.get("component_lefts", [3.8, 3.3, 2.9]))}
    components |= {"mixture_right": 4.0, "mixture_rms": more.get("rms", 4.1)}
    components |= {"mixture_constant": np.array([9.0, 8.0, constant])}
    components["share"] = np.array(vae_ceiling.SHARES)
    plant(root, vae_ceiling, "planted", components, data=DATASET, dataset=DATASET)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({}, "true, not tight, useful"),
        ({"left": 0.95, "component_lefts": [3.8, 3.8, 3.8]}, "true, tight, useful"),
        ({"left": 1.1}, "true in part, tight in part, useful"),
        ({"lefts": [0.9, 0.8, 0.7]}, "true, not tight, useful"),
        ({"lefts": [1.1, 0.8, 0.7]}, "true in part, not tight, useful"),
        ({"rms": 3.9}, "true in part, not tight, useful"),  # Jensen
        ({"slope": 1.5}, "true in part, not tight, useful"),  # not proportional
        ({"constant": 5.2}, "true, not tight, useful in part"),
        ({"constant": 3.0, "component_lefts": [1, 1, 1]}, "true, not tight, not useful"),
    ],
)
def test_proposition_3_is_true_tight_and_useful_or_not(tmp_path, made, expected):
    plant_mixtures(tmp_path, **made)
    assert verdict(tmp_path, models.proposition_3, "10") == expected


@pytest.mark.parametrize(("decoder", "expected"), [(0.8, "holds"), (1.2, "does not hold")])
def test_the_trained_decoder_is_ours(tmp_path, decoder, expected):
    plant_mixtures(tmp_path, decoder=decoder)
    assert our_verdict(tmp_path, models.proposition_3, "10") == expected


def test_proposition_3_without_its_arrays_is_not_measured(tmp_path):
    plant_vae(tmp_path)
    assert [f.outcome for f in judge(tmp_path, models.proposition_3, "10")] == ["not measured"]
