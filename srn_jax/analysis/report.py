"""What a run says, in words and tables: plain values in, text out.

Nothing is printed or written here. What does not exist is shown as `-`.
"""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

import numpy as np

from srn_jax.analysis.results import Results, Run, loss_stride
from srn_jax.analysis.summary import (
    DEFAULT_THRESHOLD,
    EXPLOSION,
    LengthSummary,
    MemorySpan,
    explosions,
    memory_span,
    paired_difference,
    summarise,
)
from srn_jax.analysis.tables import (
    ABSENT,
    interval_text,
    listed,
    markdown_table,
    number,
    plain_table,
)
from srn_jax.config import Facts

EMBEDDABLE = {".png", ".svg", ".jpg"}
INTERVAL_NOTE = "Intervals are 95 % bootstrap intervals of the mean over seeds."
DEV_NOTE = "Best dev is a maximum over evaluations, so it is too high for a network of unseen data."
ONE_SEED_NOTE = (
    "A single seed says nothing about the variation between seeds, so there is no interval."
)
FIXED_DATA_NOTE = "Every seed saw the same data: intervals cover the initial weights alone."
EXPLOSION_HEADER = ["length", "seeds", "exploded", "95 % interval", "dead", "95 % interval"]
EXPLOSION_NOTE = (
    "Exploded: the share of seeds in which the L2 norm of a tensor's gradient, before clipping, "
    f"was above {EXPLOSION:,.0f} or not finite at any step. Dead: the share in which every "
    "gradient of the last epoch was exactly 0, as saturated units leave it. Wilson's intervals."
)
STRIDE_NOTE = "One training loss in {stride} is drawn (one in 100 in the textbook)."
SPIKES_NOTE = (
    "An epoch has {epoch} steps, so every {period:,} steps the same batch is met again, and a hard "
    "one shows as a regular spike; the overview has the mean of each epoch instead."
)
UNSCORED_NOTE = (
    "Without a right answer in any evaluation, so without best parameters and scores: {number} of "
    "{total} experiments."
)
FRESH_NOTE = "The overview has means of {epoch} steps, in which every example is new."
PROVENANCE = ("device", "processor", "date", "commit")  # in a run file
MACHINE_NOTE = (
    "On the same machine with the same versions the same command gives the same numbers. On "
    "another one rounding differs, training amplifies it, and single networks end elsewhere: with "
    "the default settings, seed 0 at length 25 scored 0.51 on one processor and 0.31 on another, "
    "and the mean of 64 seeds 0.525 and 0.475. Expect means to agree within their intervals, and "
    "single seeds not at all."
)


def span_text(span: MemorySpan, chance: float) -> str:
    """The memory span in words, with `< 5` or `> 35` for one outside the lengths measured.

    There is none where `chance` reaches the threshold, which then asks for no memory.
    """
    if chance >= span.threshold:
        return f"memory span: none, since chance, {chance:.2f}, reaches {span.threshold:g}"

    def limit(value: float) -> str:
        if math.isinf(value):
            return f"< {span.shortest}" if value < 0 else f"> {span.longest}"
        return ABSENT if math.isnan(value) else f"{value:.1f}"

    text = f"memory span (mean test accuracy above {span.threshold:g}): {limit(span.length)}"
    if not math.isnan(span.interval.low):
        text += f", 95 % interval {limit(span.interval.low)} to {limit(span.interval.high)}"
    return text


def scored_seeds(summary: LengthSummary) -> str:
    """How many seeds a mean is over: `32`, or `31 of 32` where one diverged without a score."""
    return " of ".join(dict.fromkeys([str(summary.scored), str(summary.seeds)]))


def accuracy_cells(results: Results) -> list[list[str]]:
    """The header and a row for each length, shortest first; `diverged` only where one did."""
    cells = [["length", "seeds", "test accuracy", "sd", "95 % interval", "best dev"]]
    diverged = results.diverged.any()
    cells[0] += ["diverged"] if diverged else []
    for summary in summarise(results):
        row = [str(summary.length), scored_seeds(summary), number(summary.mean)]
        row += [number(summary.deviation), interval_text(summary.interval)]
        row += [number(summary.dev_mean), *([str(summary.diverged)] if diverged else [])]
        cells.append(row)
    return cells


def results_table(results: Results) -> str:
    """The terminal table of a run: one row for each length."""
    return plain_table(accuracy_cells(results))


def unscored_note(results: Results) -> str:
    """How many experiments have nothing to be scored, though they did not diverge."""
    return UNSCORED_NOTE.format(number=results.unscored.sum(), total=len(results))


