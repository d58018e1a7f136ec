"""Running the contenders side by side, and what comes of it: a table, a JSON file, a figure."""

import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import measure as benchmark
from benchmark.measure import STEPS, Job
from srn_jax.analysis.report import plain_table
from srn_jax.cli import devices
from srn_jax.config import TEXTBOOK_LENGTHS
from srn_jax.errors import UserError

SCRIPT = Path(__file__).parents[1] / "benchmark.py"
SWEEP = SCRIPT.with_name("sweep.py")
BARE = "import jax, flax.nnx, optax, orbax.checkpoint, matplotlib.pyplot"
ALONE = "imports alone"
WHOLE_PROCESSES: dict[str, tuple[str, list[str]]] = {  # a cache of programs, and Python's arguments
    "sweep.py --seeds 1, cold": ("one", [str(SWEEP), "--seeds", "1"]),
    ALONE: ("one", ["-c", BARE]),  # where Matplotlib finds its list of fonts
    "sweep.py --seeds 1, warm": ("one", [str(SWEEP), "--seeds", "1"]),
    "sweep.py --quick, cold": ("quick", [str(SWEEP), "--quick"]),
}
TURNS = 3
MARK = "measured: "  # begins the line with which a child process answers


def child(contender: str, job: Job) -> dict[str, Any]:
    """Measure in a process of its own; raises `UserError` if it fails."""
    command = [sys.executable, str(SCRIPT), "--contender", contender]
    command += ["--job", json.dumps(dataclasses.asdict(job))]
    environment = os.environ | {"JAX_TRACEBACK_FILTERING": "off"}  # an error's last line is itself
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    answers = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not answers:
        reason = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise UserError(f"{contender} could not be measured: {reason}")
    return json.loads(answers[-1].removeprefix(MARK))


def answer(contender: str, job: Job) -> None:
    """Be the child: measure and print the answer."""
    if contender == "forward":
        found: dict[str, Any] = benchmark.measure_forward(job)
    else:
        measurement = benchmark.measure(contender, job)
        found = dataclasses.asdict(measurement)
        found["experiment_seconds"] = measurement.experiment_seconds
    print(MARK + json.dumps(found), flush=True)


def check_gpu() -> None:
    """Raise `UserError` where JAX finds no GPU, in a process that ends: this one must hold none."""
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            process.submit(devices.configure, "gpu").result()
    except UserError as error:  # what other scripts can do instead is not what this one can
        raise UserError(str(error).replace("--platform auto", "--platform cpu")) from None


