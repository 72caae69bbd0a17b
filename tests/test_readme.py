"""What the README says is true: commands and code run, numbers are those of the results."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import claims
import core
import reproduce
from lab import cli
from report import front
from report.lookup import experiment
from report.recipes import RECIPES
from report.rules import number
from reproduction import BLOCKS, COMMANDS, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "results" / "benchmark" / "README.md"]
OWN = "your_model"  # a notebook that draws no figure of the paper
SCRIPTS = sorted(command for command in COMMANDS if command.startswith("python src/experiment/"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with what `pip install .` installs, without what the package needs."""
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(ROOT / "src" / "core", folder / "tree" / "src" / "core").parents[1]
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    words = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--quiet", "--target"]
    run([sys.executable, *words, str(folder), str(source)], folder)
    return folder


def run(words: list[str], cwd: Path) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_tables_are_those_of_the_results():
    documents = claims.documents(ROOT / "results")
    stale = [path.name for path, text in documents.items() if path.read_text("utf-8") != text]
    assert not stale, "run python src/claims.py"


def test_the_sentences_speak_of_claims_whose_verdict_they_tell():
    groups = front.grouped(claims.judge(ROOT / "results", "paper"))
    for key, named in front.NAMED.items():
        assert {number(claim) for claim in named} <= set(groups[key]), f"rewrite {key!r} of front"
    assert set(groups["open"]) == {number(claim) for claim in front.NAMED["open"]}, "undecided"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_leads_to_exists(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    named = [page.parent / link for link in links if not link.startswith("https://")]
    named += [ROOT / "notebook" / name for name in re.findall(r"\b\w+\.ipynb", text)]
    named += [ROOT / name for name in re.findall(r"\bresults/paper/[\w/.-]+\.npz", text)]
    assert named or page.parent.name == "docs"
    assert not [path for path in named if not path.exists()]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_code_is_clean(command):
    words = [sys.executable, "-m", "ruff", *command, "--no-cache"]
    run([*words, "src", "tests", "notebook"], ROOT)


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_command_is_one_that_its_script_takes(command):
    _, path, *flags = shlex.split(command)
    script = experiment(Path(path).stem)
    cli.parse(script.Config, script.QUICK, argv=flags)
    assert any(Path(path).stem in recipe.scripts for recipe in RECIPES.values())  # is reproduced


def test_the_other_commands_are_known():
    programs = {f"python src/{name}" for name in ("benchmark.py", "claims.py", "reproduce.py")}
    tests = {"pip install -r requirements.txt", "pytest tests", 'pytest tests -m "not slow"'}
    quick = {"python src/reproduce.py --scale quick", "python src/reproduce.py --figures 4"}
    assert COMMANDS - set(SCRIPTS) <= programs | tests | quick


@pytest.mark.slow
def test_the_code_runs_with_the_package_installed(installed, tmp_path):
    code, _ = (block for kind, block in BLOCKS if kind == "python")
    assert len(code.strip().splitlines()) <= 20
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    words = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:the targets lie along directions")  # of a random tiny model
def test_the_callback_measures_what_a_trainer_trains(tmp_path):
    _, code = (block for kind, block in BLOCKS if kind == "python")
    rows = [  # whose inputs are padded
        {"input_ids": [i, i * 7 % 40, i * 11 % 40], "attention_mask": mask, "labels": i % 2}
        for i, mask in enumerate([[1, 1, 1], [1, 1, 0]] * 20)
    ]
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = BertForSequenceClassification(BertConfig(vocab_size=40, **shape, intermediate_size=8))
    options = {"use_cpu": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    trainer = Trainer(model, TrainingArguments(str(tmp_path), **options), train_dataset=rows)
    scope = {"trainer": trainer, "TrainerCallback": TrainerCallback}
    scope |= {"MeasureEvery": core.MeasureEvery, "batches": trainer.get_eval_dataloader(rows)}
    (begin,) = re.findall(r"`(watch = [^`]*)`", PAGES[0].read_text("utf-8"))
    exec(f"{begin}\n{code}", scope)
    watch = scope["watch"]
    trainer.train()
    assert list(watch.tables) == [1, 2, 3]


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 170
    assert len(text.replace("|", " ").split()) <= 2500


@pytest.mark.slow
def test_the_package_is_core_and_torch_is_all_that_it_asks_for(installed):
    names = {path.name for path in (installed / "weight_gram").glob("*.py")}
    assert names == {path.name for path in (ROOT / "src" / "core").glob("*.py")}
    (metadata,) = installed.glob("weight_gram-*.dist-info/METADATA")
    asked = re.findall(r"^Requires-Dist: (\w+)", metadata.read_text("utf-8"), re.MULTILINE)
    assert asked == ["torch"]
    assert len(set(core.__all__)) == len(core.__all__)
    assert all(hasattr(core, name) for name in core.__all__)


@pytest.mark.slow
def test_the_notebook_that_needs_no_results_needs_no_checkout(installed, tmp_path):
    text = (ROOT / "notebook" / f"{OWN}.ipynb").read_text("utf-8")
    code = ["".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    install = '%pip install -q "weight-gram @ git+$REPOSITORY"'
    assert install in code[0]
    used = set(re.findall(r"weight_gram\.(\w+)", "".join(code)))
    assert used <= set(core.__all__)
    assert not re.findall(r"(?:import|from) (?:lab|report|experiment)\b", "".join(code))
    settings = code[0].replace(install, "pass  # it is there")
    check = f"{settings}\nassert weight_gram.__file__.startswith({str(installed)!r})"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    subprocess.run([sys.executable, "-c", check], cwd=tmp_path, env=environment, check=True)


@pytest.mark.slow
def test_the_notebook_that_needs_no_results_runs(monkeypatch):
    monkeypatch.setenv(
        "OMP_NUM_THREADS", "1"
    )  # as torch in the tests: the reproduction runs beside
    assert reproduce.execute_notebook(OWN, reproduce.Config(scale="quick"))


@pytest.mark.slow
def test_the_quick_command_makes_every_figure_and_a_verdict_for_each_claim(reproduced):
    pictures = {path.name for path in (reproduced.folder / "quick" / "figures").iterdir()}
    for figure, recipe in RECIPES.items():
        name = recipe.picture or f"figure{figure}"
        assert {f"{name}.png", f"{name}.pdf"} <= pictures
    verdicts = "not comparable|not run|true|no claim|—"  # of the paper's sentences, and theorems
    rows = rf"^({'|'.join(RECIPES)}) .*({verdicts})"
    judged = re.findall(rows, reproduced.printed, re.MULTILINE)
    assert list(dict.fromkeys(figure for figure, _ in judged)) == list(RECIPES)
    executed = re.findall(r"^(\w+)\.ipynb took", reproduced.printed, re.MULTILINE)
    assert sorted([*executed, OWN]) == sorted(p.stem for p in (ROOT / "notebook").glob("*.ipynb"))
    drawn = re.findall(r"^figure (\w+): (/.*\.png)$", reproduced.printed, re.MULTILINE)
    assert sorted(figure for figure, _ in drawn) == sorted(RECIPES)
    assert all(Path(path).is_file() for _, path in drawn)
    page = (reproduced.folder / "quick" / "index.html").read_text("utf-8")
    assert "Not made yet" not in page
    assert all(f'src="figures/{Path(path).name}"' in page for _, path in drawn)


@pytest.mark.slow
def test_a_figure_can_be_made_alone(reproduced, tmp_path):
    (alone,) = (reproduced.folder / "quick" / "target_linearity").glob("digits-sgd-*.npz")
    folder = tmp_path / "quick" / "target_linearity"
    folder.mkdir(parents=True)
    shutil.copy(alone, folder)
    words = ["--scale", "quick", "--figures", "4", "--results", str(tmp_path)]
    printed = run([sys.executable, str(ROOT / "src" / "reproduce.py"), *words], tmp_path)
    assert "already there" in printed
    pictures = {path.name for path in (tmp_path / "quick" / "figures").iterdir()}
    assert {"figure4.png", "figure4.pdf"} <= pictures
    assert all(name.startswith("figure4") for name in pictures)
