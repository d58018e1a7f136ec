"""What a run tells those who watch it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from srn_jax.analysis.records import Histories
from srn_jax.ensemble.sweep import Sweep
from srn_jax.runs import place
from srn_jax.runs.outcome import histories_of

COMPILING = "compiling"


@dataclass(frozen=True)
class Progress:
    """How far a part is, for whoever watches it; its variants stand one after another."""

    block: int
    blocks: int
    step: int  # the last global step taken
    length: np.ndarray  # [experiment]
    train_loss: np.ndarray  # [experiment], the mean of the epoch so far
    dev_accuracy: np.ndarray  # [experiment], after that step
    diverged: np.ndarray  # [experiment]
    histories: Callable[[], Histories]  # of all steps so far


class Reporter(Protocol):
    """What a run tells while it goes on."""

    def say(self, message: str) -> None:
        """A line for the user."""

    def warn(self, message: str) -> None:
        """A line about something that went wrong and did not stop the run."""

    def progress(self, progress: Progress) -> None:
        """Called after every interval."""


@jax.jit
def _newest(losses: Any, accuracies: Any, epoch: Any, block: Any) -> tuple[Any, Any]:
    """What was recorded last, as one program: indexing from Python is four."""
    return losses[..., epoch], accuracies[..., block]


def look(sweep: Sweep, block: int) -> Progress:
    """How a sweep stands after `block` blocks."""
    step, found = int(sweep.eval_steps[block - 1]), sweep.histories
    places = np.int32(step // sweep.program.steps_an_epoch), np.int32(block - 1)
    newest = _newest(found["epoch_loss"], found["dev_accuracy"], *places)
    loss, accuracy, diverged = sweep.gather((*newest, sweep.state.diverged))
    return Progress(
        block=block,
        blocks=len(sweep.eval_steps),
        step=step,
        length=np.array([length for length, _ in sweep.experiments]),
        train_loss=loss,
        dev_accuracy=accuracy,
        diverged=diverged,
        histories=lambda: histories_of(sweep, sweep.gather_histories()),
    )


def describe(sweep: Sweep, part: Mapping[str, Any], number: int, parts: int) -> str:
    """What a part trains, as a line."""
    counts = [counted(len(part[f"{word}s"]), word) for word in ("length", "seed")]
    if len(part["variants"]) > 1:
        counts.append(counted(len(part["variants"]), "variant"))
    told = f"{counted(len(sweep.experiments), 'experiment')} ({' x '.join(counts)})"
    which = f", part {number + 1} of {parts}" if parts > 1 else ""
    return f"{place.describe_devices()}: {told}{which}"


def counted(number: int, word: str) -> str:
    """`1 seed`, `8 seeds`."""
    return f"{number} {word}{'s' * (number != 1)}"