def plan(platform: str, quick: bool, cells: Sequence[str] = ("srn",)) -> list[tuple[str, Job]]:
    """The contenders and their jobs, slow ones for fewer steps."""
    seeds = [4] if quick else [1, 64, 1000] if platform == "gpu" else [1, 16, 64]
    steps = 100 if quick else 300
    # PyTorch on a GPU waits for the GPU at every step, so one length tells the others'.
    lengths = (20,) if platform == "gpu" else TEXTBOOK_LENGTHS
    contenders = []
    for cell in cells:
        slow = Job(platform, lengths, cell, steps=steps // 5, repeats=1 if quick else 3)
        fast = Job(platform, cell=cell, steps=steps, repeats=2 if quick else 5)
        contenders += [("pytorch-loop", slow), ("pytorch-rnn", slow)]
        contenders += [("flax-rnn", fast), ("plain-scan", fast)]
        contenders += [("srn_jax", dataclasses.replace(fast, seeds=n)) for n in seeds]
    return contenders


def growth_plan(platform: str, quick: bool) -> dict[str, list[tuple[float, Job]]]:
    """Tasks that show how the cost of this project grows with one thing at a time."""
    job = Job(platform, lengths=(20,), steps=100 if quick else 400, repeats=2)
    sizes, lengths, seeds = [16, 32, 64, 128], [5, 10, 20, 40, 80], [1, 4, 16, 64]
    if quick:
        return {"seeds": [(n, dataclasses.replace(job, seeds=n)) for n in (1, 4)]}
    if platform == "gpu":  # where most of the time goes into starting and compiling
        return {"seeds": [(n, dataclasses.replace(job, seeds=n)) for n in (1, 16, 256, 4096)]}
    return {
        "sequence length": [(n, dataclasses.replace(job, lengths=(n,))) for n in lengths],
        "hidden size": [(n, dataclasses.replace(job, hidden_size=n)) for n in sizes],
        "seeds": [(n, dataclasses.replace(job, seeds=n)) for n in seeds],
    }


def run_all(
    platform: str, quick: bool, whole_process: bool, cells: Sequence[str] = ("srn",)
) -> dict[str, Any]:
    """Measure everything; the content of the JSON file."""
    report: dict[str, Any] = {"machine": describe_machine(), "floor": floor(platform)}
    print_facts(report)
    once = quick or platform == "gpu"  # whose steps take the same within 1 %, time after time
    report["contenders"] = measure_in_turns(plan(platform, quick, cells), rounds=1 if once else 3)
    report["forward"] = {}
    for cell in cells:
        own = [c for c in report["contenders"] if c["cell"] == cell]
        print(f"\n{cell}\n{contenders_table(own)}\n", flush=True)
        forward = child("forward", Job(platform, cell=cell, steps=100 if quick else 1000))
        report["forward"][cell] = forward
        rows = [[name, f"{seconds * 1e6:.0f} us"] for name, seconds in forward.items()]
        print(plain_table([["forward pass, 8 x 20", "time"], *rows]) + "\n", flush=True)
    report["growth"] = {
        what: [[n, child("srn_jax", job)["step_seconds"]] for n, job in points]
        for what, points in growth_plan(platform, quick).items()
    }
    for what, points in report["growth"].items():
        shown = "  ".join(f"{n:g}: {seconds * 1e6:.1f}" for n, seconds in points)
        print(f"us a step of one experiment by {what}  {shown}", flush=True)
    if whole_process:
        report["whole_process"] = measure_whole_process(platform, report["contenders"])
        for name, value in report["whole_process"].items():
            print(f"{name}: {value:.1f}", flush=True)
    return report


def measure_in_turns(jobs: list[tuple[str, Job]], rounds: int) -> list[dict[str, Any]]:
    """Measure the contenders one after another, over and over; of each the best round.

    What else a machine does only makes it slower, so the best is the least disturbed; in turns, so
    that a spell of it meets all of them.
    """
    missing = missing_for_pytorch(jobs[0][1].platform)
    if missing:
        print(f"left out: pytorch-loop and pytorch-rnn, {missing}", flush=True)
        jobs = [(name, job) for name, job in jobs if not name.startswith("pytorch")]
    measured: list[list[dict[str, Any]]] = [[] for _ in jobs]
    for number in range(rounds):
        for (contender, job), own in zip(jobs, measured, strict=True):
            own.append(child(contender, job))
            print(f"round {number + 1}: {job.cell} {contender}, {job.seeds} seeds", flush=True)
    return [min(own, key=lambda one: one["step_seconds"]) for own in measured]


def missing_for_pytorch(platform: str) -> str | None:
    """Why PyTorch's contenders must be left out; None if they need not."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    if platform == "gpu":
        import torch

        if not torch.cuda.is_available():
            return "this PyTorch finds no GPU"
    return None


def describe_machine() -> dict[str, Any]:
    """Processor, cores and versions."""
    from srn_jax.runs.provenance import PACKAGES, version_of

    processor = ""
    if Path("/proc/cpuinfo").exists():
        names = [n for n in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in n]
        processor = names[0].split(":")[1].strip() if names else ""
    versions = {name: version_of(name) for name in (*PACKAGES, "torch")}
    return {"processor": processor, "cores": os.cpu_count(), "versions": versions}


def floor(platform: str) -> dict[str, float]:
    """Operations and bytes of one training step of all seven lengths, and the time they need."""
    flops = sum(benchmark.operations(length) for length in TEXTBOOK_LENGTHS)
    moved = sum(benchmark.bytes_moved(length) for length in TEXTBOOK_LENGTHS)
    facts = {"operations_a_step": float(flops), "bytes_a_step": float(moved)}
    if platform == "gpu":  # by the datasheet of an H200, for 1,000 seeds
        seconds = max(flops / benchmark.H200_FLOPS, moved / benchmark.H200_BANDWIDTH)
        facts["h200_floor_seconds_1000_seeds"] = 1000 * STEPS * seconds
    return facts


def print_facts(report: dict[str, Any]) -> None:
    """The header: machine, versions, and the two numbers that bound everything."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    print(
        f"{machine['cores']} cores of {machine['processor'] or 'an unknown processor'}; {versions}"
    )
    print(f"one training step of all seven lengths, for one seed: {report['floor']}\n", flush=True)


