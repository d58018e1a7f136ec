"""Claims about `plot.py` and what it writes: of a finished run without JAX, of several in one."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import contents_of

OLD = Path(__file__).parents[1] / "data/old_version"
CODE = """
import runpy, sys
sys.argv[0] = "scripts/plot.py"
try:
    runpy.run_path("scripts/plot.py", run_name="__main__")
except SystemExit as stop:
    assert stop.code == 0, stop.code
assert not {"jax", "orbax", "matplotlib.pyplot"} & set(sys.modules), "started too much"
"""


@pytest.fixture
def run(tmp_path):
    """A finished run of an old version."""
    return shutil.copytree(OLD / "run_of_own_data", tmp_path / "run")


@pytest.mark.no_jax
def test_a_finished_run_is_drawn_without_jax(run):
    done = subprocess.run([sys.executable, "-c", CODE, str(run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (run / "figures/6.7.pdf").exists() and (run / "figures/6.6_5.png").exists()
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "\\toprule" in (run / "tables/accuracy.tex").read_text()
    with open(run / "tables/accuracy.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["length"] for row in rows] == ["3", "5"]
    assert float(rows[0]["interval_low"]) <= float(rows[0]["mean"])


def test_other_formats_are_shown_or_linked_in_the_report(run, run_here):
    done = run_here("plot.py", run, "--format", "svg", "--width", 3.3)
    assert done.returncode == 0, done.stderr
    assert "data:image/svg+xml" in (run / "report.html").read_text()
    assert run_here("plot.py", run, "--format", "pdf").returncode == 0
    assert "[6.7](figures/6.7.pdf) (pdf)" in (run / "report.md").read_text()


def test_a_comparison_has_its_labels_and_baseline_and_lies_beside_the_runs(run, run_here):
    other = shutil.copytree(run, run.with_name("other"))
    done = run_here("plot.py", run, other, "--labels", "old", "new", "--baseline", "new")
    assert done.returncode == 0, done.stderr
    assert "Difference: the run minus new" in done.stdout
    folder = run.parent / "comparison"
    names = {path.name for path in folder.iterdir()}
    assert names == {"figures", *(f"comparison.{kind}" for kind in ("md", "html", "tex", "csv"))}
    with open(folder / "comparison.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["old", "new", "old", "new"]
    assert rows[0]["difference_mean"] == "0.0" and rows[1]["difference_mean"] == ""


@pytest.mark.parametrize(
    "options, complaint",
    [
        (("--width", 0), "--width must be a number of inches"),
        (("--format", "gif"), "--format must be one or more of pdf, png, svg, got gif"),
        (("--labels", "a"), "are for several runs, and this is one"),
        (("--lang", "fr"), "--lang must be en or zh, got fr"),
        (
            ("--title", r"of $\foo$"),
            r"--title: $\foo$ cannot be read as mathematics, expected what",
        ),
    ],
)
def test_a_wrong_option_is_one_line(run, run_here, options, complaint):
    before = contents_of(run)
    done = run_here("plot.py", run, *options)
    assert done.returncode == 2 and complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert contents_of(run) == before


def test_labels_must_be_as_many_as_runs_and_such_as_can_be_drawn(run, run_here):
    other = shutil.copytree(run, run.with_name("other"))
    done = run_here("plot.py", run, other, "--labels", "a", "a")
    assert done.returncode == 2
    assert "--labels must be 2 different names, one for each run, got a, a" in done.stderr
    done = run_here("plot.py", run, other, "--labels", "a", r"$\foo$")
    assert done.returncode == 2 and r"--labels: $\foo$ cannot be read" in done.stderr
    assert not run.with_name("comparison").exists()
