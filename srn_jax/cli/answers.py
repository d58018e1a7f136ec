"""What restored networks score and answer, as tables."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

from srn_jax.analysis.tables import plain_table
from srn_jax.ensemble.sweep import map_experiments
from srn_jax.errors import UserError
from srn_jax.own_files import own_mistakes, path_of
from srn_jax.runs.restore import Networks, accuracies
from srn_jax.tasks import task_of
from srn_jax.tasks.task import Tokens
from srn_jax.training.model import network_with

MOST_NAMED = 3  # answers that are equally frequent


def print_accuracies(networks: Networks, data: str | None, by_seed: bool = True) -> None:
    """One line for each network, and the means; without seeds where a network has none."""
    loss, accuracy = accuracies(networks, data)
    rows = [["length", *(["seed"] if by_seed else []), "test accuracy", "test loss"]]
    for (length, seed), a, b in zip(networks.experiments, accuracy, loss, strict=True):
        scores = ["-", "-"] if np.isnan(a) else [f"{a:.4g}", f"{b:.4f}"]
        rows.append([str(length), *([str(seed)] if by_seed else []), *scores])
    print(plain_table(rows))
    if not by_seed:
        return
    lengths = np.array([length for length, _ in networks.experiments])
    scored = networks.trained
    means = [
        f"{n}: {accuracy[scored & (lengths == n)].mean():.3f}"
        for n in dict.fromkeys(lengths[scored].tolist())
    ]
    if means:
        print(f"mean test accuracy by length  {'  '.join(means)}")


def parse_tokens(text: str, vocabulary: int, option: str = "--predict") -> np.ndarray:
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
        raise UserError(f"{option} wants numbers 0 to {last} like '{example}', got {text!r}"[:300])
    return np.array([int(part) for part in parts], np.int32)


def print_predictions(networks: Networks, text: str) -> None:
    """What each network answers to a sequence, with its probability, and how many are right.

    Raises:
        UserError: for a sequence that the networks cannot take, or a task whose answers are no
            classes.
    """
    task = task_of(networks.config)
    if not isinstance(task.inputs, Tokens) or task.outputs < 2:
        raise UserError("--predict is for tasks of whole numbers with classes as their answers")
    tokens = parse_tokens(text, task.inputs.vocabulary)
    if len(tokens) < task.answers:
        raise UserError(f"--predict wants at least {task.answers} numbers, got {len(tokens)}")

    def answer(parameters):
        network = network_with(task, networks.config.experiment, parameters)
        return jax.nn.softmax(network(jnp.asarray(tokens)[None])[0])

    shares = map_experiments(answer, networks.parameters)  # [experiment, (answer,) class]
    shares = shares.reshape(len(networks), task.answers, task.outputs)
    answers = [" ".join(map(str, classes)) for classes in shares.argmax(axis=-1).tolist()]
    with own_mistakes(path_of(networks.config.experiment.task)):
        found = task.right_answer(tokens)
    right = None if found is None else " ".join(map(str, np.atleast_1d(found).tolist()))
    rows = [["trained on length", "seed", "answer", "probability", *(["right"] if right else [])]]
    for row, (length, seed) in enumerate(networks.experiments):
        said, sure = answers[row], " ".join(f"{one:.3f}" for one in shares[row].max(axis=-1))
        if not networks.trained[row]:  # it has not learned anything
            said = sure = "-"
        mark = [] if right is None else ["yes" if said == right else ""]
        rows.append([str(length), str(seed), said, sure, *mark])
    print(plain_table(rows))
    print("\n" + summary(networks, answers, right))


def summary(networks: Networks, answers: list[str], right: str | None) -> str:
    """The right answer and how many networks of each length gave it, or what most of them said."""
    if not networks.trained.any():
        return "none of the networks has parameters of this kind (--which)"
    said: dict[int, list[str]] = {length: [] for length, _ in networks.experiments}
    for index in np.flatnonzero(networks.trained):
        said[networks.experiments[index][0]].append(answers[index])
    if right is not None:
        counts = [f"{n}: {own.count(right)} of {len(own)}" for n, own in said.items()]
        return f"the right answer is {right}, given by, for each length  {'  '.join(counts)}"
    counts = [f"{n}: {most_frequent(own)}" for n, own in said.items() if own]
    return f"most frequent answer by length  {'  '.join(counts)}"


def most_frequent(answers: list[str]) -> str:
    """The commonest answer and how often it was given, or all that tie, or how many of many do."""
    counts = Counter(answers)
    times = max(counts.values())
    tied = [answer for answer, count in counts.items() if count == times]
    words = " or ".join(tied) if len(tied) <= MOST_NAMED else f"{len(tied)} answers tie"
    return f"{words} ({times} of {len(answers)}{' each' if len(tied) > 1 else ''})"
