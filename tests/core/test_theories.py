"""What other theories say of a layer, against NumPy and SciPy in float64, and planted values."""

import itertools

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from cases import draw, gather
from core.collapse import collapse, has_collapse
from core.linearity import LostDigits
from core.moments import FeatureMoments
from core.theories import (
    Alignments,
    canonical_alignments,
    check_theories,
    class_separation,
    regression_collapse,
)

N, D, M, CLASSES = 90, 6, 4, 3
H, Y = draw(N, D, seed=1) + draw(D, seed=2), torch.arange(N) % CLASSES
MEANS = 2 * draw(CLASSES, D, seed=3)
APART = H + MEANS[Y]  # features whose classes differ


def moments_of(h: torch.Tensor) -> torch.Tensor:
    return h.mT @ h


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


class TestAlignments:
    W, Z, G = draw(2, M, D, seed=4), draw(2, N, M, seed=5), draw(2, N, M, seed=6)
    ROWS = draw(2, N, D, seed=7) + 1

    def given(self, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
        outer = [moments_of(rows) for rows in (self.ROWS, self.Z, self.G)]
        return [matrix.to(dtype) for matrix in (self.W, *outer)]

    @staticmethod
    def expected(w: np.ndarray, h: np.ndarray, z: np.ndarray, g: np.ndarray) -> dict[str, float]:
        """Of samples' rows, with A formed."""
        a = g @ w
        rwa, gwa, rga = [(h.T @ h, w.T @ w), (a.T @ a, w.T @ w), (h.T @ h, a.T @ a)]
        inside = {"rwa_in": rwa, "gwa_in": gwa, "rga_in": rga}
        outside = {"rwa_out": (z.T @ z, w @ w.T), "gwa_out": (g.T @ g, w @ w.T)}
        outside |= {"rga_out": (z.T @ z, g.T @ g)}
        return {name: cosine(*pair) for name, pair in (inside | outside).items()}

    def test_are_cosines_of_second_moments_of_samples(self) -> None:
        found = vars(canonical_alignments(*self.given()))
        for r in range(2):
            rows = (t[r].numpy() for t in (self.W, self.ROWS, self.Z, self.G))
            expected = self.expected(*rows)
            assert {name: float(v[r]) for name, v in found.items()} == pytest.approx(expected)

    def test_groups_are_blocks_of_one_matrix(self) -> None:
        found = vars(canonical_alignments(*self.given(), blocks=True))
        rows = (torch.block_diag(*t).numpy() for t in (self.W, self.ROWS, self.Z, self.G))
        assert found == pytest.approx(self.expected(*rows))

    def test_full_alignment_is_one_and_sizes_do_not_matter(self) -> None:
        q = torch.linalg.qr(draw(D, D, seed=8)).Q
        w = torch.diag(torch.arange(1.0, D + 1).double()) @ q.mT
        gram = w.mT @ w
        # gradients whose AᵀA = WᵀKW is the Gram's: K = W⁻ᵀ G W⁻¹ = 1; on the other side WWᵀ
        aligned = canonical_alignments(w, gram * 1e-120, w @ w.mT * 1e120, torch.eye(D).double())
        found = vars(aligned)
        ones = {name: pytest.approx(1) for name in ("rwa_in", "gwa_in", "rga_in", "rwa_out")}
        assert {name: found[name] for name in ones} == ones
        assert found["gwa_out"] < 0.9

    def test_of_nothing_are_nan(self) -> None:
        w, h, z, g = (matrix[0] for matrix in self.given())
        found = vars(canonical_alignments(w, h, z, 0 * g))
        defined = {name for name, value in found.items() if not np.isnan(value)}
        assert defined == {"rwa_in", "rwa_out"}
        assert isinstance(Alignments(**found), Alignments)


class TestClassSeparation:
    @staticmethod
    def expected(h: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
        mean, within, between, means = h.mean(0), 0.0, 0.0, []
        for k in range(CLASSES):
            mine = h[y == k]
            means.append(mine.mean(0))
            within = within + sum(np.outer(x - means[k], x - means[k]) for x in mine) / len(h)
            between = between + len(mine) / len(h) * np.outer(means[k] - mean, means[k] - mean)
        cosines = [
            a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            for a, b in itertools.combinations(means, 2)
        ]
        separation = np.trace(within @ np.linalg.pinv(between, rcond=1e-10))
        return separation, np.trace(within) / np.trace(between), 1 - max(cosines)

    @pytest.mark.parametrize("rows", [slice(None), slice(0, 61)], ids=["equal", "unequal classes"])
    def test_is_that_of_a_loop_over_samples(self, rows: slice) -> None:
        h, y = APART[rows], Y[rows]
        found = class_separation(gather(h, y, 17))
        expected = self.expected(h.numpy(), y.numpy())
        assert tuple(vars(found).values()) == pytest.approx(expected, rel=1e-9)
        assert found.separation == pytest.approx(CLASSES * collapse(gather(h, y)).nc1)

    def test_of_collapsed_features_on_orthogonal_means(self) -> None:
        with pytest.warns(LostDigits):  # zero but for rounding
            found = class_separation(gather(torch.eye(D).double()[Y], Y))
        assert tuple(vars(found).values()) == pytest.approx((0, 0, 1), abs=1e-12)

    def test_of_a_batch_and_where_the_means_are_one(self) -> None:
        both = torch.stack([APART, torch.ones_like(APART)])
        found = class_separation(FeatureMoments().update(both, Y))
        alone = class_separation(gather(APART, Y))
        for name, values in vars(found).items():
            assert values[0] == pytest.approx(getattr(alone, name))
            assert values[1].isnan()

    def test_has_a_meaning_where_classes_vary(self) -> None:
        assert has_collapse(gather(APART, Y))
        for moments in (
            FeatureMoments(),
            gather(APART, APART[:, :2]),
            gather(APART, 2 * Y),  # no sample of class 1
            gather(APART[:3], Y[:3]),  # one a class
            gather(APART, 0 * Y),
        ):
            assert not has_collapse(moments)


class TestRegressionCollapse:
    @staticmethod
    def expected(h: np.ndarray, w: np.ndarray, k: int) -> tuple[float, float]:
        _, values, axes = np.linalg.svd(h - h.mean(0))
        read = np.linalg.svd(w)[2][:k]
        angles = subspace_angles(axes[:k].T, read.T)
        return 1 - (values[:k] ** 2).sum() / (values**2).sum(), float(np.cos(angles).mean())

    @pytest.mark.parametrize(
        ("targets", "k"),
        [
            (Y, CLASSES - 1),
            (draw(N, 2, seed=9) + 5, 2),
            (draw(N, 2, seed=9) @ draw(2, 5, seed=10), 2),  # five targets of rank two
        ],
        ids=["classes", "reals", "reals of rank 2"],
    )
    def test_is_that_of_principal_axes(self, targets: torch.Tensor, k: int) -> None:
        weight = draw(M, D, seed=11)
        found = regression_collapse(gather(APART, targets, 17), weight)
        expected = self.expected(APART.numpy(), weight.numpy(), k)
        assert tuple(vars(found).values()) == pytest.approx(expected, rel=1e-9)

    def test_full_collapse(self) -> None:
        read, y = draw(M, D, seed=12), draw(N, M, seed=13)
        found = regression_collapse(gather(y @ read + 3, y), read)
        assert tuple(vars(found).values()) == pytest.approx((0, 1), abs=1e-12)

    def test_of_a_weight_that_reads_too_little_or_none(self) -> None:
        moments = gather(APART, draw(N, 3, seed=14))
        for weight in (None, draw(2, D)):
            found = regression_collapse(moments, weight)
            assert 0 < found.outside < 1
            assert np.isnan(found.subspace)

    @pytest.mark.parametrize(
        ("moments", "message"),
        [
            (gather(APART, APART[:, :2], diagonal_targets=True), "diagonal_targets"),
            (gather(APART, torch.ones(N, 2).double()), "constant"),
            (
                FeatureMoments().update(
                    torch.stack([APART, APART]),
                    torch.stack([APART[:, :2], APART[:, :1].expand(-1, 2)]),
                ),
                r"of ranks \[1, 2\]",
            ),
        ],
        ids=["diagonal", "constant", "ranks"],
    )
    def test_what_has_no_rank_is_refused(self, moments: FeatureMoments, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            regression_collapse(moments)


@pytest.mark.parametrize(
    ("theories", "message"),
    [("crh", r'a tuple of names, as \("crh",\)'), (["crh", "gravity"], "not 'gravity'")],
)
def test_theories_are_known_names(theories: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_theories(theories)
