"""All networks of a run examined, before training, at the best step and at the end, and explained.

Each row of `summary.csv` is the mean over networks of a column of `networks.csv`, or the share of a
fate. Something is said to be above or below a reference only where the whole 95 % interval, as
printed, is; all else is listed as not decided.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.special import stdtrit

from srn_jax.analysis import memory
from srn_jax.analysis.stats import CONFIDENCE, Estimate, share_estimate
from srn_jax.config import SweepConfig
from srn_jax.ensemble.mapping import (
    draw_tests,
    evaluate_experiments,
    files_by_experiment,
    map_experiments,
)
from srn_jax.errors import UserError
from srn_jax.tasks.task import Examples, Task, draw_set
from srn_jax.training.data import keys_of
from srn_jax.training.experiment import initial_parameters
from srn_jax.training.program import Program, hyperparameters_of, program_of

STAGES = ("start", "best", "last")
START, BEST = 0, 1
FATES = ("shrinks", "is kept", "blows up")
FATE_DECADES = 1.0  # a perturbation is kept if it changes at most tenfold
ALL, SOLVERS, OTHERS, DIFFERENCE = "all", "solvers", "others", "solvers less others"
FEWEST_ALIKE = 4  # fewer values that agree have no interval: a width of zero would claim certainty
NORM, LARGEST = "log10 gradient norm", "log10 largest singular value"
UNDECIDED = "The data does not decide"


@dataclass(frozen=True)
class Explanation:
    """What was measured of each network; NaN where there is no such position or it is unknown."""

    length: np.ndarray  # [experiment]
    seed: np.ndarray  # [experiment]
    targets: np.ndarray  # [target]: the names of what was looked for
    is_answer: np.ndarray  # [target]: whether it is what the network must answer
    chance: np.ndarray  # [experiment, target]: accuracy of the commonest training label
    accuracy: np.ndarray  # [stage, experiment]: of the network's own answers to test sequences
    readout: np.ndarray  # [stage, experiment, target, position]: of linear readouts of the state
    shuffled: np.ndarray  # [stage, experiment, target, position]: fitted to shuffled labels
    gradient: np.ndarray  # [stage, experiment, position]: norm of dL/ds_t
    jacobian: np.ndarray  # [stage, experiment, position - 1, value]: log10, largest first
    product: np.ndarray  # [stage, experiment, value]: log10, of the last state by the second
    tested: np.ndarray  # [tested length]
    unseen: np.ndarray  # [experiment, tested length]: accuracy of the best parameters there
    left_out: int  # experiments that diverged or have no best parameters
    threshold: float  # a solver's test accuracy is above it

    @property
    def lengths(self) -> list[int]:
        """The lengths that networks were trained on, shortest first."""
        return np.unique(self.length).tolist()

    @property
    def solver(self) -> np.ndarray:
        """Which networks reached the threshold, `[experiment]`."""
        return self.accuracy[BEST] > self.threshold

    @property
    def answer(self) -> str:
        """The first target that is the whole answer, or else the first."""
        return str(self.targets[self.is_answer.argmax()])


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

    `trained` has the "best" and "last" parameters `[experiment, ...]`; `left_out [experiment]` are
    those that diverged or have no best parameters, `files` the data of each length where they are
    not drawn. `report` is told how many examinations are done, and of how many.
    """
    chosen = list(dict.fromkeys(lengths or config.lengths))
    if unknown := set(chosen) - set(config.lengths):
        has = ", ".join(map(str, config.lengths))
        raise UserError(f"`lengths`: the run has no length {min(unknown)}, it has {has}")
    every, seeds = (np.array(column, np.int64) for column in zip(*config.experiments, strict=True))
    rows = np.concatenate([np.flatnonzero((every == n) & ~left_out) for n in chosen])
    if not rows.size:
        raise UserError(
            "every experiment diverged or never gave a right answer: nothing to explain"
        )
    program, hyper = program_of(config, files=files), hyperparameters_of(config.experiment)
    unseen, best = np.zeros((len(rows), len(chosen))), take(trained["best"], rows)
    names: list[str] = []
    parts: list[dict[str, np.ndarray]] = []
    done, total = 0, len(rows) * (len(chosen) + len(STAGES))

    def counted(now: int) -> None:
        if report is not None:
            report(done + now, total)

    for column, length in enumerate(chosen):
        sets = None if files is None else {length: files[length]}
        tests, _ = draw_tests(config, [(length, seed) for seed in seeds[rows].tolist()], sets)
        where = np.full(len(rows), length, np.int32)
        unseen[:, column] = evaluate_experiments(program, best, tests, where, counted).accuracy
        done += len(rows)
        own = rows[every[rows] == length]
        if not own.size:
            continue
        data: Any = None
        if sets is not None:
            data = files_by_experiment(sets, where[: own.size], length)[::2]
        drawn = seeds[own].astype(np.uint32), where[: own.size], data
        each = jax.tree.map(lambda value, own=own: np.full(own.size, value), hyper)
        start, data, order = map_experiments(begin, *drawn, each, given=(program, length))
        material, names = material_of(program.task, data, order)
        stages = [start, *(take(trained[name], own) for name in STAGES[1:])]
        together: Any = jax.tree.map(lambda *arrays: np.concatenate(arrays), *stages)
        again = jax.tree.map(lambda array: np.concatenate([array] * len(STAGES)), material)
        given = program, memory.number_of_classes(*material[2::2])
        found = map_experiments(memory.analyse, together, again, given=given, done=counted)
        done += own.size * len(STAGES)
        found["accuracy"] = found.pop("right") / found.pop("asked")
        parts.append({k: a.reshape(len(STAGES), own.size, *a.shape[1:]) for k, a in found.items()})
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