def contenders_table(contenders: list[dict[str, Any]]) -> str:
    """A row a contender: steady state, the whole experiment for each seed, ratios to the others."""
    baselines = [c for c in contenders if c["contender"] != "srn_jax"]
    header = ["", "seeds", "us a step", "s an experiment", "experiments/s", "compile s", "peak MB"]
    cells = [[*header, *(f"x {c['contender']}" for c in baselines)]]
    for one in contenders:
        row = [one["contender"], str(one["seeds"]), f"{one['step_seconds'] * 1e6:,.0f}"]
        row += [f"{one['experiment_seconds']:.2f}", f"{7 / one['experiment_seconds']:.2f}"]
        row += [f"{one['compile_seconds']:.1f}", f"{one['peak_bytes'] / 1e6:,.0f}"]
        row += [f"{c['step_seconds'] / one['step_seconds']:.1f}" for c in baselines]
        cells.append(row)
    note = "(per seed, all seven lengths, 19,000 steps extrapolated from those measured)"
    return plain_table(cells) + "\n" + note


def measure_whole_process(platform: str, contenders: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of whole processes, with an empty cache of programs and a full one: medians.

    They take turns with one that imports what they import and does nothing, which they are compared
    with; `sweep.py --seeds 1` also with the eager PyTorch loop, if that was measured.
    """
    turns: dict[str, list[float]] = {name: [] for name in WHOLE_PROCESSES}
    for _ in range(TURNS):
        with tempfile.TemporaryDirectory() as folder:
            for number, (name, (cache, words)) in enumerate(WHOLE_PROCESSES.items()):
                command = [sys.executable, *words]
                if words[0] == str(SWEEP):
                    command += ["--platform", platform, "--out", f"{folder}/{number}"]
                environment = os.environ | {"XDG_CACHE_HOME": f"{folder}/{cache}"}
                began = time.perf_counter()
                subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
                turns[name].append(time.perf_counter() - began)
    seconds = {name: statistics.median(times) for name, times in turns.items()}
    found = {f"{name}, seconds": value for name, value in seconds.items()}
    for name, value in seconds.items():
        if name != ALONE:
            found[f"{name}, times the imports alone"] = value / seconds[ALONE]
    for one in contenders:
        if (one["contender"], one["cell"]) == ("pytorch-loop", "srn"):
            ratio = one["experiment_seconds"] / seconds["sweep.py --seeds 1, cold"]
            found["sweep.py --seeds 1, cold, times faster than the eager PyTorch loop"] = ratio
    return found


def write(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write `benchmark.json`, and the figure as PDF and PNG."""
    from srn_jax.analysis.look import save_figure
    from srn_jax.analysis.results import write_json

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "benchmark.json"
    write_json(path, report)
    return [path, *save_figure(draw(report), folder / "benchmark")]


def draw(report: dict[str, Any]) -> Any:
    """Bars of the time a whole experiment takes, and curves of how ours grows."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    from srn_jax.analysis.figures import TRAIN_COLOR

    height = 5.0 + 0.14 * len(report["contenders"])
    figure = Figure(figsize=(9.6, height), layout="constrained")
    halves: Any = figure.subfigures(2, 1)
    top, bottom = halves
    axes = top.subplots()
    names = [f"{c['cell']} {c['contender']} ({c['seeds']} seeds)" for c in report["contenders"]]
    seconds = [c["experiment_seconds"] for c in report["contenders"]]
    bars = axes.barh(names, seconds, color=TRAIN_COLOR)
    axes.bar_label(bars, [f"{value:,.1f} s" for value in seconds], padding=3)
    axes.set(xscale="log", xlabel="seconds for the whole experiment, per seed")
    axes.set_xlim(min(1.0, *seconds), 2.5 * max(seconds))
    axes.invert_yaxis()
    for one, (what, points) in zip(
        np.ravel(bottom.subplots(1, len(report["growth"]), sharey=True)),
        report["growth"].items(),
        strict=True,
    ):
        x, y = np.array(points).T
        one.loglog(x, y * 1e6, "o-", color=TRAIN_COLOR)
        one.set_xticks(x, [f"{value:g}" for value in x])
        one.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        one.yaxis.set_major_formatter("{x:g}")
        one.minorticks_off()
        one.set_xlabel(what)
        one.set_ylabel("us a step, one experiment" if one.get_subplotspec().is_first_col() else "")
    return figure
