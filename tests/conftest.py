"""JAX for the tests: a CPU of two devices, strict about shapes, with a cache of its own.

SRN_JAX_TEST_PLATFORM=gpu python -m pytest tests/cells tests/training  # on a GPU, kernels too
"""

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers share it, and the scripts that tests run
    CACHE = tempfile.TemporaryDirectory(prefix="srn_jax-tests-")
    os.environ["XDG_CACHE_HOME"] = CACHE.name

from srn_jax.cli import options  # noqa: E402  (the cache comes first)
from srn_jax.runs import devices as platform  # noqa: E402

# A test compiles for seconds and computes for milliseconds, so LLVM need not optimise, and XLA's
# older way of writing kernels will do, where there is one. CI compares with PyTorch as users run.
LEVEL = "--xla_backend_optimization_level"
OLDER = "--xla_cpu_use_fusion_emitters=false" if platform.jaxlib_version() <= (0, 10) else ""
QUICK = f"{LEVEL}=0 {OLDER}".strip()
if LEVEL not in (given := os.environ.get("XLA_FLAGS", "")):
    os.environ["XLA_FLAGS"] = f"{given} {QUICK}".strip()
platform.configure(os.environ.get("SRN_JAX_TEST_PLATFORM", "cpu"), cpu_devices=2)

import jax  # noqa: E402

from srn_jax.ensemble.mapping import mapped  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    # A worker may meet what another is writing, and compilers without a device cannot read theirs.
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilat")


def pytest_addoption(parser):
    parser.addoption(
        "--one-cell", action="store_true", help="of all cells or tasks of a test take the first"
    )


@pytest.hookimpl(trylast=True)  # after -m, which may leave the first out
def pytest_collection_modifyitems(config, items):
    """What another version of JAX changes is found with one cell as well as with all."""
    if not config.getoption("--one-cell"):
        return

    def cell_and_task(item):
        given = item.callspec.params if hasattr(item, "callspec") else {}
        return [given.get(name) for name in ("cell", "kind", "task")]

    first, wanted, others = {}, [], []
    for item in items:
        name, its = item.nodeid.partition("[")[0], cell_and_task(item)
        (wanted if first.setdefault(name, its) == its else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = wanted


@pytest.fixture(autouse=True, scope="module")
def let_go():
    """Compiled programs go with their module: those of all would take gigabytes."""
    yield
    mapped.cache_clear()
    jax.clear_caches()


@pytest.fixture
def quick_compilation(monkeypatch):
    """Processes that a test starts compile as tests do, also where this one does not."""
    monkeypatch.setenv("XLA_FLAGS", QUICK)


@pytest.fixture
def run_script():
    """Run a script as a user does; returns the completed process with its output as text."""

    def run(name: str, *arguments: object, cwd: Path = ROOT, timeout=300, **environment):
        command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=cwd,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Run a script in this process, whose JAX has started; returns status and both outputs."""

    def run(name: str, *arguments: object):
        words = [name, *map(str, arguments)]
        with monkeypatch.context() as patch:
            patch.setattr(platform, "start", lambda *_: None)
            patch.setattr(sys, "argv", words)
            patch.syspath_prepend(str(ROOT / "scripts"))
            with pytest.raises(SystemExit) as end:
                options.run_script(importlib.import_module(name.removesuffix(".py")).main)
        return subprocess.CompletedProcess(words, end.value.code, *capsys.readouterr())

    return run
