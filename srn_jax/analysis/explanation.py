"""All networks of a run examined, before training, at the best step and at the end, and explained.

The page says that something is above or below a reference only where the whole 95 % interval, as
printed, is; all else it lists as not decided. Every number of it is a row of `summary.csv`.
"""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from markdown_it import MarkdownIt

from srn_jax.analysis import memory
from srn_jax.analysis.explanation_tables import (
    ALL,
    BEST,
    FATES,
    STAGES,
    Explanation,
    curve_table,
    summary_table,
)
from srn_jax.analysis.stats import Estimate
from srn_jax.config import SweepConfig
from srn_jax.ensemble.mapping import evaluate_experiments, files_by_experiment, map_experiments
from srn_jax.errors import UserError
from srn_jax.tasks.task import Examples, Task, Tokens, draw_set
from srn_jax.training.data import keys_of
from srn_jax.training.experiment import initial_parameters
from srn_jax.training.program import Program, hyperparameters_of, program_of

UNDECIDED = "The data does not decide"


def explain_variant(
    config: SweepConfig,
    trained: Mapping[str, Any],
    left_out: np.ndarray,
    files: Mapping[int, Any] | None = None,
    threshold: float = 0.5,
    lengths: Sequence[int] | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Examine the trained networks of a sweep, each on the data of its own seed.

    Args:
        config: the sweep.
        trained: its "best" and "last" parameters, `[experiment, ...]`.
        left_out: `[experiment]`, those that diverged or have no best parameters.
        files: the data of each length where they are not drawn.
        threshold: test accuracy above which a network is a solver.
        lengths: networks of these lengths alone; None for all.
        report: told how many examinations are done, and of how many.

    Raises:
        UserError: for a length that the sweep does not have, or nothing but what is left out.
    """
    chosen = list(dict.fromkeys(lengths or config.lengths))
    for length in set(chosen) - set(config.lengths):
        has = ", ".join(map(str, config.lengths))
        raise UserError(f"`lengths`: the run has no length {length}, it has {has}")
    every, seeds = (np.array(column) for column in zip(*config.experiments, strict=True))
    rows = np.concatenate([np.flatnonzero((every == n) & ~left_out) for n in chosen])
    if not rows.size:
        raise UserError(
            "every experiment diverged or never gave a right answer in an evaluation, so there is "
            "no network to explain"
        )
    program = program_of(config, files=files)
    start, data, order = drawn(config, program, chosen, files)  # [length, seed, ...]
    place = np.array([config.seeds.index(seed) for seed in seeds[rows]])
    done, total = 0, len(rows) * (len(chosen) + len(STAGES))

    def counted(number: int) -> None:
        if report is not None:
            report(done + number, total)

    unseen = np.zeros((len(rows), len(chosen)))
    best = take(trained["best"], rows)
    for column, length in enumerate(chosen):
        where = np.full(len(rows), length)
        tests = take(data[1], (column, place))
        unseen[:, column] = evaluate_experiments(program, best, tests, where, counted).accuracy
        done += len(rows)
    names: list[str] = []
    parts: list[dict[str, np.ndarray]] = []
    for column, length in enumerate(chosen):
        own = np.flatnonzero(every[rows] == length)
        if not own.size:
            continue
        here = (column, place[own])
        material, names = material_of(program.task, length, *take((*data, order), here))
        classes = memory.number_of_classes(material.train_labels, material.test_labels)
        stages = [take(start, here), *(take(trained[name], rows[own]) for name in STAGES[1:])]
        found = map_experiments(
            memory.analyse,
            jax.tree.map(lambda *arrays: np.concatenate(arrays), *stages),
            jax.tree.map(lambda array: np.concatenate([array] * len(STAGES)), material),
            given=(program, classes),
            done=counted,
        )
        done += len(own) * len(STAGES)
        found["accuracy"] = found.pop("right") / found.pop("asked")
        parts.append({k: a.reshape(len(STAGES), len(own), *a.shape[1:]) for k, a in found.items()})
    joined = {name: join([part[name] for part in parts]) for name in parts[0]}
    return Explanation(
        length=every[rows],
        seed=seeds[rows],
        targets=np.array(names),
        chance=joined.pop("chance")[BEST],
        is_answer=np.all(joined.pop("is_answer"), axis=(0, 1)),
        **joined,
        tested=np.array(chosen),
        unseen=unseen,
        left_out=int(np.sum(np.isin(every, chosen) & left_out)),
        threshold=threshold,
    )


def drawn(
    config: SweepConfig, program: Program, lengths: Sequence[int], files: Mapping[int, Any] | None
) -> tuple[Any, tuple[Examples, Examples], np.ndarray]:
    """What experiments began with, as training drew it, padded; arrays `[length, seed, ...]`.

    Returns the parameters before training, the training and test sets, and an order
    `[..., example]` in which to shuffle the training set.
    """
    number, width = len(config.seeds), max(config.lengths)
    each = np.repeat(np.array(lengths, np.int32), number)
    seeds = np.tile(np.array(config.seeds, np.uint32), len(lengths))
    data = None
    if files is not None:
        data = files_by_experiment(files, each, width)[::2]  # training and test
    hyper = hyperparameters_of(config.experiment)
    hyper = jax.tree.map(lambda value: np.full(len(each), value), hyper)
    found = map_experiments(draw_one, seeds, each, hyper, data, given=(program, width))
    return jax.tree.map(lambda a: a.reshape(len(lengths), number, *a.shape[1:]), found)


def draw_one(
    program: Program, width: int, seed: Any, length: Any, hyper: Any, data: Any
) -> tuple[Any, tuple[Examples, Examples], Any]:
    """What one experiment began with; data are drawn unless they are given."""
    key, task = keys_of(seed, length)[0], program.task
    if data is None:
        units = program.config.multiplicity, 1
        data = tuple(draw_set(task, key, 2 * n, units[n], length, width) for n in range(2))
    order = jax.random.permutation(jax.random.fold_in(key, 1), len(data[0].targets))
    return initial_parameters(program, seed, length, hyper), data, order


def material_of(
    task: Task, length: int, train: Examples, test: Examples, order: np.ndarray
) -> tuple[memory.Material, list[str]]:
    """What networks of a length are examined with, `[network, ...]`, and the names of targets."""

    def cut(part: Examples) -> Examples:
        tokens = isinstance(task.inputs, Tokens)
        inputs = part.inputs[..., -length:] if tokens else part.inputs[..., -length:, :]
        if task.answers is not None:
            return part._replace(inputs=inputs)
        weights = part.weights[..., -length:] if part.weights is not None else None
        return Examples(inputs, part.targets[..., -length:], part.lengths, weights)

    def labels(part: Examples) -> jax.Array:
        found = memory.labels_of(task, part)
        names[:] = found
        return jnp.stack([*found.values()]).astype(jnp.int32)

    names: list[str] = []
    train, test = cut(train), cut(test)
    train_labels, test_labels = (jax.jit(jax.vmap(labels))(part) for part in (train, test))
    shuffled = np.take_along_axis(np.asarray(train_labels), order[:, None], axis=2)
    material = memory.Material(train, test, train_labels, shuffled, test_labels)
    return jax.tree.map(np.asarray, material), names


def take(tree: Any, rows: Any) -> Any:
    """Some rows of every array."""
    return jax.tree.map(lambda array: array[rows], tree)


def join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays `[stage, experiment, ...]` one after the other, filled up with NaN where shorter."""
    shape = np.max([part.shape for part in parts], axis=0)
    joined = np.full((len(STAGES), sum(part.shape[1] for part in parts), *shape[2:]), np.nan)
    start = 0
    for part in parts:
        inner = tuple(slice(size) for size in part.shape[2:])
        joined[:, start : start + part.shape[1], *inner] = part
        start += part.shape[1]
    return joined


class Claims:
    """What the page says of the rows of a summary, and what the data does not decide."""

    def __init__(self, summary: pd.DataFrame):
        self.rows = summary
        self.undecided: list[str] = []

    def side(self, row: Any, below: str, above: str, reference: float = 0.0) -> str:
        """Which of two words the interval of a row, as printed, supports."""
        low, high = round(row.interval_low, 3), round(row.interval_high, 3)
        return below if high < reference else above if low > reference else UNDECIDED

    def of(self, measure: str, stage: str, group: str) -> list[Any]:
        """The rows of a measure, shortest length first."""
        its = self.rows[["measure", "stage", "group"]] == [measure, stage, group]
        return [*self.rows[its.all(axis=1)].itertuples()]

    def claim(
        self,
        words: str,
        measure: str,
        stage: str,
        below: str,
        above: str,
        group: str = ALL,
        reference: float = 0.0,
    ) -> str:
        """A paragraph that says of each row on which side of a reference its interval is."""
        sides: dict[str, list[str]] = {below: [], above: [], UNDECIDED: []}
        for row in self.of(measure, stage, group):
            told = f"{estimate_of(row):.3f} at length {row.length}"
            sides[self.side(row, below, above, reference)].append(told)
        if open_ones := sides.pop(UNDECIDED):
            self.undecided.append(f"{words}: {', '.join(open_ones)}.")
        told = " ".join(f"{side}: {', '.join(some)}." for side, some in sides.items() if some)
        return f"**{words}.** {told}\n\n" if told else ""


def estimate_of(row: Any) -> Estimate:
    """The mean of a row of a table with its interval."""
    return Estimate(row.mean, row.interval_low, row.interval_high)


def answer_lines(found: Mapping[str, Explanation]) -> list[str]:
    """Why it forgets, in five lines for each variant; its name stands before them if several."""
    lines = []
    for name, one in found.items():
        told = answers(one, Claims(summary_table(one)))
        lines += [f"{name}:", *(f"  {line}" for line in told)] if len(found) > 1 else told
    return lines


def answers(found: Explanation, claims: Claims) -> list[str]:
    """Where the answer is lost, gradients, training, solvers, other lengths; at the longest."""
    length, target = found.lengths[-1], found.answer

    def told(measure: str, below: str, above: str, group: str = ALL) -> str:
        rows = [row for row in claims.of(measure, "best", group) if row.length == length]
        if not rows or np.isnan(rows[0].interval_low):
            return "unknown"
        side = claims.side(rows[0], below, above).replace(UNDECIDED, "the data does not decide")
        return f"{estimate_of(rows[0]):+.3f}, {side}"

    held = curve_table(found, f"readout of {target}")
    held = held[(held.length == length) & (held.group == ALL) & (held.stage == "best")]
    best, last = [*held.loc[[held["mean"].idxmax(), held.index[-1]]].itertuples()]
    mine = found.length == length
    values: dict[str, Any] = {
        "best": f"{estimate_of(best):.3f}",
        "last": f"{estimate_of(last):.3f}",
    }
    values |= {"position": best.position, "length": length, "target": target}
    chance = found.chance[mine][:, found.is_answer.argmax()].mean()
    measure = f"readout of {target}" if np.isnan(found.gradient).all() else "perturbation"
    numbers = {"solved": found.solver[mine].sum(), "number": mine.sum(), "chance": chance}
    template = environment().get_template("answers.txt")
    given = values | numbers | {"threshold": found.threshold, "measure": measure}
    return template.render(given, told=told).splitlines()


def environment() -> Environment:
    """Where the templates are."""
    return Environment(loader=PackageLoader("srn_jax.analysis"), keep_trailing_newline=True)


def page(
    found: Explanation, summary: pd.DataFrame, question: str, pictures: Mapping[str, Path]
) -> dict[str, str]:
    """The page as Markdown and as HTML, by the names of its files, with figures by their stems."""
    claims = Claims(summary)
    values = {"claim": claims.claim, "undecided": claims.undecided, "found": found, "fates": FATES}
    values |= {"answers": answers(found, claims), "many": summary.interval_low.notna().sum()}
    values |= {"family": not np.isnan(found.gradient).all(), "question": question}
    return rendered("explanation.md", pictures, **values)


def overview(
    found: Mapping[str, Explanation], question: str, pictures: Mapping[str, Path]
) -> dict[str, str]:
    """The page about several variants, as `page`."""
    told = {name: answer_lines({name: one}) for name, one in found.items()}
    return rendered("explanations.md", pictures, answers=told, question=question, undecided=[])


def rendered(template: str, pictures: Mapping[str, Path], **values: Any) -> dict[str, str]:
    """A page as Markdown, and as HTML that needs nothing else; what is not decided is folded."""

    def embedded(match: re.Match[str]) -> str:
        path = next(path for path in pictures.values() if path.name == match[0])
        kind = "svg+xml" if path.suffix == ".svg" else "png"
        return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

    names = {stem: path.name for stem, path in pictures.items()}
    values |= {"pictures": names, "undecided_title": UNDECIDED}
    text = environment().get_template(template).render(values)
    body, _, rest = text.partition(f"## {UNDECIDED}\n")
    markdown = MarkdownIt("commonmark", {"html": False})
    values |= {"body": re.sub(r'(?<=<img src=")[^"]+', embedded, markdown.render(body))}
    values |= {"rest": markdown.render(rest), "title": text.partition("\n")[0].lstrip("# ")}
    html = environment().get_template("explanation.html").render(values)
    return {"explanation.md": text, "explanation.html": html}