def begin(program: Program, width: int, seed: Any, length: Any, data: Any, hyper: Any) -> Any:
    """What an experiment began with: parameters, data unless given, and an order to shuffle it."""
    key, task = keys_of(seed, length)[0], program.task
    if data is None:
        units = program.config.multiplicity, 1
        data = tuple(draw_set(task, key, 2 * n, units[n], length, width) for n in range(2))
    order = jax.random.permutation(jax.random.fold_in(key, 1), len(data[0].targets))
    return initial_parameters(program, seed, length, hyper), data, order


def material_of(
    task: Task, sets: tuple[Examples, Examples], order: np.ndarray
) -> tuple[memory.Material, list[str]]:
    """What networks of a length are examined with, `[network, ...]`, and the names of targets."""
    names: list[str] = []

    def labels(part: Examples) -> jax.Array:
        found = memory.labels_of(task, part)
        names[:] = found
        return jnp.stack([*found.values()]).astype(jnp.int32)

    trained, tested = (np.asarray(jax.jit(jax.vmap(labels))(part)) for part in sets)
    shuffled = np.take_along_axis(trained, order[:, None], axis=2)
    return memory.Material(*sets, trained, shuffled, tested), names


def take(tree: Any, rows: Any) -> Any:
    """Some rows of every array."""
    return jax.tree.map(lambda array: array[rows], tree)


