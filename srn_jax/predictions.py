"""What trained networks answer to one sequence."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from srn_jax.analysis.figures import Gates
from srn_jax.analysis.memory import gates_along
from srn_jax.ensemble.mapping import map_experiments
from srn_jax.errors import UserError
from srn_jax.own_files import own_mistakes
from srn_jax.tasks import task_of
from srn_jax.tasks.task import Task, Tokens
from srn_jax.training.network import network_with

if TYPE_CHECKING:
    from srn_jax.runs.networks import Networks

MOST_NAMED = 3  # answers that are equally frequent


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


def predictions(networks: "Networks", tokens: str | Iterable[int]) -> pd.DataFrame:
    """A row for each network: its answer, how probable it finds it, and whether it is right.

    Raises:
        UserError: for a sequence that the networks cannot take, or a task whose answers are no
            classes.
    """
    task, sequence = sequence_for(networks, tokens, "predict")
    if task.outputs < 2 or task.answers is None:
        raise UserError("`predict` is for tasks with classes as their answers at the end")
    if len(sequence) < task.answers:
        raise UserError(f"`predict` wants at least {task.answers} numbers, got {len(sequence)}")

    def answer(parameters):
        network = network_with(networks.program, parameters)
        return jax.nn.softmax(network(jnp.asarray(sequence)[None])[0])

    shares = np.asarray(map_experiments(answer, networks.parameters))  # [experiment, ..., class]
    shares = shares.reshape(len(networks.experiments), task.answers, task.outputs)
    answers = [" ".join(map(str, classes)) for classes in shares.argmax(axis=-1).tolist()]
    sure = [" ".join(f"{one:.3f}" for one in row) for row in shares.max(axis=-1)]
    with own_mistakes(networks.config.experiment.task):
        found = task.right_answer(sequence)
    table = pd.DataFrame({"answer": answers, "probability": sure})
    if found is not None:
        right = " ".join(map(str, np.atleast_1d(found).tolist()))
        table["right"] = [said == right for said in answers]
    table.loc[~np.asarray(networks.trained), ["answer", "probability"]] = "-"
    return table


def sequence_for(
    networks: "Networks", tokens: str | Iterable[int], name: str
) -> tuple[Task, np.ndarray]:
    """The task of networks, and a sequence that they can take; raises `UserError` for another."""
    task = task_of(networks.config)
    if not isinstance(task.inputs, Tokens):
        raise UserError(f"`{name}` is for tasks of whole numbers, this one has vectors")
    text = tokens if isinstance(tokens, str) else " ".join(map(str, tokens))
    return task, parse_tokens(text, task.inputs.vocabulary, name)


def gates(networks: "Networks", tokens: str | Iterable[int], seed: int | None) -> Gates:
    """The gates of one network along a sequence of the length that it was trained on."""
    _, sequence = sequence_for(networks, tokens, "gates")
    length = len(sequence)
    if length not in (lengths := {n for n, _ in networks.experiments}):
        known = ", ".join(map(str, sorted(lengths)))
        raise UserError(
            f"`gates` has {length} tokens: the run has no length {length}, it has {known}"
        )
    seed = next(s for n, s in networks.experiments if n == length) if seed is None else seed
    if (length, seed) not in networks.experiments:
        raise UserError(f"`seed` {seed}: the run has no such seed of length {length}")
    with own_mistakes(networks.config.experiment.cell):
        network = networks.network(networks.experiments.index((length, seed)))
        return Gates(seed, sequence.tolist(), gates_along(network, sequence.tolist()))


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
