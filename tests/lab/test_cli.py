"""The command line: presets, flags, what a configuration may hold, one line for what is wrong."""

import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lab import cli, data, provenance
from lab.errors import ConfigError, DataError, ResultError


@dataclass(frozen=True, kw_only=True)
class Config(cli.Common):
    """Hyperparameters of a test."""

    datasets: tuple[str, ...] = cli.each(("cifar10",))  # names of data sets
    rates: tuple[float, ...] = cli.each((0.1, 0.2))  # learning rates, a result for each
    seeds: tuple[int, ...] = (0, 1)  # a replica for each
    methods: tuple[str, ...] = ("plain",)  # how to train
    momentum: float = 0.8  # momentum of SGD
    epochs: int = 100  # passes over the training set
    samples: int | None = None  # samples that are measured; None: all
    depth: int = cli.added(4, earlier=2)  # hidden layers


QUICK = {"datasets": ("digits",), "rates": (0.5,), "epochs": 3}
SCRIPT = SimpleNamespace(Config=Config, QUICK=QUICK)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def parse(*words: str) -> Config:
    return cli.parse(Config, QUICK, "What it is for.", words)


class TestParse:
    def test_paper_is_the_default(self):
        assert parse() == Config() == parse("--scale", "paper")

    @pytest.mark.parametrize(
        "words", ["--scale quick", "--scale=quick", "--scale paper --scale quick"]
    )
    def test_quick_changes_the_defaults_it_names_and_no_others(self, words):
        assert parse(*words.split()) == replace(Config(), scale="quick", **QUICK)

    def test_flags_win_over_quick_in_any_order(self):
        parts = (["--scale", "quick"], ["--epochs", "100"], ["--rates", "0.3", "0.4"])
        expected = replace(Config(), scale="quick", datasets=("digits",), rates=(0.3, 0.4))
        for order in itertools.permutations(parts):
            assert parse(*itertools.chain(*order)) == expected

    def test_every_field_can_be_set(self):
        words = """--scale quick --data a --results b --device cpu --jobs 3 --overwrite
            --datasets mnist svhn --rates 1 --seeds 7 --methods exact --momentum 0 --epochs 2
            --samples 5 --depth 1"""
        assert parse(*words.split()) == Config(
            scale="quick",
            data=Path("a"),
            results=Path("b"),
            device="cpu",
            jobs=3,
            overwrite=True,
            datasets=("mnist", "svhn"),
            rates=(1.0,),
            seeds=(7,),
            methods=("exact",),
            momentum=0.0,
            epochs=2,
            samples=5,
            depth=1,
        )
        assert parse("--samples", "5", "--samples", "None").samples is None

    def test_help_shows_the_description_each_comment_and_the_defaults_of_the_scale(self, capsys):
        with pytest.raises(SystemExit) as stop:
            parse("--scale", "quick", "--help")
        assert stop.value.code == 0
        text = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
        assert "What it is for." in text
        assert "learning rates, a result for each (default: 0.5)" in text
        assert "samples that are measured; None: all (default: None)" in text

    @pytest.mark.parametrize(
        ("words", "culprit"),
        [
            ("--nope 1", "--nope"),
            ("stray", "stray"),
            ("--epochs many", "'many'"),
            ("--epochs 1.5", "'1.5'"),
            ("--epochs", "--epochs"),
            ("--device tpu", "'tpu'"),
            ("--scale huge", "'huge'"),
            ("--scale", "--scale"),
        ],
    )
    def test_what_cannot_be_read_ends_with_status_2_and_the_culprit(self, words, culprit, capsys):
        with pytest.raises(SystemExit) as stop:
            parse(*words.split())
        assert stop.value.code == 2
        out, err = capsys.readouterr()
        assert culprit in out + err
        assert "Traceback" not in err


class TestConfig:
    def test_hyperparameters_are_the_own_fields_without_those_that_have_a_file_for_each_value(self):
        expected = {"seeds": (0, 1), "methods": ("plain",), "momentum": 0.8, "epochs": 100}
        assert Config().hyperparameters() == expected | {"samples": None, "depth": 4}
        assert Config(depth=7).earlier == {"depth": 2}

    def test_preset_is_the_configuration_of_a_scale_with_some_fields_changed(self):
        assert cli.preset(SCRIPT, epochs=7) == Config(epochs=7)
        expected = Config(scale="quick", **QUICK | {"epochs": 7})
        assert cli.preset(SCRIPT, "quick", epochs=7) == expected

    def test_device_auto_takes_a_gpu_where_there_is_one(self, monkeypatch):
        assert (Config().resolved_device, Config(device="cpu").resolved_device) == ("cpu", "cpu")
        with pytest.raises(ConfigError, match="device cuda: "):
            Config(device="cuda")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert (Config().resolved_device, Config(device="cpu").resolved_device) == ("cuda", "cpu")
        assert Config(device="cuda").resolved_device == "cuda"


def check(**changes: Any) -> None:
    cli.check(
        Config(**changes),
        zero=("seeds",),
        fractions=("momentum",),
        choices={"methods": ("plain", "exact")},
        empty=("rates",),
    )


