"""What trained networks answer to one sequence, and weights exchanged with PyTorch's programs."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pandas as pd

from srn_jax.analysis.figures import Gates
from srn_jax.analysis.memory import gates_along
from srn_jax.config import DataFolder, SweepConfig
from srn_jax.ensemble.mapping import map_experiments
from srn_jax.errors import UserError
from srn_jax.interop import pytorch
from srn_jax.interop.textbook_files import lengths_in
from srn_jax.own_files import own_mistakes
from srn_jax.runs.networks import Networks
from srn_jax.tasks import task_of
from srn_jax.tasks.task import Task, Tokens
from srn_jax.training.network import network_with

MOST_NAMED = 3  # answers that are equally frequent

if TYPE_CHECKING:
    from srn_jax.run import Run


def parse_tokens(text: str, vocabulary: int, name: str) -> np.ndarray:
    """Tokens `[time]` out of `3 4 0`; raises `UserError` for anything else.

    Where no token has two digits, `340` is the same.
    """
    parts = text.split()
    if len(parts) == 1 and vocabulary <= 10:
        parts = list(parts[0])
    known = [p.isascii() and p.isdigit() and len(p) < 10 and int(p) < vocabulary for p in parts]
    if not parts or not all(known):
        last = vocabulary - 1
        example = " ".join(str(min(digit, last)) for digit in (3, 4, 0))
        raise UserError(f"`{name}` wants numbers 0 to {last} like '{example}', got {text!r}"[:300])
    return np.array([int(part) for part in parts], np.int32)


def sequence_for(
    networks: Networks, tokens: str | Iterable[int], name: str
) -> tuple[Task, np.ndarray]:
    """The task of networks, and a sequence that they can take; raises `UserError` for another."""
    task = task_of(networks.config)
    if not isinstance(task.inputs, Tokens):
        raise UserError(f"`{name}` is for tasks of whole numbers, this one has vectors")
    text = tokens if isinstance(tokens, str) else " ".join(map(str, tokens))
    return task, parse_tokens(text, task.inputs.vocabulary, name)


def predictions(networks: Networks, tokens: str | Iterable[int]) -> dict[str, Any]:
    """Of each network its answer, how probable it finds it, and whether it is right if known.

    Raises `UserError` for a sequence that the networks cannot take, or a task whose answers are no
    classes.
    """
    task, sequence = sequence_for(networks, tokens, "predict")
    if task.outputs < 2 or task.answers is None:
        raise UserError("`predict` is for tasks with classes as their answers at the end")
    if len(sequence) < task.answers:
        raise UserError(f"`predict` wants at least {task.answers} numbers, got {len(sequence)}")

    def answer(parameters):
        return jax.nn.softmax(
            network_with(networks.program, parameters)(jax.numpy.asarray(sequence)[None])[0]
        )

    shares = np.asarray(map_experiments(answer, networks.parameters))  # [experiment, ..., class]
    shares = shares.reshape(len(networks.experiments), task.answers, task.outputs)
    answers = [" ".join(map(str, classes)) for classes in shares.argmax(axis=-1).tolist()]
    sure = [" ".join(f"{one:.3f}" for one in row) for row in shares.max(axis=-1)]
    with own_mistakes(networks.config.experiment.task):
        found = task.right_answer(sequence)
    said = {"answer": answers, "probability": sure}
    columns = {name: np.where(networks.trained, each, "-") for name, each in said.items()}
    if found is None:
        return columns
    right = " ".join(map(str, np.atleast_1d(found).tolist()))
    return {**columns, "right": [own == right for own in answers]}


def summary_of(table: pd.DataFrame) -> str:
    """How many networks of each length were right, or what most of them said."""
    table = table[table.answer != "-"]
    if table.empty:
        return "none of the networks has parameters of this kind (`which`)"
    groups = ["variant", "length"] if "variant" in table else ["length"]
    parts = []
    for key, own in table.groupby(groups, sort=False):
        name = " ".join(map(str, key if isinstance(key, tuple) else [key]))
        told = f"{own.right.sum()} of {len(own)}" if "right" in own else frequent([*own.answer])
        parts.append(f"{name}: {told}")
    said = "right" if "right" in table else "most frequent answer"
    return f"{said}, by length  {'  '.join(parts)}"


def frequent(answers: list[str]) -> str:
    """The answer that most networks gave; `7 or 3 (1 of 2 each)` where several are as frequent."""
    counts = Counter(answers)
    most = max(counts.values())
    best = [answer for answer, count in counts.items() if count == most]
    said = " or ".join(best) if len(best) <= MOST_NAMED else f"{len(best)} answers tie"
    return f"{said} ({most} of {len(answers)}{' each' if len(best) > 1 else ''})"


def gates(networks: Networks, tokens: str | Iterable[int], seed: int | None) -> Gates:
    """The gates of one network along a sequence of the length that it was trained on."""
    _, sequence = sequence_for(networks, tokens, "gates")
    length, lengths = len(sequence), dict(networks.experiments[::-1])
    if length not in lengths:
        known = ", ".join(map(str, sorted(lengths)))
        raise UserError(
            f"`gates` has {length} tokens: the run has no length {length}, it has {known}"
        )
    seed = lengths[length] if seed is None else seed  # the first
    if (length, seed) not in networks.experiments:
        raise UserError(f"`seed` {seed}: the run has no such seed of length {length}")
    with own_mistakes(networks.config.experiment.cell):
        network = networks.network(networks.experiments.index((length, seed)))
        return Gates(seed, sequence.tolist(), gates_along(network, sequence.tolist()))


@dataclass(frozen=True)
class Weights:
    """The parameters of one network, and the settings that it has."""

    config: SweepConfig
    parameters: Any

    def evaluate(self, data: str | Path) -> pd.DataFrame:
        """Test accuracy and loss, the mean over examples, on `data/<length>/test.txt`."""
        lengths = lengths_in(Path(data))
        # A file has no batches: with all examples in one, the loss is the mean over them.
        alone: dict[str, Any] = {"batch_size": 1_000_000, "loss_reduction": "mean", "epochs": 1}
        experiment = replace(self.config.experiment, **alone)
        config = replace(self.config, lengths=lengths, seeds=(0,), experiment=experiment)
        copies = jax.tree.map(lambda array: np.stack([array] * len(lengths)), self.parameters)
        networks = Networks(config, config.experiments, copies, np.ones(len(lengths), bool))
        scores = networks.scores(Path(data))
        columns = {"test_accuracy": scores.accuracy, "test_loss": scores.loss}
        return pd.DataFrame({"length": lengths, **columns})

    def write(self, path: str | Path) -> Path:
        """Write them to a file: .pth or .pt with PyTorch, .npz without it."""
        return pytorch.save(self.config.experiment.cell, self.parameters, path)


def read_weights(path: str | Path, cell: str | None = None) -> Weights:
    """Weights out of a file; `cell` says what of, where its names do not.

    Raises `UserError` for a file that is none of weights.
    """
    experiment, parameters = pytorch.load(path, cell)
    vocabulary = len(parameters.get("embedding", {"table": ()})["table"])
    data = DataFolder(str(path), "", vocabulary, len(parameters["output"]["bias"]))
    return Weights(SweepConfig(experiment=experiment, data=data), parameters)


def weights_of(
    run: "Run", length: int, seed: int, variant: str | None = None, which: str = "best"
) -> Weights:
    """The weights of a network of a run; raises `UserError` where it has none."""
    networks = run.networks(variant, [length], [seed], which)
    networks.network(0)  # or it says that there is none
    return Weights(networks.config, jax.tree.map(lambda array: array[0], networks.parameters))
