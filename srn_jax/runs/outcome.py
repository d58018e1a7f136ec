"""What the state of a part says, finished or not: its checkpoint's trees, results and histories."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from srn_jax.analysis.records import Histories, results_frame
from srn_jax.config import Facts, SweepConfig
from srn_jax.ensemble.sweep import Sweep, draw_tests, evaluate_experiments
from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import read_data
from srn_jax.tasks import task_of
from srn_jax.tasks.task import facts_of
from srn_jax.training.experiment import TrainState


def read_data_of(config: SweepConfig) -> dict[int, Any] | None:
    """The data files of a run, None if its data were drawn.

    Raises:
        UserError: if they cannot be read, or are not those that the run began with.
    """
    if config.data is None:
        return None
    path = config.data.path
    if not Path(path).is_dir():
        raise UserError(
            f"{path}: no such folder, and the run's own data were there: put it back, or test on "
            "other `data`"
        )
    try:
        found, files = read_data(path, config.lengths)
    except UserError as error:
        raise UserError(
            f"{path} cannot be read as the run read it, put the old files back ({error})"
        ) from None
    if not found.same(config.data):
        raise UserError(
            f"{path} has changed since the run, which had other data: put the old files back"
        )
    return files


def facts_with(configs: Sequence[SweepConfig], files: Mapping[int, Any] | None) -> list[Facts]:
    """What the tasks of variants say to those who show their results."""
    facts = [facts_of(task_of(config)) for config in configs]
    if files is None:
        return facts
    number = len(files[configs[0].lengths[0]].test)
    return [dataclasses.replace(one, test_examples=number, fixed_data=True) for one in facts]


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


def histories_of(sweep: Sweep, arrays: Mapping[str, np.ndarray]) -> Histories:
    """Histories of a part, from arrays `[experiment, ...]` by name."""
    lengths, seeds = np.array(sweep.experiments).T
    probes = {n.removeprefix("probe."): a for n, a in arrays.items() if n.startswith("probe.")}
    names = ("train_loss", "epoch_loss", "dev_loss", "dev_accuracy")
    return Histories(
        length=lengths,
        seed=seeds,
        eval_steps=np.asarray(sweep.program.eval_steps),
        loss_steps=np.asarray(sweep.program.loss_steps),
        steps_an_epoch=sweep.program.steps_an_epoch,
        probes=probes,
        **{name: np.asarray(arrays[name]) for name in names},
    )


def collect(
    sweep: Sweep,
    files: Mapping[int, Any] | None,
    items: Mapping[str, Any],
    tests: tuple[Any, np.ndarray] | None = None,
) -> tuple[pd.DataFrame, Histories]:
    """Results and histories of a part, finished or not; nothing is compiled for training.

    Args:
        sweep: of the part, planned at least.
        files: its data, where they are not drawn.
        items: the trees of its newest checkpoint, `[experiment, ...]`.
        tests: what `draw_tests` gives, if it is at hand; else it is drawn again.
    """
    training, config = items["training"], sweep.configs[0]
    histories = histories_of(sweep, training["histories"])
    test, overlaps = tests or draw_tests(config, sweep.experiments, files)
    scores = evaluate_experiments(sweep.program, items["models"]["best"], test, histories.length)
    best_step, diverged = (np.asarray(training[name]) for name in ("best_step", "diverged"))
    none = best_step < 0  # no best parameters: nothing is to be scored
    best = np.arange(len(none)), np.searchsorted(histories.eval_steps, np.maximum(best_step, 0))
    values = {
        "best_dev_accuracy": histories.dev_accuracy[best],
        "dev_loss": histories.dev_loss[best],
        "test_accuracy": scores.accuracy,
        "test_loss": scores.loss,
    }
    columns = {name: np.where(none, np.nan, np.asarray(v, float)) for name, v in values.items()}
    if sweep.program.task.answers != 1:
        columns["test_sequences"] = np.where(none, np.nan, np.asarray(scores.sequences, float))
    losses = np.where(diverged, np.nan, histories.epoch_loss[:, -1].astype(float))
    columns |= {"length": histories.length, "seed": histories.seed, "best_step": best_step}
    columns |= {"final_train_loss": losses, "diverged": diverged}
    columns["overlap"] = np.full(len(none), np.nan) if overlaps is None else overlaps
    return results_frame(columns), histories
