"""What holds for any input: of moments, of Target Linearity's range, of the reader of results."""

import contextlib
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from core.linearity import target_linearity
from core.moments import FeatureMoments
from lab import results
from lab.errors import ResultError
from lab.results import Result

ANY = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)


@st.composite
def samples(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.dtype]:
    """Features (N, d) and real targets (N, c) of any offset and scale, and a dtype."""
    n, d, c = draw(st.integers(2, 25)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale, offset = 10.0 ** draw(st.integers(-3, 3)), draw(st.integers(-5, 5))
    h = scale * (rng.normal(size=(n, d)) + offset)
    if draw(st.booleans()):
        h[:, -1] = h[:, 0]  # dependent columns
    y = h @ rng.normal(size=(d, c)) / scale + rng.normal(size=(n, c))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    return torch.from_numpy(h).to(dtype), torch.from_numpy(y).to(dtype), dtype


@ANY
@given(samples(), st.data())
def test_moments_are_those_of_all_samples_in_any_split_order_and_merge(case, data):
    h, y, _ = case
    whole = FeatureMoments().update(h, y)
    order = torch.tensor(data.draw(st.permutations(range(len(h)))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(h) - 1))))
    parts = list(zip(h[order].tensor_split(cuts), y[order].tensor_split(cuts), strict=True))
    own = [FeatureMoments().update(*part) for part in parts]
    merged = FeatureMoments()
    for moments in data.draw(st.permutations(own)):
        merged.merge(moments)
    one_by_one = FeatureMoments()
    for part in parts:
        one_by_one.update(*part)
    tolerance = 1e-9 * float(h.double().square().sum() + y.double().square().sum())
    for moments in (merged, one_by_one):
        assert moments.n == whole.n
        for name in ("feature_mean", "target_mean"):
            expected = getattr(whole, name)
            bound = 1e-12 * float(1 + h.double().abs().max() + y.double().abs().max())
            assert (getattr(moments, name) - expected).abs().max() <= bound
        for name in ("scatter", "cross", "target_scatter"):
            assert (getattr(moments, name) - getattr(whole, name)).abs().max() <= tolerance


NUMBERS = st.one_of(st.floats(-1e150, 1e150), st.floats(-10, 10), st.integers(-3, 3).map(float))


@ANY
@given(st.data())
def test_target_linearity_is_between_0_and_1(data):
    n, d, c = (data.draw(st.integers(1, most)) for most in (12, 5, 3))
    h = data.draw(arrays.arrays(np.float64, (n, d), elements=NUMBERS))
    y = data.draw(arrays.arrays(np.float64, (n, c), elements=NUMBERS))
    # numbers may be too large or too small for their squares, targets constant, samples few
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(ValueError):
        assert 0 <= target_linearity(torch.from_numpy(h), torch.from_numpy(y)) <= 1


def reading(path: Path) -> Result | None:
    """The result, or None where it is refused with one line."""
    try:
        return results.read(path)
    except ResultError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return None


META = {"schema": 1, "experiment": "e", "name": "n", "config": {}, "axes": {"a": ["seed"]}}
META |= {"data": {"name": "d", "fingerprint": "f"}, "commit": "c", "device": "cpu", "seconds": 1}


def packed(meta: object) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.arange(3.0), meta=np.array(json.dumps(meta)))
    return stream.getvalue()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results") / "any.npz"


class TestReader:
    @ANY
    @given(st.binary(max_size=300))
    def test_of_any_bytes_gives_one_line(self, path, content):
        path.write_bytes(content)
        assert reading(path) is None

    @ANY
    @given(st.data())
    def test_of_a_result_changed_anywhere_gives_it_or_one_line(self, path, data):
        results.write(path, Result({"a": np.arange(3.0)}, META))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            kind = data.draw(st.sampled_from(["set", "cut", "insert"]))
            i = data.draw(st.integers(0, len(content) - 1))
            if kind == "set":
                content[i] = data.draw(st.integers(0, 255))
            elif kind == "cut":
                del content[i : i + data.draw(st.integers(1, 40))]
            else:
                content[i:i] = data.draw(st.binary(min_size=1, max_size=10))
            if not content:
                break
        path.write_bytes(content)
        if (found := reading(path)) is not None:
            assert found["a"].tolist() == [0.0, 1.0, 2.0]
            assert found.meta == META

    @ANY
    @given(JSON)
    def test_of_any_json_for_meta_gives_one_line(self, path, meta):
        path.write_bytes(packed(meta))
        assert reading(path) is None

    @ANY
    @given(st.sampled_from(sorted(META)), JSON)
    def test_of_any_json_for_a_key_of_meta_gives_a_result_or_one_line(self, path, key, value):
        path.write_bytes(packed({**META, key: value}))
        found = reading(path)
        if found is not None:
            with contextlib.suppress(KeyError):
                assert isinstance(found.label, str)
            assert (found.diverged, found.warning) == ([], "")
