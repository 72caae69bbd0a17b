"""The command line of every experiment script: presets, flags, help, and one line for whatever is wrong."""

import contextlib
import dataclasses
import functools
import io
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import cli
import data
import results
import training
from experiment import (
    gram_virtual_covariance,
    grokking,
    random_label,
    staircase,
    swissroll,
    target_linearity,
    vae_target_linearity,
    vae_train,
    whiten,
    whiten_cnn,
)

IMAGE_SCRIPTS = [whiten, whiten_cnn, target_linearity, random_label, vae_train, vae_target_linearity]
IMAGE_SCRIPTS.append(gram_virtual_covariance)
SCRIPTS = [*IMAGE_SCRIPTS, grokking, staircase, swissroll]

# a value other than the default for every field that any script has
VALUES = {
    "scale": "quick",
    "data": Path("elsewhere"),
    "results": Path("elsewhere"),
    "device": "cpu",
    "jobs": 3,
    "overwrite": True,
    "datasets": ("digits",),
    "methods": ("exact", "plain"),
    "optimizer": "adam",
    "learning_rate": 0.125,
    "learning_rates": (0.5, 0.25),
    "newton_schulz_rates": (0.5, 0.25),
    "momentum": 0.5,
    "seeds": (7, 8),
    "epochs": 3,
    "batch_size": 5,
    "width": 7,
    "widths": (7, 6),
    "depth": 5,
    "channels": 5,
    "probabilities": (0.3, 0.6),
    "weight_decays": (0.1, 0.2),
    "beta1": 0.5,
    "beta2": 0.5,
    "modulus": 5,
    "test_share": 0.5,
    "betas": (1.0, 0.3),
    "hidden": 7,
    "latent": 3,
    "samples": 11,
    "steps": 3,
    "pairs": 3,
    "shown_beta": 0.05,
    "shown_epochs": 3,
    "inputs": 6,
    "every": 3,
    "ridge": 0.5,
    "data_seed": 3,
    "virtual_rate": 3.0,
    "last_frame": 3,
    "batch_sizes": (5, 6),
    "rates": (0.5, 0.25),
    "time": 20.0,
    "points": 5,
}
# fields whose values have a file each
FILES = {"datasets", "methods", "learning_rates", "newton_schulz_rates", "probabilities", "weight_decays", "betas"}
FILES |= {"widths", "batch_sizes"}
FIELDS = [(script, field.name) for script in SCRIPTS for field in dataclasses.fields(script.Config)]


def name(value: object) -> str:
    return value.__name__.rpartition(".")[2] if isinstance(value, ModuleType) else str(value)


def flags(field: str) -> list[str]:
    """The words that set a field to its value above."""
    flag, value = f"--{field.replace('_', '-')}", VALUES[field]
    if value is True:
        return [flag]
    return [flag, *map(str, value if isinstance(value, tuple) else (value,))]


def has(script: ModuleType, field: str) -> bool:
    return field in {f.name for f in dataclasses.fields(script.Config)}


def parse(script: ModuleType, *words: str) -> cli.Common:
    return cli.parse(script.Config, script.QUICK, words, script.__doc__)


