"""The reader of results takes any file: it gives the result that was written, or one line."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab import results
from lab.errors import ResultError
from lab.results import Result

ANY = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)


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
