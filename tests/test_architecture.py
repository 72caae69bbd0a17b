"""How the source hangs together: imports point from programs down to core, never back."""

import ast
import importlib
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from lab import cli
from report.recipes import RECIPES

SOURCE = Path(cli.__file__).parents[1]
FOLDERS = ("core", "lab", "experiment", "report")  # each may import those before it
PROGRAMS = {path.stem for path in SOURCE.glob("*.py")}  # may import all of them
FILES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))
SCRIPTS = sorted(path.stem for path in (SOURCE / "experiment").glob("[!_]*.py"))


def walk(node: ast.AST, into_functions: bool) -> Iterator[ast.AST]:
    """A node and all below it, but for the bodies of functions where they are not wanted."""
    yield node
    if into_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        for child in ast.iter_child_nodes(node):
            yield from walk(child, into_functions)


def imports(file: Path, into_functions: bool = True) -> set[str]:
    """What a file imports, by full names: "lab.cli", "torch.nn.functional"."""
    names = set()
    for node in walk(ast.parse((SOURCE / file).read_text(encoding="utf-8")), into_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = file.parts[: len(file.parts) - node.level] if node.level else ()
            module = (*package, *([node.module] if node.module else []))
            names |= {".".join((*module, alias.name)) for alias in node.names}
    return names


def packages(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_every_folder_has_its_place_in_the_order():
    assert {file.parts[0] for file in FILES if len(file.parts) > 1} == set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_none_above_it(folder):
    above = {*FOLDERS[FOLDERS.index(folder) + 1 :], *PROGRAMS}
    for file in FILES:
        if file.parts[0] == folder:
            assert not packages(imports(file)) & above, file


def test_core_needs_torch_alone_but_for_what_a_function_imports_when_it_is_called():
    standard = {"core", "torch", *sys.stdlib_module_names}
    for file in FILES:
        if file.parts[0] == "core":
            assert packages(imports(file, into_functions=False)) <= standard, file
            assert packages(imports(file)) <= standard | {"matplotlib", "numpy", "pandas"}, file


def test_only_scripts_that_share_a_figures_model_import_another():
    for script in SCRIPTS:
        names = [name.split(".") for name in imports(Path("experiment", f"{script}.py"))]
        # _NAME.py is a part of one script
        others = {name[1] for name in names if name[0] == "experiment" and name[1][0] != "_"}
        if others:
            known = {"whiten_cnn", "vae_ceiling", "theories"}
            assert script in known or script.endswith("_target_linearity"), others


def test_parts_of_a_script_are_imported_by_it_alone():
    """But for the statements' networks, of which weight_decay.py measures a statement, too."""
    parts = {path.stem for path in (SOURCE / "experiment").glob("_[!_]*.py")} - {"_example"}
    users = {part: set() for part in parts}
    for file in FILES:
        names = imports(file)
        for part in parts:
            if any(name.startswith(f"experiment.{part}") for name in names):
                users[part].add(file.stem)
    assert parts
    for part, files in users.items():
        shared = {"weight_decay"} if part == "_statement_networks" else set()
        assert len(files - parts - shared) == 1, (part, files)


@pytest.mark.parametrize("script", [*SCRIPTS, "_example"])
def test_a_script_has_what_every_script_has(script):
    module = importlib.import_module(f"experiment.{script}")
    assert issubclass(module.Config, cli.Common)
    assert cli.preset(module, "quick").scale == "quick"
    own, common = ({field.name: field for field in fields(c)} for c in (module.Config, cli.Common))
    assert all(own[name] is common[name] for name in common)  # which shape no number
    assert all(isinstance(axes, tuple) for axes in module.AXES.values())
    assert callable(module.run)
    assert callable(module.main)
    for part in (f"python src/experiment/{script}.py", f"results/SCALE/{script}/", "Results: "):
        assert part in module.__doc__


def test_every_script_makes_a_figure():
    drawn = {script for recipe in RECIPES.values() for script in recipe.scripts}
    assert set(SCRIPTS) <= drawn, "add a recipe to src/report/recipes.py; see CONTRIBUTING.md"
    assert drawn <= set(SCRIPTS), "a recipe of src/report/recipes.py names no script that is there"