def join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays `[stage, experiment, ...]` one after the other, filled up with NaN where shorter."""
    most = np.max([part.shape for part in parts], axis=0)
    wide = []
    for part in parts:
        more = [(0, 0), (0, 0), *((0, n) for n in (most - part.shape)[2:])]
        wide.append(np.pad(part.astype(float), more, constant_values=np.nan))
    return np.concatenate(wide, axis=1)


def measures(found: Explanation) -> dict[str, np.ndarray]:
    """What is known of each network at each stage as one number: `[stage, experiment]` by name."""
    last = found.readout[:, np.arange(found.length.size), :, found.length - 1].swapaxes(0, 1)
    values = {"accuracy": found.accuracy, "gradient slope": slopes(found.gradient)}
    values["perturbation"] = found.product[..., 0]
    for n, name in enumerate(found.targets):
        values[f"readout of {name}"] = last[..., n]
        values[f"readout of {name} above chance"] = last[..., n] - found.chance[:, n]
        values[f"readout of {name} since start"] = last[..., n] - last[START, :, n]
    if found.is_answer.any():
        values["readout above answer"] = last[..., found.is_answer.argmax()] - found.accuracy
    if found.tested.size > 1:
        own = found.tested == found.length[:, None]
        elsewhere = np.nanmean(np.where(own, np.nan, found.unseen), axis=1)
        nothing = np.full_like(elsewhere, np.nan)
        values["other lengths"] = np.stack([nothing, elsewhere - found.unseen[own], nothing])
    return values


def slopes(gradient: np.ndarray) -> np.ndarray:
    """The change of log10 of a norm `[..., position]` a step back, to the second; least squares."""
    norms = gradient[..., 1:].astype(float)
    known = norms > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        at = np.where(known, np.arange(norms.shape[-1]), np.nan)
        at -= np.nansum(at, axis=-1, keepdims=True) / known.sum(axis=-1, keepdims=True)
        return -np.nansum(at * np.log10(norms), axis=-1) / np.nansum(at**2, axis=-1)


def fates(product: np.ndarray) -> dict[str, np.ndarray]:
    """Whether the perturbation that grows most meets each of `FATES`: 1 or 0, NaN if unknown."""
    largest = product[..., 0]
    edges = largest < -FATE_DECADES, np.abs(largest) <= FATE_DECADES, largest > FATE_DECADES
    pairs = zip(FATES, edges, strict=True)
    return {fate: np.where(np.isnan(largest), np.nan, edge) for fate, edge in pairs}


def curves(found: Explanation) -> dict[str, np.ndarray]:
    """What is known at each position: `[stage, experiment, position]` by name."""
    values = {NORM: np.log10(np.where(found.gradient > 0, found.gradient, np.nan))}
    first = (0, 0), (0, 0), (1, 0)  # at which nothing has grown yet
    values[LARGEST] = np.pad(found.jacobian[..., 0], first, constant_values=np.nan)
    for n, name in enumerate(found.targets):
        values[f"readout of {name}"] = found.readout[:, :, n]
        values[f"shuffled {name}"] = found.shuffled[:, :, n]
    return values


def estimates(*sides: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of `[network, column]`, or less those of another, and Student's or Welch's ends."""
    tables = [pd.DataFrame(side) for side in sides]
    counts = np.array([table.count() for table in tables])
    means = np.array([table.mean() for table in tables])
    errors = np.array([table.var() for table in tables]) / np.maximum(counts, 1)
    squares = errors.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = squares**2 / (errors**2 / (counts - 1)).sum(axis=0)
        half = stdtrit(freedom, (1 + CONFIDENCE) / 2) * np.sqrt(squares)
    half = np.where(squares == 0, np.where(counts.min(axis=0) < FEWEST_ALIKE, np.nan, 0.0), half)
    mean = means[0] - means[1:].sum(axis=0)
    return mean, mean - half, mean + half


