"""Running the contenders side by side, and whole processes; what comes of it is a table."""

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
from pathlib import Path
from typing import Any

from benchmark.measure import Job, measure
from srn_jax.config import TEXTBOOK_LENGTHS
from srn_jax.errors import UserError

SCRIPT = Path(__file__).parents[1] / "benchmark.py"
SWEEP = SCRIPT.with_name("sweep.py")
BARE = "import jax, flax.nnx, optax, orbax.checkpoint, pandas, jinja2, matplotlib.pyplot"
ALONE = "imports alone"
# Whole processes by name: the caches that they start with, and Python's arguments.
WHOLE = {
    "cold": ("one", [str(SWEEP), "--seeds", "1"]),
    ALONE: ("one", ["-c", BARE]),  # where Matplotlib finds its list of fonts
    "warm": ("one", [str(SWEEP), "--seeds", "1"]),
}
TURNS = 3
MARK = "measured: "  # begins the line with which a child process answers


def child(job: Job) -> dict[str, Any]:
    """Measure in a process of its own; raises `UserError` if it fails."""
    command = [sys.executable, str(SCRIPT), "--job", json.dumps(dataclasses.asdict(job))]
    environment = os.environ | {"JAX_TRACEBACK_FILTERING": "off"}  # an error's last line is itself
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    answers = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not answers:
        reason = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise UserError(f"{job.contender} could not be measured: {reason}")
    return json.loads(answers[-1].removeprefix(MARK))


def answer(job: Job) -> None:
    """Be the child: measure and print the answer."""
    print(MARK + json.dumps(measure(job)), flush=True)


def plan(platform: str, quick: bool, cells: Sequence[str]) -> list[Job]:
    """What is measured, slow contenders for fewer steps."""
    seeds = [4] if quick else [1, 64, 1000] if platform == "gpu" else [1, 16, 64]
    steps, few = (100, 1) if quick else (300, 3)
    # PyTorch on a GPU waits for the GPU at every step, so one length tells the others'.
    lengths = (20,) if platform == "gpu" else TEXTBOOK_LENGTHS
    jobs = []
    for cell in cells:
        for name in ("pytorch-loop", "pytorch-rnn"):
            jobs.append(Job(name, platform, lengths, cell, steps=steps // 5, repeats=few))
        for name, number in [("flax-rnn", 1), ("plain-scan", 1), *(("srn_jax", n) for n in seeds)]:
            jobs.append(Job(name, platform, cell=cell, seeds=number, steps=steps, repeats=few))
    missing = missing_for_pytorch(platform)
    if missing:
        print(f"left out: pytorch-loop and pytorch-rnn, {missing}", flush=True)
        jobs = [job for job in jobs if not job.contender.startswith("pytorch")]
    return jobs


def missing_for_pytorch(platform: str) -> str | None:
    """Why PyTorch's contenders must be left out; None if they need not."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    if platform == "gpu":
        import torch

        if not torch.cuda.is_available():
            return "this PyTorch finds no GPU"
    return None


def measure_in_turns(jobs: Sequence[Job], rounds: int) -> list[dict[str, Any]]:
    """Measure the contenders one after another, over and over; of each the best round.

    What else a machine does only makes it slower, so the best is the least disturbed; in turns, so
    that a spell of it meets all of them.
    """
    measured: list[list[dict[str, Any]]] = [[] for _ in jobs]
    for number in range(rounds):
        for job, own in zip(jobs, measured, strict=True):
            own.append(child(job))
            print(f"round {number + 1}: {job.cell} {job.contender}, {job.seeds} seeds", flush=True)
    return [min(own, key=lambda one: one["step_seconds"]) for own in measured]


def contenders_table(contenders: Sequence[dict[str, Any]]) -> str:
    """A row a contender: steady state, the whole experiment for each seed, ratios to the others."""
    baselines = [c for c in contenders if c["contender"] != "srn_jax"]
    header = ["", "seeds", "us a step", "s an experiment", "compile s", "peak MB"]
    rows = [[*header, *(f"x {c['contender']}" for c in baselines)]]
    for one in contenders:
        row = [one["contender"], f"{one['seeds']:,}", f"{one['step_seconds'] * 1e6:,.0f}"]
        row += [f"{one['experiment_seconds']:.2f}", f"{one['compile_seconds']:.1f}"]
        row += [f"{one['peak_bytes'] / 1e6:,.0f}"]
        rows.append(row + [f"{c['step_seconds'] / one['step_seconds']:.1f}" for c in baselines])
    note = "(per seed, all seven lengths, 19,000 steps extrapolated from those measured)"
    return in_columns(rows) + "\n" + note


def whole_process(platform: str) -> dict[str, Any]:
    """Seconds of `sweep.py --seeds 1` from start to end, with empty caches and full ones.

    They take turns with a process that imports what they import and does nothing, and are compared
    with it. All are medians, and so is each phase, as the runs have recorded it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in WHOLE}
    phases: dict[str, list[dict[str, float]]] = {name: [] for name in WHOLE if name != ALONE}
    for _ in range(TURNS):
        with tempfile.TemporaryDirectory() as folder:
            for name, (cache, words) in WHOLE.items():
                command, out = [sys.executable, *words], Path(folder, name)
                if name != ALONE:
                    command += ["--platform", platform, "--out", str(out)]
                environment = os.environ | {"XDG_CACHE_HOME": f"{folder}/{cache}"}
                began = time.perf_counter()
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                seconds[name].append(time.perf_counter() - began)
                if done.returncode:
                    reason = (done.stderr.strip() or "it said nothing").splitlines()[-1]
                    raise UserError(f"sweep.py could not be measured: {reason}")
                if name != ALONE:
                    phases[name].append(json.loads((out / "run.json").read_text())["phases"])
    return {
        "seconds": {name: statistics.median(each) for name, each in seconds.items()},
        "phases": {name: medians(each) for name, each in phases.items()},
    }


def medians(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each phase; one that a run has not had took no time."""
    names = dict.fromkeys(name for one in each for name in one)
    return {name: statistics.median(one.get(name, 0.0) for one in each) for name in names}


def whole_table(found: dict[str, Any]) -> str:
    """A row a phase, and their sum beside that of the bare imports."""
    seconds, phases = found["seconds"], found["phases"]
    rows = [["seconds of sweep.py --seeds 1", *phases]]
    for name in dict.fromkeys(name for one in phases.values() for name in one):
        rows.append([name, *(f"{one.get(name, 0.0):.2f}" for one in phases.values())])
    others = [seconds[name] - sum(one.values()) for name, one in phases.items()]
    rows.append(["anything else", *(f"{value:.2f}" for value in others)])
    rows.append(["start to end", *(f"{seconds[name]:.2f}" for name in phases)])
    times = (seconds[name] / seconds[ALONE] for name in phases)
    rows.append([f"times {ALONE}, {seconds[ALONE]:.2f} s", *(f"{value:.1f}" for value in times)])
    return in_columns(rows)


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words as lines, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [word.rjust(width) for word, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def describe_machine() -> dict[str, Any]:
    """Processor, cores and versions."""
    from importlib.metadata import PackageNotFoundError, version

    processor = ""
    if Path("/proc/cpuinfo").exists():
        names = [n for n in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in n]
        processor = names[0].split(":")[1].strip() if names else ""
    versions = {}
    for name in ("jax", "jaxlib", "flax", "optax", "torch"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"processor": processor, "cores": os.cpu_count(), "versions": versions}
