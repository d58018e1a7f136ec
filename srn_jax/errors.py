"""A user's mistake as one line, and warnings as one line."""

import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

SPELL: list[Callable[[str], str]] = []  # how the command line writes names of arguments
ALIASES = {  # what others call it
    **{"lr": "learning_rate", "alpha": "learning_rate", "model": "cell", "arch": "cell"},
    **{"rnn": "cell", "hidden": "hidden_size", "units": "hidden_size", "hidden_dim": "hidden_size"},
    **{"embed": "embedding_size", "embedding_dim": "embedding_size", "num_layers": "layers"},
    **{"batch": "batch_size", "bs": "batch_size", "iterations": "steps", "num_seeds": "seeds"},
    **{"gradient_clip": "clip_norm", "grad_clip": "clip_norm", "wd": "weight_decay"},
    **{"decay": "weight_decay", "opt": "optimizer", "output": "folder", "output_dir": "folder"},
    **{"dir": "folder", "device": "platform", "backend": "platform", "dataset": "data"},
    **{"sequence_length": "lengths", "length": "lengths", "seed": "seeds", "lang": "style"},
    **{"force": "overwrite", "continue": "resume", "bidirection": "bidirectional"},
}


class UserError(ValueError):
    """A mistake of the user's: one line that says what was wrong, what was expected, what to do.

    Names of arguments stand in backquotes; the command line turns those into its options.
    """


def warn(message: str) -> None:
    """Print one line about something that went wrong and stops nothing, on standard error."""
    for spell in SPELL:
        message = spell(message)
    print("warning:", message, file=sys.stderr, flush=True)


warn_once = lru_cache(maxsize=256)(warn)  # once in this process for each message


def shown(value: Any) -> str:
    """A value as it may stand in an error message: on one line, and not long."""
    try:
        text = " ".join(repr(value).split())
    except Exception as error:  # more digits than Python writes, or a class that cannot be shown
        text = f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
    return text if len(text) <= 200 else text[:200] + "..."


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant by another one."""
    known = [*known]
    meant = ALIASES.get(name)
    return next(iter([meant] if meant in known else get_close_matches(name, known, 1, 0.7)), None)