def staged(found: Explanation, values: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Means with intervals of values `[stage, experiment(, position)]`, by length and group."""
    every = np.stack([*values.values()])  # [measure, stage, experiment, ...]
    keys = [[*values], STAGES, *(range(1, n + 1) for n in every.shape[3:])]
    names = ["measure", "stage", "position"][: len(keys)]
    columns = pd.MultiIndex.from_product(keys, names=names).to_frame(index=False)
    flat, parts = np.moveaxis(every, 2, 0).reshape(len(found.length), -1), []
    for length in found.lengths:
        rows = found.length == length
        both = flat[rows & found.solver], flat[rows & ~found.solver]
        groups = {ALL: (flat[rows],), SOLVERS: both[:1], OTHERS: both[1:], DIFFERENCE: both}
        for group, sides in groups.items():
            mean, low, high = estimates(*sides)
            known = (~np.isnan(np.concatenate(sides))).sum(axis=0)
            table = columns.assign(length=length, group=group, networks=known)
            table = table.assign(mean=mean, interval_low=low, interval_high=high)
            parts.append(table[~np.isnan(mean)])
    return pd.concat(parts, ignore_index=True)


def summary_table(found: Explanation) -> pd.DataFrame:
    """Every measure at every stage, of all networks of a length, of solvers and of others."""
    table = staged(found, measures(found) | fates(found.product))
    table = table[~table.measure.isin(FATES) | (table.group != DIFFERENCE)].reset_index(drop=True)
    for place, row in table[table.measure.isin(FATES)].iterrows():
        share = share_estimate(round(row["mean"] * row.networks), row.networks)
        table.loc[place, ["interval_low", "interval_high"]] = share.low, share.high
    return table


def network_table(found: Explanation) -> pd.DataFrame:
    """Every measure of each network at each stage."""
    names = ("length", "seed", "solver")
    table: dict[str, Any] = {"stage": np.repeat(STAGES, len(found.length))}
    table |= {name: np.tile(getattr(found, name), len(STAGES)) for name in names}
    table |= {name: values.ravel() for name, values in measures(found).items()}
    hits = [hit.ravel() == 1 for hit in fates(found.product).values()]
    return pd.DataFrame(table | {"fate": np.select(hits, FATES, "")})


def difference_table(found: Mapping[str, Explanation]) -> pd.DataFrame:
    """Every measure of each variant less that of the first, paired by length and seed."""
    index = ["stage", "length", "seed"]
    tables = {name: network_table(one).set_index(index) for name, one in found.items()}
    (first, base), *others = tables.items()
    rows = []
    for name, other in others:
        measured = [m for m in base.columns.drop(["solver", "fate"]) if m in other]
        change = other[measured].sub(base[measured])
        for (stage, length), part in change.groupby(index[:2], sort=False):
            its = zip(measured, part.count(), *estimates(part.to_numpy()), strict=True)
            rows += [(name, first, m, stage, length, *numbers) for m, *numbers in its if numbers[0]]
    columns = ["variant", "less", "measure", *index[:2], "networks", "mean"]
    return pd.DataFrame(rows, columns=[*columns, "interval_low", "interval_high"])


def estimate_of(row: Mapping[Any, Any]) -> Estimate:
    """The mean in a row of a table with its interval."""
    return Estimate(row["mean"], row["interval_low"], row["interval_high"])


def side_of(row: Mapping[Any, Any], below: str, above: str, reference: float = 0.0) -> str:
    """Which of two words the interval of a row, as printed, supports."""
    low, high = round(row["interval_low"], 3), round(row["interval_high"], 3)
    return below if high < reference else above if low > reference else UNDECIDED


def claim(
    summary: pd.DataFrame, keys: Sequence[str], below: str, above: str, reference: float = 0.0
) -> tuple[str, str]:
    """What rows of a measure, stage and group say, and what the data does not decide."""
    sides: dict[str, list[str]] = {below: [], above: [], UNDECIDED: []}
    its = summary[["measure", "stage", "group"]] == list(keys)
    for row in summary[its.all(axis=1)].to_dict("records"):
        told = f"{estimate_of(row):.3f} at length {row['length']}"
        sides[side_of(row, below, above, reference)].append(told)
    undecided = ", ".join(sides.pop(UNDECIDED))
    return " ".join(f"{k}: {', '.join(some)}." for k, some in sides.items() if some), undecided


def answer_lines(found: Mapping[str, Explanation]) -> list[str]:
    """Why it forgets, in five lines for each variant; its name stands before them if several."""
    told = {name: answers(one, summary_table(one)) for name, one in found.items()}
    named = [line for name in told for line in (f"{name}:", *(f"  {its}" for its in told[name]))]
    return named if len(told) > 1 else [line.strip() for line in named[1:]]


def answers(found: Explanation, summary: pd.DataFrame) -> list[str]:
    """Where the answer is lost, gradients, training, solvers, other lengths; at the longest."""
    length, readout = found.lengths[-1], f"readout of {found.answer}"
    its = summary[(summary.length == length) & (summary.stage == "best")]

    def told(measure: str, below: str, above: str, group: str = ALL) -> str:
        rows = its[(its.measure == measure) & (its.group == group) & its.interval_low.notna()]
        for row in rows.to_dict("records"):
            side = side_of(row, below, above).replace(UNDECIDED, "the data does not decide")
            return f"{estimate_of(row):+.3f}, {side}"
        return "unknown"

    mine = found.length == length
    held = staged(found, {readout: curves(found)[readout]})
    held = held[(held.length == length) & (held.group == ALL) & (held.stage == "best")]
    best, last = held.loc[[held["mean"].idxmax(), held.index[-1]]].to_dict("records")
    measure = readout if np.isnan(found.gradient).all() else "perturbation"
    chance = found.chance[mine][:, found.is_answer.argmax()].mean()
    changed = told(f"{readout} since start", "less is held", "more is held")
    solvers = told(measure, "lower", "higher", DIFFERENCE)
    number = f"{found.solver[mine].sum()} of {mine.sum()}"
    return [
        f"At length {length} a linear {readout} finds {estimate_of(best):.3f} at position "
        f"{best['position']} and {estimate_of(last):.3f} at the last; chance {chance:.3f}",
        f"Gradient, decades a step back: {told('gradient slope', 'it shrinks', 'it grows')}",
        f"What training changed in the last {readout}: {changed}",
        f"Solvers (accuracy above {found.threshold:g}): {number}; their {measure} less the "
        f"others': {solvers}",
        f"Accuracy at other lengths less that at its own: "
        f"{told('other lengths', 'worse', 'better')}",
    ]