def run_report(run: Run, figures: Sequence[str | PurePath] = ()) -> str:
    """The Markdown report of a run.

    Args:
        run: the whole of it; what its run file does not hold is left out.
        figures: paths relative to the report; images are embedded, other files linked.
    """
    results, facts, info = run.results, run.facts, run.info
    lengths, seeds = np.unique(results.length), np.unique(results.seed)
    counts = f"{len(results)} experiments (lengths: {lengths.size}, seeds: {seeds.size})"
    span = span_text(memory_span(results), facts.chance)
    notes = [ONE_SEED_NOTE if seeds.size == 1 else INTERVAL_NOTE, DEV_NOTE]
    notes += [FIXED_DATA_NOTE] if facts.fixed_data else []
    if not math.isnan(facts.chance):
        answer, mean = "The best constant answer", ""
        if facts.fixed_data:
            answer = "Always giving the commonest label of the training set"
            mean = " (mean over lengths)" if lengths.size > 1 else ""
        notes.append(f"{answer} scores {facts.chance:.2f}{mean}.")
    if facts.test_examples:
        error = math.ceil(500 / math.sqrt(facts.test_examples)) / 10
        notes.append(
            f"{facts.test_examples} test sequences alone leave a standard error of up to "
            f"{error:g} points in one accuracy."
        )
    blocks = [f"# {facts.title}"]
    blocks += [f"Asked for: {facts.question}. {counts}, {results.diverged.sum()} diverged."]
    blocks += [f"{span[0].upper()}{span[1:]}."]
    if not info.get("finished", True):
        blocks += ["**This run has not finished**: all below is as of its newest checkpoint."]
    blocks += ["## Accuracy by length", markdown_table(accuracy_cells(results)), " ".join(notes)]
    blocks += ["## Single seeds", markdown_table(seed_cells(results, facts))]
    for length in np.unique(results.length[results.diverged]):
        gone = results.seed[results.diverged & (results.length == length)]
        blocks += [f"Diverged at length {length}: seeds {listed(gone)}."]
    if results.unscored.any():
        blocks += [unscored_note(results)]
    if lengths.size > 1:
        blocks += ["## From one length to the next", markdown_table(change_cells(results))]
    if rows := explosion_rows(run):
        table = markdown_table([EXPLOSION_HEADER, *rows])
        blocks += ["## Exploding gradients", table, EXPLOSION_NOTE]
    if figures:
        blocks += ["## Figures", *map(figure_link, figures), *spikes_note(run)]
    settings = dict(flat(info.get("settings") or {}))
    unused = () if run.folder is None else ("task", "multiplicity")  # where files are the task
    if told := [f"- `{name}`: {settings[name]}" for name in settings if name not in unused]:
        blocks += ["## Settings", "\n".join(told)]
    told = [f"- {name}: {info[name]}" for name in PROVENANCE if info.get(name)]
    if info.get("seconds") is not None:
        told.append(f"- time: {duration(info['seconds'])}")
    told += [f"- {name}: {version}" for name, version in (info.get("versions") or {}).items()]
    for place in info.get("went_on", ()):
        found = dict(flat(place))
        told.append("- went on: " + ", ".join(f"{name} {found[name]}" for name in found))
    blocks += ["## Run", "\n".join(told)] if told else []
    if command := info.get("command"):
        text = command if isinstance(command, str) else shlex.join(map(str, command))
        blocks += ["## To repeat it", f"```sh\n{text}\n```", MACHINE_NOTE]
    return "\n\n".join(blocks) + "\n"


def spikes_note(run: Run) -> list[str]:
    """What the regular spikes in figures of losses are, where there are any."""
    if run.histories is None:
        return []
    epoch, steps = run.histories.steps_an_epoch, run.histories.train_loss.shape[1]
    stride = loss_stride(steps)
    period = math.lcm(stride, epoch)
    if stride == 1 or epoch == 1 or period >= steps:
        return []
    note = FRESH_NOTE if run.settings["fresh_data"] else SPIKES_NOTE
    notes = STRIDE_NOTE.format(stride=stride), note.format(epoch=epoch, period=period)
    return [" ".join(notes)]


def seed_cells(results: Results, facts: Facts) -> list[list[str]]:
    """How single seeds scatter at each length, and how far their train and test sets overlap."""
    cells = [["length", "median", "interquartile mean", "5 % to 95 % of seeds"]]
    cells[0] += [f"share above {DEFAULT_THRESHOLD:g}", "95 % interval", "test examples in train"]
    of_all = f" of {facts.test_examples}" if facts.test_examples else ""
    for summary in summarise(results):
        overlap = results.of_length(summary.length).overlap
        row = [str(summary.length), number(summary.median), number(summary.interquartile_mean)]
        row += [interval_text(summary.spread), number(summary.share_above)]
        row += [interval_text(summary.share_above_interval)]
        ends = map(str, np.unique([overlap.min(), overlap.max()]))
        cells.append([*row, "..".join(ends) + of_all])
    return cells


def change_cells(results: Results) -> list[list[str]]:
    """The paired change in test accuracy from each length to the next."""
    cells = [["lengths", "change", "95 % interval", "pairs"]]
    for shorter, longer in pairwise(np.unique(results.length)):
        found = paired_difference(results.of_length(longer), results.of_length(shorter))
        row = [f"{shorter} to {longer}", number(found.mean, "+")]
        cells.append([*row, interval_text(found.interval, "+"), str(found.pairs)])
    return cells


def explosion_rows(run: Run) -> list[list[str]]:
    """Rows below `EXPLOSION_HEADER`, one a length, if the run recorded gradient norms."""
    rows = []
    for found in () if run.histories is None else explosions(run.histories):
        row = [str(found.length), str(found.seeds), number(found.share_exploded)]
        row += [interval_text(found.exploded_interval), number(found.share_dead)]
        rows.append([*row, interval_text(found.dead_interval)])
    return rows


def figure_link(path: str | PurePath) -> str:
    """An image by its relative path, or a link to a file that Markdown cannot show."""
    path = PurePath(path)
    link = f"[{path.stem}]({quote(path.as_posix())})"
    return f"!{link}" if path.suffix in EMBEDDABLE else f"{link} ({path.suffix[1:]})"


def flat(settings: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Nested settings as pairs of name and text; the names are unique without their groups."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value)
        else:
            text = listed(value) if isinstance(value, (list, tuple)) else str(value)
            yield name, "none" if value is None else text or "none"


def duration(seconds: float) -> str:
    """`1 h 02 min`, `2 min 03 s` or `4.5 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
