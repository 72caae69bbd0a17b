"""Packing data into an .npz: it is the same data, and what cannot be is refused."""

import numpy as np
import pytest
from PIL import Image

import pack
from lab import data
from lab.errors import ConfigError, DataError


def call(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["pack.py", *map(str, words)])
    pack.main()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_jpegs_and_its_npz_are_the_same_data(channels, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in "ba":
            folder = tmp_path / "copy" / part / label
            folder.mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 256, (8, 9, channels)).astype(np.uint8)
                Image.fromarray(pixels.squeeze()).save(folder / f"{i:04}.jpg")
    target = tmp_path / "mine.npz"
    call(monkeypatch, "--source", tmp_path / "copy", "--target", target)
    source, packed = (data.load_images(str(path)) for path in (tmp_path / "copy", target))
    assert packed.fingerprint == source.fingerprint
    assert packed.fingerprint in capsys.readouterr().out
    with np.load(target, allow_pickle=False) as arrays:
        assert arrays["x_train"].shape == (6, 8, 9, channels)
        assert arrays["y_test"].tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(ConfigError, match="not there yet"):
        call(monkeypatch, "--source", tmp_path / "copy", "--target", target)


def test_what_cannot_be_packed_leaves_no_file(tmp_path, monkeypatch):
    for source, error in ((tmp_path, DataError), ("digits", ConfigError)):
        with pytest.raises(error):
            call(monkeypatch, "--source", source, "--target", tmp_path / "mine.npz")
    assert not list(tmp_path.iterdir())
