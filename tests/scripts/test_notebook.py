"""The notebooks: clean as stored, and executed from top to bottom."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COLAB, CHAPTER = (ROOT / "scripts" / f"{name}.ipynb" for name in ("colab", "chapter"))


@pytest.fixture(params=[COLAB, CHAPTER], ids=lambda path: path.stem)
def stored(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def source_of(cell):
    return "".join(cell["source"])


def test_it_is_stored_without_outputs_and_with_an_id_for_each_cell(stored):
    assert (stored["nbformat"], stored["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in stored["cells"]]
    assert len(set(ids)) == len(ids)
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_all_of_its_code_is_plain_python(stored):
    for cell in stored["cells"]:
        if cell["cell_type"] == "code":
            ast.parse(source_of(cell))  # no magics, so that it can be linted as well


def execute(path, folder, monkeypatch, last=None):
    """Execute a notebook, up to the cell `last`, in a folder; its code cells by id."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("SRN_JAX_NOTEBOOK_QUICK", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    if last is not None:
        ids = [cell.id for cell in notebook.cells]
        notebook.cells = notebook.cells[: ids.index(last) + 1]
    where = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def shown(cell, kind):
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", ())]


def warnings_of(cells):
    return [o.text for c in cells.values() for o in c.outputs if o.get("name") == "stderr"]


@pytest.mark.slow
@pytest.mark.needs_notebook
@pytest.mark.filterwarnings("default")  # Jupyter's own are not ours to mend
def test_colabs_runs_from_top_to_bottom_and_goes_on_where_it_was(
    tmp_path, monkeypatch, quick_compilation
):
    cells = execute(COLAB, tmp_path, monkeypatch)
    assert printed(cells["install"]).startswith("not in Colab")
    assert re.match(
        r"found no TPU or GPU, the CPU will do: \d+ cores, JAX", printed(cells["devices"])
    )
    assert warnings_of(cells) == []

    rows = [line.split()[:2] for line in printed(cells["train"]).splitlines()]
    assert ["5", "4"] in rows and ["10", "4"] in rows  # a line a length, of four seeds
    (bar,) = shown(cells["train"], "text/html")
    assert '<progress value="1.0">' in bar and "L=10: loss" in bar
    for name in ("memory", "losses", "try"):
        assert len(shown(cells[name], "image/png")) == 1
    assert re.search(r"\[3, 4, 0, 0, 0\]: the network says \d+", printed(cells["predict"]))
    results = (tmp_path / "runs/first/results.csv").read_text().splitlines()[1:]
    known = [float(row.split(",")[5]) for row in results if row.startswith("10,")]
    (tested,) = shown(cells["test"], "text/plain")
    assert [float(line.split()[3]) for line in tested.splitlines()[1:]] == known
    assert any("variant" in text for text in shown(cells["try"], "text/plain"))

    execute(COLAB, tmp_path, monkeypatch, last="train")
    assert (tmp_path / "runs/first/results.csv").read_text().splitlines()[1:] == results


@pytest.mark.slow
@pytest.mark.needs_notebook
@pytest.mark.filterwarnings("default")
def test_the_chapters_runs_from_top_to_bottom_with_the_books_numbers_and_figures(
    tmp_path, monkeypatch, quick_compilation
):
    cells = execute(CHAPTER, tmp_path, monkeypatch)
    assert warnings_of(cells) == []
    assert "0 0 5 0 0\\t0" in printed(cells["files"])
    assert "10 300 100 100" in printed(cells["load"]) and "chance: 0.1" in printed(cells["load"])
    assert "(38, 8, 10) (38, 8)" in printed(cells["batches"])
    assert re.search(r"\[\[0\.3177\d* +0\.4774\d*\]\]", printed(cells["srn"]))
    assert re.search(r"\[\[0\.0594\d* +0\.0952\d*\]\]", printed(cells["lstm"]))
    for name in ("embedding", "built-in", "lstm-built-in"):
        difference = float(re.search(r"largest difference: (\S+)", printed(cells[name]))[1])
        assert difference < 1e-6, name
    assert "(1, 19)" in printed(cells["model"])
    assert "[Train] epoch: 0/20, step: 0/760, loss:" in printed(cells["one"])
    figures = {"losses": 2, "evaluation": 1, "exploding": 1, "clipping": 1, "lstm-train": 2}
    figures |= {"lstm-evaluation": 1, "gates": 4}
    for name, number in figures.items():
        assert len(shown(cells[name], "image/png")) == number, name