class TestCheck:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"seeds": (0,)},
            {"momentum": 0.0},
            {"rates": ()},
            {"samples": 1},
            {"methods": ("exact", "plain")},
            {"overwrite": True},
            {"seeds": (2**63 - 1,)},
            {"epochs": 10_000_000},
            {"depth": 10_000},
        ],
        ids=str,
    )
    def test_accepts(self, changes):
        check(**changes)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"epochs": 0}, "epochs must be above zero, not 0"),
            ({"epochs": 10_000_001}, "epochs must be at most 10,000,000, not 10000001"),
            ({"jobs": 10**23}, f"jobs must be at most 10,000,000, not {10**23}"),
            ({"depth": 10_001}, "depth must be at most 10,000, not 10001"),
            ({"depth": 10_000_000}, "depth must be at most 10,000, not 10000000"),
            ({"seeds": (2**63,)}, f"seeds must be below 2^63, not {2**63}"),
            ({"seeds": (0, 2**64 + 1)}, f"seeds must be below 2^63, not {2**64 + 1}"),
            ({"epochs": -3}, "epochs must be above zero, not -3"),
            ({"jobs": 0}, "jobs must be above zero, not 0"),
            ({"samples": 0}, "samples must be above zero, not 0"),
            ({"rates": (0.1, 0.0)}, "rates must be above zero, not 0.0"),
            ({"rates": (float("nan"),)}, "rates must be above zero, not nan"),
            ({"rates": (float("inf"),)}, "rates must be above zero, not inf"),
            ({"seeds": (0, -1)}, "seeds must be zero or above, not -1"),
            ({"momentum": 1.0}, "momentum must be in [0, 1), not 1.0"),
            ({"momentum": -0.1}, "momentum must be in [0, 1), not -0.1"),
            ({"momentum": float("nan")}, "momentum must be in [0, 1), not nan"),
            ({"seeds": ()}, "seeds must name one or more different values, not ()"),
            ({"seeds": (0, 1, 0)}, "seeds must name one or more different values, not (0, 1, 0)"),
            ({"rates": (1, 1.0)}, "rates must name one or more different values, not (1, 1.0)"),
            ({"methods": ("magic",)}, "methods: unknown 'magic', one of plain, exact"),
        ],
        ids=str,
    )
    def test_refuses_in_one_line_that_names_the_field(self, changes, message):
        with pytest.raises(ConfigError) as caught:
            check(**changes)
        assert str(caught.value) == message


def write_data(path: Path, value: int = 0) -> Path:
    x, y = np.full((20, 4, 4), value, np.uint8), np.arange(20) % 2
    x[0] = 9
    path.parent.mkdir(exist_ok=True)
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return path


class TestData:
    def test_names_must_be_known_and_differ_as_labels_of_results(self, tmp_path):
        paths = [str(write_data(tmp_path / folder / "same.npz")) for folder in "ab"]
        cli.check_datasets(["mnist", "digits", paths[0]])
        with pytest.raises(ConfigError, match=r"two are named same, .*rename"):
            cli.check_datasets(["digits", *paths])
        with pytest.raises(DataError, match=r"absent\.npz"):
            cli.check_datasets(["digits", "absent.npz"])

    def test_prepare_finds_what_is_wrong_before_any_work(self, tmp_path):
        good, bad = write_data(tmp_path / "good.npz"), tmp_path / "bad.npz"
        bad.write_text("not a zip file")
        cli.prepare(Config(results=tmp_path / "results", datasets=(str(good),)))
        with pytest.raises(DataError, match=r"bad\.npz"):
            cli.prepare(Config(results=tmp_path / "results", datasets=(str(good), str(bad))))
        with pytest.raises(ResultError, match="cannot be written"):
            cli.prepare(Config(results=good / "results", datasets=(str(good),)))
        assert set(tmp_path.iterdir()) == {good, bad}

    def test_a_worker_takes_only_the_data_that_its_parent_has(self, tmp_path):
        path = write_data(tmp_path / "mine.npz", 255)
        config = Config(device="cpu", datasets=(str(path),))
        images = cli.load_images(config, str(path))

        def load(_: object) -> str:
            return cli.load_images(config, str(path)).fingerprint

        work = provenance.Faithful(load, {"mine": images.fingerprint})
        assert work(None) == images.fingerprint
        write_data(path, 7)  # while workers start
        data.load_images.cache_clear()
        with pytest.raises(DataError, match=r"^mine has changed since the program was started: "):
            work(None)
        assert cli.load_images(config, str(path)).fingerprint != images.fingerprint  # a new program

    def test_load_images_takes_the_configurations_folder_and_device(self, tmp_path):
        path = write_data(tmp_path / "mine.npz", 255)
        images = cli.load_images(Config(device="cpu"), str(path))
        assert (images.name, images.x_train.device.type) == ("mine", "cpu")
        with pytest.raises(DataError, match=re.escape(f"mnist is not in {path}")):
            cli.load_images(Config(data=path), "mnist")
