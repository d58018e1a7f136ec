"""What the state of a part says, finished or not: its checkpoint's trees, results and histories."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from srn_jax.analysis.records import Histories, results_frame
from srn_jax.config import SweepConfig
from srn_jax.ensemble.mapping import as_fraction, draw_tests, evaluate_experiments
from srn_jax.ensemble.sweep import Sweep
from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import read_data
from srn_jax.tasks import task_of
from srn_jax.tasks.task import facts_of
from srn_jax.training import experiment
from srn_jax.training.experiment import TrainState
from srn_jax.training.histories import PROBE, size_of
from srn_jax.training.program import hyperparameters_of

PLAN = ("eval_steps", "loss_steps", "steps_an_epoch")
ROWS = ("train_loss", "epoch_loss", "dev_loss", "dev_accuracy")  # of histories


class Kept(NamedTuple):
    """What is known of a part: rows of its experiments, and their state if it is in memory."""

    results: pd.DataFrame
    histories: Histories
    items: dict[str, Any] | None = None


def read_data_of(config: SweepConfig) -> dict[int, Any] | None:
    """The data files of a run; None if its data were drawn, `UserError` if they are not as then."""
    if config.data is None:
        return None
    try:
        found, files = read_data(config.data.path, config.lengths)
        if not found.same(config.data):
            raise UserError(f"{config.data.path} has changed since the run began")
    except UserError as error:
        raise UserError(f"{error}: put the run's own files back, or test on other `data`") from None
    return files


def facts_with(
    configs: Sequence[SweepConfig], files: Mapping[int, Any] | None
) -> list[dict[str, Any]]:
    """What the tasks of variants say to those who show their results, as plain JSON values."""
    told = [dataclasses.asdict(facts_of(task_of(config))) for config in configs]
    for one in told:
        if files is not None:
            number = len(files[configs[0].lengths[0]].test)
            one |= {"test_examples": number, "fixed_data": True}
        for name in ("chance", "chance_loss"):
            one[name] = one[name] if math.isfinite(one[name]) else None
    return told


def split_state(state: TrainState, histories: Mapping[str, Any]) -> dict[str, Any]:
    """What training has changed and recorded, as the trees of a checkpoint."""
    fields = state._asdict()
    models = {"best": fields.pop("best_parameters"), "last": fields.pop("parameters")}
    leaves = jax.tree.leaves(fields.pop("optimizer"))
    fields["optimizer"] = {f"leaf_{n}": leaf for n, leaf in enumerate(leaves)}
    return {"models": models, "training": {**fields, "histories": dict(histories)}}


def join_state(items: Mapping[str, Any], like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The inverse of `split_state`; `like` has the optimizer's structure."""
    fields, models = dict(items["training"]), items["models"]
    histories, optimizer = fields.pop("histories"), fields.pop("optimizer")
    leaves = [optimizer[f"leaf_{n}"] for n in range(len(optimizer))]
    fields["optimizer"] = jax.tree.unflatten(jax.tree.structure(like.optimizer), leaves)
    state = TrainState(parameters=models["last"], best_parameters=models["best"], **fields)
    return state, histories


def like(sweep: Sweep) -> Any:
    """Shapes and dtypes of a part's checkpoint, as abstract arrays: nothing is drawn."""
    program, number = sweep.program, len(sweep.experiments)

    inputs = np.uint32(0), np.int32(5), hyperparameters_of(sweep.configs[0].experiment)
    state, histories = jax.eval_shape(partial(experiment.begin, program), *inputs)
    rows = {n: jax.ShapeDtypeStruct(size_of(program, n)[:1], "float32") for n in histories}
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((number, *leaf.shape), leaf.dtype),
        split_state(state, rows),
    )


def histories_of(sweep: Sweep, arrays: Mapping[str, np.ndarray]) -> Histories:
    """Histories of a part, from arrays `[experiment, ...]` by name."""
    lengths, seeds = np.array(sweep.experiments).T
    probes = {n.removeprefix(PROBE): a for n, a in arrays.items() if n.startswith(PROBE)}
    told = {name: getattr(sweep.program, name) for name in PLAN}
    told |= {name: arrays[name] for name in ROWS}
    return Histories(length=lengths, seed=seeds, probes=probes, **told)


def collect(
    sweep: Sweep, files: Mapping[int, Any] | None, items: Mapping[str, Any]
) -> tuple[pd.DataFrame, Histories]:
    """Results and histories of a part, of which `sweep` is the plan, from a checkpoint's trees."""
    training, task = items["training"], sweep.program.task
    histories = histories_of(sweep, training["histories"])
    tests, overlaps = draw_tests(sweep.configs[0], sweep.experiments, files)
    scores = evaluate_experiments(sweep.program, items["models"]["best"], tests, histories.length)
    best_step, diverged = (np.asarray(training[name]) for name in ("best_step", "diverged"))
    best = np.searchsorted(histories.eval_steps, np.maximum(best_step, 0))
    row, reached = np.arange(len(best)), best_step >= 0
    accuracy = np.asarray(histories.dev_accuracy[row, best], float)
    if np.all(task.counts(tests.targets, tests.weights)):  # so they do in a development set
        number = tests.targets.shape[1] if files is None else len(next(iter(files.values())).dev)
        accuracy = as_fraction(accuracy, number * tests.targets[0, 0].size)
    columns: dict[str, Any] = {
        "best_dev_accuracy": accuracy,
        "dev_loss": np.asarray(histories.dev_loss[row, best], float),
        "test_accuracy": scores.accuracy,
        "test_loss": scores.loss,
    }
    if task.answers != 1:
        columns["test_sequences"] = scores.sequences
    # What has no best parameters has no scores: it diverged, or was never any good.
    columns = {name: np.where(reached, values, np.nan) for name, values in columns.items()}
    losses = np.where(diverged, np.nan, histories.epoch_loss[:, -1].astype(float))
    columns |= {"length": histories.length, "seed": histories.seed, "best_step": best_step}
    columns |= {"final_train_loss": losses, "diverged": diverged}
    columns["overlap"] = np.full(len(row), np.nan) if overlaps is None else overlaps
    return results_frame(columns), histories


def joined(parts: Sequence[tuple[Kept, slice]]) -> tuple[pd.DataFrame, Histories]:
    """Results and histories of a variant, by length and seed, from its rows in some parts."""

    def join(get: Any) -> np.ndarray:
        arrays = [get(kept.histories)[rows] for kept, rows in parts]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    order = np.lexsort((join(lambda h: h.seed), join(lambda h: h.length)))
    # What is in order already is not copied: histories may be most of the memory.
    pick = slice(None) if np.array_equal(order, np.arange(len(order))) else order
    first = parts[0][0].histories
    arrays: dict[str, Any] = {
        name: join(lambda h, n=name: getattr(h, n))[pick] for name in ("length", "seed", *ROWS)
    }
    arrays["probes"] = {name: join(lambda h, n=name: h.probes[n])[pick] for name in first.probes}
    table = pd.concat([kept.results.iloc[rows] for kept, rows in parts])
    return table.iloc[pick].reset_index(drop=True), dataclasses.replace(first, **arrays)
