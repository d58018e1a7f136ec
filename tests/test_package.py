"""What `import srn_jax` offers, which way imports point, and the program without a clone."""

import ast
import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import srn_jax

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "srn_jax"
LAYERS = (  # imports point to the left
    *(("errors", "files", "phases"), ("config",), ("own_files",), ("tasks", "cells")),
    *(("kernels",), ("training",), ("ensemble",), ("analysis", "interop"), ("runs",)),
    *(("places",), ("arguments", "run"), ("answers",), ("api",)),
    *(("cli",), ("__main__",)),
)
EXCEPTIONS = {  # of modules that stand lower than their folder
    ("config", "own_files"),  # which imports errors alone
    ("training", "kernels"),
    ("run", "answers"),
}


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path):
    """The rooms that a module imports where it is loaded, and by functions."""
    tree = ast.parse(path.read_text())
    checked = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in checked:
            parts = (node.module or "").split(".")
            if parts[0] == "srn_jax":
                yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


def test_imports_point_one_way():
    level = {room: n for n, rooms in enumerate(LAYERS) for room in rooms}
    for path in PACKAGE.rglob("*.py"):
        room = room_of(path)
        for other in imports_of(path) if room != "__init__" else ():
            allowed = level[other] <= level[room] or (room, other) in EXCEPTIONS
            assert allowed, f"{path} imports {other}"


def test_nothing_below_the_command_line_prints_or_reads_its_arguments():
    for path in PACKAGE.rglob("*.py"):
        if room_of(path) in ("cli", "__main__") or path.name in ("progress.py", "errors.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            assert getattr(getattr(node, "func", None), "id", "") != "print", path
            assert getattr(node, "attr", "") != "argv", path


def test_no_private_words_of_jax_are_used_by_runs_and_what_stands_above():
    for path in PACKAGE.rglob("*.py"):
        if room_of(path) in ("runs", "api", "cli", "run", "arguments", "places"):
            assert "jax._src" not in path.read_text().replace('"jax._src', ""), path


def test_a_public_name_is_the_same_thing_before_and_after_its_module_is_imported():
    for name, module in srn_jax._PLACE.items():
        thing = getattr(srn_jax, name)
        importlib.import_module(f"srn_jax.{module}")
        assert getattr(srn_jax, name) is thing and not isinstance(thing, ModuleType), name


def test_the_names_that_tools_see_are_those_that_there_are():
    tree = ast.parse(Path(srn_jax.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module.removeprefix("srn_jax.")
        for node in block.body
        for alias in node.names
    }
    assert seen == srn_jax._PLACE and sorted(seen) == srn_jax.__all__


def test_every_file_of_the_package_is_in_a_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["packages"] == {"find": {"include": ["srn_jax*"]}}
    packages = {path.parent for path in PACKAGE.rglob("__init__.py")}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    data = {
        path
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    assert {path for path in files if path.suffix != ".py"} == data
    assert {path.parent for path in files - data} == packages


def run(*words, cwd, code=None):
    command = [sys.executable, *(["-c", code] if code else ["-m", "srn_jax"]), *words]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, paths))  # an empty one would be the current directory
    given = {"cwd": cwd, "env": os.environ | {"PYTHONPATH": path}, "timeout": 100}
    return subprocess.run(command, capture_output=True, text=True, **given)


def test_the_module_is_the_program_and_imports_nothing_from_where_it_is_started(tmp_path):
    (tmp_path / "csv.py").write_text("print('stolen')\nraise SystemExit(9)")
    assert "Train all lengths and many seeds" in run("--help", cwd=tmp_path).stdout
    assert run(cwd=tmp_path).stdout == run("--help", cwd=tmp_path).stdout
    usage = run("sweep", "--help", cwd=tmp_path).stdout
    assert usage.startswith("usage: python -m srn_jax sweep")
    made = run("generate-data", "--out", "data", "--lengths", "3", cwd=tmp_path)
    assert made.returncode == 0 and (tmp_path / "data" / "3" / "train.txt").exists()
    wrong = run("sweeep", cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr == "error: no command 'sweeep', did you mean sweep?\n"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import srn_jax", "jax numpy pandas matplotlib orbax"),
        ("import srn_jax.cli.commands, srn_jax.cli.options", "jax pandas matplotlib orbax"),
        ("import srn_jax; srn_jax.train, srn_jax.UserError", "jax matplotlib orbax"),
    ],
)
def test_starting_is_lazy(code, absent):
    code += f"\nimport sys; print({{*{absent.split()!r}}} & {{*sys.modules}})"
    assert run(cwd=ROOT, code=code).stdout == "set()\n"
