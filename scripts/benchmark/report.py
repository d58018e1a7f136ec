"""Running the contenders side by side, and whole processes; what comes of it is a table."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.measure import STEPS, Job
from srn_jax.config import TEXTBOOK_LENGTHS
from srn_jax.errors import UserError

SCRIPT = Path(__file__).parents[1] / "benchmark.py"
SWEEP = [str(SCRIPT.with_name("sweep.py")), "--seeds", "1"]
BARE = "import jax, flax.nnx, optax, orbax.checkpoint, pandas, jinja2, matplotlib.pyplot"
ALONE = "imports alone"
WHOLE = {"cold": SWEEP, ALONE: ["-c", BARE], "warm": SWEEP}  # in turns, the first without caches


def run(words: Sequence[str], what: str, **environment: str) -> str:
    """What a process of Python prints; raises `UserError` if it fails."""
    own = os.environ | {"JAX_TRACEBACK_FILTERING": "off"}  # an error's last line is itself
    command = [sys.executable, *words]
    done = subprocess.run(command, env=own | environment, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise UserError(f"{what} could not be measured: {reason}")
    return done.stdout


def plan(platform: str, quick: bool, cells: Sequence[str]) -> list[Job]:
    """What is measured, slow contenders for fewer steps."""
    seeds = [4] if quick else [1, 64, 1000] if platform == "gpu" else [1, 16, 64]
    steps, few = (100, 1) if quick else (300, 3)
    # PyTorch on a GPU waits for the GPU at every step, so one length tells the others'.
    lengths = (20,) if platform == "gpu" else TEXTBOOK_LENGTHS
    eager = ("pytorch-loop", "pytorch-rnn") if importlib.util.find_spec("torch") else ()
    if not eager:
        print("left out: pytorch-loop and pytorch-rnn, PyTorch is not installed", flush=True)
    jobs = []
    for cell in cells:
        for name in eager:
            jobs.append(Job(name, platform, lengths, cell, steps=steps // 5, repeats=few))
        for name, number in [("flax-rnn", 1), ("plain-scan", 1), *(("srn_jax", n) for n in seeds)]:
            jobs.append(Job(name, platform, cell=cell, seeds=number, steps=steps, repeats=few))
    return jobs


def measure_in_turns(jobs: Sequence[Job], rounds: int) -> list[dict[str, Any]]:
    """Measure the contenders in turns; of each the best round, which is the least disturbed."""
    measured: list[list[dict[str, Any]]] = [[] for _ in jobs]
    for number in range(rounds):
        for job, own in zip(jobs, measured, strict=True):
            said = run([str(SCRIPT), "--job", json.dumps(job._asdict())], job.contender)
            own.append(json.loads(said.splitlines()[-1]))
            print(f"round {number + 1}: {job.cell} {job.contender}, {job.seeds} seeds", flush=True)
    return [min(own, key=lambda one: one["step_seconds"]) for own in measured]


def contenders_table(contenders: Sequence[dict[str, Any]]) -> str:
    """A row a contender: steady state, the whole experiment for each seed, ratios to the others."""
    baselines = [c for c in contenders if c["contender"] != "srn_jax"]
    header = ["", "seeds", "us a step", "s an experiment", "compile s", "peak MB"]
    rows = [[*header, *(f"x {c['contender']}" for c in baselines)]]
    for one in contenders:
        seconds = one["step_seconds"]
        row = [one["contender"], f"{one['seeds']:,}", f"{seconds * 1e6:,.0f}"]
        row += [f"{seconds * STEPS:.2f}", f"{one['compile_seconds']:.1f}"]
        row += [f"{one['peak_bytes'] / 1e6:,.0f}"]
        rows.append(row + [f"{c['step_seconds'] / seconds:.1f}" for c in baselines])
    return in_columns(rows) + "\n(per seed, all seven lengths, 19,000 steps extrapolated)"


def whole_process(platform: str) -> dict[str, dict[str, float]]:
    """Median phases of `sweep.py --seeds 1`, as its runs record them, with caches empty and full.

    They take turns with a process that imports what they import and does nothing.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WHOLE}
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            for name, words in WHOLE.items():
                out, phases = Path(folder, name), {}
                own = ["--platform", platform, "--out", str(out)] if words is SWEEP else []
                began = time.perf_counter()
                run([*words, *own], "sweep.py", XDG_CACHE_HOME=f"{folder}/cache")
                seconds = time.perf_counter() - began
                if own:
                    phases = json.loads((out / "run.json").read_text())["phases"]
                rest = {"anything else": seconds - sum(phases.values()), "start to end": seconds}
                found[name].append(phases | rest)
    # A phase that a run has not had took no time.
    median = pd.DataFrame.median
    return {name: median(pd.DataFrame(each).fillna(0.0)).to_dict() for name, each in found.items()}


def whole_table(found: dict[str, dict[str, float]]) -> str:
    """A row a phase, and their sum beside that of the bare imports."""
    own = [found["cold"], found["warm"]]
    rows = [["seconds of sweep.py --seeds 1", "cold", "warm"]]
    for phase in own[0] | own[1]:
        rows.append([phase, *(f"{one.get(phase, 0.0):.2f}" for one in own)])
    bare = found[ALONE]["start to end"]
    ratios = [f"{one['start to end'] / bare:.1f}" for one in own]
    return in_columns([*rows, [f"times {ALONE}, {bare:.2f} s", *ratios]])


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words, the first of them the heading, as lines."""
    return pd.DataFrame(rows[1:], columns=rows[0]).to_string(index=False)