@functools.cache
def help_of(script: ModuleType, *words: str) -> str:
    """What --help prints, and nothing else."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(SystemExit) as stop, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        parse(script, *words, "--help")
    assert stop.value.code == 0
    assert err.getvalue() == ""
    return out.getvalue()


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


class TestScale:
    @pytest.mark.parametrize("script", SCRIPTS, ids=name)
    def test_paper_is_the_default(self, script):
        assert parse(script) == script.Config() == parse(script, "--scale", "paper")

    @pytest.mark.parametrize("script", SCRIPTS, ids=name)
    @pytest.mark.parametrize("words", [["--scale", "quick"], ["--scale=quick"]], ids=" ".join)
    def test_quick_changes_the_defaults_it_names_and_no_others(self, script, words):
        assert parse(script, *words) == dataclasses.replace(script.Config(), scale="quick", **script.QUICK)
        papers = dataclasses.replace(script.Config(), scale="quick")
        assert (parse(script, *words) == papers) == (script is swissroll)  # whose paper's settings take seconds

    @pytest.mark.parametrize("script", IMAGE_SCRIPTS, ids=name)
    def test_quick_needs_no_network(self, script):
        assert parse(script, "--scale", "quick").datasets == ("digits",)

    @pytest.mark.parametrize("script", SCRIPTS, ids=name)
    def test_flags_win_over_quick_in_any_order(self, script):
        fields = [f for f in ("scale", "epochs", "learning_rate", "learning_rates", "rates", "seeds") if has(script, f)]
        parts = [flags(field) for field in fields]
        expected = dataclasses.replace(script.Config(), **script.QUICK | {f: VALUES[f] for f in fields})
        assert all(parse(script, *itertools.chain(*order)) == expected for order in itertools.permutations(parts))

    @pytest.mark.parametrize("scales", [("quick", "paper"), ("paper", "quick")], ids=" then ".join)
    def test_of_two_the_last_one_holds_for_everything(self, scales):
        words = [word for scale in scales for word in ("--scale", scale)]
        assert parse(whiten, *words) == parse(whiten, "--scale", scales[1])

    def test_a_flag_may_repeat_a_default_of_the_paper(self):
        assert parse(whiten, "--scale", "quick", "--width", str(whiten.Config().width)).width == whiten.Config().width


class TestFields:
    @pytest.mark.parametrize(("script", "field"), FIELDS, ids=name)
    def test_can_be_set(self, script, field):
        default = parse(script)
        assert getattr(default, field) != VALUES[field]
        given = parse(script, *flags(field))
        others = script.QUICK if field == "scale" else {}
        assert given == dataclasses.replace(default, **others, **{field: VALUES[field]})

    @pytest.mark.parametrize(("script", "field"), FIELDS, ids=name)
    def test_is_in_the_help_with_a_text_and_its_default(self, script, field):
        options = re.split(r"^ +(?=--?[a-z])", help_of(script), flags=re.MULTILINE)
        (block,) = (option for option in options if re.match(rf"--{field.replace('_', '-')}\b(?!-)", option))
        text = re.sub(r"--[\w-]+|\{.*?\}|\b[A-Z]+\b|\(default.*", "", block, flags=re.DOTALL)  # no flag, no kind
        assert len(re.findall(r"[a-z]{2,}", text)) >= 2
        assert re.search(r"\(default:\s", block)

    @pytest.mark.parametrize("script", SCRIPTS, ids=name)
    def test_help_begins_with_what_the_script_is_for(self, script):
        assert script.__doc__.splitlines()[0] in " ".join(help_of(script).split())

    def test_help_shows_the_defaults_of_the_scale_asked_for(self):
        assert re.search(r"\(default:\s+digits\)", help_of(whiten, "--scale", "quick"))

    @pytest.mark.parametrize(("script", "field"), [pair for pair in FIELDS if pair[1] != "scale"], ids=name)
    def test_names_another_file_where_it_shapes_the_numbers(self, script, field, made_paths):
        default, changed = made_paths(script), made_paths(script, *flags(field))
        assert default
        if field in {f.name for f in dataclasses.fields(cli.Common)}:
            assert changed == default
        elif field in FILES and script is not vae_target_linearity:  # which has all β in one file
            assert changed != default
        else:
            assert not changed & default

    def test_momentum_names_no_other_file_for_adam_which_has_none(self, made_paths):
        words = ("--optimizer", "adam")
        assert made_paths(target_linearity, *words) == made_paths(target_linearity, *words, *flags("momentum"))


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_commands_in_the_docstring_can_be_given(script):
    commands = re.findall(r"^    python src/experiment/(\w+)\.py(.*)$", script.__doc__, flags=re.MULTILINE)
    assert len(commands) >= 2
    for called, words in commands:
        assert called == name(script)
        parse(script, *words.split())


@pytest.fixture
def made_paths(monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[Path]]:
    """The files that a script would make from a command line; nothing is trained."""

    def call(script: ModuleType, *words: str) -> set[Path]:
        made = []

        def produce(
            config: cli.Common, experiment: str, images: object, axes: object, outputs: list, _: object
        ) -> None:
            made.extend(results.path_for(Path("r"), config.scale, experiment, o.name, o.settings) for o in outputs)

        monkeypatch.setattr(cli, "produce", produce)
        monkeypatch.setattr(cli, "prepare", lambda _: None)
        x, y = torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10)
        monkeypatch.setattr(data, "load", lambda name, *_: data.Images(name, x, y, x, y))
        monkeypatch.setattr(sys, "argv", ["script", *words])
        script.main()
        assert len(set(made)) == len(made)
        return set(made)

    return call


class TestProduce:
    @pytest.fixture
    def produce(self, tmp_path) -> Callable[..., list[str]]:
        """Makes outputs of these rates and names; returns the names that were computed."""

        def call(names: dict[float, str], broken: bool = False) -> list[str]:
            computed = []

            def compute(missing: list[cli.Output], _: results.Partial) -> list[results.Arrays]:
                computed.extend(output.name for output in missing)
                if broken:
                    raise KeyboardInterrupt
                return [{"rate": np.array(output.settings["rate"])} for output in missing]

            outputs = [cli.Output(label, {"rate": rate}) for rate, label in names.items()]
            images = SimpleNamespace(name="mine", fingerprint="0" * 16)
            cli.produce(whiten.Config(results=tmp_path), "whiten", images, {"rate": ()}, outputs, compute)
            return computed

        return call

    def rates(self, folder: Path) -> list[float]:
        return sorted(float(results.load(path)["rate"]) for path in folder.rglob("*.npz"))

    def test_computes_only_what_is_missing(self, produce, tmp_path):
        assert produce({0.1: "a"}) == ["a"]
        assert produce({0.1: "a", 0.2: "b"}) == ["b"]
        assert self.rates(tmp_path) == [0.1, 0.2]

    def test_settings_that_round_to_one_name_are_two_files(self, produce, tmp_path):
        produce({0.1: "lr0.1", 0.1 + 1e-9: "lr0.1"})
        assert self.rates(tmp_path) == [0.1, 0.1 + 1e-9]

    def test_saves_nothing_where_computing_stops(self, produce, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            produce({0.1: "a"}, broken=True)
        assert self.rates(tmp_path) == []


class TestProduceEach:
    RATES = (0.1, 0.2, 0.4)

    def made(self, folder: Path) -> list[tuple[float, ...]]:
        """Makes one result a rate, all that are missing; returns the rates of each call that computed."""
        calls = []

        def compute(rates: tuple[float, ...], _: results.Partial) -> results.Arrays:
            calls.append(rates)
            rate, seed = np.array(rates), np.arange(2)
            return {"value": 10 * rate[:, None] + seed, "rate": rate, "seed": seed}

        axes = {"value": ("rate", "seed"), "rate": ("rate",), "seed": ("seed",)}
        outputs = [cli.Output(f"rate{rate}", {"rate": rate}) for rate in self.RATES]
        images = SimpleNamespace(name="mine", fingerprint="0" * 16)
        cli.produce_each(whiten.Config(results=folder), "whiten", images, axes, "rate", outputs, compute)
        return calls

    def test_all_values_are_computed_at_once_and_each_result_has_its_own(self, tmp_path):
        assert self.made(tmp_path) == [self.RATES]
        found = [results.load(path) for path in tmp_path.rglob("*.npz")]
        assert sorted(result.config["rate"] for result in found) == sorted(self.RATES)
        for result in found:
            rate = result.config["rate"]
            assert result["rate"].tolist() == [rate]
            assert result["value"].tolist() == [[10 * rate, 10 * rate + 1]]
            assert result["seed"].tolist() == [0, 1]

    def test_only_what_is_missing_is_computed(self, tmp_path):
        self.made(tmp_path)
        for rate in (0.1, 0.4):
            next(tmp_path.rglob(f"rate{rate}-*.npz")).unlink()
        assert self.made(tmp_path) == [(0.1, 0.4)]
        assert len(list(tmp_path.rglob("*.npz"))) == 3


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> Callable[..., str]:
    """Runs a script that must stop before any work with one line on stderr and status 2; returns the line."""

    def call(script: ModuleType, *words: str) -> str:
        tiny = ["--scale", "quick", "--seeds", "0", "--jobs", "1", "--results", str(tmp_path / "results")]
        tiny += ["--epochs", "1"] if has(script, "epochs") else []
        monkeypatch.setattr(sys, "argv", ["script", *tiny, *words])
        monkeypatch.setattr(training, "train_all", lambda *_, **__: pytest.fail("training has begun"))
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as stop:
            cli.run(script.main)
        out, err = capsys.readouterr()
        assert stop.value.code == 2
        assert out == ""
        assert re.fullmatch(r"error: [ -~\w]+\n", err), err
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return call


WRONG = [  # command line -> what the message must name; of every script that has the first flag, or where none has
    ("--nope 1", "--nope"),
    ("stray", "stray"),
    ("--epoch 3", "--epoch"),
    ("--epochs many", "'many'"),
    ("--epochs 1.5", "'1.5'"),
    ("--epochs", "--epochs"),
    ("--epochs -3", "epochs must be "),
    ("--batch-size 0", "batch_size"),
    ("--momentum 1", "momentum must be in [0, 1), not 1.0"),
    ("--momentum -0.1", "momentum must be in [0, 1), not -0.1"),
    ("--momentum nan", "momentum must be in [0, 1), not nan"),
    ("--seeds", "seeds"),
    ("--seeds 0 1 0", "seeds"),
    ("--seeds 0.5", "'0.5'"),
    ("--seeds -1", "seeds"),
    ("--datasets", "datasets"),
    ("--datasets digits digits", "datasets"),
    ("--datasets imagenet", "'imagenet'"),
    ("--datasets digits absent.npz", "absent.npz"),
    ("--device cuda", "device cuda: "),
    ("--device tpu", "'tpu'"),
    ("--jobs -1", "jobs must be 0 or more, not -1"),
    ("--scale huge", "'huge'"),
    ("--scale", "--scale"),
    ("--methods magic", "'magic'"),
    ("--methods", "methods"),
    ("--methods plain plain", "methods"),
    ("--learning-rates -0.1", "learning_rates must be above zero, not -0.1"),
    ("--learning-rates 0.1 0", "learning_rates must be above zero, not 0"),
    ("--learning-rates nan", "learning_rates must be above zero, not nan"),
    ("--learning-rates inf", "learning_rates must be above zero, not inf"),
    ("--learning-rates", "learning_rates"),
    ("--learning-rates 0.1 0.10", "learning_rates"),
    ("--newton-schulz-rates 0", "newton_schulz_rates must be above zero, not 0"),
    ("--optimizer lion", "'lion'"),
    ("--learning-rate 0", "learning_rate must be above zero, not 0"),
    ("--learning-rate -1", "learning_rate must be above zero, not -1"),
    ("--learning-rate fast", "'fast'"),
    ("--depth 0", "depth must be above zero, not 0"),
    ("--width -8", "width must be above zero, not -8"),
    ("--channels 0", "channels must be above zero, not 0"),
    ("--probabilities 0.5 1.5", "probabilities must be in [0, 1], not 1.5"),
    ("--probabilities -0.5", "probabilities must be zero or above, not -0.5"),
    ("--probabilities nan", "probabilities must be zero or above, not nan"),
    ("--weight-decays -1", "weight_decays must be zero or above, not -1"),
    ("--beta2 1", "beta2 must be in [0, 1), not 1.0"),
    ("--modulus 2", "modulus must be 3 or more, not 2"),
    ("--test-share 0", "test_share must be above zero, not 0"),
    ("--test-share 1", "test_share must be in [0, 1), not 1.0"),
    ("--betas 0", "betas must be above zero, not 0"),
    ("--latent 0", "latent must be above zero, not 0"),
    ("--shown-beta 0.7", "shown_beta must be one of betas, not 0.7"),
    ("--steps 1", "steps"),
    ("--widths 8 8", "widths"),
    ("--inputs 3", "inputs must be 4 or more"),
    ("--every 0", "every must be above zero, not 0"),
]
EPOCHS_0 = ("--epochs 0", "epochs must be above zero, not 0")  # the paper's, to the scripts of the VAE
ALL_FIELDS = {field for _, field in FIELDS}


def applies(script: ModuleType, wrong: tuple[str, str]) -> bool:
    field = wrong[0].split()[0].removeprefix("--").replace("-", "_")
    return has(script, field) or field not in ALL_FIELDS


CASES = [case for case in itertools.product(SCRIPTS, WRONG) if applies(*case)]
CASES += [(s, EPOCHS_0) for s in SCRIPTS if has(s, "epochs") and s not in (vae_train, vae_target_linearity)]


class TestWrongCommands:
    @pytest.mark.parametrize(("script", "wrong"), CASES, ids=lambda v: v[0] if isinstance(v, tuple) else name(v))
    def test_are_one_line_that_names_the_culprit(self, script, wrong, refusal):
        words, culprit = wrong
        assert culprit in refusal(script, *words.split())

    @pytest.mark.parametrize("script", SCRIPTS, ids=name)
    @pytest.mark.parametrize("below", ["file", "file/results"])
    def test_results_that_cannot_be_written_are_refused(self, script, below, refusal, tmp_path):
        (tmp_path / "file").write_text("in the way")
        assert str(tmp_path / below) in refusal(script, "--results", str(tmp_path / below))

    @pytest.mark.parametrize("script", IMAGE_SCRIPTS, ids=name)
    def test_bad_data_are_refused_before_good_data_are_trained_on(self, script, refusal, tmp_path):
        (tmp_path / "bad.npz").write_text("not a zip file")
        assert "bad.npz" in refusal(script, "--datasets", "digits", str(tmp_path / "bad.npz"))

    @pytest.mark.parametrize("script", IMAGE_SCRIPTS, ids=name)
    def test_two_data_sets_of_one_name_are_refused(self, script, refusal, tmp_path):
        paths = [tmp_path / folder / "same.npz" for folder in "ab"]
        for i, path in enumerate(paths):
            path.parent.mkdir()
            x, y = np.full((20, 4, 4), i, np.uint8), np.arange(20) % 2
            np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
        assert "same" in refusal(script, "--datasets", *map(str, paths))

    @pytest.mark.parametrize(
        ("words", "wrong"),
        [
            (["--methods", "magic"], {"methods": ("magic",)}),
            (["--datasets", "imagenet"], {"datasets": ("imagenet",)}),
            (["--datasets", "a/" * 40 + "absent.npz"], {"datasets": ("a/" * 40 + "absent.npz",)}),
            (["--datasets", "données.npz"], {"datasets": ("données.npz",)}),
            (["--learning-rates"], {"learning_rates": ()}),
            (["--device", "cuda"], {"device": "cuda"}),
        ],
        ids=lambda v: " ".join(v)[-30:] if isinstance(v, list) else "",
    )
    def test_message_is_the_whole_message(self, words, wrong, refusal):
        with pytest.raises((cli.ConfigError, data.DataError)) as caught:
            whiten.Config(**wrong)
        assert str(caught.value) in refusal(whiten, *words)

    @pytest.mark.parametrize("words", ["--epochs 0", "--epochs many"])
    def test_message_is_plain_text_on_a_terminal(self, words, refusal, monkeypatch):
        monkeypatch.setenv("TERM", "xterm-256color")
        plain = refusal(whiten, *words.split())
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        assert refusal(whiten, *words.split()) == plain

    def test_message_does_not_depend_on_the_width_of_the_terminal(self, refusal, monkeypatch):
        wide = refusal(whiten, "--epochs", "many")
        monkeypatch.setenv("COLUMNS", "30")
        assert refusal(whiten, "--epochs", "many") == wide


def test_an_interruption_is_one_line_that_says_how_to_go_on(capsys):
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        cli.run(interrupted)
    assert stop.value.code == 130
    assert re.fullmatch(r"stopped; the same command goes on .+\n", capsys.readouterr().err)


def test_an_error_of_the_program_keeps_its_traceback():
    def broken() -> None:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        cli.run(broken)
