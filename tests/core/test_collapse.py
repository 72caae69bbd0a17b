"""Neural Collapse against naive loops and planted simplexes, and its tie to Target Linearity."""

import itertools

import numpy as np
import pytest
import torch

from cases import gather
from core.collapse import class_means, collapse, nearest_mean_disagreement
from core.linearity import report
from core.moments import FeatureMoments

pytestmark = pytest.mark.filterwarnings("ignore::core.linearity.LostDigits")

CASES = {  # samples of each class, features
    "balanced": ([30, 30, 30, 30], 12),
    "unbalanced": ([5, 40, 17], 6),
    "two classes": ([20, 31], 3),
    "more classes than features": ([9] * 8, 5),
}


def clusters(counts: list[int], d: int, noise: float = 1.0, seed: int = 0):
    """Features about random class means far from zero, in random order, and their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    means = 3 + rng.normal(size=(len(counts), d))
    return means[labels] + noise * rng.normal(size=(len(labels), d)), labels


def gathered(features: np.ndarray, labels: np.ndarray) -> FeatureMoments:
    return gather(torch.from_numpy(features), torch.from_numpy(labels), 11)


def simplex(classes: int, d: int, seed: int = 0) -> np.ndarray:
    """Vertices of a regular simplex about zero, turned at random: (classes, d)."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, classes)))[0]
    return (np.eye(classes) - 1 / classes) @ turn.T


@pytest.mark.parametrize("case", CASES)
def test_equals_a_loop_over_samples_and_pairs(case):
    features, labels = clusters(*CASES[case])
    classes, n = len(CASES[case][0]), len(labels)
    means = np.array([features[labels == k].mean(0) for k in range(classes)])
    within, between = np.zeros((features.shape[1],) * 2), np.zeros((features.shape[1],) * 2)
    for h, k in zip(features, labels, strict=True):
        within += np.outer(h - means[k], h - means[k]) / n
        between += np.outer(means[k] - features.mean(0), means[k] - features.mean(0)) / n
    centred = means - means.mean(0)
    norms = np.array([np.sqrt((row**2).sum()) for row in centred])
    angles = [
        abs(centred[k] @ centred[j] / norms[k] / norms[j] + 1 / (classes - 1))
        for k in range(classes)
        for j in range(classes)
        if j != k
    ]
    weight = np.random.default_rng(1).normal(size=(classes, features.shape[1]))
    distance = ((weight / np.linalg.norm(weight) - centred / np.linalg.norm(centred)) ** 2).sum()

    result = collapse(gathered(features, labels), torch.from_numpy(weight))
    nc1 = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / classes
    assert result.nc1 == pytest.approx(nc1, rel=1e-8)
    assert result.nc2_norm == pytest.approx(norms.std() / norms.mean(), rel=1e-10)
    assert result.nc2_angle == pytest.approx(np.mean(angles), rel=1e-10)
    assert result.nc3 == pytest.approx(distance, rel=1e-10)


