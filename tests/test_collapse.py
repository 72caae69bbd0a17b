"""Neural Collapse against naive loops over samples, planted simplex frames, and its tie to Target Linearity."""

import numpy as np
import pytest
import scipy.linalg
import torch

from core.collapse import class_means, collapse, nearest_mean_disagreement
from core.linearity import report
from core.moments import FeatureMoments

CASES = {  # samples of each class, features
    "balanced": ([30, 30, 30, 30], 12),
    "unbalanced": ([5, 40, 17], 6),
    "two classes": ([20, 31], 3),
    "more classes than features": ([9] * 8, 5),
}


def draw(counts: list[int], d: int, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clusters about random means far from zero, in random order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return 3 + rng.normal(size=(len(counts), d))[labels] + noise * rng.normal(size=(len(labels), d)), labels


def moments_of(features: np.ndarray, labels: np.ndarray) -> FeatureMoments:
    moments = FeatureMoments()
    for h, y in zip(np.array_split(features, 3), np.array_split(labels, 3), strict=True):
        moments.update(torch.from_numpy(h), torch.from_numpy(y))
    return moments


def simplex(classes: int, d: int, seed: int = 0) -> np.ndarray:
    """Vertices of a regular simplex about zero, turned at random: (classes, d)."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, classes)))[0]
    return (np.eye(classes) - 1 / classes) @ turn.T


@pytest.mark.parametrize("case", CASES)
def test_equals_a_loop_over_samples_and_pairs(case):
    features, labels = draw(*CASES[case])
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

    found = collapse(moments_of(features, labels), torch.from_numpy(weight))
    assert found.nc1 == pytest.approx(np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / classes, rel=1e-8)
    assert found.nc2_norm == pytest.approx(norms.std() / norms.mean(), rel=1e-10)
    assert found.nc2_angle == pytest.approx(np.mean(angles), rel=1e-10)
    assert found.nc3 == pytest.approx(distance, rel=1e-10)


@pytest.mark.parametrize(("classes", "d"), [(2, 3), (4, 4), (10, 32)])
def test_a_planted_simplex_is_full_collapse(classes, d):
    vertices = simplex(classes, d)
    labels = np.repeat(np.arange(classes), 7)
    features = 5 + vertices[labels]
    found = collapse(moments_of(features, labels), torch.from_numpy(2.5 * vertices))
    assert [found.nc1, found.nc2_norm, found.nc2_angle, found.nc3] == pytest.approx([0] * 4, abs=1e-10)


def test_one_long_vertex_is_seen_by_nc2_and_nc3_alone():
    vertices = simplex(5, 8)
    longer = vertices * np.array([[2], [1], [1], [1], [1]])
    labels = np.repeat(np.arange(5), 4)
    found = collapse(moments_of(longer[labels], labels), torch.from_numpy(vertices))
    assert found.nc1 == pytest.approx(0, abs=1e-10)
    assert found.nc2_norm > 0.1
    assert found.nc3 > 0.01


def test_a_classifier_turned_round_is_as_far_as_can_be():
    vertices = simplex(4, 6)
    labels = np.repeat(np.arange(4), 3)
    assert collapse(moments_of(vertices[labels], labels), torch.from_numpy(-vertices)).nc3 == pytest.approx(4)


def scatters(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Σ_W and Σ_B by their definitions."""
    means = np.array([features[labels == k].mean(0) for k in range(labels.max() + 1)])[labels]
    return np.cov((features - means).T, bias=True), np.cov(means.T, bias=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [1e-3, 0.3, 3.0])
@pytest.mark.parametrize("case", CASES)
def test_target_linearity_is_at_least_what_nc1_says(case, noise, seed):
    features, labels = draw(*CASES[case], noise, seed)
    rng = np.random.default_rng(seed)
    d = features.shape[1]
    features += noise * rng.normal(size=(len(labels), 2)) @ rng.normal(size=(2, d))  # alike in no two directions
    moments = moments_of(features, labels)
    bound = collapse(moments).tl_bound
    assert 0 < bound <= report(moments, intercept=True).value + 1e-12
    if case == "balanced":
        assert bound == pytest.approx(1 / (1 + 4 * collapse(moments).nc1 / 3), rel=1e-9)


def test_means_in_fewer_dimensions_than_the_targets_bound_less():
    features, labels = draw(CASES["more classes than features"][0], 5, 1e-6)
    # without noise the targets are linear in five of their seven dimensions
    assert collapse(moments_of(features, labels)).tl_bound == pytest.approx(5 / 7, abs=1e-6)


@pytest.mark.parametrize("noise", [0.1, 2.0])
def test_target_linearity_of_classes_of_one_size_is_pillais_trace(noise):
    features, labels = draw(*CASES["balanced"], noise)
    within, between = scatters(features, labels)
    roots = scipy.linalg.eigh(between, within + between, eigvals_only=True)
    value = report(moments_of(features, labels), intercept=True).value
    assert value == pytest.approx(roots.sum() / 3, rel=1e-10)


def test_the_bound_is_reached_where_noise_is_alike_in_all_directions_of_a_simplex():
    vertices, noise = simplex(3, 3), 0.2 * np.sqrt(3) * np.concatenate([np.eye(3), -np.eye(3)])
    labels = np.repeat(np.arange(3), 6)
    features = vertices[labels] + np.tile(noise, (3, 1))  # the same isotropic cloud about every vertex
    moments = moments_of(features, labels)
    assert report(moments).value == pytest.approx(collapse(moments).tl_bound, rel=1e-12)


def test_targets_can_be_linear_without_collapse():
    labels = np.repeat([0, 1], 50)
    noise = np.random.default_rng(0).normal(size=100)
    moments = moments_of(np.stack([labels + noise, noise], axis=1), labels)  # the difference is the class
    assert report(moments, intercept=True).value == pytest.approx(1, abs=1e-12)
    assert collapse(moments).nc1 > 1


def test_nearest_mean_disagreement_equals_a_loop():
    features, labels = draw([30, 30, 30], 4)
    predictions = np.random.default_rng(2).integers(0, 3, len(labels))
    means = np.array([features[labels == k].mean(0) for k in range(3)])
    nearest = [np.argmin([((h - mean) ** 2).sum() for mean in means]) for h in features]
    found = nearest_mean_disagreement(
        torch.from_numpy(features), torch.from_numpy(predictions), class_means(moments_of(features, labels))
    )
    assert found == pytest.approx(np.mean(nearest != predictions))


def test_classes_without_samples_and_targets_that_are_no_classes_are_refused():
    features, labels = draw([10, 10], 3)
    with pytest.raises(ValueError, match="class 1 has no samples"):
        collapse(moments_of(features, 2 * labels))
    with pytest.raises(ValueError, match="of classes"):
        collapse(FeatureMoments().update(torch.from_numpy(features), torch.from_numpy(features)))