@pytest.mark.parametrize(("classes", "d"), [(2, 3), (4, 4), (10, 32)])
def test_a_planted_simplex_is_full_collapse(classes, d):
    vertices = simplex(classes, d)
    labels = np.repeat(np.arange(classes), 7)
    features = 5 + vertices[labels]
    result = collapse(gathered(features, labels), torch.from_numpy(2.5 * vertices))
    values = [result.nc1, result.nc2_norm, result.nc2_angle, result.nc3]
    assert values == pytest.approx([0] * 4, abs=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_target_linearity_is_at_least_what_nc1_says(case):
    for noise, seed in itertools.product((1e-3, 0.3, 3.0), range(3)):
        features, labels = clusters(*CASES[case], noise, seed)
        rng = np.random.default_rng(seed)
        alike = rng.normal(size=(len(labels), 2)) @ rng.normal(size=(2, features.shape[1]))
        features += noise * alike  # noise that differs between directions
        moments = gathered(features, labels)
        bound = collapse(moments).tl_bound
        assert 0 < bound <= report(moments, intercept=True).value + 1e-12
        if case == "balanced":
            assert bound == pytest.approx(1 / (1 + 4 * collapse(moments).nc1 / 3), rel=1e-9)


def test_means_in_fewer_dimensions_than_the_targets_bound_less():
    features, labels = clusters(CASES["more classes than features"][0], 5, 1e-6)
    # without noise the targets are linear in five of their seven dimensions
    assert collapse(gathered(features, labels)).tl_bound == pytest.approx(5 / 7, abs=1e-6)


def test_the_bound_is_reached_where_noise_is_alike_in_all_directions_of_a_simplex():
    vertices, noise = simplex(3, 3), 0.2 * np.sqrt(3) * np.concatenate([np.eye(3), -np.eye(3)])
    labels = np.repeat(np.arange(3), 6)
    # the same isotropic cloud about every vertex
    features = vertices[labels] + np.tile(noise, (3, 1))
    moments = gathered(features, labels)
    assert report(moments).value == pytest.approx(collapse(moments).tl_bound, rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_the_bound_holds_where_columns_differ_in_scale(case):
    counts, d = CASES[case]
    for noise, seed in itertools.product((0, 1e-3, 0.3, 3.0), range(3)):
        features, labels = clusters(counts, d, noise, seed)
        scaled = gathered(features * np.logspace(-4, 4, d), labels)
        bound = collapse(scaled).tl_bound
        assert 0 < bound <= report(scaled, intercept=True).value + 1e-7
        if d < len(counts):  # Σ_B has full rank: NC1 is the same in any units
            alike = collapse(gathered(features, labels))
            assert collapse(scaled).nc1 == pytest.approx(alike.nc1, rel=1e-7, abs=1e-7)
            assert bound == pytest.approx(alike.tl_bound, rel=1e-7)


@pytest.mark.parametrize("offset", [1e5, 1e10])
@pytest.mark.parametrize("case", CASES)
def test_an_offset_changes_nothing(case, offset):
    features, labels = clusters(*CASES[case])
    far = features + offset  # the features that are left of it are those of `near`, exactly
    near, weight = far - offset, torch.ones(labels.max() + 1, features.shape[1])
    results = [vars(collapse(gathered(h, labels), weight)) for h in (near, far)]
    # the means of batches are rounded to 2⁻⁵² of the offset
    assert results[1] == pytest.approx(results[0], rel=1e-15 * offset)
    means = [class_means(gathered(h, labels)) for h in (near, far)]
    predicted = torch.from_numpy(labels)
    shares = [
        nearest_mean_disagreement(torch.from_numpy(h), predicted, m)
        for h, m in zip((near, far), means, strict=True)
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)  # means are rounded to the offset


def test_nc1_is_never_below_zero():
    labels = np.repeat(np.arange(5), 7)
    values = [collapse(gathered(3 + simplex(5, 8, seed)[labels], labels)).nc1 for seed in range(20)]
    assert min(values) >= 0
    assert max(values) < 1e-13


@pytest.mark.parametrize("value", [0.0, 0.3, 1e10 / 3])
def test_class_means_that_are_one_point_have_no_neural_collapse(value):
    labels = np.arange(40) % 4
    features = np.full((40, 3), value)
    spread = np.repeat([1.0, -1.0], 20)[:, None] * np.eye(3)[0]  # alike in every class
    for h in (features, features + spread):
        result = collapse(gathered(h, labels), torch.ones(4, 3))
        assert np.isnan([result.nc1, result.nc2_norm, result.nc2_angle, result.nc3]).all()
        assert result.tl_bound == 0
    # of a batch, that entry alone
    varied = np.stack([features, clusters([10] * 4, 3)[0]])
    batch = collapse(gather(torch.from_numpy(varied), torch.from_numpy(labels)))
    assert batch.nc1.isnan().tolist() == [True, False]
    assert batch.tl_bound[0] == 0 < batch.tl_bound[1]


def test_nearest_mean_disagreement_equals_a_loop():
    features, labels = clusters([30, 30, 30], 4)
    predicted = np.random.default_rng(2).integers(0, 3, len(labels))
    means = np.array([features[labels == k].mean(0) for k in range(3)])
    nearest = [np.argmin([((h - mean) ** 2).sum() for mean in means]) for h in features]
    share = nearest_mean_disagreement(
        torch.from_numpy(features),
        torch.from_numpy(predicted),
        class_means(gathered(features, labels)),
    )
    assert share == pytest.approx(np.mean(nearest != predicted))


def test_classes_without_samples_and_targets_that_are_no_classes_are_refused():
    features, labels = clusters([10, 10], 3)
    with pytest.raises(ValueError, match="class 1 has no samples"):
        collapse(gathered(features, 2 * labels))
    batch = torch.from_numpy(np.stack([labels + 1, 2 * labels]))  # 0 is absent there, 1 here
    with pytest.raises(ValueError, match="class 0 has no samples"):
        collapse(gather(torch.from_numpy(features).expand(2, 20, 3), batch))
    with pytest.raises(ValueError, match="of classes"):
        collapse(gathered(features, features))


def test_what_has_no_classes_to_compare_is_refused():
    for measure in (collapse, class_means):
        with pytest.raises(ValueError, match="no samples"):
            measure(FeatureMoments())
    with pytest.raises(ValueError, match="d ≥ 1"):
        collapse(gathered(np.zeros((6, 0)), np.arange(6) % 2))
    features, labels = clusters([10, 10], 3)
    with pytest.raises(ValueError, match="all samples are of one"):
        collapse(gathered(features, 0 * labels))
    with pytest.raises(ValueError, match="weight for 3 features"):
        collapse(gathered(features, labels), torch.ones(2, 4))
